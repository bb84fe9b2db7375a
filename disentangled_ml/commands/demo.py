"""Make the demo corpus: ``disentangled demo out=DIR``.

It is generated music with true labels of genre, mood, instrument and tempo. With ``changing_pieces=N`` there are further pieces that
change one of them in the middle.
"""

import logging
import os
from pathlib import Path

from omegaconf import DictConfig

from datamodules.corpora.demo.changes import generate_changes
from datamodules.corpora.demo.corpus import generate_demo


def main(config: DictConfig) -> None:
    workers = config.workers or os.cpu_count() or 1
    manifest = generate_demo(Path(config.out), config.pieces, config.seed, config.seconds, workers)
    logging.getLogger("demo").info("%s", manifest)
    if config.changing_pieces:
        out = Path(config.out) / "changes"
        written = generate_changes(out, config.changing_pieces, config.seed, config.changing_seconds, workers)
        logging.getLogger("demo").info("%s", written)
