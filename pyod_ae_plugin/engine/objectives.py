"""What training minimises: a loss for each row of a batch."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pyod_ae_plugin.networks import Network


class Objective(Protocol):
    """Loss of each row under a network.

    ``progress`` runs from 0 to 1 over the training; ``generator`` feeds whatever is drawn.
    """

    def __call__(
        self, network: Network, x: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        """Losses [n] of standardised rows [n, n_features]."""


class ReconstructionLoss:
    """Mean squared reconstruction error of each row.

    Examples
    --------
    >>> from pyod_ae_plugin.networks import AutoEncoderNetwork
    >>> from torch import nn
    >>> keep_nothing = AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))
    >>> ReconstructionLoss()(keep_nothing, torch.tensor([[1.0, 3.0]]), 0.0, torch.Generator())
    tensor([5.])
    """

    def __call__(
        self, network: Network, x: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        residual: Tensor = network.decode(network.encode(x)) - x
        return residual.square().mean(1)


class NegativeElbo:
    """Negative evidence lower bound of a VAE with a unit-variance normal decoder, in nats.

    ``||x - decode(z)||^2 / 2 + beta * KL``, less the constant ``n_features / 2 * log(2 pi)``,
    with ``z`` drawn once from the posterior by reparameterisation [1]_. With a ``capacity`` C
    the second term is ``beta * |KL - C * progress|``, the annealed target of [2]_.

    Parameters
    ----------
    beta : float, default=1.0
        Weight of the KL term [3]_.
    capacity : float or None, default=None
        KL in nats that the target reaches at the end of training; None leaves the KL as it is.

    References
    ----------
    .. [1] Kingma, D. P., & Welling, M. (2014). Auto-Encoding Variational Bayes. ICLR.
    .. [2] Burgess, C. P., et al. (2018). Understanding disentangling in beta-VAE.
           arXiv:1804.03599.
    .. [3] Higgins, I., et al. (2017). beta-VAE: Learning Basic Visual Concepts with a
           Constrained Variational Framework. ICLR.
    """

    def __init__(self, beta: float = 1.0, capacity: float | None = None) -> None:
        self.beta = beta
        self.capacity = capacity

    def __call__(
        self, network: Network, x: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        mu, logvar = network.posterior(x)
        noise = torch.empty_like(mu).normal_(generator=generator)
        z = torch.addcmul(mu, noise, torch.exp(0.5 * logvar))
        residual: Tensor = network.decode(z) - x
        reconstruction_error = 0.5 * residual.square().sum(1)
        kl = kl_divergence(mu, logvar).sum(1)
        if self.capacity is not None:
            kl = (kl - self.capacity * progress).abs()
        return reconstruction_error + self.beta * kl


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each element, in nats (Kingma & Welling 2014, app. B).

    Examples
    --------
    >>> kl_divergence(torch.tensor([0.0, 2.0]), torch.zeros(2))
    tensor([0., 2.])
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
