"""A score head that weighs features by how well they are reconstructed."""

from collections.abc import Iterable

import torch
from torch import Tensor

from pyod_ae_plugin.scoring import ScoreHead


class ScaledL1(ScoreHead):
    """Mean absolute residual, each feature in units of its mean over the training rows."""

    scale: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.register_buffer("scale", torch.ones(n_features))

    def fit(self, residuals: Iterable[Tensor]) -> None:
        """Learn from residuals that come as tiles [m, n_features]."""
        total, n = torch.zeros_like(self.scale), 0
        for residual in residuals:
            total += residual.abs().sum(0)
            n += len(residual)
        self.scale.copy_((total / n).clamp(min=1e-6))

    def forward(self, residual: Tensor) -> Tensor:
        """Scores [n] of residuals [n, n_features]."""
        return (residual.abs() / self.scale).mean(1)
