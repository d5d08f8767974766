"""Probabilistic networks: densities, divergences, their score heads, and samples."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from pyod_ae_plugin.networks.network import DistributionNetwork, Network, PosteriorNetwork
from pyod_ae_plugin.scoring.heads import ScoreHead, Tiles
from pyod_ae_plugin.scoring.module import ScoringModule

_N_DRAWS = 16
_CELLS_AT_ONCE = 2**20
_ACTIVE_VARIANCE = 0.01


# ---------------------------------------------------------------------------------------
# Normal distributions
# ---------------------------------------------------------------------------------------


def log_density(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log density [*, n] of rows [*, n, d] under independent normal distributions, in nats."""
    squares = torch.addcmul(logvar, (x - mean).square(), torch.exp(-logvar))
    density: Tensor = -0.5 * (squares + math.log(2 * math.pi)).sum(-1)
    return density


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each element, in nats (Kingma & Welling 2014)."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def reparameterize(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Turn standard normal noise into draws from N(mean, exp(logvar))."""
    return torch.addcmul(mean, noise, torch.exp(0.5 * logvar))


def encode_distribution(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance, each [n, n_latent], of the codes of rows; needs ``posterior``."""
    return cast(PosteriorNetwork, network).posterior(x)


def decode_distribution(network: Network, code: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance, each [n, n_features], of the rows that codes decode to.

    The variance is 1 if the network has no ``decode_distribution``, as training assumes.
    """
    if hasattr(network, "decode_distribution"):
        return cast(DistributionNetwork, network).decode_distribution(code)
    mean = network.decode(code)
    return mean, torch.zeros_like(mean)


# ---------------------------------------------------------------------------------------
# Score heads
# ---------------------------------------------------------------------------------------


class NegativeLogLikelihood(ScoreHead):
    """Negative log density of a row under the decoder's normal distribution, in nats.

    The code is the encoder's, for a VAE the posterior mean. Needs a network with
    ``decode_distribution``, which returns the mean and log variance of each feature. Rows
    ``(n, n_features)`` get scores ``(n,)``.

    Parameters
    ----------
    n_features : int
        Width of a row.

    Examples
    --------
    >>> from pyod_ae_plugin.networks import mlp
    >>> generator = torch.Generator().manual_seed(0)
    >>> network = mlp(2, [1], "tanh", False, 0.0, generator, learn_variance=True)
    >>> NegativeLogLikelihood(2).score(network, torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    propagates_nan = True
    required_methods = ("decode_distribution",)

    def score(self, network: Network, z: Tensor) -> Tensor:
        return -log_density(z, *decode_distribution(network, network.encode(z)))

    def feature_terms(self, network: Network, z: Tensor) -> Tensor | None:
        mean, logvar = decode_distribution(network, network.encode(z))
        return -log_density(z.unsqueeze(-1), mean.unsqueeze(-1), logvar.unsqueeze(-1))


class ReconstructionProbability(ScoreHead):
    """Negative reconstruction probability: the mean log density over draws from the posterior.

    ``-mean_l log p(z | code_l)`` with ``code_l ~ q(code | z)`` [1]_. The standard normal draws are
    made once, by ``fit_to``, and shared by all rows, so that a row always has the same score.
    Needs a network with ``posterior`` and ``decode_distribution``. Rows ``(n, n_features)`` get
    scores ``(n,)``.

    Parameters
    ----------
    n_features : int
        Width of a row.
    n_latent : int
        Width of a latent code.

    References
    ----------
    .. [1] An, J., & Cho, S. (2015). Variational Autoencoder based Anomaly Detection using
           Reconstruction Probability. SNU Data Mining Center.

    Examples
    --------
    >>> from torch import nn
    >>> from pyod_ae_plugin.networks import VariationalNetwork
    >>> network = VariationalNetwork(nn.Tanh(), nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(1, 2))
    >>> ReconstructionProbability(2, 1).score(network, torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    propagates_nan = True
    required_methods = ("posterior", "decode_distribution")

    draws: Tensor

    def __init__(self, n_features: int, n_latent: int) -> None:
        super().__init__(n_features)
        self.register_buffer("draws", torch.zeros(_N_DRAWS, n_latent))

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        self.draws.normal_(generator=generator)

    def score(self, network: Network, z: Tensor) -> Tensor:
        return -self._expected_log_density(network, z, *encode_distribution(network, z))

    def _expected_log_density(
        self, network: Network, z: Tensor, mu: Tensor, logvar: Tensor
    ) -> Tensor:
        total = z.new_zeros(z.shape[0])
        for draw in self.draws:
            code = reparameterize(mu, logvar, draw)
            total = total + log_density(z, *decode_distribution(network, code))
        return total / len(self.draws)


class Elbo(ReconstructionProbability):
    """Negative evidence lower bound of a row, in nats (Kingma & Welling 2014).

    The negative :class:`ReconstructionProbability` plus the KL divergence of the posterior from the
    standard normal prior. Rows ``(n, n_features)`` get scores ``(n,)``.

    Parameters
    ----------
    n_features : int
        Width of a row.
    n_latent : int
        Width of a latent code.

    Examples
    --------
    >>> from torch import nn
    >>> from pyod_ae_plugin.networks import VariationalNetwork
    >>> network = VariationalNetwork(nn.Tanh(), nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(1, 2))
    >>> Elbo(2, 1).score(network, torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def score(self, network: Network, z: Tensor) -> Tensor:
        mu, logvar = encode_distribution(network, z)
        kl = kl_divergence(mu, logvar).sum(-1)
        return kl - self._expected_log_density(network, z, mu, logvar)


# ---------------------------------------------------------------------------------------
# Codes, reconstructions and samples of a scoring module
# ---------------------------------------------------------------------------------------


def posterior(module: ScoringModule, x: Tensor) -> Tensor:
    """Mean and standard deviation [n, 2, n_latent] of the codes of raw rows [n, n_features]."""
    mu, logvar = encode_distribution(module.network, module.standardize_in_range(x))
    return torch.stack([mu, torch.exp(0.5 * logvar)], dim=1)


def reconstruction_moments(module: ScoringModule, draws: Tensor, x: Tensor) -> Tensor:
    """Mean and standard deviation [n, 2, n_features] of the reconstructions of raw rows.

    They are in the data's own units, float64. A row's reconstruction is a mixture of normal
    distributions, one for each of the standard normal draws [n_draws, n_latent] that all rows
    share: those that the decoder gives for the codes ``mu + sigma * draw``. Its variance is the
    variance of their means plus the mean of their variances (law of total variance).
    """
    mu, logvar = encode_distribution(module.network, module.standardize_in_range(x))
    mean, squares, variance = (torch.zeros_like(x, dtype=torch.float32) for _ in range(3))
    for n, draw in enumerate(draws.to(mu.device), 1):  # Welford's update
        code = reparameterize(mu, logvar, draw)
        draw_mean, draw_logvar = decode_distribution(module.network, code)
        difference = draw_mean - mean
        mean = mean + difference / n
        squares = squares + difference * (draw_mean - mean)
        variance = variance + (torch.exp(draw_logvar) - variance) / n
    std = (squares / len(draws) + variance).sqrt()
    standardize = module.standardize
    return torch.stack([standardize.inverse(mean), std.double() / standardize.scale], dim=1)


def sample(module: ScoringModule, n: int, generator: torch.Generator) -> Tensor:
    """Draw rows [n, n_features]: codes from the prior, then rows from the decoder's distribution.

    The rows are in the data's own units, float64, on the CPU. So is the generator, and a seed gives
    the same codes on every device.
    """
    standardize, device = module.standardize, module.standardize.scale.device
    n_features = standardize.n_features
    n_latent = module.encode(torch.zeros(1, n_features, device=device)).shape[1]
    rows = torch.empty(n, n_features, dtype=torch.float64)
    for part in rows.split(max(_CELLS_AT_ONCE // max(module.widths[-1], n_features), 1)):
        code = torch.randn(len(part), n_latent, generator=generator)
        noise = torch.randn(part.shape, generator=generator).to(device)
        mean, logvar = decode_distribution(module.network, code.to(device))
        part.copy_(standardize.inverse(reparameterize(mean, logvar, noise)))
    return rows


def latent_usage(network: Network, tiles: Tiles, trim: float) -> tuple[Tensor, Tensor]:
    """KL divergence [n_latent] of each latent dimension in nats, and whether it is active.

    A dimension is active if the variance of the posterior mean over rows exceeds 0.01 (Burda et al.
    2016, Importance Weighted Autoencoders, section 5.2). Both are computed without the ``trim``
    share of rows with the highest reconstruction error. The divergences are float64 and finite.
    """
    parts = []
    for z in tiles():
        mu, logvar = encode_distribution(network, z)
        parts.append((mu, logvar, (network.decode(mu) - z).square().sum(-1)))
    mu, logvar, error = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    n_kept = max(len(error) - int(trim * len(error)), 1)
    kept = error.topk(n_kept, largest=False, sorted=False).indices
    mu, logvar = mu[kept].double(), logvar[kept].double()
    kl = kl_divergence(mu, logvar).mean(0)
    active = mu.var(0, correction=0) > _ACTIVE_VARIANCE
    return torch.nan_to_num(kl, nan=torch.finfo(kl.dtype).max), active
