"""The file of a listening test's answers: a JSON object per line, written to the disk before an answer counts as given.

A process that is killed, or a full disk, can leave half a line at the end: it is no answer, and the next one begins a new line.
Each answer holds its whole question, so that answers stay right when the list of questions changes.
"""

import fcntl
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from disentangled_ml.web.listening.questions import CHOICES, Answer, Excerpt, Question, check_rater

EXCERPTS = ("reference", "first", "second")


class AnswerFile:
    """File of answers, made where there is none. Raises OSError if it cannot be opened, or another process has it open."""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.file)
            raise OSError(f"{path} is in use by another server: stop that one, or give another folder") from error
        sync_folder(path.parent)

    def append(self, answer: Answer) -> None:
        """Append an answer; when this returns, it is on the disk. Raises OSError if it cannot be written; then nothing of it is."""
        with self.lock:
            size = os.fstat(self.file).st_size
            try:
                begun = size > 0 and os.pread(self.file, 1, size - 1) != b"\n"
                line = ("\n" if begun else "") + as_line(answer, datetime.now(UTC)) + "\n"
                left = line.encode()
                while left:
                    left = left[os.write(self.file, left) :]
                os.fsync(self.file)
            except OSError:
                os.ftruncate(self.file, size)
                raise

    def close(self) -> None:
        os.close(self.file)


def sync_folder(folder: Path) -> None:
    """Flush the directory entry of a new file to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def as_line(answer: Answer, time: datetime) -> str:
    """Return the line of an answer.

    >>> question = Question("genre", Excerpt("a"), Excerpt("b"), Excerpt("c", 1.5))
    >>> as_line(Answer("Ann", question, "first"), datetime(2026, 1, 2, tzinfo=UTC))[:68]
    '{"time": "2026-01-02T00:00:00+00:00", "rater": "Ann", "chosen": "fir'
    """
    excerpts = {role: list(getattr(answer.question, role)) for role in EXCERPTS}
    about = {"time": time.isoformat(timespec="seconds"), "rater": answer.rater, "chosen": answer.chosen}
    return json.dumps({**about, "condition": answer.question.condition, **excerpts}, ensure_ascii=False)


def parse_line(line: str) -> Answer:
    """Parse the line of an answer. Raises ValueError if it is none."""
    content = json.loads(line)
    try:
        excerpts = [parse_excerpt(content[role]) for role in EXCERPTS]
        answer = Answer(check_rater(content["rater"]), Question(content["condition"], *excerpts), content["chosen"])
    except (LookupError, TypeError) as error:
        raise ValueError("no answer") from error
    if answer.chosen not in CHOICES or not isinstance(answer.question.condition, str):
        raise ValueError("no answer")
    return answer


def parse_excerpt(content: Any) -> Excerpt:
    """Parse an excerpt. Raises ValueError if it is none."""
    track_id, start = content
    if not isinstance(track_id, str) or not isinstance(start, int | float | None):
        raise ValueError("no excerpt")
    return Excerpt(track_id, start)


def read_answers(path: Path) -> tuple[list[Answer], int]:
    """Return the answers of a file, in order, and the number of damaged lines; a missing file has none."""
    try:
        lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return [], 0
    answers, damaged = [], 0
    for line in filter(None, lines):
        try:
            answers.append(parse_line(line))
        except (ValueError, RecursionError):
            damaged += 1
    return answers, damaged
