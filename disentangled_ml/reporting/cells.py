"""Numbers of a report as text: three decimals, an interval or deviation behind an accuracy, a dash for what is missing.

Reports come from other versions of this program and from runs that were stopped, so whatever is no finite number counts as missing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MISSING = "-"
ESTIMATED = "*"  # behind the name of a condition


def finite(value: Any) -> float | None:
    """Return a finite number, and None for anything else.

    >>> finite(1), finite(True), finite("1"), finite(float("nan"))
    (1.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number_text(value: Any, form: str = ".3f") -> str:
    """Format a number.

    >>> number_text(0.5), number_text(None), number_text(1234567, ",.0f")
    ('0.500', '-', '1,234,567')
    """
    found = finite(value)
    return MISSING if found is None else format(found, form)


def accuracy_of(entry: Any) -> float | None:
    """Return the accuracy of an entry of a report, which may be the bare number."""
    return finite(entry.get("accuracy") if isinstance(entry, Mapping) else entry)


def interval_of(entry: Any) -> tuple[float, float] | None:
    """Return the 95 % interval of an accuracy, cut to the range from 0 to 1.

    >>> interval_of({"accuracy": 0.9, "ci95": [0.8, 1.1]}), interval_of({"accuracy": None, "ci95": [None, None]})
    ((0.8, 1.0), None)
    """
    ends = entry.get("ci95") if isinstance(entry, Mapping) else None
    if not isinstance(ends, list | tuple) or len(ends) != 2 or None in map(finite, ends):
        return None
    low, high = (min(max(float(end), 0.0), 1.0) for end in ends)
    return low, high


def spread_text(entry: Any, digits: int = 3) -> str:
    """Format the deviation of an accuracy over the seeds and its interval, those of them that it has."""
    deviation, interval = finite(entry.get("deviation")) if isinstance(entry, Mapping) else None, interval_of(entry)
    texts = [] if deviation is None else [f"± {deviation:.3f}"]
    if interval is not None:
        texts.append(f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]")
    return " ".join(texts)


def accuracy_text(entry: Any, digits: int = 3) -> str:
    """Format an accuracy with its deviation and interval.

    >>> accuracy_text({"accuracy": 0.712, "ci95": [0.68, 0.74], "n": 1000}), accuracy_text({"accuracy": None, "n": 0})
    ('0.712 [0.680, 0.740]', '-')
    >>> accuracy_text({"accuracy": 0.6, "deviation": 0.0123, "n": 9}), accuracy_text({"accuracy": 0.6, "ci95": [0.55, 0.654]}, 2)
    ('0.600 ± 0.012', '0.600 [0.55, 0.65]')
    """
    value = accuracy_of(entry)
    return MISSING if value is None else f"{value:.3f} {spread_text(entry, digits)}".rstrip()


def estimated_of(report: Mapping[str, Any]) -> list[str]:
    """Return the conditions of a report whose labels are estimated; none where it is from before that was noted.

    >>> estimated_of({"estimated": ["tempo"]}), estimated_of({})
    (['tempo'], [])
    """
    names = report.get("estimated")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def marked(name: str, estimated: Sequence[str]) -> str:
    """Mark the name of a condition, which other names may precede, if its labels are estimated.

    >>> marked("tempo", ["tempo"]), marked("triplet_accuracy/tempo", ["tempo"]), marked("mood", ["tempo"])
    ('tempo*', 'triplet_accuracy/tempo*', 'mood')
    """
    return name + ESTIMATED if name in estimated or name.rpartition("/")[2] in estimated else name


def octaves_folded(name: str) -> str:
    """Return what the accuracy of a tempo condition is called without the triplets that only octaves tell apart.

    >>> octaves_folded("tempo")
    'tempo, octaves folded'
    """
    return f"{name}, octaves folded"


def estimated_note(estimated: Sequence[str]) -> str:
    """Return what the marks mean; empty where there are none.

    >>> estimated_note(["mood", "tempo"]), estimated_note([])
    ('* labels estimated, not given: mood, tempo', '')
    """
    return f"{ESTIMATED} labels estimated, not given: {', '.join(estimated)}" if estimated else ""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns.

    >>> aligned([("a", "b"), ("long", "c")])
    ['a     b', 'long  c']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in markdown.

    >>> print(markdown_table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])
