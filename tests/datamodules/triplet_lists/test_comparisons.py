"""MagnaTagATune's votes for the odd one out: triplets of whole clips, what is no judgement, and errors that name the line."""

from pathlib import Path

import pytest

from datamodules.corpora.text_files import CorpusError
from datamodules.triplet_lists.comparisons import IDS, VOTES, read_comparisons
from datamodules.triplet_lists.judgements import HumanTriplet
from datamodules.triplet_lists.rows import TripletListError
from disentangled_ml.structures import ListedTriplet, Member

HEADER = "\t".join([*IDS, *VOTES, "clip1_mp3_path", "clip2_mp3_path", "clip3_mp3_path"])
PATHS = "\tf/a.mp3\tf/b.mp3\tf/c.mp3"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(clips: str, *votes: int) -> str:
    return "\t".join([*clips, *map(str, votes)]) + PATHS


def triplets_of(path: Path, **how) -> list[str]:
    """Give anchor, positive and negative of each triplet as one word."""
    return ["".join(m.track_id for m in judgement.triplet[1:]) for judgement in read_comparisons(path, **how).triplets]


def test_the_odd_one_is_the_negative_of_both_others(tmp_path):
    judgements = read_comparisons(write(tmp_path / "x.csv", HEADER, row("abc", 1, 6, 2)))
    a, b, c = (Member(clip) for clip in "abc")
    assert judgements.triplets == [
        HumanTriplet(ListedTriplet("human", a, c, b), 6 / 9, 9, "a b c"),
        HumanTriplet(ListedTriplet("human", c, a, b), 6 / 9, 9, "a b c"),
    ]
    assert judgements.undecided == 0


@pytest.mark.parametrize(("votes", "expected"), [((5, 1, 0), "bca"), ((1, 5, 0), "acb"), ((1, 0, 5), "abc")])
def test_any_of_the_three_can_be_the_odd_one(tmp_path, votes, expected):
    path = write(tmp_path / "x.csv", HEADER, row("abc", *votes))
    assert triplets_of(path) == [expected, expected[1] + expected[0] + expected[2]]


def test_votes_of_the_same_three_clips_are_added_up(tmp_path):
    path = write(tmp_path / "x.csv", HEADER, row("abc", 3, 0, 0), row("cab", 5, 1, 0), row("abd", 0, 0, 2))
    judgements = read_comparisons(path)
    assert triplets_of(path) == ["abc", "bac", "abd", "bad"]  # of a, b, c the votes are 4, 0, 5
    assert [judgement.votes for judgement in judgements.triplets] == [9, 9, 2, 2]
    assert len({judgement.group for judgement in judgements.triplets}) == 2


def test_the_order_of_the_clips_changes_nothing(tmp_path):
    first = read_comparisons(write(tmp_path / "x.csv", HEADER, row("abc", 1, 6, 2)))
    assert read_comparisons(write(tmp_path / "y.csv", HEADER, row("bca", 6, 2, 1))) == first


def test_ties_and_too_few_votes_are_counted_and_left_out(tmp_path):
    rows = [row("abc", 2, 2, 0), row("abd", 0, 0, 0), row("abe", 1, 0, 0), row("abf", 2, 0, 0)]
    path = write(tmp_path / "x.csv", HEADER, *rows, row("acf", 1, 0, 0), row("fac", 1, 0, 0))
    assert triplets_of(path) == ["bfa", "fba"]
    assert read_comparisons(path).undecided == 5  # rows, also those whose votes, added up, are a tie
    assert triplets_of(path, least_votes=1) == ["bea", "eba", "bfa", "fba"]
    assert triplets_of(path, least_votes=3) == []


@pytest.mark.parametrize("header", [HEADER + "\t", HEADER], ids=["in the header too", "in the rows"])
def test_a_stray_last_column_is_ignored(tmp_path, header):
    path = write(tmp_path / "x.csv", header, row("abc", 5, 1, 0) + "\t7")
    assert triplets_of(path) == ["bca", "cba"]


def test_cells_may_stand_in_quotes(tmp_path):
    lines = ["\t".join(f'"{cell}"' for cell in line.split("\t")) for line in (HEADER, row("abc", 5, 1, 0))]
    assert triplets_of(write(tmp_path / "x.csv", *lines)) == ["bca", "cba"]


@pytest.mark.parametrize(
    ("lines", "error", "match"),
    [
        ([HEADER.replace("\t", ","), "a"], CorpusError, "line 1: no column clip1_id, .* in this tab-separated file"),
        ([HEADER.replace("clip2_numvotes", "votes")], CorpusError, "line 1: no column clip2_numvotes"),
        ([HEADER], TripletListError, "has no rows below its header"),
        ([HEADER, "a\tb\tc\t1\t2"], TripletListError, "line 2: the row is too short, it ends before clip3_numvotes"),
        (
            [HEADER, row("aba", 1, 2, 3)],
            TripletListError,
            r"line 2: .* are \['a', 'b', 'a'\], not three different clips",
        ),
        ([HEADER, row("ab ", 1, 2, 3)], TripletListError, "line 2: .* not three different clips"),
        (
            [HEADER, row("abc", 1, 2, 3), row("abc", 1, -2, 3)],
            TripletListError,
            "line 3: clip2_numvotes='-2' is not a number",
        ),
        ([HEADER, row("abc", 1, 2, "x")], TripletListError, "line 2: clip3_numvotes='x' is not a number of votes"),
    ],
)
def test_malformed_files(tmp_path, lines, error, match):
    path = write(tmp_path / "x.csv", *lines)
    with pytest.raises(error, match=match) as caught:
        read_comparisons(path)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(CorpusError, match=r"gone\.csv cannot be read as UTF-8 text"):
        read_comparisons(tmp_path / "gone.csv")


def test_an_open_quotation_mark_swallows_no_rows(tmp_path):
    path = write(tmp_path / "x.csv", HEADER, row("abc", 1, 6, 2), '"' + row("abd", 1, 6, 2), row("abe", 1, 6, 2))
    with pytest.raises(CorpusError, match=r"x.csv cannot be read .*runs over several lines, close its quotation mark"):
        read_comparisons(path)
