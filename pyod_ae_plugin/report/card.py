"""The model card: what was fitted, how, to what, and what scored it."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Number
from typing import TYPE_CHECKING, Any

from pyod_ae_plugin.thresholds import ThresholdRule

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

_PACKAGES = ("pyod-ae-plugin", "pyod", "torch", "scikit-learn", "numpy")
# A path tells about the machine that fitted.
_LEFT_OUT = ("checkpoint",)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a detector as it is written, and whether it is set to other than its default.

    Attributes
    ----------
    name, value, default : str
    """

    name: str
    value: str
    default: str

    @property
    def is_set(self) -> bool:
        """Whether it differs from its default."""
        return self.value != self.default


@dataclass(frozen=True)
class Card:
    """What the page says about the model.

    Attributes
    ----------
    facts : dict of str to str
        What was learned from what.
    parameters : list of Parameter
    versions : dict of str to str
        Of Python and packages, where the page was made.
    """

    facts: dict[str, str]
    parameters: list[Parameter]
    versions: dict[str, str]


def model_card(detector: NeuralDetector) -> Card:
    """Describe a fitted detector, with nothing of the machine or the people at it."""
    parameters = _parameters(detector)
    shown = {parameter.name: parameter.value for parameter in parameters}
    weights = sum(tensor.numel() for tensor in detector.model.state_dict().values())
    held_out = getattr(detector, "held_out_scores_", ())
    facts = {
        "Detector": type(detector).__name__,
        "Fitted to": f"{len(detector.decision_scores_):,} rows of "
        f"{detector.n_features_in_:,} features",
        "Rows held out for the threshold": f"{len(held_out):,}" if len(held_out) else "none",
        "Threshold set by": f"contamination={shown['contamination']}",
        "Training": _training(detector.history_),
        "Numbers in the network": f"{weights:,}",
        "Seed (random_state)": shown["random_state"],
        "Device that scored": str(detector.scoring_module_.standardize.scale.device),
    }
    versions = {"Python": platform.python_version(), **{p: version(p) for p in _PACKAGES}}
    return Card(facts, parameters, versions)


def _training(history: Mapping[str, list[float]]) -> str:
    losses = history.get("loss", [])
    if not losses:
        return "not recorded"
    return f"{len(losses):,} epochs, loss {losses[0]:.4g} to {losses[-1]:.4g}"


def _parameters(detector: NeuralDetector) -> list[Parameter]:
    """Those that are set, then the others, both by name."""
    signature = inspect.signature(type(detector)).parameters
    parameters = [
        Parameter(name, written(value), written(signature[name].default))
        for name, value in detector.get_params(deep=False).items()
        if name not in _LEFT_OUT
    ]
    return sorted(parameters, key=lambda parameter: (not parameter.is_set, parameter.name))


def written(value: Any) -> str:
    """Write a parameter's value, without the addresses in memory that ``repr`` may show.

    Examples
    --------
    >>> written([16, None, "relu"]), written({"weight_decay": 1e-05}), written(len)
    ("[16, None, 'relu']", "{'weight_decay': 1e-05}", 'len')
    """
    if isinstance(value, ThresholdRule):
        return repr(value)
    if value is None or isinstance(value, str):
        return repr(value)
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(written, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return str(getattr(value, "__qualname__", type(value).__name__))
