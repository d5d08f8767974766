"""The metric of training rows: covariances that whiten vectors and measure their length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# The covariance of wider vectors is low-rank plus diagonal: its size grows with the square.
_WIDEST_FULL = 512
_RANK = 64
_ROWS_FOR_RANK = 1024
# Share of the mean variance that the covariance is shrunk towards, at least: a direction in which
# the training rows hardly differ shall not outweigh all others.
_LEAST_SHRINKAGE = 0.01


def covariance(width: int, members: tuple[int, ...]) -> FullCovariance | LowRankCovariance:
    """The kind of covariance for vectors so wide, unfitted."""
    return (FullCovariance if width <= _WIDEST_FULL else LowRankCovariance)(width, members)


class FullCovariance(nn.Module):
    """Squared Mahalanobis distance from the mean, by a matrix product.

    Notes
    -----
    Shapes:

    - Input: ``(*members, n, width)``
    - Output: ``(*members, n)``
    """

    center: Tensor
    whitening: Tensor

    def __init__(self, width: int, members: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(*members, 1, width))
        self.register_buffer("whitening", torch.eye(width).expand(*members, -1, -1).clone())

    def fit(self, vectors: Sequence[Tensor]) -> None:
        """Learn from vectors [n, width], for each member in turn."""
        fitted = [_center_and_whitening(x.double()) for x in vectors]
        self.center = torch.stack([c for c, _ in fitted]).view(self.center.shape).float()
        self.whitening = torch.stack([w for _, w in fitted]).view(self.whitening.shape).float()

    def whiten(self, x: Tensor) -> Tensor:
        """Vectors [*members, n, width] whose distances are Mahalanobis distances."""
        return torch.matmul(x - self.center, self.whitening)

    def forward(self, x: Tensor) -> Tensor:
        return self.whiten(x).square().sum(-1)


def _center_and_whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    n, width = x.shape
    center = x.mean(0, keepdim=True)
    x = x - center
    covariance = x.T @ x / n
    shrinkage = max(_oas_shrinkage(covariance, n), _LEAST_SHRINKAGE)
    mean_variance = covariance.diagonal().mean()
    if mean_variance < torch.finfo(torch.float32).tiny:
        return center, torch.eye(width, dtype=x.dtype, device=x.device)
    covariance = (1 - shrinkage) * covariance
    covariance.diagonal().add_(shrinkage * mean_variance)
    return center, torch.linalg.inv(torch.linalg.cholesky(covariance)).T


def _oas_shrinkage(covariance: Tensor, n: int) -> float:
    """Equation 23 of Chen et al. (2010); also right for the one-dimensional case."""
    width = len(covariance)
    of_square = covariance.square().sum().item()
    trace_squared = covariance.diagonal().sum().item() ** 2
    numerator = (1 - 2 / width) * of_square + trace_squared
    denominator = (n + 1 - 2 / width) * (of_square - trace_squared / width)
    return min(numerator / denominator, 1.0) if denominator > 0 else 1.0


class LowRankCovariance(nn.Module):
    """Squared Mahalanobis distance under a covariance that is low-rank plus diagonal.

    In units of each feature's standard deviation, the leading eigenvectors keep their own
    variance, and all other directions share one.

    Notes
    -----
    Shapes:

    - Input: ``(*members, n, width)``
    - Output: ``(*members, n)``
    """

    center: Tensor
    scale: Tensor
    excess: Tensor

    def __init__(self, width: int, members: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(*members, 1, width))
        self.register_buffer("scale", torch.ones(*members, 1, width))
        self.register_buffer("excess", torch.zeros(*members, width, _RANK))

    def fit(self, vectors: Sequence[Tensor]) -> None:
        """Learn from vectors [n, width], for each member in turn."""
        fitted = [self._fitted(x) for x in vectors]
        for name, values in zip(
            ("center", "scale", "excess"), zip(*fitted, strict=True), strict=True
        ):
            setattr(self, name, torch.stack(values).view(getattr(self, name).shape).float())

    def _fitted(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x[:: -(-len(x) // _ROWS_FOR_RANK)].double()
        n, width = x.shape
        center = x.mean(0, keepdim=True)
        x = x - center
        variance = x.square().mean(0, keepdim=True)
        mean_variance = variance.mean().clamp_min(torch.finfo(torch.float32).tiny)
        std = ((1 - _LEAST_SHRINKAGE) * variance + _LEAST_SHRINKAGE * mean_variance).sqrt()
        y = x / std
        # The eigenvectors of the covariance from those of the smaller matrix of inner products.
        variances, vectors = torch.linalg.eigh(y @ y.T / n)
        rank = min(_RANK, n - 1)
        variances, vectors = variances[-rank:].clamp_min(1e-9), vectors[:, -rank:]
        shared = (y.square().sum() / n - variances.sum()) / (width - rank)
        shared = shared.clamp_min(_LEAST_SHRINKAGE)
        directions = y.T @ vectors / (n * variances).sqrt()
        weight = (1 - shared / variances).clamp_min(0).sqrt()
        excess = torch.zeros(width, _RANK, dtype=x.dtype, device=x.device)
        excess[:, :rank] = directions * weight
        return center, 1 / (std * shared.sqrt()), excess

    def whiten(self, x: Tensor) -> Tensor:
        """Vectors [*members, n, width] whose distances are Mahalanobis distances."""
        y = (x - self.center) * self.scale
        # The symmetric square root of I - E E', as the columns of E are orthogonal.
        left = (1 - self.excess.square().sum(-2, keepdim=True)).clamp_min(0).sqrt()
        explained = torch.matmul(y, self.excess) / (1 + left)
        return y - torch.matmul(explained, self.excess.mT)

    def forward(self, x: Tensor) -> Tensor:
        y = (x - self.center) * self.scale
        explained = torch.matmul(y, self.excess).square().sum(-1)
        return (y.square().sum(-1) - explained).clamp_min(0)
