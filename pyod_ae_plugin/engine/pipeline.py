"""What a network computes, read from its modules, for all fast paths.

Closed-form gradients, folded scoring on a CPU, CUDA graphs and the fused kernel replace the calls
of a network's modules by something faster. That is correct only if all modules are known and no
hook is registered. :func:`read_pipeline` decides this once, for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules import module as _torch

from pyod_ae_plugin.networks import AutoEncoderNetwork, Network, VariationalNetwork
from pyod_ae_plugin.networks.activations import activation_of
from pyod_ae_plugin.networks.layers import BatchNorm, Dropout, GaussianOutput, Linear, StackedLinear
from pyod_ae_plugin.scoring import ScoringModule, Standardize

Layers = tuple[nn.Module, ...]


@dataclass(frozen=True)
class Fork:
    """Mean and log variance of normal distributions, computed from the same input."""

    mean: Layers
    logvar: Layers
    clip: tuple[float, float] | None  # bounds of the log variance

    @property
    def starts_linear(self) -> bool:
        """Whether both branches begin with a linear layer."""
        return all(layers and is_linear(layers[0]) for layers in (self.mean, self.logvar))


@dataclass(frozen=True)
class Pipeline:
    """The layers that a row passes, in order. Identities are left out, and sequences are flat."""

    encoder: Layers  # in a VAE up to the fork into mu and logvar
    decoder: Layers  # up to the fork into mean and logvar if there is one
    posterior: Fork | None = None  # of the latent code, in a VAE
    output: Fork | None = None  # of the reconstruction, where the decoder learned a variance
    n_members: int | None = None  # whose layers are stacked; None for a single network

    @property
    def encoding(self) -> Layers:
        """The layers from a row to its latent code, which in a VAE is the posterior mean."""
        return self.encoder + (self.posterior.mean if self.posterior else ())

    @property
    def decoding(self) -> Layers:
        """The layers from a latent code to the mean of the reconstruction."""
        return self.decoder + (self.output.mean if self.output else ())

    @property
    def forks(self) -> tuple[Fork, ...]:
        """The forks that there are."""
        return tuple(fork for fork in (self.posterior, self.output) if fork is not None)

    @property
    def layers(self) -> Layers:
        """All layers, those of log variances last."""
        logvars = [layer for fork in self.forks for layer in fork.logvar]
        return (*self.encoding, *self.decoding, *logvars)

    @property
    def is_elementwise(self) -> bool:
        """Whether all layers are linear or elementwise activations with a derivative."""
        activations = [activation_of(layer) for layer in self.layers if not is_linear(layer)]
        return all(a is not None and a.derivative is not None for a in activations)

    @property
    def has_frozen_parameters(self) -> bool:
        """Whether a parameter is not trained."""
        return not all(p.requires_grad for layer in self.layers for p in layer.parameters())


def read_pipeline(network: Network) -> Pipeline | None:
    """Return what a network computes, or None if the network is not known.

    A known network is an :class:`~pyod_ae_plugin.networks.AutoEncoderNetwork` or
    :class:`~pyod_ae_plugin.networks.VariationalNetwork`, and no subclass, of linear layers with a
    bias, activations of :mod:`pyod_ae_plugin.networks.activations`, and batch norm and dropout of
    this package. No parameter may be shared and no method replaced. No hook may be registered on
    a module, on a parameter, or for all modules.

    Examples
    --------
    >>> network = AutoEncoderNetwork(nn.Sequential(nn.Linear(5, 2), nn.Tanh()), nn.Linear(2, 5))
    >>> read_pipeline(network).encoding
    (Linear(in_features=5, out_features=2, bias=True), Tanh())
    """
    containers: list[nn.Module] = []  # these only pass values on, but may have hooks
    posterior = None
    if type(network) is VariationalNetwork:
        mu, logvar = _flat(network.mu, containers), _flat(network.logvar, containers)
        posterior = Fork(mu, logvar, network.logvar_clip)
    elif type(network) is not AutoEncoderNetwork:
        return None
    containers.append(network)
    encoder = _flat(network.encoder, containers)
    decoder, output = _read_decoder(network.decoder, containers)
    layers = Pipeline(encoder, decoder, posterior, output).layers
    members = {
        len(layer.weight) if isinstance(layer, StackedLinear) else None
        for layer in layers
        if is_linear(layer)
    }
    known = (
        all(map(_is_known, layers))
        and len(members) <= 1
        and not any(map(is_altered, (*containers, *layers)))
        and not _has_shared_or_hooked_parameters(layers)
        and not are_all_hooked()
    )
    n_members = next(iter(members), None)
    return Pipeline(encoder, decoder, posterior, output, n_members) if known else None


def read_scoring(module: ScoringModule) -> Pipeline | None:
    """Return the pipeline of a scoring module's network, or None where it is not known.

    It is not known either if the module or its standardisation is of a subclass, or if a hook is
    registered on the module, its standardisation or its score head.
    """
    if type(module) is not ScoringModule or type(module.standardize) is not Standardize:
        return None
    others = (module, module.standardize, *module.head.modules())
    return None if any(map(is_altered, others)) else read_pipeline(module.network)


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer is a linear one, of a single network or of stacked members."""
    return type(layer) in _LINEAR


def are_all_hooked() -> bool:
    """Whether a hook is registered for all modules."""
    return any(_HOOKS_ON_ALL_MODULES)


def is_altered(module: nn.Module) -> bool:
    """Whether a hook is registered on a module, or a method replaced on this instance."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or not _METHODS.isdisjoint(vars(module))
    )


_LINEAR = (Linear, nn.Linear, StackedLinear)
# Methods of networks, layers and score heads.
_NETWORK_METHODS = ("encode", "decode", "posterior", "decode_distribution")
_METHODS = frozenset(("forward", "score", "distribution", *_NETWORK_METHODS))
_HOOKS_ON_ALL_MODULES = (
    _torch._global_forward_hooks,
    _torch._global_forward_pre_hooks,
    _torch._global_backward_hooks,
    _torch._global_backward_pre_hooks,
)


def _flat(module: nn.Module, containers: list[nn.Module]) -> Layers:
    """The layers of a module; sequences and identities are added to ``containers``."""
    if type(module) is nn.Sequential:
        containers.append(module)
        return tuple(layer for part in module for layer in _flat(part, containers))
    if type(module) is nn.Identity:
        containers.append(module)
        return ()
    return (module,)


def _read_decoder(decoder: nn.Module, containers: list[nn.Module]) -> tuple[Layers, Fork | None]:
    """The layers of a decoder and its fork, which is the last layer or the decoder itself."""
    parts = [*decoder] if type(decoder) is nn.Sequential else [decoder]
    last = parts[-1] if parts else None
    if type(last) is not GaussianOutput:
        return _flat(decoder, containers), None
    containers += [decoder, last]
    hidden = [layer for part in parts[:-1] for layer in _flat(part, containers)]
    mean, logvar = _flat(last.mean, containers), _flat(last.logvar, containers)
    return tuple(hidden), Fork(mean, logvar, last.CLIP)


def _is_known(layer: nn.Module) -> bool:
    if is_linear(layer):
        return layer.bias is not None
    return type(layer) in (BatchNorm, Dropout) or activation_of(layer) is not None


def _has_shared_or_hooked_parameters(layers: Sequence[nn.Module]) -> bool:
    parameters = [p for layer in layers for p in layer._parameters.values() if p is not None]
    hooked = any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters)
    return hooked or len(set(map(id, parameters))) < len(parameters)
