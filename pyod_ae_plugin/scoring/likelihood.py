"""Score heads of probabilistic networks: how unlikely the decoder finds a row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.heads import ScoreHead, Tiles

N_DRAWS = 16


class NegativeLogLikelihood(ScoreHead):
    """Negative log density of a row under the decoder's normal distribution, in nats.

    The code is the encoder's, for a VAE the posterior mean. Needs a network with
    ``decode_distribution``, which returns the mean and log variance of each feature.

    Parameters
    ----------
    n_features : int
        Width of a row.

    Notes
    -----
    Shapes:

    - Rows: ``(n, n_features)``
    - Output: ``(n,)``

    Examples
    --------
    >>> from pyod_ae_plugin.networks import variational_mlp
    >>> generator = torch.Generator().manual_seed(0)
    >>> network = variational_mlp(
    ...     2, [4], [4], 1, "tanh", "identity", False, 0.0, None, generator, learn_variance=True)
    >>> head = NegativeLogLikelihood(2)
    >>> head.score(network, torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    shows_nonfinite = True
    needs = ("decode_distribution",)

    def score(self, network: Network, z: Tensor) -> Tensor:
        return -log_density(z, *network.decode_distribution(network.encode(z)))

    def summands(self, network: Network, z: Tensor) -> Tensor | None:
        mean, logvar = network.decode_distribution(network.encode(z))
        of_features = (part.unsqueeze(-1) for part in (z, mean, logvar))
        return -log_density(*of_features)


class ReconstructionProbability(ScoreHead):
    """Negative reconstruction probability: the mean log density over draws from the posterior.

    ``-mean_l log p(z | code_l)`` with ``code_l ~ q(code | z)`` [1]_. The standard normal draws are
    made once, at fit, and shared by all rows, so that a row has one score. Needs a network with
    ``posterior`` and ``decode_distribution``.

    Parameters
    ----------
    n_features : int
        Width of a row.
    n_latent : int
        Width of a latent code.

    Notes
    -----
    Shapes:

    - Rows: ``(n, n_features)``
    - Output: ``(n,)``

    References
    ----------
    .. [1] An, J., & Cho, S. (2015). Variational Autoencoder based Anomaly Detection using
           Reconstruction Probability. SNU Data Mining Center.

    Examples
    --------
    >>> from pyod_ae_plugin.networks import variational_mlp
    >>> generator = torch.Generator().manual_seed(0)
    >>> network = variational_mlp(
    ...     2, [4], [4], 1, "tanh", "identity", False, 0.0, None, generator, learn_variance=True)
    >>> head = ReconstructionProbability(2, 1)
    >>> head.score(network, torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    shows_nonfinite = True
    needs = ("posterior", "decode_distribution")

    draws: Tensor

    def __init__(self, n_features: int, n_latent: int) -> None:
        super().__init__(n_features)
        self.register_buffer("draws", torch.zeros(N_DRAWS, n_latent))

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        self.draws.normal_(generator=generator)

    def score(self, network: Network, z: Tensor) -> Tensor:
        return -self._expected_log_density(network, z, *network.posterior(z))

    def _expected_log_density(
        self, network: Network, z: Tensor, mu: Tensor, logvar: Tensor
    ) -> Tensor:
        sigma = torch.exp(0.5 * logvar)
        total = z.new_zeros(z.shape[0])
        for draw in self.draws:
            code = torch.addcmul(mu, sigma, draw)
            total = total + log_density(z, *network.decode_distribution(code))
        return total / len(self.draws)


class Elbo(ReconstructionProbability):
    """Negative evidence lower bound of a row, in nats (Kingma & Welling 2014).

    The negative reconstruction probability plus the KL divergence of the posterior from the
    standard normal prior.

    Parameters
    ----------
    n_features : int
        Width of a row.
    n_latent : int
        Width of a latent code.

    Notes
    -----
    Shapes:

    - Rows: ``(n, n_features)``
    - Output: ``(n,)``

    Examples
    --------
    >>> from pyod_ae_plugin.networks import variational_mlp
    >>> generator = torch.Generator().manual_seed(0)
    >>> network = variational_mlp(
    ...     2, [4], [4], 1, "tanh", "identity", False, 0.0, None, generator, learn_variance=True)
    >>> head = Elbo(2, 1)
    >>> head.score(network, torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def score(self, network: Network, z: Tensor) -> Tensor:
        mu, logvar = network.posterior(z)
        kl = kl_divergence(mu, logvar).sum(-1)
        return kl - self._expected_log_density(network, z, mu, logvar)


def log_density(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log density [*, n] of rows [*, n, d] under independent normals, in nats.

    Examples
    --------
    >>> log_density(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    tensor([-0.9189])
    """
    squares = torch.addcmul(logvar, (x - mean).square(), torch.exp(-logvar))
    density: Tensor = -0.5 * (squares + math.log(2 * math.pi)).sum(-1)
    return density


def decoded(network: Network, code: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance, each [n, d], of the rows that codes [n, n_latent] decode to.

    The variance is 1 where the network has no ``decode_distribution``: what training takes it for.
    """
    if hasattr(network, "decode_distribution"):
        mean, logvar = network.decode_distribution(code)
        return mean, logvar
    mean = network.decode(code)
    return mean, torch.zeros_like(mean)


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each element, in nats (Kingma & Welling 2014, app. B).

    Examples
    --------
    >>> kl_divergence(torch.tensor([0.0, 2.0]), torch.zeros(2))
    tensor([0., 2.])
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
