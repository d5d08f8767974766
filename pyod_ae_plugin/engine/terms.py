"""The losses of :mod:`~pyod_ae_plugin.engine.objectives` as sums of terms with their derivatives.

In what follows ``weights``, of shape (*members, n, 1), are those of the rows in the loss of the
batch. They are written anew between the forward and the backward pass.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from pyod_ae_plugin.engine.backprop import Value
from pyod_ae_plugin.engine.objectives import NegativeElbo


class Term(Protocol):
    """A summand of the loss of each row.

    Attributes
    ----------
    constant : float
        What :meth:`forward` leaves out, since it is the same for all rows.
    """

    constant: float

    def forward(self, x: Tensor, progress: float, losses: Tensor) -> None:
        """Add the summands of rows [*members, n, n_features] to losses [*members * n]."""

    def backward(self) -> None:
        """Write the gradients of what the term is computed of."""


class SquaredError:
    """Half the squared distance of a row to its reconstruction."""

    def __init__(self, mean: Value, weights: Tensor, constant: float = 0.0) -> None:
        self._mean, self._weights, self.constant = mean, weights, constant
        self._residual, self._squares = torch.empty_like(mean.rows), torch.empty_like(mean.rows)
        self._flat_squares = self._squares.flatten(0, -2)
        self._half = weights.new_full((mean.width,), 0.5)

    def forward(self, x: Tensor, progress: float, losses: Tensor) -> None:
        residual = torch.sub(self._mean.rows, x, out=self._residual)
        torch.mul(residual, residual, out=self._squares)
        losses.addmv_(self._flat_squares, self._half)

    def backward(self) -> None:
        torch.mul(self._residual, self._weights, out=self._mean.grad)


class GaussianError:
    """Negative log density of a row under independent normals, in nats."""

    def __init__(self, mean: Value, logvar: Value, weights: Tensor) -> None:
        self._mean, self._logvar, self._weights = mean, logvar, weights
        self._weighted, self._squares = torch.empty_like(mean.rows), torch.empty_like(mean.rows)
        self._doubled = torch.empty_like(mean.rows)
        self._flat_doubled = self._doubled.flatten(0, -2)
        self._half = weights.new_full((mean.width,), 0.5)
        self.constant = normal_constant(mean.width)

    def forward(self, x: Tensor, progress: float, losses: Tensor) -> None:
        logvar = self._logvar.rows
        residual = torch.sub(self._mean.rows, x, out=self._squares)
        weighted = torch.neg(logvar, out=self._weighted).exp_().mul_(residual)
        torch.add(residual.mul_(weighted), logvar, out=self._doubled)
        losses.addmv_(self._flat_doubled, self._half)

    def backward(self) -> None:
        torch.mul(self._weighted, self._weights, out=self._mean.grad)
        half = self._weights * 0.5
        torch.addcmul(half, self._squares, half, value=-1, out=self._logvar.grad)


class Divergence:
    """The KL divergence of the posterior from the prior, in nats, weighted as the objective has it.

    With a capacity, the weighted distance of the divergence to ``capacity * progress``.
    """

    constant = 0.0

    def __init__(self, mu: Value, logvar: Value, weights: Tensor, objective: NegativeElbo) -> None:
        self._mu, self._logvar, self._weights = mu, logvar, weights
        self._kl_weight, self._capacity = objective.kl_weight, objective.capacity
        self._beta = objective.beta
        self._excess, self._doubled = torch.empty_like(mu.rows), torch.empty_like(mu.rows)
        self._half = weights.new_full((mu.width,), 0.5)
        self._side = torch.empty_like(weights)

    def forward(self, x: Tensor, progress: float, losses: Tensor) -> None:
        self._beta = self._kl_weight(progress)
        mu, logvar = self._mu.rows, self._logvar.rows
        excess = torch.expm1(logvar, out=self._excess)  # of the variance over the prior's
        doubled = torch.sub(excess, logvar, out=self._doubled).addcmul_(mu, mu)
        if self._capacity is None:
            losses.addmv_(doubled, self._half, alpha=self._beta)
        else:
            beyond = torch.mv(doubled, self._half).sub_(self._capacity * progress)
            torch.sign(beyond, out=self._side.view(-1))
            losses.add_(beyond.abs_(), alpha=self._beta)

    def backward(self) -> None:
        weights = self._weights * self._beta
        if self._capacity is not None:
            weights *= self._side
        torch.mul(self._mu.rows, weights, out=self._mu.grad)
        torch.mul(self._excess, weights, out=self._logvar.grad).mul_(0.5)


class Reparameterization:
    """A draw from the posterior as a function of its mean, its log variance and noise.

    It adds to the gradients that :class:`Divergence` wrote.
    """

    def __init__(self, mu: Value, logvar: Value, result: Value, generator: torch.Generator) -> None:
        self._mu, self._logvar, self._result = mu, logvar, result
        self._generator = generator
        self._offset = torch.empty_like(mu.rows)

    def forward(self) -> None:
        noise = self._offset.normal_(generator=self._generator)
        sigma = torch.mul(self._logvar.rows, 0.5, out=self._result.rows).exp_()
        torch.add(self._mu.rows, noise.mul_(sigma), out=self._result.rows)

    def backward(self) -> None:
        self._mu.grad.add_(self._result.grad)
        self._logvar.grad.addcmul_(self._result.grad, self._offset, value=0.5)


def normal_constant(width: int) -> float:
    """Negative log density of a row at its mean, where variances are 1, in nats."""
    return 0.5 * width * math.log(2 * math.pi)
