"""Builds the network and the score head that a detector's parameters ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import Network, conv, mlp, variational_conv, variational_mlp
from pyod_ae_plugin.plugins.manager import find
from pyod_ae_plugin.scoring import ScoreHead
from pyod_ae_plugin.scoring.likelihood import encode_distribution

NetworkFactory = Callable[..., Network]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def find_network(network: str | NetworkFactory) -> NetworkFactory:
    """Return the factory that was passed or that is registered under a name."""
    return find("pyod_ae_networks", network, "network") if isinstance(network, str) else network


def draws_privately(factory: NetworkFactory) -> bool:
    """Whether a factory is known to leave torch's global generators alone."""
    return factory in (mlp, variational_mlp, conv, variational_conv)


def check_takes(factory: NetworkFactory, name: str, value: Any) -> None:
    """Raise unless a factory takes a parameter that it would be wrong to pass over."""
    if name not in inspect.signature(factory).parameters:
        raise ValueError(
            f"{name}={value!r} is given, but the network factory {_name(factory)} takes no {name}. "
            f"Take a network that does, such as 'conv' for AutoEncoder and 'variational_conv' for "
            f"VAE, or leave it None."
        )


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
        If the factory needs parameters that the detector does not have, or the network does not
        do what is asked of a network.
    """
    if isinstance(factory, nn.Module):
        raise TypeError(
            "network= takes a factory, called with n_features at each fit, and not a module: "
            f"pass lambda n_features: ... that makes the {type(factory).__name__}."
        )
    available = {**params, "generator": generator}
    keywords = {}
    for name, parameter in list(inspect.signature(factory).parameters.items())[1:]:
        if name in available:
            keywords[name] = available[name]
        elif parameter.default is parameter.empty and parameter.kind not in _VARIADIC:
            raise TypeError(
                f"The network factory {_name(factory)} needs {name!r}, which is no parameter of "
                f"this detector. Take a network that is made for it, or give {name!r} a default. "
                f"Its parameters are {sorted(params)}."
            )
    with torch.device(generator.device):
        network = factory(n_features, **keywords)
    _check_network(network, _name(factory), n_features, generator.device)
    return network


def build_head(
    name: str, network: Network, n_features: int, members: tuple[int, ...] = ()
) -> ScoreHead:
    """Return a new score head of a registered kind for a network.

    Raises
    ------
    ValueError, TypeError
        If no such head is registered, it is none, or the network lacks what it needs.
    """
    factory = find_head(name)
    available = {"n_latent": n_latent(network, n_features), "members": members}
    named = inspect.signature(factory).parameters
    head = factory(n_features, **{k: v for k, v in available.items() if k in named})
    if not isinstance(head, ScoreHead):
        raise TypeError(
            f"The score head {name!r} is a {type(head).__name__}; it must be a subclass of "
            "pyod_ae_plugin.scoring.ScoreHead."
        )
    missing = [
        method for method in head.required_methods if not callable(getattr(network, method, None))
    ]
    if missing:
        raise TypeError(
            f"The score head {name!r} needs a network with {' and '.join(missing)}; "
            f"{type(network).__name__} has none. Take another score head, or a VAE."
        )
    if members and "members" not in named:
        raise TypeError(f"The score head {name!r} does not score the members of an ensemble.")
    return head


def find_head(name: str) -> Callable[..., ScoreHead]:
    """Return the class or function that makes score heads of a registered kind."""
    return find("pyod_ae_score_heads", name, "score head")


def n_latent(network: Network, n_features: int) -> int:
    """Width of the latent code."""
    parameter = next(network.parameters())
    training = network.training
    with torch.no_grad():
        code: Tensor = network.eval().encode(parameter.new_zeros(2, n_features))
    network.train(training)
    return code.shape[-1]


def check_posterior(network: Network, n_features: int) -> None:
    """Raise unless the network has the ``posterior`` that a VAE needs."""
    if not callable(getattr(network, "posterior", None)):
        raise TypeError(
            f"A VAE needs a network with a method posterior(x) that returns mu and logvar, each "
            f"[n, n_latent]; {type(network).__name__} has none."
        )
    parameter = next(network.parameters())
    with torch.no_grad():
        mu, logvar = encode_distribution(network.eval(), parameter.new_zeros(2, n_features))
    if mu.shape != logvar.shape:
        raise ValueError(
            "posterior(x) must return mu and logvar of one shape, got "
            f"{tuple(mu.shape)} and {tuple(logvar.shape)}."
        )


def _check_network(network: Network, name: str, n_features: int, device: torch.device) -> None:
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
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"The network of factory {name} has no parameters to train.")
    x = torch.linspace(-1, 1, 3 * n_features, device=device).view(3, n_features)
    given = x.clone()
    try:
        with torch.no_grad():
            code: Tensor = network.to(device).eval().encode(given)
            rebuilt: Tensor = network.decode(code)
            alone: Tensor = network.decode(network.encode(x[:1]))
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"The network of factory {name} cannot encode and decode float32 rows "
            f"[3, {n_features}]: {error}"
        ) from error
    if code.ndim != 2 or len(code) != 3 or rebuilt.shape != x.shape:
        raise ValueError(
            f"The network of factory {name} maps rows [3, {n_features}] to codes "
            f"{list(code.shape)} and back to {list(rebuilt.shape)}; expected [3, n_latent] and "
            f"[3, {n_features}]."
        )
    if not torch.equal(given, x):
        raise ValueError(
            f"The network of factory {name} changes its input in place, so it would be compared "
            "with the changed rows. Take inplace=False in its first layer."
        )
    if not torch.allclose(alone, rebuilt[:1], rtol=1e-3, atol=1e-5):
        raise ValueError(
            f"The network of factory {name} rebuilds a row differently beside other rows; a score "
            "must depend on its own row alone."
        )


def _name(factory: NetworkFactory) -> str:
    return str(getattr(factory, "__name__", repr(factory)))
