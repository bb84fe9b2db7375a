"""Turn recordings and labels (a manifest) into shards: ``disentangled prepare manifest=FILE out=DIR``.

For a data set instead of a manifest: ``data=NAME corpus.metadata=DIR corpus.audio=DIR``; conf/data/NAME.yaml lists its keys.
Repeat the command to resume an interrupted one, or when labels or recordings have changed: it makes their shards anew, and no
others. DIR/rejected.csv lists the rejected tracks with the reasons, DIR/warnings.csv what is not as it should be about those that
were used.
To divide the work among processes or machines that share DIR, run the command with part=1/40, part=2/40, ..., in any order,
then once with merge=true.
"""

import sys

if __name__ == "__main__":
    # Before the imports, which take seconds: help and slips are answered at once.
    from disentangled_ml.__main__ import main as run

    sys.exit(run(["prepare", *sys.argv[1:]]))

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.audio import musicnn
from datamodules.audio.decoding import MISSING_FILE
from datamodules.corpora.manifest import read_manifest
from datamodules.corpora.tags import choose_conditions
from datamodules.shards.index import ShardIndex
from datamodules.shards.preparation import PreparationSettings, merge_parts, prepare_part, prepare_shards
from disentangled_ml.commands.schemas import FEATURE_CHOICES, TAGS_OF_MUSICNN, parse_part
from disentangled_ml.config import ConfigError
from disentangled_ml.files import output_context
from disentangled_ml.structures import SPLITS, TEMPO, AudioSettings, Corpus

# What tells one rejection from others of its kind
DETAIL = re.compile(r"""'[^']*'|"[^"]*"|\d+(\.\d+)?""")
logger = logging.getLogger("prepare")


def build_corpus(config: DictConfig) -> Corpus:
    """Build the corpus of a configuration: of its data set, or of its manifest."""
    optional = (TEMPO, *(musicnn.CONDITION_TAGS if config.tags == TAGS_OF_MUSICNN else ()))
    if config.corpus is None:
        manifest = Path(config.manifest)
        return read_manifest(manifest, config.split_shares, config.conditions, config.unknown_values, optional)
    # Every track would be rejected, one by one.
    if not config.merge and not Path(config.corpus.audio).is_dir():
        raise ConfigError(f"corpus.audio={config.corpus.audio} is not a folder: give the one that holds the recordings")
    corpus = resolve_name(OmegaConf.get_type(config.corpus).reader)(**OmegaConf.to_container(config.corpus))
    return corpus if config.conditions is None else choose_conditions(corpus, config.conditions, optional)


def estimated_conditions(config: DictConfig, corpus: Corpus) -> tuple[str, ...]:
    """Return the conditions whose tags are to be estimated: those that the corpus lacks, of those chosen.

    Raises: ConfigError: if one was chosen that the features tell nothing of.
    """
    if config.tags != TAGS_OF_MUSICNN:
        return ()
    features, found = FEATURE_CHOICES[config.features], []
    for name, models in musicnn.CONDITION_TAGS.items():
        if name in corpus.conditions or (config.conditions is not None and name not in config.conditions):
            continue
        best = next(iter(models))
        if best in features:
            found.append(name)
            continue
        choices = " or ".join(choice for choice, networks in FEATURE_CHOICES.items() if best in networks)
        if config.conditions is not None:
            raise ConfigError(
                f"conditions: {name} is not in the data, and features={config.features} cannot tell it: use {choices}"
            )
        logger.info("%s is not estimated: that takes features=%s", name, choices)
    return tuple(found)


def kind_of(reason: str) -> str:
    """Return the kind of a reason: its beginning, without numbers and quoted names.

    >>> kind_of("shorter than a chunk: 0.35 s, 3.00 s needed"), kind_of("unknown split 'a: b', legal: train, val, test")
    ('shorter than a chunk', 'unknown split ...')
    """
    return re.split("[:(,]", DETAIL.sub("...", reason))[0].strip()


def count_reasons(reasons: Iterable[str], what: str = "rejected") -> str:
    """Count rejections, or warnings, by kind: missing files first, then the most frequent.

    >>> count_reasons(["silent (peak below -80 dBFS)", "missing file", *["empty file"] * 1200])
    '1,202 rejected: 1 missing file, 1,200 empty file, 1 silent'
    """
    counts = Counter(map(kind_of, reasons))
    kinds = sorted(counts.items(), key=lambda item: (item[0] != MISSING_FILE, -item[1], item[0]))
    return f"{counts.total():,} {what}: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds)


def main(config: DictConfig) -> None:
    part = parse_part(config.part)
    corpus, out, workers = build_corpus(config), Path(config.out), config.workers or os.cpu_count() or 1
    settings = PreparationSettings(
        audio=AudioSettings(**config.audio),
        min_frames=config.chunk_frames,
        store_waveform=config.store_waveform,
        tempo=config.tempo if config.conditions is None or TEMPO in corpus.conditions else "manifest",
        tracks_per_shard=config.tracks_per_shard,
        max_lost=config.max_lost,
        features=FEATURE_CHOICES[config.features],
        estimated=estimated_conditions(config, corpus),
        tag_share=config.tag_share,
    )
    if settings.features:
        musicnn.require(settings.features)  # before anything long begins
    with output_context(out):
        if part:
            prepare_part(corpus, out, settings, workers, part)
            done = "is made; when all parts are, run the command with merge=true instead"
            logger.info("%s: part %s %s", out, config.part, done)
        elif config.merge:
            log_summary(merge_parts(corpus, out, settings), corpus.notes)
        else:
            log_summary(prepare_shards(corpus, out, settings, workers), corpus.notes)


def log_summary(index: ShardIndex, notes: Iterable[str]) -> None:
    """Log what is in the shards, what the reader of the corpus has changed, and what was rejected."""
    counts = ", ".join(f"{index.count(split)} {split}" for split in SPLITS)
    names = ", ".join(map(described, index.conditions))
    logger.info("%s: %s tracks; conditions: %s", index.root, counts, names)
    if not index.conditions:
        logger.warning(
            "no track has a tag or a tempo, so nothing can be trained on these shards: see the manifest's columns, or corpus.tags"
        )
    for note in notes:
        logger.info(note)
    reasons = read_column(index.root / "rejected.csv", "reason")
    if reasons:
        logger.info("%s, see %s", count_reasons(reasons), index.root / "rejected.csv")
    warnings = read_column(index.root / "warnings.csv", "warning")
    if warnings:
        counts = count_reasons(warnings, "warning" if len(warnings) == 1 else "warnings")
        logger.warning("%s, see %s", counts, index.root / "warnings.csv")


def described(entry: dict[str, Any]) -> str:
    """Return the name of a condition of the index, and whether its labels are estimated.

    >>> described({"name": "mood", "kind": "tags", "vocabulary": []})
    'mood'
    >>> described({"name": "tempo", "kind": "tempo", "estimated": "madmom", "estimated_tracks": 3})
    'tempo (estimated by madmom, for 3 tracks)'
    """
    if "estimated" not in entry:
        return entry["name"]
    share = f"each tag of {entry['share']:.0%} of the tracks" if "share" in entry else ""
    tracks = f"for {entry['estimated_tracks']:,} tracks" if "estimated_tracks" in entry else share
    return f"{entry['name']} (estimated by {entry['estimated']}, {tracks})"


def read_column(path: Path, name: str) -> list[str]:
    with open(path, newline="", encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]
