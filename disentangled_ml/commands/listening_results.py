"""Evaluate a listening test: ``disentangled listening_results listening_test=DIR [out=FILE.csv]``.

It prints how far the raters agree. With ``out`` it writes the triplets of their majority, which ``evaluate triplets=FILE.csv`` and
``human_triplets triplets=FILE.csv`` read. A server may continue the test meanwhile.
"""

import logging
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from disentangled_ml.config import ConfigError
from disentangled_ml.files import writable, write_text
from disentangled_ml.reporting.cells import aligned, number_text
from disentangled_ml.web.listening.answer_file import read_answers
from disentangled_ml.web.listening.questions import collect_votes, figures_by_condition, judged_csv
from disentangled_ml.web.listening.session import ANSWERS_FILE, LIST_FILE

logger = logging.getLogger("listening_results")
COUNTS = ("raters", "answers", "cannot_tell", "judged", "ties")
SHARES = ("percent_agreement", "krippendorff_alpha", "agreement_with_list")


def main(config: DictConfig) -> None:
    out = None if config.out is None else writable(config.out, "csv")
    folder = Path(config.listening_test)
    if out is not None and out.resolve() == (folder / LIST_FILE).resolve():
        raise ConfigError(f"out={out} is the list that is asked: give another FILE.csv")
    path = folder / ANSWERS_FILE
    answers, damaged = read_answers(path)
    if damaged:
        logger.warning("%s: %d damaged lines are no answers", path, damaged)
    if not answers:
        raise ConfigError(f"listening_test={folder}: {ANSWERS_FILE} is not there or holds no answers yet")
    votes = collect_votes(dict.fromkeys(answer.question for answer in answers), answers)
    if out is not None:
        write_text(out, judged_csv(votes))
    sys.stdout.write(figures_table(figures_by_condition(votes)) + "\n")


def figures_table(figures: dict[str, dict[str, Any]]) -> str:
    """Return agreement figures as a table, a line per condition.

    >>> print(figures_table({"all": dict.fromkeys(COUNTS, 1) | dict.fromkeys(SHARES, 0.5)}))
    asked for  raters  answers  cannot tell  judged  ties  percent agreement  krippendorff alpha  agreement with list
    all        1       1        1            1       1     0.500              0.500               0.500
    """
    rows = [("asked for", *(name.replace("_", " ") for name in (*COUNTS, *SHARES)))]
    for name, entry in figures.items():
        rows.append((name, *(str(entry[key]) for key in COUNTS), *(number_text(entry[key]) for key in SHARES)))
    return "\n".join(aligned(rows))
