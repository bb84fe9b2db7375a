"""``comparisons_final.csv`` of MagnaTagATune: of three clips, people vote for the one that is least like the others.

Tab-separated: ``clip1_id clip2_id clip3_id clip1_numvotes clip2_numvotes clip3_numvotes clip1_mp3_path ...``; derived copies have a
stray last column, which is ignored. The clip with most votes is the odd one out. The votes of rows that show the same three
clips are added up. Each three clips give two triplets of whole clips, since either of the two that remain is more like the
other than like the odd one; as they rest on the same votes they are one group. A tie, or too few votes, is no judgement.
"""

from collections import Counter, defaultdict
from pathlib import Path

from datamodules.corpora.text_files import opened_table
from datamodules.triplet_lists.judgements import HUMAN, HumanTriplet, Judgements, parse_votes
from datamodules.triplet_lists.rows import TripletListError, check_length
from disentangled_ml.structures import ListedTriplet, Member

IDS = ("clip1_id", "clip2_id", "clip3_id")
VOTES = ("clip1_numvotes", "clip2_numvotes", "clip3_numvotes")
LEAST_VOTES = 2  # below, there are no people to agree


def read_comparisons(path: Path, least_votes: int = LEAST_VOTES) -> Judgements:
    """Read the votes.

    Args:
        path: The file.
        least_votes: Of three clips; fewer are no judgement.

    Raises:
        CorpusError: if it cannot be read, or lacks a column.
        TripletListError: naming the file and line, if a cell has no legal value, or there is no row.
    """
    votes: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    rows: Counter[tuple[str, ...]] = Counter()
    with opened_table(path, (*IDS, *VOTES)) as table:
        for row in table:
            given = parse_row(row, f"{path}, line {table.line_num}")
            clips = tuple(sorted(given))
            votes[clips].update(given)
            rows[clips] += 1
    if not rows:
        raise TripletListError(f"{path} has no rows below its header: give comparisons_final.csv")
    found = {clips: judge(counts, least_votes) for clips, counts in votes.items()}
    undecided = sum(rows[clips] for clips, triplets in found.items() if not triplets)
    return Judgements([triplet for triplets in found.values() for triplet in triplets], undecided)


def parse_row(row: dict, where: str) -> dict[str, int]:
    """Parse one row to the votes of its three clips; errors begin with ``where``."""
    check_length(row, (*IDS, *VOTES), where)
    ids = [row[column].strip() for column in IDS]
    if not all(ids) or len(set(ids)) < len(ids):
        raise TripletListError(f"{where}: {', '.join(IDS)} are {ids}, not three different clips")
    return {clip: parse_votes(row[column], f"{where}: {column}") for clip, column in zip(ids, VOTES, strict=True)}


def judge(votes: Counter[str], least_votes: int) -> list[HumanTriplet]:
    """Turn the votes of three clips into two triplets; none if they carry no judgement.

    >>> [[member.track_id for member in t.triplet[1:]] for t in judge(Counter(a=0, b=3, c=1), 2)]
    [['a', 'c', 'b'], ['c', 'a', 'b']]
    >>> judge(Counter(a=2, b=2, c=1), 2)
    []
    """
    (odd, most), (_, second), _ = votes.most_common()
    if votes.total() < least_votes or most == second:
        return []
    one, other = (Member(clip) for clip in sorted(votes) if clip != odd)
    group = " ".join(sorted(votes))
    triplets = (ListedTriplet(HUMAN, one, other, Member(odd)), ListedTriplet(HUMAN, other, one, Member(odd)))
    return [HumanTriplet(triplet, most / votes.total(), votes.total(), group) for triplet in triplets]
