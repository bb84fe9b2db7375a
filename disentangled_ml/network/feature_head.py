"""The head on frozen features, those of a network that was trained on far more music than most catalogues have."""

from torch import Tensor, nn

HIDDEN, DROPOUT = 256, 0.3


class FeatureHead(nn.Module):
    """Three layers: what little must be learned where the features know music already.

    Args:
        n_features: F.
        embedding_dim: D.

    Shape:
        features: (B, F), any floating type; output: (B, D), not normalised.
    """

    def __init__(self, n_features: int, embedding_dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(DROPOUT),
            nn.Linear(n_features, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, embedding_dim),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.float())
