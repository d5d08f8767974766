"""Standardisation: the spread of raw features, and the module that scales rows by it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Casting a raw value to float32 rounds it by 2**-24 of its size. If the mean is within this many
# standard deviations of zero, that is no more than the rounding of the result.
_FLOAT32_OFFSET = 8.0
# If the standard deviation is within these bounds, a raw value that overflows float32 is so many
# standard deviations from the mean that its squared residual would overflow anyway.
_FLOAT32_STD = (1e-30, 1e19)

# The largest standardised value that a network is asked to encode: the squares of such values can
# be summed in float32.
MAX_STANDARDIZED = 1e15
# The largest standardised value that a network is trained on. A larger one counts as this one, so
# that an absurd value does not dominate the gradient.
# Measured: 20 costs accuracy where features have heavy tails.
MAX_TRAINED = 100.0

# Central shares of a feature, by the tail cut off at either end, and how many standard deviations
# of a normal distribution they are wide. The last whose ends differ describes the feature.
_CENTRAL_SHARES = ((0.0, math.inf), (0.001, 6.180), (0.01, 4.653), (0.1, 2.563), (0.25, 1.349))
# Values farther from the central share, in robust standard deviations, count as no farther.
_MOST_DEVIATIONS = 13.5
# A discrete feature has at most 32 distinct values, and each of them has ten rows on average.
_MOST_VALUES, _ROWS_PER_VALUE = 32, 10


class Spread(NamedTuple):
    """How the values of each feature are spread; tensors [n_features] of float64.

    Examples
    --------
    >>> spread_of(torch.tensor([[0.0], [1.0], [1.0], [3.0], [1e9]])).highest.round()
    tensor([23.], dtype=torch.float64)
    """

    lowest: Tensor  # values beyond these bounds count as these in mean and standard deviation
    highest: Tensor
    median: Tensor
    width: Tensor  # robust standard deviation: that of a normal distribution with this share
    step: Tensor  # smallest gap between the values of a discrete feature; 0 of others


def spread_of(rows: Tensor) -> Spread:
    """The spread of each feature in raw rows [n, n_features] of any real or boolean dtype.

    The central share of a feature is its middle half, between the quartiles. If these are equal it
    is the middle 80%, 98% or 99.8%, whichever is the first whose ends differ, or else all values.
    Gaps, NaN, count as no values; nothing bounds a feature that has no others.
    """
    x = rows.double().sort(dim=0).values
    if not bool(x[-1].isnan().any()):  # gaps are sorted behind all values
        return _spread_of_sorted(x)
    n_known = (len(x) - x.isnan().sum(0)).tolist()
    columns = [_spread_of_sorted(x[:n, j : j + 1]) for j, n in enumerate(n_known)]
    return Spread(*map(torch.cat, zip(*columns, strict=True)))


def _spread_of_sorted(x: Tensor) -> Spread:
    if len(x) == 0:
        zero = x.new_zeros(x.shape[1])
        return Spread(zero - math.inf, zero + math.inf, zero, zero, zero)
    last = len(x) - 1
    low, high, width = x[0], x[last], torch.zeros_like(x[0])
    for tail, deviations in _CENTRAL_SHARES:
        i = int(tail * last)
        differs = x[i] < x[last - i]
        low, high = torch.where(differs, x[i], low), torch.where(differs, x[last - i], high)
        width = torch.where(differs, (x[last - i] - x[i]) / deviations, width)
    reach = _MOST_DEVIATIONS * width
    gaps = x[1:] - x[:-1]
    n_values = 1 + (gaps > 0).sum(0)
    discrete = (n_values <= _MOST_VALUES) & (n_values * _ROWS_PER_VALUE <= max(len(x), 20))
    step = torch.where(gaps > 0, gaps, math.inf).amin(0) if last else torch.zeros_like(low)
    step = torch.where(discrete & (n_values > 1), step, 0.0)
    return Spread(low - reach, high + reach, (x[last // 2] + x[-(-last // 2)]) / 2, width, step)


class Moments:
    """Count, mean and variance of each feature of all rows seen so far, in one pass.

    The moments of each tile are computed in two passes over it and merged by the update of Chan,
    Golub and LeVeque [1]_, which avoids cancellation. The first row is subtracted from all rows, so
    that the mean of a constant is exactly that constant. Values are divided by a power of two that
    exceeds all of them, so that no square overflows, not even that of 1e200. Gaps, NaN, are no
    values.

    Parameters
    ----------
    n_features : int
        Width of a row.

    Attributes
    ----------
    n : Tensor of shape (n_features,)
        Values seen, float64.

    References
    ----------
    .. [1] Chan, T. F., Golub, G. H., & LeVeque, R. J. (1983). Algorithms for Computing the Sample
           Variance: Analysis and Recommendations. The American Statistician 37(3).

    Examples
    --------
    >>> moments = Moments(1)
    >>> moments.update(torch.tensor([[1.0], [3.0]]))
    >>> moments.update(torch.tensor([[8.0]]))
    >>> moments.mean, moments.std.square()
    (tensor([4.], dtype=torch.float64), tensor([8.6667], dtype=torch.float64))
    """

    def __init__(self, n_features: int) -> None:
        self.n = torch.zeros(n_features, dtype=torch.float64)
        self._unit = torch.zeros(n_features, dtype=torch.float64)
        self._origin = torch.zeros(n_features, dtype=torch.float64)
        self._mean = torch.zeros(n_features, dtype=torch.float64)
        self._squares = torch.zeros(n_features, dtype=torch.float64)

    def update(self, rows: Tensor) -> None:
        """Add rows [m, n_features], m >= 1, of any real or boolean dtype, without infinity."""
        x = rows.double()
        largest = x.abs().amax(0)  # NaN where there is a gap, so that it takes no pass to find one
        is_gap = x.isnan() if bool(largest.isnan().any()) else None

        def known(values: Tensor) -> Tensor:
            return values if is_gap is None else values.masked_fill(is_gap, 0.0)

        if is_gap is None:
            m, first = torch.full_like(self.n, len(x)), x[0]
        else:
            m = len(x) - is_gap.sum(0).double()
            x = known(x)
            largest = x.abs().amax(0)
            first = x.gather(0, is_gap.int().argmin(0, keepdim=True))[0]
        self._set_unit(torch.maximum(self._unit, _power_of_two_above(largest)))
        self._origin = torch.where(self.n == 0, first / self._unit, self._origin)
        x = known(x / self._unit - self._origin)
        mean = x.mean(0) if is_gap is None else x.sum(0) / m.clamp_min(1)
        difference = mean - self._mean
        share = m / (self.n + m).clamp_min(1)
        squares = known(x - mean).square().sum(0)
        self._squares += squares + difference.square() * (self.n * share)
        self._mean += difference * share
        self.n += m

    def merge(self, others: Moments) -> None:
        """Add all rows that other moments have seen; their units may change, not their values."""
        unit = torch.maximum(self._unit, others._unit)
        self._set_unit(unit)
        others._set_unit(unit)
        self._origin = torch.where(self.n == 0, others._origin, self._origin)
        difference = (others._origin - self._origin) + (others._mean - self._mean)
        share = others.n / (self.n + others.n).clamp_min(1)
        self._squares += others._squares + difference.square() * (self.n * share)
        self._mean += difference * share
        self.n += others.n

    def _set_unit(self, unit: Tensor) -> None:
        ratio = torch.where(unit > 0, self._unit / unit, 1.0)
        self._origin *= ratio
        self._mean *= ratio
        self._squares *= ratio.square()
        self._unit = unit

    @property
    def mean(self) -> Tensor:
        """Means [n_features], float64."""
        return (self._origin + self._mean) * self._unit

    @property
    def std(self) -> Tensor:
        """Standard deviations [n_features], divisor n, float64."""
        return (self._squares / self.n).sqrt() * self._unit

    @property
    def constant(self) -> Tensor:
        """Whether a feature varies no more than n equal values do by rounding."""
        eps = torch.finfo(torch.float64).eps  # the bound is scikit-learn's
        variance = self._squares / self.n
        return (
            variance <= self.n * eps * variance + (self.n * (self._origin + self._mean) * eps) ** 2
        )


class Standardize(nn.Module):
    """Map raw rows to float32 in the units of each feature.

    Computes ``(x - center) / unit`` as ``x * scale + shift`` with ``scale = 1 / unit`` and
    ``shift = -center / unit``. Center and unit are mean and standard deviation, or median and width
    of the central share. The unit of a discrete feature is at least its step over the square root
    of 2, so that the distance of two neighbouring values is at most that of two rows of a normal
    feature. The buffers are float32 if that costs no accuracy, else float64, as
    for timestamps, which are far from zero. The arithmetic is in the dtype of the buffers.
    An unfitted module only casts to float32. Rows ``(n, n_features)`` have any real or boolean
    dtype.

    A feature that is constant up to rounding is centred, and its unit is 1. If the constant is
    smaller than 1, its unit is the power of two above it, so that changes show. If its rounding is
    larger than 1, its unit is the power of two above the rounding.

    Parameters
    ----------
    n_features : int
        Width of a row.

    Attributes
    ----------
    scale, shift : Tensor of shape (n_features,)

    Examples
    --------
    >>> standardize = Standardize(1)
    >>> moments = Moments(1)
    >>> moments.update(torch.tensor([[1.0], [3.0]]))
    >>> standardize.fit(moments, spread_of(torch.tensor([[1.0], [1.6], [3.0]])))
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

    def fit(self, moments: Moments, spread: Spread, *, robust: bool = False) -> None:
        """Learn from moments and spread of training rows; ``robust`` takes median and width."""
        float64 = torch.finfo(torch.float64)
        center, unit = moments.mean, moments.std
        constant = moments.constant | (unit < float64.tiny)
        if robust:
            known = spread.width > 0  # of values next to each other it may be rounded to 0
            center = torch.where(constant, center, spread.median)
            unit = torch.where(known & spread.width.isfinite(), spread.width, unit)
        unit = torch.maximum(unit, spread.step / math.sqrt(2)).clamp_max(float64.max)
        unit = torch.where(constant, _unit_of_constants(moments.mean, moments.std), unit)
        smallest, largest = _FLOAT32_STD
        near_zero = center.abs() <= _FLOAT32_OFFSET * unit
        in_range = (smallest <= unit) & (unit <= largest)
        dtype = torch.float32 if bool((near_zero & in_range).all()) else torch.float64
        self.scale = unit.reciprocal().to(dtype)
        self.shift = (-center / unit).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        # Contiguous, so that rows stored by columns meet the same arithmetic.
        return torch.addcmul(self.shift, x.to(self.scale.dtype), self.scale).float().contiguous()

    def inverse(self, z: Tensor) -> Tensor:
        """Map standardised rows [n, n_features] back to the data's own units, in float64.

        Values beyond the range of float64 become its largest value.
        """
        return torch.nan_to_num((z.double() - self.shift) / self.scale)


def _unit_of_constants(value: Tensor, std: Tensor) -> Tensor:
    """Units of constant features, see :class:`Standardize`; powers of two, which do not round."""
    size = torch.where(value == 0, 1.0, value.abs())
    rounding = torch.maximum(std, torch.finfo(torch.float64).eps * size)
    return torch.maximum(_power_of_two_above(size).clamp_max(1.0), _power_of_two_above(rounding))


def _power_of_two_above(magnitude: Tensor) -> Tensor:
    """The power of two above a magnitude, within the range that float64 can divide by."""
    exponent = torch.frexp(magnitude).exponent.clamp(-1021, 1023)
    power = torch.ldexp(torch.ones_like(magnitude), exponent)
    return torch.where(magnitude > 0, power, torch.finfo(torch.float64).tiny)
