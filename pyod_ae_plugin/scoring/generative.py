"""What a network with a posterior and a prior says of rows: it codes, rebuilds and makes them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.heads import Tiles
from pyod_ae_plugin.scoring.likelihood import decoded, kl_divergence
from pyod_ae_plugin.scoring.module import ScoringModule

_CELLS_AT_ONCE = 2**20
_ACTIVE_VARIANCE = 0.01


def posterior(module: ScoringModule, x: Tensor) -> Tensor:
    """Mean and standard deviation of the codes of raw rows [n, n_features], [n, 2, n_latent]."""
    mu, logvar = module.network.posterior(module.standardized_within_reach(x))
    return torch.stack([mu, torch.exp(0.5 * logvar)], dim=1)


def reconstruction_moments(module: ScoringModule, draws: Tensor, x: Tensor) -> Tensor:
    """Mean and standard deviation of what raw rows are rebuilt as, over codes and decoder.

    A row's reconstruction is a mixture of as many normals as there are draws: those that the
    decoder gives for the codes ``mu + sigma * draw``. Its variance is the variance of their means
    plus the mean of their variances (law of total variance).

    Parameters
    ----------
    module : ScoringModule
        Of a network with ``posterior``.
    draws : Tensor of shape (n_draws, n_latent)
        From the standard normal distribution, shared by all rows.
    x : Tensor of shape (n, n_features)
        Raw rows.

    Returns
    -------
    Tensor of shape (n, 2, n_features)
        In the data's own units, float64.
    """
    mu, logvar = module.network.posterior(module.standardized_within_reach(x))
    sigma = torch.exp(0.5 * logvar)
    mean, squares, variance = (torch.zeros_like(x, dtype=torch.float32) for _ in range(3))
    for n, draw in enumerate(draws.to(mu.device), 1):  # Welford's update
        of_code, spread = decoded(module.network, torch.addcmul(mu, sigma, draw))
        off = of_code - mean
        mean = mean + off / n
        squares = squares + off * (of_code - mean)
        variance = variance + (torch.exp(spread) - variance) / n
    std = (squares / len(draws) + variance).sqrt()
    standardize = module.standardize
    return torch.stack([standardize.inverse(mean), std.double() / standardize.scale], dim=1)


def sample(module: ScoringModule, n: int, generator: torch.Generator) -> Tensor:
    """Draw rows: codes from the prior, then rows from the decoder's normal distribution.

    Parameters
    ----------
    module : ScoringModule
    n : int
        How many, at least 1.
    generator : torch.Generator
        On the CPU, so that a seed gives the same codes on every device.

    Returns
    -------
    Tensor of shape (n, n_features)
        In the data's own units, float64, on the CPU.
    """
    standardize, device = module.standardize, module.standardize.scale.device
    n_features = standardize.n_features
    n_latent = module.encode(torch.zeros(1, n_features, device=device)).shape[1]
    rows = torch.empty(n, n_features, dtype=torch.float64)
    for part in rows.split(max(_CELLS_AT_ONCE // max(module.widths[-1], n_features), 1)):
        code = torch.randn(len(part), n_latent, generator=generator)
        noise = torch.randn(part.shape, generator=generator).to(device)
        mean, logvar = decoded(module.network, code.to(device))
        part.copy_(standardize.inverse(torch.addcmul(mean, noise, torch.exp(0.5 * logvar))))
    return rows


def latent_usage(network: Network, tiles: Tiles, trim: float) -> tuple[Tensor, Tensor]:
    """KL divergence of each latent dimension in nats, and whether it is active.

    A dimension is active if the variance of the posterior mean over rows exceeds 0.01 [1]_. Both
    are of the rows without the ``trim`` share that is rebuilt worst, in standard units.

    Parameters
    ----------
    network : torch.nn.Module
        With ``posterior``.
    tiles : callable
        Returns an iterable over standardised rows, as tiles of shape (m, n_features).
    trim : float

    Returns
    -------
    kl : Tensor of shape (n_latent,)
        Means over rows; float64, finite.
    active : bool Tensor of shape (n_latent,)

    References
    ----------
    .. [1] Burda, Y., Grosse, R., & Salakhutdinov, R. (2016). Importance Weighted Autoencoders.
           ICLR. Section 5.2.
    """
    of_tiles = []
    for z in tiles():
        mu, logvar = network.posterior(z)
        of_tiles.append((mu, logvar, (network.decode(mu) - z).square().sum(-1)))
    mu, logvar, error = (torch.cat(parts) for parts in zip(*of_tiles, strict=True))
    n_kept = max(len(error) - int(trim * len(error)), 1)
    kept = error.topk(n_kept, largest=False, sorted=False).indices
    mu, logvar = mu[kept].double(), logvar[kept].double()
    kl = kl_divergence(mu, logvar).mean(0)
    active = mu.var(0, correction=0) > _ACTIVE_VARIANCE
    return torch.nan_to_num(kl, nan=torch.finfo(kl.dtype).max), active
