"""Score heads that measure Mahalanobis distances, and their covariances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.heads import ScoreHead, Tiles, check_residuals

_N_REFERENCES = 1024
_N_REFERENCES_PER_MEMBER = 512


class Affine(NamedTuple):
    """The map ``(x - center) @ weight`` of vectors [*members, n, width]."""

    center: Tensor  # [*members, 1, width]
    weight: Tensor  # [*members, width, n_out]


class Whitening(NamedTuple):
    """Maps of residual and latent code whose results, side by side, are as long as the score."""

    residual: Affine
    code: Affine | None = None


# ---------------------------------------------------------------------------------------
# Score heads
# ---------------------------------------------------------------------------------------


class Mahalanobis(ScoreHead):
    """Mahalanobis length of the residual.

    A feature that is always reconstructed badly counts less than one that is always reconstructed
    well. The covariance is estimated on the training rows without the ``trim`` share of longest
    residuals, and shrunk towards a multiple of the identity as by OAS [1]_, by at least 1%. The
    variances of rare categories and counts, which vary less than a normal feature, get a floor.
    Above 512 features the covariance is low-rank plus diagonal. Residuals
    ``(*members, n, n_features)`` become scores ``(*members, n)``.

    Parameters
    ----------
    n_features : int
        Width of a residual.
    members : tuple of int, default=()
        Leading dimension of residuals, for an ensemble.

    References
    ----------
    .. [1] Chen, Y., Wiesel, A., Eldar, Y. C., & Hero, A. O. (2010). Shrinkage Algorithms for
           MMSE Covariance Estimation. IEEE Transactions on Signal Processing 58(10).

    Examples
    --------
    >>> from pyod_ae_plugin.networks import AutoEncoderNetwork
    >>> keeps_nothing = AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))
    >>> rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * 5
    >>> head = Mahalanobis(2)
    >>> head.fit_to(keeps_nothing, lambda: [rows], 0.0, torch.Generator())
    >>> head(torch.tensor([[5.0, 0.0]])).round()
    tensor([1.])
    """

    propagates_nan = True

    def __init__(self, n_features: int, members: tuple[int, ...] = ()) -> None:
        super().__init__(n_features)
        self.residual_covariance = covariance(n_features, members)

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        kept = untrimmed_rows(network, tiles, trim)
        self.residual_covariance.fit([m.residual for m in kept], variance_floor(tiles))

    def forward(self, residual: Tensor) -> Tensor:
        distance: Tensor = self.residual_covariance(residual)
        return distance.sqrt()

    def whitening(self) -> Whitening | None:
        """The maps that can become part of a network's linear layers, if there are such."""
        residual = self.residual_covariance.affine()
        return None if residual is None else Whitening(residual)


class JointMahalanobis(ScoreHead):
    """Mahalanobis length of residual and latent code together.

    ``sqrt(d(residual)^2 + d(code)^2)`` with the Mahalanobis distances ``d`` of
    :class:`Mahalanobis`. A row is abnormal if it is reconstructed badly, or if its code is far
    from the others, as are the codes of outliers that the network learned to reconstruct [1]_.
    Residuals ``(*members, n, n_features)`` and codes ``(*members, n, n_latent)`` become scores
    ``(*members, n)``.

    Parameters
    ----------
    n_features : int
        Width of a residual.
    n_latent : int
        Width of a latent code.
    members : tuple of int, default=()
        Leading dimension of residuals and codes, for an ensemble.

    References
    ----------
    .. [1] Denouden, T., et al. (2018). Improving Reconstruction Autoencoder Out-of-distribution
           Detection with Mahalanobis Distance. arXiv:1812.02765.

    Examples
    --------
    >>> from pyod_ae_plugin.networks import AutoEncoderNetwork
    >>> keeps_nothing = AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))
    >>> rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * 5
    >>> head = JointMahalanobis(2, 2)
    >>> head.fit_to(keeps_nothing, lambda: [rows], 0.0, torch.Generator())
    >>> row = torch.tensor([[5.0, 0.0]])
    >>> (head(-row, row) / 2**0.5).round()  # residual and code have the same length
    tensor([1.])
    """

    propagates_nan = True
    uses_code = True

    def __init__(self, n_features: int, n_latent: int, members: tuple[int, ...] = ()) -> None:
        super().__init__(n_features)
        self.residual_covariance = covariance(n_features, members)
        self.code_covariance = covariance(n_latent, members)

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        self._fit_covariances(network, tiles, trim)

    def _fit_covariances(self, network: Network, tiles: Tiles, trim: float) -> list[Kept]:
        """Fit to the rows of each member that are not trimmed, and return these."""
        kept = untrimmed_rows(network, tiles, trim)
        self.residual_covariance.fit([m.residual for m in kept], variance_floor(tiles))
        self.code_covariance.fit([m.code for m in kept])
        return kept

    def forward(self, residual: Tensor, code: Tensor) -> Tensor:
        distance: Tensor = self.residual_covariance(residual) + self.code_covariance(code)
        return distance.sqrt()

    def whitening(self) -> Whitening | None:
        """The maps that can become part of a network's linear layers, if there are such."""
        residual, code = self.residual_covariance.affine(), self.code_covariance.affine()
        return None if residual is None or code is None else Whitening(residual, code)


class NearestNeighbor(JointMahalanobis):
    """Distance of residual and latent code to those of the nearest training rows.

    Residuals and codes are whitened as by :class:`~pyod_ae_plugin.scoring.JointMahalanobis`. That
    head measures the distance from the centre of the training rows; this one measures the distance
    to the nearest of them, so normal rows may form clusters, rings or sheets. Rows are compared
    with a sample of the training rows that were not trimmed [1]_: 1,024 references, or 512 for
    each member of an ensemble. The sample has two halves. A score is the larger of the distances
    to the nearest reference in either half, so that a training row is not compared with itself.

    Parameters
    ----------
    n_features : int
        Width of a residual.
    n_latent : int
        Width of a latent code.
    members : tuple of int, default=()
        Leading dimension of residuals and codes, for an ensemble.

    References
    ----------
    .. [1] Sugiyama, M., & Borgwardt, K. M. (2013). Rapid Distance-Based Outlier Detection via
           Sampling. NeurIPS.

    Examples
    --------
    >>> from pyod_ae_plugin.networks import mlp
    >>> network = mlp(2, [1], "tanh", False, 0.0, torch.Generator().manual_seed(0))
    >>> rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> head = NearestNeighbor(2, 1)
    >>> with torch.no_grad():
    ...     head.fit_to(network, lambda: [rows], 0.0, torch.Generator().manual_seed(0))
    ...     near, far = head.score(network, torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
    >>> bool(far > 10 * near)
    True
    """

    references: Tensor

    def __init__(self, n_features: int, n_latent: int, members: tuple[int, ...] = ()) -> None:
        super().__init__(n_features, n_latent, members)
        n_references = _N_REFERENCES_PER_MEMBER if members else _N_REFERENCES
        self.register_buffer(
            "references", torch.zeros(*members, n_references, n_features + n_latent)
        )
        self.max_width = self.references[..., 0].numel()

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        kept = self._fit_covariances(network, tiles, trim)
        sampled = [self._sample(len(m.code), generator) for m in kept]
        residual = torch.stack([m.residual[i] for m, i in zip(kept, sampled, strict=True)])
        code = torch.stack([m.code[i] for m, i in zip(kept, sampled, strict=True)])
        self.references = self._whitened(residual, code).view(self.references.shape)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Indices of the rows of both halves; a half repeats its rows if there are too few."""
        n_half = self.references.shape[-2] // 2
        shuffled = torch.randperm(n, generator=generator, device=generator.device)
        halves = shuffled[: max(n // 2, 1)], shuffled[n // 2 :]
        places = torch.arange(n_half, device=generator.device)
        return torch.cat([half[places % len(half)] for half in halves])

    def _whitened(self, residual: Tensor, code: Tensor) -> Tensor:
        return torch.cat(
            [self.residual_covariance.whiten(residual), self.code_covariance.whiten(code)], dim=-1
        )

    def forward(self, residual: Tensor, code: Tensor) -> Tensor:
        x = self._whitened(residual, code)
        # |x - r|^2 = |x|^2 + 2 (|r|^2 / 2 - x r), where x r is one matrix product
        half_norms = 0.5 * self.references.square().sum(-1).unsqueeze(-2)
        product = torch.addmm if x.ndim == 2 else torch.baddbmm
        distances = product(half_norms, x, self.references.mT, alpha=-1)
        farther: Tensor = distances.unflatten(-1, (2, -1)).amin(-1).amax(-1)
        return (x.square().sum(-1) + 2 * farther).clamp_min(0).sqrt()


class Kept(NamedTuple):
    """Residuals and codes [n, width] of the rows of a member that are not trimmed."""

    residual: Tensor
    code: Tensor


def untrimmed_rows(network: Network, tiles: Tiles, trim: float) -> list[Kept]:
    """Each member's rows without those of the longest residuals, of which ``trim`` is the share."""
    residuals, codes = [], []
    for z in tiles():
        code = network.encode(z)
        residuals.append(network.decode(code) - z)
        codes.append(code)
    residual, code = torch.cat(residuals, dim=-2), torch.cat(codes, dim=-2)
    check_residuals(residual)
    n = residual.shape[-2]
    kept = residual.square().sum(-1).topk(max(n - int(trim * n), 1), largest=False).indices
    of_members = (x.reshape(-1, n, x.shape[-1]) for x in (residual, code))
    return [
        Kept(residual[i], code[i])
        for i, residual, code in zip(kept.view(-1, kept.shape[-1]), *of_members, strict=True)
    ]


# A rare category hardly varies, and is reconstructed almost exactly. In the metric of the residuals
# alone each occurrence of it would outweigh all other features of the row.
_FLOOR = 0.01


def variance_floor(tiles: Tiles) -> Tensor:
    """Floor added to the variance of the residual of each feature, [n_features].

    It is 1% of the variance that a feature lacks to 1, at most its own: nothing for a feature
    scaled to unit variance, and something for one whose unit is larger than its standard deviation.
    """
    variance = torch.cat(list(tiles())).double().var(0, correction=0)
    return torch.minimum(_FLOOR * (1 - variance).clamp_min(0), variance)


# ---------------------------------------------------------------------------------------
# Covariances
# ---------------------------------------------------------------------------------------

# A full covariance grows with the square of the width. Above this width it is low-rank plus
# diagonal.
_MAX_FULL_WIDTH = 512
_RANK = 64
_ROWS_FOR_RANK = 1024
# Covariances are shrunk towards the mean variance by at least this share. Otherwise a direction in
# which the training rows hardly differ would outweigh all others.
_MIN_SHRINKAGE = 0.01


def covariance(width: int, members: tuple[int, ...]) -> Covariance:
    """Return an unfitted covariance of the kind that suits the width."""
    return (FullCovariance if width <= _MAX_FULL_WIDTH else LowRankCovariance)(width, members)


class Covariance(nn.Module):
    """Squared Mahalanobis distances [*members, n] of vectors [*members, n, width] from the mean."""

    def fit(self, vectors: Sequence[Tensor], floor: Tensor | None = None) -> None:
        """Learn from vectors [n, width] of each member, and add a floor [width] to variances."""
        added = vectors[0].new_zeros(vectors[0].shape[1]) if floor is None else floor
        fitted = zip(*(self._estimate(x, added.double()) for x in vectors), strict=True)
        for (name, buffer), values in zip(list(self.named_buffers()), fitted, strict=True):
            setattr(self, name, torch.stack(values).view(buffer.shape).float())

    def _estimate(self, x: Tensor, floor: Tensor) -> tuple[Tensor, ...]:
        """Estimate the buffers, in their order, from vectors [n, width]."""
        raise NotImplementedError

    def whiten(self, x: Tensor) -> Tensor:
        """Return vectors [*members, n, width] whose lengths are the Mahalanobis distances."""
        raise NotImplementedError

    def affine(self) -> Affine | None:
        """What :meth:`whiten` computes if it is a single matrix product, else None."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        return self.whiten(x).square().sum(-1)


class FullCovariance(Covariance):
    """A covariance whose vectors are whitened by a matrix product."""

    center: Tensor
    whitening: Tensor

    def __init__(self, width: int, members: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(*members, 1, width))
        self.register_buffer("whitening", torch.eye(width).expand(*members, -1, -1).clone())

    def _estimate(self, x: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        x = x.double()
        n, width = x.shape
        center = x.mean(0, keepdim=True)
        x = x - center
        covariance = x.T @ x / n
        shrinkage = max(_oas_shrinkage(covariance, n), _MIN_SHRINKAGE)
        mean_variance = covariance.diagonal().mean()
        if mean_variance < torch.finfo(torch.float32).tiny:
            return center, torch.eye(width, dtype=x.dtype, device=x.device)
        covariance = (1 - shrinkage) * covariance
        covariance.diagonal().add_(shrinkage * mean_variance + floor)
        return center, torch.linalg.inv(torch.linalg.cholesky(covariance)).T

    def whiten(self, x: Tensor) -> Tensor:
        return torch.matmul(x - self.center, self.whitening)

    def affine(self) -> Affine:
        return Affine(self.center, self.whitening)


def _oas_shrinkage(covariance: Tensor, n: int) -> float:
    """Equation 23 of Chen et al. (2010), which also holds for a width of 1."""
    width = len(covariance)
    squares = covariance.square().sum().item()
    trace_squared = covariance.diagonal().sum().item() ** 2
    numerator = (1 - 2 / width) * squares + trace_squared
    denominator = (n + 1 - 2 / width) * (squares - trace_squared / width)
    return min(numerator / denominator, 1.0) if denominator > 0 else 1.0


class LowRankCovariance(Covariance):
    """A covariance that is low-rank plus diagonal.

    Features are divided by their standard deviations. The leading eigenvectors then keep their
    own variances, and all other directions share one.
    """

    center: Tensor
    scale: Tensor
    excess: Tensor

    def __init__(self, width: int, members: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(*members, 1, width))
        self.register_buffer("scale", torch.ones(*members, 1, width))
        self.register_buffer("excess", torch.zeros(*members, width, _RANK))

    def _estimate(self, x: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x[:: -(-len(x) // _ROWS_FOR_RANK)].double()
        n, width = x.shape
        center = x.mean(0, keepdim=True)
        x = x - center
        variance = x.square().mean(0, keepdim=True)
        mean_variance = variance.mean().clamp_min(torch.finfo(torch.float32).tiny)
        std = ((1 - _MIN_SHRINKAGE) * variance + _MIN_SHRINKAGE * mean_variance + floor).sqrt()
        y = x / std
        # The eigenvectors come from those of the matrix of inner products, which is smaller.
        variances, vectors = torch.linalg.eigh(y @ y.T / n)
        rank = min(_RANK, n - 1)
        variances, vectors = variances[-rank:].clamp_min(1e-9), vectors[:, -rank:]
        shared = (y.square().sum() / n - variances.sum()) / (width - rank)
        shared = shared.clamp_min(_MIN_SHRINKAGE)
        directions = y.T @ vectors / (n * variances).sqrt()
        weight = (1 - shared / variances).clamp_min(0).sqrt()
        excess = torch.zeros(width, _RANK, dtype=x.dtype, device=x.device)
        excess[:, :rank] = directions * weight
        return center, 1 / (std * shared.sqrt()), excess

    def whiten(self, x: Tensor) -> Tensor:
        y = (x - self.center) * self.scale
        # The symmetric square root of I - E E', as the columns of E are orthogonal.
        left = (1 - self.excess.square().sum(-2, keepdim=True)).clamp_min(0).sqrt()
        explained = torch.matmul(y, self.excess) / (1 + left)
        return y - torch.matmul(explained, self.excess.mT)

    def forward(self, x: Tensor) -> Tensor:
        y = (x - self.center) * self.scale
        explained = torch.matmul(y, self.excess).square().sum(-1)
        return (y.square().sum(-1) - explained).clamp_min(0)
