"""Score heads: from the residual of a row to its anomaly score."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import Network

Tiles = Callable[[], Iterable[Tensor]]
"""Gives standardised training rows, tile by tile, as often as it is called."""


class ScoreHead(nn.Module):
    """Base class of modules that turn residuals into scores; larger is more abnormal.

    A subclass implements ``forward``, and :meth:`fit` where it learns from the residuals of
    the training rows. What it learns goes into parameters or buffers, which exist, with their
    final shapes, from ``__init__`` on, so that a saved head can be loaded. A head that needs more
    than residuals overrides :meth:`fit_to` and :meth:`score`.

    Parameters
    ----------
    n_features : int
        Width of a residual.

    Attributes
    ----------
    shows_nonfinite : bool, default=False
        Whether a NaN or infinity anywhere in a residual always makes the score NaN or infinite.
        If so, bad input is found by looking at the scores, which spares a pass over the rows.
    uses_code : bool, default=False
        Whether ``forward`` takes the latent code as a second argument.
    widest : int, default=0
        The most numbers that a row becomes in ``forward`` at a time, where that is more than
        in the network; tiles of rows are made so low that all of it fits the cache.
    needs : tuple of str, default=()
        Methods that the network must have besides ``encode`` and ``decode``.

    Notes
    -----
    Shapes:

    - Input: ``(*, n, n_features)``, the reconstruction less the standardised row, and with
      ``uses_code`` also ``(*, n, n_latent)``; the leading dimension, if any, is that of the
      members of an ensemble
    - Output: ``(*, n)``

    Examples
    --------
    >>> class LargestResidual(ScoreHead):
    ...     def forward(self, residual):
    ...         return residual.abs().amax(-1)
    >>> LargestResidual(2)(torch.tensor([[3.0, -4.0], [0.0, 1.0]]))
    tensor([4., 1.])
    """

    shows_nonfinite: bool = False
    uses_code: bool = False
    widest: int = 0
    needs: tuple[str, ...] = ()

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    def fit(self, residuals: Iterable[Tensor]) -> None:
        """Learn from the training rows' residuals, given as tiles of shape (m, n_features)."""

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        """Learn from a trained network and standardised training rows.

        Parameters
        ----------
        network : torch.nn.Module
        tiles : callable
            Returns an iterable over tiles of shape (m, n_features), at each call.
        trim : float
            Share of the rows that training took for outliers.
        generator : torch.Generator
            Source of what is drawn.
        """
        self.fit(network.decode(network.encode(z)) - z for z in tiles())

    def score(self, network: Network, z: Tensor) -> Tensor:
        """Scores (..., n) of standardised rows (n, n_features)."""
        code = network.encode(z)
        residual = network.decode(code) - z
        scores: Tensor = self(residual, code) if self.uses_code else self(residual)
        return scores

    def summands(self, network: Network, z: Tensor) -> Tensor | None:
        """What each feature of standardised rows adds to their scores, [n, n_features].

        None, as here, where a score is no such sum.
        """
        return None


class Euclidean(ScoreHead):
    """Length of the residual, PyOD's reconstruction error.

    Parameters
    ----------
    n_features : int
        Width of a residual.
    members : tuple of int, default=()
        Leading dimension of residuals, for an ensemble; a length is the same with any.

    Notes
    -----
    Shapes:

    - Input: ``(*, n, n_features)``
    - Output: ``(*, n)``

    Examples
    --------
    >>> Euclidean(2)(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([5., 1.])
    """

    shows_nonfinite = True

    def __init__(self, n_features: int, members: tuple[int, ...] = ()) -> None:
        super().__init__(n_features)  # a length is a length, of however many members

    def forward(self, residual: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(residual, dim=-1)
        return length

    def summands(self, network: Network, z: Tensor) -> Tensor | None:
        residual = network.decode(network.encode(z)) - z
        length = self(residual).clamp_min(torch.finfo(torch.float32).tiny)
        summands: Tensor = residual.square() / length.unsqueeze(-1)
        return summands
