"""A trained model on the Hugging Face Hub: an ``Embedder`` with ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

from disentangled_ml.search.hub import HubEmbedder

HubEmbedder("runs/demo-resnet-fixed/checkpoints/best.ckpt").push_to_hub("me/my-model")
model = HubEmbedder.from_pretrained("me/my-model")
"""

from pathlib import Path
from typing import Any

from disentangled_ml.network.exported import CONFIG, WEIGHTS
from disentangled_ml.search.embedder import Embedder
from disentangled_ml.search.export import check_folder, model_files, write_folder
from disentangled_ml.search.model_card import OTHER

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError as error:
    raise ImportError(
        "the package huggingface_hub is missing: pip install 'disentangled-ml[hub]', or pip install huggingface_hub"
    ) from error


class HubEmbedder(ModelHubMixin, Embedder):
    """The network of a checkpoint file, an exported folder, or a repository of the Hub.

    Attributes:
        license_name: Of the weights, for the model card; set it before ``push_to_hub``.
    """

    license_name = OTHER

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False, **options: Any
    ) -> str | None:
        """Export the model into a folder, and upload it if asked for. Raises ValueError if the folder holds something else."""
        folder = Path(save_directory)
        check_folder(folder)
        write_folder(folder, model_files(self.checkpoint, self.license_name))
        return self.push_to_hub(repo_id or folder.name, **options) if push_to_hub else None

    @classmethod
    def _from_pretrained(cls, *, model_id: str, device: str = "cpu", **where: Any) -> "HubEmbedder":
        if Path(model_id).is_dir():
            return cls(model_id, device)
        wanted = {key: where[key] for key in ("revision", "cache_dir", "force_download", "local_files_only", "token")}
        return cls(snapshot_download(model_id, allow_patterns=[CONFIG, WEIGHTS], **wanted), device)
