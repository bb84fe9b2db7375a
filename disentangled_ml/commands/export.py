"""Export a model to hand it on: ``disentangled export checkpoint=FILE out=DIR``.

DIR gets the weights (model.safetensors), all else that rebuilds the model (config.json) and a model card (README.md); with
``program=true`` also the embedding for plain PyTorch (model.pt2). Every command that takes ``checkpoint=FILE`` takes DIR as well.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from disentangled_ml.files import error_context
from disentangled_ml.search.export import check_folder, model_files, write_folder


def main(config: DictConfig) -> None:
    out = Path(config.out)
    check_folder(out)
    files = model_files(Path(config.checkpoint), config.license, config.program)
    with error_context(OSError, lambda error: f"out={out} cannot be written ({error}): what was there before is kept"):
        write_folder(out, files)
    sizes = ", ".join(f"{name} ({len(content) / 1e6:.1f} MB)" for name, content in files.items())
    sys.stdout.write(f"{out}: {sizes}\n")
