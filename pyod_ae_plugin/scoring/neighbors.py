"""The score head that measures how far a row lies from the training rows near it."""

from __future__ import annotations

import torch
from torch import Tensor

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.covariance import covariance
from pyod_ae_plugin.scoring.heads import ScoreHead, Tiles
from pyod_ae_plugin.scoring.mahalanobis import usual_rows

_N_REFERENCES = 1024
_N_REFERENCES_OF_MEMBER = 512


class NearestNeighbor(ScoreHead):
    """Distance of residual and latent code to those of the nearest training rows.

    Residuals and codes are whitened as by
    :class:`~pyod_ae_plugin.scoring.JointMahalanobis`, which measures from the centre of the
    training rows; here a row is as strange as it is far from the nearest one, so that normal rows
    may form clusters, rings or sheets. The rows compared with are a sample of those that training
    kept [1]_, 1,024 of them, or 512 for each member of an ensemble. They are two halves, and of
    the distances to the nearest row of either the larger counts: that to a training row itself,
    which is 0, does not.

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

    shows_nonfinite = True
    uses_code = True

    references: Tensor

    def __init__(self, n_features: int, n_latent: int, members: tuple[int, ...] = ()) -> None:
        super().__init__(n_features)
        self.of_residual = covariance(n_features, members)
        self.of_code = covariance(n_latent, members)
        n_references = _N_REFERENCES_OF_MEMBER if members else _N_REFERENCES
        self.register_buffer(
            "references", torch.zeros(*members, n_references, n_features + n_latent)
        )
        self.widest = self.references[..., 0].numel()

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        residuals, codes = usual_rows(network, tiles, trim, with_codes=True)
        self.of_residual.fit(residuals)
        self.of_code.fit(codes)
        sampled = [self._sample(len(x), generator) for x in residuals]
        of_sample = (
            torch.stack([x[rows] for x, rows in zip(vectors, sampled, strict=True)])
            for vectors in (residuals, codes)
        )
        self.references = self._whitened(*of_sample).view(self.references.shape)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Indices of rows for either half; a half repeats its rows where there are too few."""
        n_half = self.references.shape[-2] // 2
        shuffled = torch.randperm(n, generator=generator, device=generator.device)
        halves = shuffled[: max(n // 2, 1)], shuffled[n // 2 :]
        places = torch.arange(n_half, device=generator.device)
        return torch.cat([half[places % len(half)] for half in halves])

    def _whitened(self, residual: Tensor, code: Tensor) -> Tensor:
        return torch.cat([self.of_residual.whiten(residual), self.of_code.whiten(code)], dim=-1)

    def forward(self, residual: Tensor, code: Tensor) -> Tensor:
        x = self._whitened(residual, code)
        # |x - r|^2 = |x|^2 + 2 (|r|^2 / 2 - x r), of which the last is one matrix product
        half_norms = 0.5 * self.references.square().sum(-1).unsqueeze(-2)
        product = torch.addmm if x.ndim == 2 else torch.baddbmm
        apart = product(half_norms, x, self.references.mT, alpha=-1)
        farther: Tensor = apart.unflatten(-1, (2, -1)).amin(-1).amax(-1)
        return (x.square().sum(-1) + 2 * farther).clamp_min(0).sqrt()
