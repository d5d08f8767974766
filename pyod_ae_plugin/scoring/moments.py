"""Mean and variance of each feature, of rows that come piece by piece."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Count, mean and variance of each feature of all rows seen so far, in one pass.

    Each tile's own sums are taken in two passes over it, centred, and merged with what there is
    by the update of Chan, Golub and LeVeque [1]_, so that nothing cancels. Values are counted from
    the first row, so that the mean of a constant is that constant, and in units of a power of two
    no smaller than their largest magnitude, so that no square overflows, not even that of 1e200.

    Parameters
    ----------
    n_features : int
        Width of a row.

    Attributes
    ----------
    n : int
        Rows seen.

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
        self.n = 0
        self._unit = torch.zeros(n_features, dtype=torch.float64)
        self._origin = torch.zeros(n_features, dtype=torch.float64)
        self._mean = torch.zeros(n_features, dtype=torch.float64)
        self._squares = torch.zeros(n_features, dtype=torch.float64)

    def update(self, rows: Tensor) -> None:
        """Take in rows [m, n_features], m >= 1, finite and of any real or boolean dtype."""
        m, x = len(rows), rows.double()
        self._count_in(torch.maximum(self._unit, power_of_two_above(x.abs().amax(0))))
        x = x / self._unit
        if self.n == 0:
            self._origin = x[0]
        x = x - self._origin
        mean = x.mean(0)
        apart = mean - self._mean
        share = m / (self.n + m)
        self._squares += (x - mean).square().sum(0) + apart.square() * (self.n * share)
        self._mean += apart * share
        self.n += m

    def merge(self, others: Moments) -> None:
        """Take in all rows that others have seen; their units may change.

        Examples
        --------
        >>> here, there = Moments(1), Moments(1)
        >>> here.update(torch.tensor([[1.0], [3.0]]))
        >>> there.update(torch.tensor([[8.0]]))
        >>> here.merge(there)
        >>> here.n, here.mean
        (3, tensor([4.], dtype=torch.float64))
        """
        unit = torch.maximum(self._unit, others._unit)
        self._count_in(unit)
        others._count_in(unit)
        if self.n == 0:
            self._origin = others._origin.clone()
        apart = (others._origin - self._origin) + (others._mean - self._mean)
        share = others.n / max(self.n + others.n, 1)
        self._squares += others._squares + apart.square() * (self.n * share)
        self._mean += apart * share
        self.n += others.n

    def _count_in(self, unit: Tensor) -> None:
        shrunk = torch.where(unit > 0, self._unit / unit, 1.0)
        self._origin *= shrunk
        self._mean *= shrunk
        self._squares *= shrunk.square()
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
        """Whether a feature varies no more than rounding makes n equal values vary.

        The bound is scikit-learn's.
        """
        eps = torch.finfo(torch.float64).eps
        variance = self._squares / self.n
        return (
            variance <= self.n * eps * variance + (self.n * (self._origin + self._mean) * eps) ** 2
        )


def power_of_two_above(magnitude: Tensor) -> Tensor:
    """The smallest such power, within what float64 can hold and divide by; 1 above 0."""
    exponent = torch.frexp(magnitude).exponent.clamp(-1021, 1023)
    power = torch.ldexp(torch.ones_like(magnitude), exponent)
    return torch.where(magnitude > 0, power, torch.finfo(torch.float64).tiny)
