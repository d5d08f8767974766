"""Score heads that measure residuals, and codes, from the centre of the training rows."""

from __future__ import annotations

import torch
from torch import Tensor

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.covariance import covariance
from pyod_ae_plugin.scoring.heads import ScoreHead, Tiles


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

    Notes
    -----
    Shapes:

    - Input: ``(*members, n, n_features)``
    - Output: ``(*members, n)``

    References
    ----------
    .. [1] Chen, Y., Wiesel, A., Eldar, Y. C., & Hero, A. O. (2010). Shrinkage Algorithms for
           MMSE Covariance Estimation. IEEE Transactions on Signal Processing 58(10).

    Examples
    --------
    >>> from torch import nn
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
        self.of_residual = covariance(n_features, members)

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        (residuals,) = usual_rows(network, tiles, trim, with_codes=False)
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

    Notes
    -----
    Shapes:

    - Input: ``(*members, n, n_features)`` and ``(*members, n, n_latent)``
    - Output: ``(*members, n)``

    References
    ----------
    .. [1] Denouden, T., et al. (2018). Improving Reconstruction Autoencoder Out-of-distribution
           Detection with Mahalanobis Distance. arXiv:1812.02765.

    Examples
    --------
    >>> from torch import nn
    >>> from pyod_ae_plugin.networks import AutoEncoderNetwork
    >>> rebuilds_nothing = AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))
    >>> rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * 5
    >>> head = JointMahalanobis(2, 2)
    >>> head.fit_to(rebuilds_nothing, lambda: [rows], 0.0, torch.Generator())
    >>> row = torch.tensor([[5.0, 0.0]])
    >>> (head(-row, row) / 2**0.5).round()  # residual and code are equally far
    tensor([1.])
    """

    shows_nonfinite = True
    uses_code = True

    def __init__(self, n_features: int, n_latent: int, members: tuple[int, ...] = ()) -> None:
        super().__init__(n_features)
        self.of_residual = covariance(n_features, members)
        self.of_code = covariance(n_latent, members)

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        residuals, codes = usual_rows(network, tiles, trim, with_codes=True)
        self.of_residual.fit(residuals)
        self.of_code.fit(codes)

    def forward(self, residual: Tensor, code: Tensor) -> Tensor:
        distance: Tensor = self.of_residual(residual) + self.of_code(code)
        return distance.sqrt()


def usual_rows(
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
