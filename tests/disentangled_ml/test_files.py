"""Files are written as a whole or not at all; a folder is locked by one; errors are told with what they are about."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from disentangled_ml.config import ConfigError
from disentangled_ml.files import (
    atomic_write,
    error_context,
    locked,
    read_json,
    read_object,
    remove_unfinished,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ValueError])
def test_what_was_there_stays_where_a_write_fails(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write("half")
            file.flush()
            assert names(tmp_path) == ["a.txt", next(name for name in names(tmp_path) if name.endswith(".tmp"))]
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(("replace", "expected"), [(True, "second"), (False, "first")])
def test_the_last_wins_or_the_first(tmp_path, replace, expected):
    for content in ("first", "second"):
        write_json(tmp_path / "a.json", {"by": content}, replace=replace)
    assert read_json(tmp_path / "a.json") == {"by": expected}
    assert names(tmp_path) == ["a.json"]


def test_a_file_that_was_taken_away_is_that_of_the_other(tmp_path):
    """A process that was believed dead comes back after another has finished its work."""
    path = tmp_path / "a.txt"
    with atomic_write(path) as file:
        file.write("late")
        remove_unfinished(tmp_path)
        path.write_text("other")
    assert path.read_text() == "other"


def test_without_another_s_file_it_is_an_error(tmp_path):
    def lose() -> None:
        with atomic_write(tmp_path / "a.txt"):
            remove_unfinished(tmp_path)

    with pytest.raises(FileNotFoundError):
        lose()


def test_text_is_utf_8_and_lines_end_as_written(tmp_path):
    with atomic_write(tmp_path / "a.txt") as file:
        file.write("é\r\n\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\r\n\n"


@pytest.mark.parametrize("content", ["{", "[]", "\xff", "[" * 100_000], ids=["cut off", "list", "no UTF-8", "deep"])
def test_a_damaged_object_is_named_or_empty(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json holds no JSON object \(.*\): make it again"):
        read_json(path, "make it again")
    assert read_object(path) == {}
    assert read_object(tmp_path / "b.json") == {}


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "a.json"
    content = {"numbers": list(range(2000))}
    write_json(path, content)
    with ThreadPoolExecutor(2) as pool:
        seen = [pool.submit(read_json, path) for _ in range(50)]
        for _ in range(50):
            write_json(path, content)
    assert all(one.result() == content for one in seen)


def test_errors_of_other_kinds_and_those_without_a_message_pass():
    def describe(error: Exception) -> str | None:
        return None if "pass" in str(error) else f"here: {error}"

    for error, expected in ((OSError("disk"), "^here: disk$"), (OSError("pass"), "^pass$"), (KeyError("x"), "x")):
        with pytest.raises(type(error), match=expected), error_context(OSError, describe):
            raise error
    with pytest.raises(ValueError, match=r"^here: disk$") as caught, error_context(OSError, describe, ValueError):
        raise OSError("disk")
    assert isinstance(caught.value.__cause__, OSError)


def test_a_folder_is_held_by_one_and_let_go(tmp_path):
    with locked(tmp_path), pytest.raises(ConfigError, match="being worked in by another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
