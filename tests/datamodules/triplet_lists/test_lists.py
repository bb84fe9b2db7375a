"""Lists are valid by the definitions, made once, read back as they were, and each malformed one is named."""

import csv
import hashlib
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch

from datamodules.shards.conditions import build_conditions
from datamodules.shards.tar import read_infos
from datamodules.triplet_lists import lists as triplet_lists
from datamodules.triplet_lists.lists import (
    ListSettings,
    kept_triplets,
    make_triplets,
    read_levels,
    read_triplets,
    write_triplets,
)
from datamodules.triplet_lists.rows import TripletListError
from disentangled_ml.objective.conditions import TagCondition, TempoCondition
from disentangled_ml.structures import TRIPLET_COLUMNS, AudioSettings, ListedTriplet, Member, TrackInfo

CHUNK_FRAMES = 16
SETTINGS = ListSettings(triplets_per_condition=50, seed=3, chunk_frames=CHUNK_FRAMES)
MATCHED = SETTINGS._replace(match_bandwidth=True)
CHANCE = 0.05  # more than four standard deviations of 2000 triplets
AUDIO = AudioSettings()
HEADER = ",".join(TRIPLET_COLUMNS)


@pytest.fixture
def index(make_shards):
    return make_shards(train=3, test=40)


@pytest.fixture
def infos(index):
    return read_infos(index, "test")


@pytest.fixture
def conditions(index):
    return build_conditions(index)


def test_a_made_list_is_valid(infos, conditions, check_triplets):
    triplets = make_triplets(infos, conditions, SETTINGS)
    assert Counter(t.condition for t in triplets) == dict.fromkeys(("genre", "mood", "tempo", "track"), 50)
    frames = {info.track_id: info.frames for info in infos}
    between = [t for t in triplets if t.condition != "track"]
    assert {member.start for t in between for member in t[1:]} == {None}
    check_triplets([(t.condition, *(int(member.track_id[1:]) for member in t[1:])) for t in between])
    for _, anchor, positive, negative in (t for t in triplets if t.condition == "track"):
        assert anchor.track_id == positive.track_id != negative.track_id
        assert anchor.start != positive.start
        for member in (anchor, positive, negative):
            assert member.start % CHUNK_FRAMES == 0
            assert 0 <= member.start <= frames[member.track_id] - CHUNK_FRAMES


def test_every_able_track_is_an_anchor(infos, conditions):
    triplets = make_triplets(infos, conditions, SETTINGS)
    anchors = {t.anchor.track_id for t in triplets if t.condition == "track"}
    assert anchors == {info.track_id for info in infos if info.frames >= 2 * CHUNK_FRAMES}


def test_a_list_depends_on_its_settings_alone(infos, conditions):
    made = make_triplets(infos, conditions, SETTINGS)
    assert made == make_triplets(infos, conditions, SETTINGS)
    assert made != make_triplets(infos, conditions, SETTINGS._replace(seed=4))
    fewer = make_triplets(infos, conditions[1:], SETTINGS)
    assert {t.condition for t in fewer} == {"mood", "tempo", "track"}


@pytest.mark.parametrize(
    ("infos", "told"),
    [
        ([], ["genre", "tempo", "track"]),
        ([TrackInfo("a", None, 99, {"genre": ["x"], "tempo": 100.0})], ["genre", "tempo", "track"]),
        (
            [TrackInfo(t, "same", 16, {"genre": [g]}) for t, g in zip("abc", "xxy", strict=True)],
            ["genre", "tempo", "track"],
        ),
        ([TrackInfo(t, None, 32, {"genre": [g]}) for t, g in zip("abc", "xxy", strict=True)], ["tempo"]),
    ],
    ids=["no tracks", "one track", "one artist and one chunk each", "no tempo"],
)
def test_conditions_without_a_triplet_say_so(infos, told, caplog):
    conditions = [TagCondition("genre", ("x", "y")), TempoCondition()]
    with caplog.at_level(logging.WARNING):
        triplets = make_triplets(infos, conditions, SETTINGS)
    assert {t.condition for t in triplets} == {"genre", "tempo", "track"} - set(told)
    assert len(caplog.records) == len(told)
    assert all(name in record.getMessage() for name, record in zip(told, caplog.records, strict=True))


def test_tracks_shorter_than_a_chunk_are_in_no_track_triplet():
    infos = [TrackInfo(f"t{i}", None, 10 if i % 2 else 40, {}) for i in range(8)]
    triplets = make_triplets(infos, [], SETTINGS)
    assert len(triplets) == 50
    assert {member.track_id for t in triplets for member in t[1:]} == {"t0", "t2", "t4", "t6"}


def test_a_list_is_made_once_and_kept(index, infos, conditions, monkeypatch):
    made = kept_triplets(index, "test", infos, conditions, SETTINGS)
    (path,) = (index.root / "triplets").iterdir()
    assert path.name.startswith("test-seed3-")
    monkeypatch.setattr(triplet_lists, "make_triplets", None)  # no second time
    assert kept_triplets(index, "test", infos, conditions, SETTINGS) == made
    assert made == make_triplets(infos, conditions, SETTINGS)


def test_other_settings_make_another_list(index, infos, conditions):
    def files() -> int:
        return len(list((index.root / "triplets").iterdir()))

    kept_triplets(index, "test", infos, conditions, SETTINGS)
    others = [
        (conditions, SETTINGS._replace(triplets_per_condition=9)),
        (conditions, SETTINGS._replace(seed=4)),
        (conditions, SETTINGS._replace(chunk_frames=20)),
        (conditions[::-1], SETTINGS),
        ([*conditions[:2], TempoCondition(relation="relative")], SETTINGS),
    ]
    for n, (other, settings) in enumerate(others, start=2):
        kept_triplets(index, "test", infos, other, settings)
        assert files() == n
    kept_triplets(index, "val", [], conditions, SETTINGS)
    assert files() == n + 1


def test_a_folder_that_cannot_be_written_to(index, infos, conditions, monkeypatch, caplog):
    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(triplet_lists, "write_triplets", fail)
    with caplog.at_level(logging.WARNING):
        assert kept_triplets(index, "test", infos, conditions, SETTINGS) == make_triplets(infos, conditions, SETTINGS)
    assert "cannot be kept beside the shards ([Errno 13] Permission denied)" in caplog.text


def number_of(mel: torch.Tensor) -> float:
    """Give the number that a track's spectrogram holds, in place of a bandwidth."""
    assert mel.dtype == torch.float32
    return mel[0, 0].item()


def random_levels(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def test_the_name_of_an_unmatched_list_is_what_it_was_before_there_were_matched_ones(index, infos, conditions):
    kept_triplets(index, "test", infos, conditions, SETTINGS)
    settings = "ListSettings(triplets_per_condition=50, seed=3, chunk_frames=16)"
    content = f"({index.fingerprint()!r}, {conditions!r}, {settings})"
    digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
    assert [path.name for path in (index.root / "triplets").iterdir()] == [f"test-seed3-{digest}.csv"]


def test_levels_are_read_in_the_order_of_the_tracks(index, infos):
    assert read_levels(index, "test", number_of).tolist() == [float(info.track_id[1:]) for info in infos]


def test_a_matched_list_has_the_nearest_negatives(infos, conditions, check_triplets):
    levels = random_levels(len(infos))
    level = dict(zip([info.track_id for info in infos], levels.tolist(), strict=True))
    triplets = make_triplets(infos, conditions, MATCHED, levels)
    assert Counter(t.condition for t in triplets) == dict.fromkeys(("genre", "mood", "tempo", "track"), 50)
    check_triplets([(c, *(int(m.track_id[1:]) for m in members)) for c, *members in triplets if c != "track"])
    encoded = {c.name: c.encode([info.labels.get(c.name) for info in infos]) for c in conditions}
    negative = {c.name: c.relate(encoded[c.name], encoded[c.name]).negative for c in conditions}
    negative["track"] = ~torch.eye(len(infos), dtype=torch.bool)
    ids = list(level)
    for condition, anchor, positive, found in triplets:
        allowed = [ids[i] for i in negative[condition][ids.index(anchor.track_id)].nonzero()[:, 0].tolist()]
        gap = {track_id: abs(level[track_id] - level[positive.track_id]) for track_id in allowed}
        assert gap[found.track_id] == pytest.approx(min(gap.values()), abs=1e-6)


def test_levels_follow_their_tracks_where_short_ones_are_left_out():
    infos = [TrackInfo(f"t{i}", None, 10 if i % 2 else 40, {}) for i in range(8)]
    levels = torch.tensor([0.0, 0.1, 5.0, 0.2, 1.0, 5.1, 5.5, 0.9])
    nearest = {"t0": "t4", "t2": "t6", "t4": "t0", "t6": "t2"}
    for triplet in make_triplets(infos, [], MATCHED, levels):
        assert triplet.negative.track_id == nearest[triplet.anchor.track_id]


def test_matching_takes_away_what_the_bandwidth_tells_of_a_track():
    infos = [TrackInfo(f"t{i}", None, 4 * CHUNK_FRAMES, {}) for i in range(400)]
    levels = random_levels(400)
    of_chunk = levels[:, None] + 0.2 * random_levels(1600, seed=1).reshape(400, 4)

    def accuracy(settings: ListSettings, levels: torch.Tensor | None) -> float:
        triplets = make_triplets(infos, [], settings._replace(triplets_per_condition=2000), levels)
        rows = [[of_chunk[int(m.track_id[1:]), m.start // CHUNK_FRAMES].item() for m in t[1:]] for t in triplets]
        return sum(abs(a - p) < abs(a - q) for a, p, q in rows) / len(rows)

    assert accuracy(SETTINGS, None) > 0.8
    assert abs(accuracy(MATCHED, levels) - 0.5) < CHANCE


def test_levels_are_read_only_for_a_matched_list_that_is_not_kept(index, infos, conditions, monkeypatch):
    asked = []

    def level(mel: torch.Tensor) -> float:
        asked.append(mel)
        return number_of(mel)

    plain = kept_triplets(index, "test", infos, conditions, SETTINGS, level)
    assert not asked
    matched = kept_triplets(index, "test", infos, conditions, MATCHED, level)
    assert len(asked) == len(infos)
    assert matched == make_triplets(infos, conditions, MATCHED, read_levels(index, "test", number_of))
    assert kept_triplets(index, "test", infos, conditions, MATCHED, level) == matched
    assert len(asked) == len(infos)
    assert kept_triplets(index, "test", infos, conditions, SETTINGS) == plain != matched
    assert len(list((index.root / "triplets").iterdir())) == 2
    monkeypatch.setattr(triplet_lists, "make_triplets", None)
    assert kept_triplets(index, "test", infos, conditions, MATCHED) == matched  # a kept one needs no level


@pytest.mark.parametrize(
    ("settings", "levels", "match"),
    [
        (MATCHED, None, "match_bandwidth=True needs the bandwidth of each track"),
        (SETTINGS, torch.zeros(40), "match_bandwidth=False needs no levels"),
        (MATCHED, torch.zeros(39), r"levels of shape \(39,\), expected \(40,\)"),
        (MATCHED, torch.zeros(40, 1), r"levels of shape \(40, 1\), expected \(40,\)"),
        (MATCHED, torch.full((40,), float("nan")), "finite"),
    ],
    ids=["none", "unasked", "too few", "of two dimensions", "nan"],
)
def test_wrong_levels(infos, conditions, settings, levels, match):
    with pytest.raises(ValueError, match=match):
        make_triplets(infos, conditions, settings, levels)


def test_a_matched_list_is_not_made_without_a_level(index, infos, conditions):
    with pytest.raises(ValueError, match="match_bandwidth=True needs"):
        kept_triplets(index, "test", infos, conditions, MATCHED)


@pytest.mark.parametrize("audio", [AUDIO, AudioSettings(8000, 256, 80), AudioSettings(48000, 2048, 441)])
def test_round_trip(tmp_path, audio):
    starts = [None, 0, 1, 2, 129, 1291, 99_999]
    members = [Member(f'id, "{i}" é\n', start) for i, start in enumerate(starts)]
    triplets = [ListedTriplet("genre", a, b, c) for a, b, c in zip(members, members[1:], members[2:], strict=False)]
    write_triplets(tmp_path / "list.csv", triplets, audio)
    assert read_triplets(tmp_path / "list.csv", audio) == triplets
    assert [file.name for file in tmp_path.iterdir()] == ["list.csv"]


def test_starts_are_seconds(tmp_path):
    triplet = ListedTriplet("track", Member("a", 0), Member("a", 129), Member("b"))
    write_triplets(tmp_path / "list.csv", [triplet], AUDIO)
    with open(tmp_path / "list.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["anchor_start"] == "0.000000"
    assert float(row["positive_start"]) == pytest.approx(129 * 512 / 22050, abs=1e-6)
    assert row["negative_start"] == ""


def test_lists_of_others(tmp_path):
    """The columns may come in any order, with others; a start between two frames is the nearest of them."""
    text = "\ufeffnote,negative_start,negative_id,positive_start,positive_id,anchor_start,anchor_id,condition\n"
    (tmp_path / "list.csv").write_text(text + "x,,c,3,b,0.01,a,genre\n", encoding="utf-8")
    (triplet,) = read_triplets(tmp_path / "list.csv", AUDIO)
    assert triplet == ListedTriplet("genre", Member("a", 0), Member("b", 129), Member("c"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "line 1: no column condition, anchor_id, anchor_start"),
        (HEADER.replace("positive_id,", ""), "no column positive_id; needed are condition, anchor_id"),
        (f"{HEADER}\ngenre,a,,b,,c,\ngenre,,,b,,c,\n", "line 3: anchor_id is empty"),
        (f"{HEADER}\ngenre,a,,b,,c\n", "line 2: the row is too short, it ends before negative_start"),
        (f"{HEADER}\ngenre,a,,b\n", "line 2: the row is too short, it ends before positive_start"),
        (f"{HEADER}\ngenre,a,,b,soon,c,\n", "line 2: positive_start='soon' is not a number of seconds >= 0"),
        (f"{HEADER}\ngenre,a,-1,b,,c,\n", "line 2: anchor_start='-1' is not a number of seconds >= 0"),
        (f"{HEADER}\ngenre,a,,b,,c,nan\n", "line 2: negative_start='nan' is not a number of seconds >= 0"),
        (f"{HEADER},anchor_id\ngenre,a,,b,,c,,x\n", "line 1: column anchor_id is there twice: leave one out"),
        (f"{HEADER}\ngenre,a,,b,,c,\ngenre,a,,a,,c,\n", "line 3: anchor and positive are the same"),
        (f"{HEADER}\ntrack,a,1,a,1.0,c,\n", "line 2: anchor and positive are the same"),
        (f"{HEADER}\ngenre,a,,b,,a,\n", "line 2: anchor and negative are the same"),
        (f"{HEADER}\ngenre,a,,b,3,b,3\n", "line 2: positive and negative are the same"),
        (f"{HEADER}\ngenre,a,,b,,c,inf\n", "line 2: negative_start='inf' is not a number of seconds >= 0"),
    ],
)
def test_malformed_lists(tmp_path, text, match):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(TripletListError, match=match) as error:
        read_triplets(path, AUDIO)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "not UTF-8"])
def test_lists_that_cannot_be_read(tmp_path, content):
    path: Path = tmp_path / "list.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TripletListError, match=r"list\.csv cannot be read"):
        read_triplets(path, AUDIO)
