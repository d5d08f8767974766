"""The recipe of a fit, made of a detector's parameters, and its builders."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pyod_ae_plugin.detectors.inputs import allows_gaps
from pyod_ae_plugin.detectors.parameters import (
    DEFAULT_OPTIMIZER_PARAMS,
    DEFAULT_TRIM,
    CalibrationShare,
    as_value,
    calibration_share,
    check_input_shape,
    seed_of,
)
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.objectives import Corruptor, Objective
from pyod_ae_plugin.engine.options import Corruption, EarlyStopping, TrainingOptions
from pyod_ae_plugin.networks import Network, conv, mlp, variational_conv, variational_mlp
from pyod_ae_plugin.plugins.manager import find
from pyod_ae_plugin.scoring import ScoreHead
from pyod_ae_plugin.scoring.likelihood import encode_distribution
from pyod_ae_plugin.scoring.standardize import MAX_TRAINED

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

NetworkFactory = Callable[..., Network]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# The factories that are known to draw from the generator they are given, and from no other.
_PRIVATE_FACTORIES = (mlp, variational_mlp, conv, variational_conv)


@dataclass(frozen=True)
class Recipe:
    """The settings of a fit, from the parameters of a detector."""

    # Makes the untrained network on a device. On the device 'meta' it takes no memory, and the
    # values of the network are not checked.
    build_network: Callable[[torch.Generator, torch.device], Network]
    build_head: Callable[[Network], ScoreHead]  # makes the unfitted head for a network
    objective: Objective
    options: TrainingOptions
    has_gaps: bool  # whether NaN in a row stands for a gap, which is hidden from the network
    preprocessing: bool | str  # whether features are standardised; 'robust' is by their quartiles
    contamination: Any  # a share, or a thresholder
    calibration: CalibrationShare  # rows kept from training to set the threshold
    seed: int
    device: str | torch.device | None  # as given; fit_model checks that this machine has it
    precision: Precision
    variational: bool  # whether the network has a posterior, whose latent dimensions are measured
    draws_privately: bool  # whether building and training leave torch's global generators unchanged
    restarts: bool  # whether training restarts at a lower learning rate after it diverged
    verbose: int
    checkpoint: Path | None
    params: Mapping[str, Any]  # class and parameters of the detector, for the fingerprint of a fit

    @property
    def max_trained(self) -> float:
        """The largest value that a network is trained on; a larger one counts as this one."""
        return MAX_TRAINED if self.preprocessing else math.inf


def make_recipe(
    detector: NeuralDetector,
    build_network: Callable[[torch.Generator, torch.device], Network],
    build_head: Callable[[Network], ScoreHead],
    objective: Objective,
    *,
    variational: bool = False,
    draws_privately: bool = True,
    seed: int | None = None,
    **options: Any,
) -> Recipe:
    """Make a recipe from the parameters that all detectors share and from those of one class.

    ``options`` are fields of :class:`~pyod_ae_plugin.engine.options.TrainingOptions`.
    """
    params = detector.optimizer_params
    has_gaps = allows_gaps(detector)
    return Recipe(
        build_network=build_network,
        build_head=build_head,
        objective=replace(objective, has_gaps=has_gaps) if has_gaps else objective,  # type: ignore[type-var]
        options=TrainingOptions(
            epochs=detector.epoch_num,
            batch_size=detector.batch_size,
            lr=detector.lr,
            optimizer=detector.optimizer_name,
            optimizer_params=DEFAULT_OPTIMIZER_PARAMS if params is None else params,
            **options,
        ),
        has_gaps=has_gaps,
        preprocessing=detector.preprocessing,
        contamination=detector.contamination,
        calibration=calibration_share(detector.held_out_threshold, detector.novelty),
        seed=seed_of(detector.random_state) if seed is None else seed,
        device=detector.device,
        precision=detector.precision,
        variational=variational,
        draws_privately=draws_privately,
        restarts=detector.on_divergence == "restart",
        verbose=detector.verbose,
        checkpoint=None if detector.checkpoint is None else Path(detector.checkpoint),
        params={"class": type(detector), **detector.get_params(deep=False)},
    )


def single_network_recipe(
    detector: Any,
    n_features: int,
    objective: Callable[[Corruption, bool], Objective],
    *,
    variational: bool = False,
    **network_params: Any,
) -> Recipe:
    """Make the recipe of a detector of one network, such as ``AutoEncoder`` and ``VAE``.

    ``objective`` is called with the corruption and with whether the decoder learns a variance.
    ``network_params`` stand in for parameters of the detector that a network factory asks for.
    """
    factory = find_network(detector.network)
    # A decoder learns a variance where the score head asks for it, and in every VAE.
    required = getattr(find_head(head_of(detector)), "required_methods", ())
    learn_variance = variational or "decode_distribution" in required
    params = {**detector.get_params(deep=False), **network_params, "learn_variance": learn_variance}
    corruption = as_value(Corruption, detector.corruption) or Corruption()
    stopping = detector.early_stopping
    if isinstance(stopping, (bool, np.bool_)):
        stopping = EarlyStopping() if stopping else None

    def network(generator: torch.Generator, device: torch.device) -> Network:
        made = build_network(factory, n_features, params, generator, device)
        if variational:
            check_posterior(made, n_features)
        return made

    return make_recipe(
        detector,
        network,
        lambda network: build_head(head_of(detector), network, n_features),
        objective(corruption, learn_variance),
        variational=variational,
        draws_privately=factory in _PRIVATE_FACTORIES,
        trim=[trim_of(detector)],
        early_stopping=as_value(EarlyStopping, stopping),
        compile_mode=detector.compile_mode if detector.use_compile else None,
    )


def corruptor(members: Sequence[Corruption]) -> Corruptor | None:
    """The corruption of the rows that the members' encoders get, or None."""
    return Corruptor(members) if any(m.mask or m.noise for m in members) else None


def trim_of(detector: NeuralDetector) -> float:
    """The trimmed share, or its default."""
    default = 0.0 if detector.novelty else DEFAULT_TRIM
    return default if detector.trim is None else float(detector.trim)


def head_of(detector: NeuralDetector) -> str:
    """The name of the score head, or of its default."""
    default = "kernel" if detector.novelty else "joint_mahalanobis"
    return default if detector.score_head is None else str(detector.score_head)


# ------------------------------------------------------------------------------------ networks


def find_network(network: str | NetworkFactory) -> NetworkFactory:
    """Return the factory that was passed or that is registered under a name."""
    return find("pyod_ae_networks", network, "network") if isinstance(network, str) else network


def check_image(network: str | NetworkFactory, input_shape: Any) -> None:
    """Raise unless ``input_shape`` is None or an image's shape that the network asks for."""
    check_input_shape(input_shape)
    if input_shape is None:
        return
    factory = find_network(network)
    if "input_shape" not in inspect.signature(factory).parameters:
        raise ValueError(
            f"input_shape={input_shape!r} is given, but the network factory {_name(factory)} takes "
            "no input_shape. Take a network that does, such as 'conv' for AutoEncoder and "
            "'variational_conv' for VAE, or leave it None."
        )


def build_network(
    factory: NetworkFactory,
    n_features: int,
    params: Mapping[str, Any],
    generator: torch.Generator,
    device: torch.device,
) -> Network:
    """Call a factory with ``n_features`` and the parameters it names, and check its network."""
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
                f"The network factory {_name(factory)} needs {name!r}, which is not a parameter of "
                f"this detector. Take a network that is made for it, or give {name!r} a default. "
                f"Its parameters are {sorted(params)}."
            )
    with device:
        network = factory(n_features, **keywords)
    _check_kind(network, _name(factory))
    if device.type != "meta":
        _check_values(network, _name(factory), n_features, device)
    return network


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
            "posterior(x) must return mu and logvar of the same shape, got "
            f"{tuple(mu.shape)} and {tuple(logvar.shape)}."
        )


def _check_kind(network: Network, name: str) -> None:
    """Raise unless a network is a module that can be trained, encodes and decodes."""
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


def _check_values(network: Network, name: str, n_features: int, device: torch.device) -> None:
    """Raise unless a network maps each row independently and does not change its input."""
    x = torch.linspace(-1, 1, 3 * n_features, device=device).view(3, n_features)
    given = x.clone()
    try:
        with torch.no_grad():
            code: Tensor = network.to(device).eval().encode(given)
            reconstruction: Tensor = network.decode(code)
            alone: Tensor = network.decode(network.encode(x[:1]))
    except torch.cuda.OutOfMemoryError:  # a RuntimeError, and no fault of the network
        raise
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"The network of factory {name} cannot encode and decode float32 rows "
            f"[3, {n_features}]: {error}{_remedy_for_types(network)}"
        ) from error
    if code.ndim != 2 or len(code) != 3 or reconstruction.shape != x.shape:
        raise ValueError(
            f"The network of factory {name} maps rows [3, {n_features}] to codes "
            f"{list(code.shape)} and back to {list(reconstruction.shape)}; expected [3, n_latent] "
            f"and [3, {n_features}]."
        )
    if not torch.equal(given, x):
        raise ValueError(
            f"The network of factory {name} changes its input in place, so it would be compared "
            "with the changed rows. Take inplace=False in its first layer."
        )
    if not torch.allclose(alone, reconstruction[:1], rtol=1e-3, atol=1e-5):
        raise ValueError(
            f"The network of factory {name} reconstructs a row differently beside other rows; a "
            "score must depend on its own row alone."
        )


def _remedy_for_types(network: Network) -> str:
    """The remedy for parameters and buffers that are not float32; empty if there are none."""
    tensors = (*network.parameters(), *network.buffers())
    types = {str(t.dtype) for t in tensors if t.is_floating_point() and t.dtype != torch.float32}
    if not types:
        return ""
    return (
        f". It has parameters or buffers of {' and '.join(sorted(types))}: return network.float(), "
        "or leave out dtype= where its layers are made."
    )


def _name(factory: NetworkFactory) -> str:
    return str(getattr(factory, "__name__", repr(factory)))


# --------------------------------------------------------------------------------- score heads


def find_head(name: str) -> Callable[..., ScoreHead]:
    """Return the class or function that makes score heads of a registered kind."""
    return find("pyod_ae_score_heads", name, "score head")


def build_head(
    name: str, network: Network, n_features: int, members: tuple[int, ...] = ()
) -> ScoreHead:
    """Return a new score head of a registered kind, for a network with the methods it needs."""
    factory = find_head(name)
    available = {"n_latent": _n_latent(network, n_features), "members": members}
    named = inspect.signature(factory).parameters
    head = factory(n_features, **{k: v for k, v in available.items() if k in named})
    if not isinstance(head, ScoreHead):
        raise TypeError(
            f"The score head {name!r} is a {type(head).__name__}; it must be a subclass of "
            "pyod_ae_plugin.scoring.ScoreHead."
        )
    required = head.required_methods
    missing = [method for method in required if not callable(getattr(network, method, None))]
    if missing:
        raise TypeError(
            f"The score head {name!r} needs a network with {' and '.join(missing)}; "
            f"{type(network).__name__} has none. Take another score head, or a VAE."
        )
    if members and "members" not in named:
        raise TypeError(f"The score head {name!r} does not score the members of an ensemble.")
    return head


def _n_latent(network: Network, n_features: int) -> int:
    parameter = next(network.parameters())
    training = network.training
    with torch.no_grad():
        code: Tensor = network.eval().encode(parameter.new_zeros(2, n_features))
    network.train(training)
    return code.shape[-1]
