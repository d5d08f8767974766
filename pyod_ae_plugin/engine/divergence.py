"""Training that goes astray: how it is told, and what is said about it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyod_ae_plugin.networks import Network


class DivergenceError(FloatingPointError):
    """The loss of a training, its weights or what they rebuild are no longer finite.

    Its two arguments are what happened and what to do about it.
    """

    def __str__(self) -> str:
        return " ".join(self.args)


def divergence(happened: str, lr: float) -> DivergenceError:
    """Return the error of a training that had a learning rate.

    Examples
    --------
    >>> error = divergence("the loss is nan in epoch 3 of 50", 0.5)
    >>> error.args[0]
    'Training diverged: the loss is nan in epoch 3 of 50, at a learning rate of 0.5.'
    >>> error.args[1]
    'Lower it (lr=0.05), and keep preprocessing=True so that the features are standardised.'
    """
    return DivergenceError(
        f"Training diverged: {happened}, at a learning rate of {lr:g}.",
        f"Lower it (lr={lr / 10:g}), and keep preprocessing=True so that the features are "
        "standardised.",
    )


def check_finite(loss: float, weights: Tensor, epoch: str, lr: float) -> None:
    """Raise :class:`DivergenceError` if a loss, or a weight, is not finite."""
    if not math.isfinite(loss):
        raise divergence(f"the loss is {loss} in epoch {epoch}", lr)
    if not bool(torch.isfinite(weights).all()):
        raise divergence(
            f"the weights are no longer finite in epoch {epoch}, whose loss is {loss:g}", lr
        )


def relative_error(network: Network, x: Tensor) -> float:
    """Squared error of the median row as it is rebuilt, where giving back zeros has 1.

    Zero is the mean of standardised rows, so that far above 1 nothing has been learned. A network
    that did learn stays below 1, whatever outliers there are, and whatever it was trained for.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode. Of the members of an ensemble the worst counts.
    x : Tensor of shape (n, n_features)
        Standardised rows. Zeros are taken to have no less error than where each feature had a
        variance of 1: constant features would have none.

    Examples
    --------
    >>> from pyod_ae_plugin.networks import AutoEncoderNetwork
    >>> from torch import nn
    >>> keep_nothing = AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))
    >>> relative_error(keep_nothing, torch.tensor([[1.0, 3.0], [1.0, -3.0]]))
    1.0
    """
    with torch.no_grad():
        errors = (network.decode(network.encode(x)) - x).square().sum(-1)
        of_zeros = x.square().sum(-1).mean().clamp(min=x.shape[-1])
        worst: float = (errors.median(-1).values.max() / of_zeros).item()
    return worst
