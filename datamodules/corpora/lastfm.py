"""``lastfm_tags.db``: the Last.fm tags of Million Song Dataset tracks, each with a value from 0 to 100.

Tables ``tids(tid)``, ``tags(tag)`` and ``tid_tag(tid, tag, val)``, whose first two columns are row numbers of the others. Tags are
what people typed, so they are compared without regard to case; a tag keeps the spelling of the configuration. SQLite scans
the table once into a temporary one with the tags that are wanted, so that no index is needed, and no memory of ours.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from datamodules.corpora.text_files import CorpusError

TABLES = {"tids": {"tid"}, "tags": {"tag"}, "tid_tag": {"tid", "tag", "val"}}


@contextmanager
def connected(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for reading."""
    if not database.is_file():
        raise CorpusError(f"corpus.tag_database={database} is not a file: give lastfm_tags.db")
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            for table, columns in TABLES.items():
                found = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
                if not columns <= found:
                    raise CorpusError(f"{database} has no table {table}({', '.join(sorted(columns))})")
            yield connection
    except sqlite3.Error as error:
        raise CorpusError(f"{database} cannot be read as SQLite database ({error}): give lastfm_tags.db") from error


def tag_rows(connection: sqlite3.Connection, wanted: Iterable[str]) -> dict[int, str]:
    """Map the row numbers of wanted tags, however they are written, to the wanted spelling."""
    spelling = {tag.casefold(): tag for tag in wanted}
    rows = connection.execute("SELECT rowid, tag FROM tags")
    return {row: spelling[tag.casefold()] for row, tag in rows if tag is not None and tag.casefold() in spelling}


def known_tags(database: Path, wanted: Iterable[str]) -> set[str]:
    """Return those of the wanted tags that a database has.

    Raises: CorpusError: if it is missing or not of this form.
    """
    with connected(database) as connection:
        return set(tag_rows(connection, wanted).values())


@contextmanager
def database_tags(database: Path, wanted: Iterable[str], threshold: float) -> Iterator[Callable[[str], set[str]]]:
    """Yield a function from a track id to those wanted tags whose value is above a threshold.

    Raises: CorpusError: if the database is missing or not of this form.
    """
    with connected(database) as connection:
        tags = tag_rows(connection, wanted)
        connection.execute(
            "CREATE TEMP TABLE found AS SELECT tids.tid AS track, tid_tag.tag AS tag "
            "FROM tid_tag JOIN tids ON tids.rowid = tid_tag.tid "
            f"WHERE tid_tag.val > ? AND tid_tag.tag IN ({', '.join(map(str, tags))})",
            (threshold,),
        )
        connection.execute("CREATE INDEX temp.by_track ON found (track)")

        def tags_of(track_id: str) -> set[str]:
            rows = connection.execute("SELECT tag FROM found WHERE track = ?", (track_id,))
            return {tags[row] for (row,) in rows}

        yield tags_of
