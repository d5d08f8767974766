"""Score heads that measure residuals, and codes, in the metric of the training rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.heads import ScoreHead, Tiles

# The covariance of wider vectors is low-rank plus diagonal: its size grows with the square.
_WIDEST_FULL = 512
_RANK = 64
_ROWS_FOR_RANK = 1024
# Share of the mean variance that the covariance is shrunk towards, at least: a direction in which
# the training rows hardly differ shall not outweigh all others.
_LEAST_SHRINKAGE = 0.01


class Mahalanobis(ScoreHead):
    """Mahalanobis length of the residual: its length where training residuals are white.

    A feature that is always rebuilt badly counts less than one that is always rebuilt well. The
    covariance is estimated on the training rows without the ``trim`` share of longest residuals,
    and shrunk towards a multiple of the identity as by OAS [1]_, by at least 1%. Above 512
    features it is low-rank plus diagonal.

    Parameters
    ----------
    n_features : int
        Width of a residual.
    members : tuple of int, default=()
        Leading dimension of residuals, for an ensemble.

    **Shape**

    - Input: ``(*members, n, n_features)``
    - Output: ``(*members, n)``

    References
    ----------
    .. [1] Chen, Y., Wiesel, A., Eldar, Y. C., & Hero, A. O. (2010). Shrinkage Algorithms for
           MMSE Covariance Estimation. IEEE Transactions on Signal Processing 58(10).

    Examples
    --------
    >>> from pyod_ae_plugin.networks import AutoEncoderNetwork
    >>> rebuilds_nothing = AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))
    >>> rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * 5
    >>> head = Mahalanobis(2)
    >>> head.fit_to(rebuilds_nothing, lambda: [rows], 0.0, torch.Generator())
    >>> head(torch.tensor([[5.0, 0.0]])).round()
    tensor([1.])
    """

    shows_nonfinite = True

    def __init__(self, n_features: int, members: tuple[int, ...] = ()) -> None:
        super().__init__(n_features)
        self.of_residual = squared_mahalanobis(n_features, members)

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        (residuals,) = _usual_rows(network, tiles, trim, with_codes=False)
        self.of_residual.fit(residuals)

    def forward(self, residual: Tensor) -> Tensor:
        distance: Tensor = self.of_residual(residual)
        return distance.sqrt()


class JointMahalanobis(ScoreHead):
    """Mahalanobis length of residual and latent code together.

    ``sqrt(d(residual)^2 + d(code)^2)`` with the Mahalanobis distances ``d`` of
    :class:`Mahalanobis`: a row is strange if it is rebuilt badly or if its code lies apart, as
    outliers do that the network learned to rebuild [1]_.

    Parameters
    ----------
    n_features : int
        Width of a residual.
    n_latent : int
        Width of a latent code.
    members : tuple of int, default=()
        Leading dimension of residuals and codes, for an ensemble.

    **Shape**

    - Input: ``(*members, n, n_features)`` and ``(*members, n, n_latent)``
    - Output: ``(*members, n)``

    References
    ----------
    .. [1] Denouden, T., et al. (2018). Improving Reconstruction Autoencoder Out-of-distribution
           Detection with Mahalanobis Distance. arXiv:1812.02765.
    """

    shows_nonfinite = True
    uses_code = True

    def __init__(self, n_features: int, n_latent: int, members: tuple[int, ...] = ()) -> None:
        super().__init__(n_features)
        self.of_residual = squared_mahalanobis(n_features, members)
        self.of_code = squared_mahalanobis(n_latent, members)

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        residuals, codes = _usual_rows(network, tiles, trim, with_codes=True)
        self.of_residual.fit(residuals)
        self.of_code.fit(codes)

    def forward(self, residual: Tensor, code: Tensor) -> Tensor:
        distance: Tensor = self.of_residual(residual) + self.of_code(code)
        return distance.sqrt()


def squared_mahalanobis(width: int, members: tuple[int, ...]) -> FullCovariance | LowRankCovariance:
    """The module that measures squared Mahalanobis distances of vectors so wide."""
    return (FullCovariance if width <= _WIDEST_FULL else LowRankCovariance)(width, members)


class FullCovariance(nn.Module):
    """Squared Mahalanobis distance from the mean, by a matrix product.

    **Shape**

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

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x - self.center, self.whitening).square().sum(-1)


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

    **Shape**

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

    def forward(self, x: Tensor) -> Tensor:
        y = (x - self.center) * self.scale
        explained = torch.matmul(y, self.excess).square().sum(-1)
        return (y.square().sum(-1) - explained).clamp_min(0)


def _usual_rows(
    network: Network, tiles: Tiles, trim: float, with_codes: bool
) -> tuple[list[Tensor], ...]:
    """Residuals, and codes, of each member's rows without the longest residuals."""
    residuals, codes = [], []
    for z in tiles():
        code = network.encode(z)
        residuals.append(network.decode(code) - z)
        if with_codes:
            codes.append(code)
    residual = torch.cat(residuals, dim=-2)
    if not bool(torch.isfinite(residual).all()):
        raise FloatingPointError(
            "Training diverged: the network rebuilds training rows as infinite. Lower the learning "
            "rate lr, and keep preprocessing=True so that the features are standardised."
        )
    n = residual.shape[-2]
    kept = residual.square().sum(-1).topk(max(n - int(trim * n), 1), largest=False).indices
    quantities = [residual, torch.cat(codes, dim=-2)] if with_codes else [residual]
    return tuple(_taken(quantity, kept) for quantity in quantities)


def _taken(x: Tensor, indices: Tensor) -> list[Tensor]:
    members = x.reshape(-1, *x.shape[-2:]), indices.reshape(-1, indices.shape[-1])
    return [of_member[i] for of_member, i in zip(*members, strict=True)]
