"""Atomic checkpoints: a full disk or a kill while one is written leaves the previous one."""

import errno
import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from disentangled_ml.files import atomic_write, remove_unfinished


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints written beside the file, then renamed; Lightning uses the temporary folder, often on another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent)  # nobody else writes there now
        try:
            with atomic_write(path, "wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # so does torch report a failed write
            raise OSError(errno.EIO, "the checkpoint cannot be written, is the disk full?", str(path)) from error
