"""Builds the network and the score head that a detector's parameters ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.plugins.manager import find
from pyod_ae_plugin.scoring import ScoreHead

NetworkFactory = Callable[..., Network]


def find_network(network: str | NetworkFactory) -> NetworkFactory:
    """Return the factory that was passed or that is registered under a name."""
    return find("pyod_ae_networks", network, "network") if isinstance(network, str) else network


def draws_privately(factory: NetworkFactory) -> bool:
    """Whether a factory takes a generator, and so leaves the global one alone."""
    return "generator" in inspect.signature(factory).parameters


def build_network(
    factory: NetworkFactory,
    n_features: int,
    params: Mapping[str, Any],
    generator: torch.Generator,
) -> Network:
    """Call a factory with ``n_features`` and the parameters it names, and check its network.

    Raises
    ------
    ValueError, TypeError
        If the network has no ``encode`` and ``decode``, or they return wrong shapes.
    """
    wanted = inspect.signature(factory).parameters
    available = {**params, "generator": generator}
    keywords = {name: available[name] for name in list(wanted)[1:] if name in available}
    with torch.device(generator.device):
        network = factory(n_features, **keywords)
    _check_network(network, factory, n_features, generator.device)
    return network


def build_head(name: str, n_features: int) -> ScoreHead:
    """Return a new score head of a registered kind."""
    head = find("pyod_ae_score_heads", name, "score head")(n_features)
    if not isinstance(head, ScoreHead):
        raise TypeError(
            f"The score head {name!r} is a {type(head).__name__}; it must be a subclass of "
            "pyod_ae_plugin.scoring.ScoreHead."
        )
    return head


def check_posterior(network: Network, n_features: int) -> None:
    """Raise unless the network has the ``posterior`` that a VAE needs."""
    if not callable(getattr(network, "posterior", None)):
        raise TypeError(
            f"A VAE needs a network with a method posterior(x) that returns mu and logvar, each "
            f"[n, n_latent]; {type(network).__name__} has none."
        )
    parameter = next(network.parameters())
    with torch.no_grad():
        mu, logvar = network.eval().posterior(parameter.new_zeros(2, n_features))
    if mu.shape != logvar.shape:
        raise ValueError(
            "posterior(x) must return mu and logvar of one shape, got "
            f"{tuple(mu.shape)} and {tuple(logvar.shape)}."
        )


def _check_network(
    network: Network, factory: NetworkFactory, n_features: int, device: torch.device
) -> None:
    name = getattr(factory, "__name__", repr(factory))
    kind = type(network)
    if not issubclass(kind, nn.Module):
        raise TypeError(
            f"The network factory {name} must return a torch.nn.Module, got {kind.__name__}."
        )
    missing = [m for m in ("encode", "decode") if not callable(getattr(network, m, None))]
    if missing:
        raise TypeError(
            f"The network {kind.__name__} of factory {name} lacks {' and '.join(missing)}; it "
            "needs encode(x): [n, n_features] -> [n, n_latent] and decode(z): back again. "
            "pyod_ae_plugin.networks.AutoEncoderNetwork(encoder, decoder) makes one of two modules."
        )
    if next(network.parameters(), None) is None:
        raise ValueError(f"The network of factory {name} has no parameters to train.")
    with torch.no_grad():
        x = torch.zeros(2, n_features, device=device)
        code: Tensor = network.to(device).eval().encode(x)
        rebuilt: Tensor = network.decode(code)
    if code.ndim != 2 or len(code) != 2 or rebuilt.shape != x.shape:
        raise ValueError(
            f"The network of factory {name} maps rows [2, {n_features}] to codes "
            f"{list(code.shape)} and back to {list(rebuilt.shape)}; expected [2, n_latent] and "
            f"[2, {n_features}]."
        )


def check_widths(name: str, widths: Sequence[int]) -> None:
    """Raise unless a parameter is a sequence of at least one layer width."""
    integers = all(isinstance(w, Integral) and not isinstance(w, bool) for w in widths)
    if len(widths) == 0 or not integers or min(widths) < 1:
        raise ValueError(
            f"{name} must hold at least one layer width, each an int >= 1; got {widths!r}."
        )
