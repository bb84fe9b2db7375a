"""dim-sim files: votes to triplets, what is no judgement, and errors that name the line."""

from pathlib import Path

import pytest

from datamodules.triplet_lists.dim_sim import COLUMNS, read_dim_sim
from datamodules.triplet_lists.judgements import HumanTriplet
from datamodules.triplet_lists.rows import TripletListError
from disentangled_ml.structures import AudioSettings, ListedTriplet, Member

AUDIO = AudioSettings()
FULL = (
    "triplet_id,anchor_id,anchor_start_seconds,anchor_start_samples,song1_id,song1_start_seconds,song1_start_samples,"
    "song2_id,song2_start_seconds,song2_start_samples,sampling_rate,clip_lengths_seconds,clip_lengths_samples,"
    "song1_vote,song2_vote"
)
HEADER = ",".join(COLUMNS)  # anchor, song1, song2, each id and start; then the votes


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_all_columns_of_the_published_file(tmp_path):
    row = "0,TRA,1.5,33075,TRB,3.0,66150,TRC,0.0,0,22050,3.0,66150,2,9"
    judgements = read_dim_sim(write(tmp_path / "raw.csv", FULL, row), AUDIO)
    expected = ListedTriplet("human", Member("TRA", 65), Member("TRC", 0), Member("TRB", 129))
    assert judgements.triplets == [HumanTriplet(expected, 9 / 11, 11, "TRA")]
    assert judgements.undecided == 0


def test_columns_may_come_in_any_order_and_the_others_are_not_needed(tmp_path):
    header = ",".join(reversed(COLUMNS))
    (judgement,) = read_dim_sim(write(tmp_path / "x.csv", "\ufeff" + header, "0,1,0,c,3,b,1.5,a"), AUDIO).triplets
    assert judgement.triplet == ListedTriplet("human", Member("a", 65), Member("b", 129), Member("c", 0))


def test_clean_file_has_full_agreement(tmp_path):
    judgements = read_dim_sim(write(tmp_path / "x.csv", HEADER, "a,0,b,0,c,0,1,0", "a,0,b,0,c,0,0.0,1.0"), AUDIO)
    assert [(j.agreement, j.votes, j.triplet.positive.track_id) for j in judgements.triplets] == [
        (1.0, 1, "b"),
        (1.0, 1, "c"),
    ]


def test_swapping_the_songs_changes_nothing(tmp_path):
    rows = ["a,0,b,1,c,2,7,3", "a,0,c,2,b,1,3,7"]
    first, second = read_dim_sim(write(tmp_path / "x.csv", HEADER, *rows), AUDIO).triplets
    assert first == second


def test_ties_and_rows_without_votes_are_counted_and_left_out(tmp_path):
    rows = ["a,0,b,0,c,0,4,4", "a,0,b,0,c,0,0,0", "a,0,b,0,c,0,4,5"]
    judgements = read_dim_sim(write(tmp_path / "x.csv", HEADER, *rows), AUDIO)
    assert (len(judgements.triplets), judgements.undecided) == (1, 2)


def test_rows_with_too_few_votes_are_counted_and_left_out(tmp_path):
    path = write(tmp_path / "x.csv", HEADER, "a,0,b,0,c,0,2,0", "a,0,b,0,c,0,2,1", "a,0,b,0,c,0,1,1")
    judgements = read_dim_sim(path, AUDIO, least_votes=3)
    assert [judgement.votes for judgement in judgements.triplets] == [3]
    assert judgements.undecided == 2


@pytest.mark.parametrize("audio", [AUDIO, AudioSettings(sample_rate=8000, hop_length=80)])
def test_starts_are_frames_of_the_audio_settings(tmp_path, audio):
    path = write(tmp_path / "x.csv", HEADER, f"a,{audio.seconds(77)},b,{audio.seconds(1)},c,0,1,0")
    (judgement,) = read_dim_sim(path, audio).triplets
    assert [member.start for member in judgement.triplet[1:]] == [77, 1, 0]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([HEADER.replace("song2_vote", "vote")], "line 1: no column song2_vote; needed are anchor_id"),
        ([], "line 1: no column anchor_id, anchor_start_seconds"),
        ([HEADER], "has no rows below its header"),
        ([HEADER, "a,0,b,0,c,0,1,0", "a,0,b,0,c,0,1"], "line 3: the row is too short, it ends before song2_vote"),
        ([HEADER, "a,0,b,0,c,0,1,0,9"], "line 2: more cells than columns"),
        ([HEADER, "a,0, ,0,c,0,1,0"], "line 2: song1_id is empty"),
        ([HEADER, "a,,b,0,c,0,1,0"], "line 2: anchor_start_seconds='' is not a number of seconds >= 0"),
        ([HEADER, "a,0,b,-1,c,0,1,0"], "line 2: song1_start_seconds='-1' is not"),
        ([HEADER, "a,0,b,0,c,nan,1,0"], "line 2: song2_start_seconds='nan' is not"),
        ([HEADER, "a,0,b,0,c,inf,1,0"], "line 2: song2_start_seconds='inf' is not"),
        ([HEADER, "a,0,b,0,c,0,-1,0"], "line 2: song1_vote='-1' is not a number of votes"),
        ([HEADER, "a,0,b,0,c,0,1,0.5"], "line 2: song2_vote='0.5' is not a number of votes"),
        ([HEADER, "a,0,b,0,c,0,1,yes"], "line 2: song2_vote='yes' is not a number of votes"),
        ([HEADER, "a,0,b,0,c,0,1,1e300"], "line 2: song2_vote='1e300' is not a number of votes"),
    ],
)
def test_malformed_files(tmp_path, lines, match):
    path = write(tmp_path / "x.csv", *lines)
    with pytest.raises(TripletListError, match=match) as error:
        read_dim_sim(path, AUDIO)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "not UTF-8"])
def test_files_that_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(TripletListError, match=r"x\.csv cannot be read as UTF-8 CSV"):
        read_dim_sim(tmp_path / "x.csv", AUDIO)
