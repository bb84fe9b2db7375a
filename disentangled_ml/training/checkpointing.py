"""Checkpoints written whole or not at all: a full disk or a kill while one is written leaves the one before."""

from __future__ import annotations

import errno
import os
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO


class WholeCheckpointIO(TorchCheckpointIO):
    """Write beside the file, then rename: Lightning's own way passes by the temporary folder, often of another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises:
            OSError: if the disk is full or cannot be written to.
        """
        temporary = f"{os.fspath(path)}.tmp"
        os.makedirs(os.path.dirname(temporary) or ".", exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
            os.replace(temporary, path)
        except BaseException as error:
            if os.path.exists(temporary):
                os.remove(temporary)
            if isinstance(error, RuntimeError):  # so does torch report a failed write
                raise OSError(errno.EIO, "the checkpoint cannot be written, is the disk full?", path) from error
            raise
