"""Standardisation of raw rows to zero mean and unit variance per feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Turning a raw value into a float32 rounds it by 2**-24 of its size. If the mean lies within this
# many standard deviations of zero, that rounding does not show beside the rounding of the result.
_FLOAT32_OFFSET = 8.0
_FLOAT32_STD = (1e-30, 1e30)


class Standardize(nn.Module):
    """Map raw rows to float32 with zero mean and unit variance per feature.

    Computes ``(x - mean) / std`` as ``x * scale + shift`` with ``scale = 1 / std`` and
    ``shift = -mean / std``. The buffers, and with them the arithmetic, are float32 where that
    costs no accuracy, else float64: timestamps, for example, lie far from zero. A feature that is
    constant up to rounding is centred and not scaled. Unfitted, it only casts.

    Parameters
    ----------
    n_features : int
        Width of a row.

    Attributes
    ----------
    scale, shift : Tensor of shape (n_features,)

    **Shape**

    - Input: ``(n, n_features)`` of any real or boolean dtype
    - Output: ``(n, n_features)``, float32

    Examples
    --------
    >>> standardize = Standardize(1)
    >>> standardize.fit(torch.tensor([[1.0], [3.0]]), tile_rows=1024)
    >>> standardize(torch.tensor([[1.0], [2.0], [5.0]])).T
    tensor([[-1.,  0.,  3.]])
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("shift", torch.zeros(n_features))

    def fit(self, rows: Tensor, tile_rows: int) -> None:
        """Learn mean and standard deviation (divisor n) in three passes over tiles of rows.

        Parameters
        ----------
        rows : Tensor of shape (n, n_features)
            Finite values of any real or boolean dtype.
        tile_rows : int
            Rows taken at a time; memory is bounded by a few tiles of float64.
        """
        tiles = rows.split(tile_rows)
        # In units of its largest magnitude no feature overflows when squared, not even 1e200;
        # the last pass sums squares of centred values, so nothing cancels.
        magnitude = torch.stack([tile.double().abs().amax(0) for tile in tiles]).amax(0)
        unit = torch.where(magnitude > 0, magnitude, 1.0)
        n = len(rows)
        mean = torch.stack([(tile.double() / unit).sum(0) for tile in tiles]).sum(0) / n
        squares = [(tile.double() / unit - mean).square().sum(0) for tile in tiles]
        variance = torch.stack(squares).sum(0) / n
        constant = _is_constant(mean, variance, n)
        self._set(mean * unit, torch.where(constant, 1.0, variance.sqrt() * unit))

    def _set(self, mean: Tensor, std: Tensor) -> None:
        std = torch.where(std < torch.finfo(torch.float64).tiny, 1.0, std)
        smallest, largest = _FLOAT32_STD
        near_zero = mean.abs() <= _FLOAT32_OFFSET * std
        in_range = (smallest <= std) & (std <= largest)
        dtype = torch.float32 if bool((near_zero & in_range).all()) else torch.float64
        self.scale = std.reciprocal().to(dtype)
        self.shift = (-mean / std).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        # contiguous: rows given by columns shall meet the same arithmetic
        return torch.addcmul(self.shift, x.to(self.scale.dtype), self.scale).float().contiguous()

    def inverse(self, z: Tensor) -> Tensor:
        """Map standardised rows [n, n_features] back to the data's own units, in float64."""
        return (z.double() - self.shift) / self.scale


def _is_constant(mean: Tensor, variance: Tensor, n: int) -> Tensor:
    """Whether the variance is what rounding n equal values would leave (as scikit-learn has it)."""
    eps = torch.finfo(torch.float64).eps
    return variance <= n * eps * variance + (n * mean * eps) ** 2
