"""Standardisation of raw rows to zero mean and unit variance per feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyod_ae_plugin.scoring.moments import Moments, power_of_two_above

# Turning a raw value into a float32 rounds it by 2**-24 of its size. If the mean lies within this
# many standard deviations of zero, that rounding does not show beside the rounding of the result.
_FLOAT32_OFFSET = 8.0
# In these bounds a raw value that float32 cannot hold is so many standard deviations from the mean
# that its square, and thus its score, would overflow anyway.
_FLOAT32_STD = (1e-30, 1e19)

# So far from zero, in standard units, a network can be trained and asked for a code: float32 holds
# the square of this, 1e8 times over.
FARTHEST = 1e15


class Standardize(nn.Module):
    """Map raw rows to float32 with zero mean and unit variance per feature.

    Computes ``(x - mean) / std`` as ``x * scale + shift`` with ``scale = 1 / std`` and
    ``shift = -mean / std``. The buffers, and with them the arithmetic, are float32 where that
    costs no accuracy, else float64: timestamps, for example, lie far from zero. Unfitted, it only
    casts.

    A feature that is constant up to rounding is centred and not scaled, unless that would hide a
    change of it or make rounding look large: then it is measured in units of the power of two
    above its own size, if that is less than 1, or above its rounding, if that is more.

    Parameters
    ----------
    n_features : int
        Width of a row.

    Attributes
    ----------
    scale, shift : Tensor of shape (n_features,)

    Notes
    -----
    Shapes:

    - Input: ``(n, n_features)`` of any real or boolean dtype
    - Output: ``(n, n_features)``, float32

    Examples
    --------
    >>> standardize = Standardize(1)
    >>> moments = Moments(1)
    >>> moments.update(torch.tensor([[1.0], [3.0]]))
    >>> standardize.fit(moments)
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

    def fit(self, moments: Moments) -> None:
        """Learn from the moments of training rows."""
        float64 = torch.finfo(torch.float64)
        mean, std = moments.mean, moments.std.clamp_max(float64.max)
        constant = moments.constant | (std < float64.tiny)
        std = torch.where(constant, _unit_of_constants(mean, std), std)
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
        """Map standardised rows [n, n_features] back to the data's own units, in float64.

        What float64 cannot hold becomes the largest that it can.
        """
        return torch.nan_to_num((z.double() - self.shift) / self.scale)


def _unit_of_constants(value: Tensor, std: Tensor) -> Tensor:
    """Powers of two, so that scaling does not round: 1, or the size of smaller constants.

    No less than what makes constants seem to vary, which is much where they are huge.
    """
    size = torch.where(value == 0, 1.0, value.abs())
    rounding = torch.maximum(std, torch.finfo(torch.float64).eps * size)
    return torch.maximum(power_of_two_above(size).clamp_max(1.0), power_of_two_above(rounding))
