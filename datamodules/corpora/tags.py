"""Tags of a data set, sorted into conditions by its configuration."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from datamodules.corpora.text_files import CorpusError
from disentangled_ml.structures import RESERVED_NAMES, TEMPO, Corpus, Rejected, TrackRecord


def sort_tags(tags: Collection[str], conditions: Mapping[str, Iterable[str]]) -> dict[str, list[str] | float]:
    """Sort the tags of a track into conditions; a condition without a tag is absent.

    >>> sort_tags({"rock", "pop", "80s"}, {"genre": ["pop", "rock"], "mood": ["sad"]})
    {'genre': ['pop', 'rock']}
    """
    sorted_tags = {name: sorted({tag for tag in legal if tag in tags}) for name, legal in conditions.items()}
    return {name: found for name, found in sorted_tags.items() if found}


def check_tags(conditions: Mapping[str, Iterable[str]], known: Collection[str], where: str) -> None:
    """Check that the tags named for conditions are among those that a data set has.

    Raises: CorpusError: naming those that are not, or a name that no condition of tags can have.
    """
    check_names(conditions)
    unknown = sorted({tag for tags in conditions.values() for tag in tags} - set(known))
    if unknown:
        raise CorpusError(f"{where} has no tag {', '.join(map(repr, unknown))}: correct corpus.tags or corpus.synonyms")


def check_names(names: Iterable[str]) -> None:
    """Check that no condition of tags has a name that means something else."""
    for name in names:
        if name in (*RESERVED_NAMES, TEMPO):
            raise CorpusError(f"corpus.tags.{name}: a condition of tags cannot be called {name!r}, rename it")


def choose_conditions(corpus: Corpus, names: Sequence[str], optional: Collection[str] = (TEMPO,)) -> Corpus:
    """Keep some conditions of a corpus, in the given order; among them may be optional ones, which are estimated.

    Raises: CorpusError: if they are none, not distinct, or one is unknown.
    """
    legal = list(dict.fromkeys([*corpus.conditions, *optional]))
    if not names or len(set(names)) < len(names) or not set(names) <= set(legal):
        raise CorpusError(f"conditions={list(names)} are not legal: choose distinct ones of {', '.join(legal)}")
    kept = [name for name in names if name in (*corpus.conditions, TEMPO)]
    return Corpus(kept, partial(choose_labels, corpus, frozenset(kept)), corpus.notes)


def choose_labels(corpus: Corpus, names: frozenset[str]) -> Iterator[TrackRecord | Rejected]:
    for row in corpus.rows():
        if isinstance(row, Rejected):
            yield row
        else:
            yield row._replace(labels={name: label for name, label in row.labels.items() if name in names})
