"""Score heads: from the residual of a row to its anomaly score."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class ScoreHead(nn.Module):
    """Base class of modules that turn residuals into scores; larger is more abnormal.

    A subclass implements :meth:`forward`, and :meth:`fit` where it learns from the residuals of
    the training rows. What it learns goes into parameters or buffers, which exist, with their
    final shapes, from ``__init__`` on, so that a saved head can be loaded.

    Parameters
    ----------
    n_features : int
        Width of a residual.

    Attributes
    ----------
    shows_nonfinite : bool, default=False
        Whether a NaN or infinity anywhere in a residual always makes the score NaN or infinite.
        If so, bad input is found by looking at the scores, which spares a pass over the rows.

    **Shape**

    - Input: ``(n, n_features)``, the reconstruction less the standardised row
    - Output: ``(n,)``
    """

    shows_nonfinite: bool = False

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    def fit(self, residuals: Iterable[Tensor]) -> None:
        """Learn from the training rows' residuals, given as tiles of shape (m, n_features)."""

    def forward(self, residual: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not implement forward")


class Euclidean(ScoreHead):
    """Length of the residual, PyOD's reconstruction error.

    **Shape**

    - Input: ``(n, n_features)``
    - Output: ``(n,)``

    Examples
    --------
    >>> Euclidean(2)(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([5., 1.])
    """

    shows_nonfinite = True

    def forward(self, residual: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(residual, dim=1)
        return length
