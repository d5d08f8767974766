"""The model card of a report: the fit, the detector's parameters, and package versions."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from importlib.metadata import version
from numbers import Number
from typing import TYPE_CHECKING, Any

from pyod_ae_plugin.thresholds import ThresholdRule

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

_PACKAGES = ("pyod-ae-plugin", "pyod", "torch", "scikit-learn", "numpy")
# Parameters that are not shown. A path says something about the machine.
_PRIVATE = ("checkpoint",)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a detector, with its value and its default as text."""

    name: str
    value: str
    default: str

    @property
    def is_set(self) -> bool:
        """Whether the value differs from the default."""
        return self.value != self.default


@dataclass(frozen=True)
class Card:
    """What the page says about the model."""

    facts: dict[str, str]  # training data, training, threshold, seed, device
    parameters: list[Parameter]  # those that differ from their defaults first, each part by name
    versions: dict[str, str]  # Python and packages on the machine that made the report


def model_card(detector: NeuralDetector) -> Card:
    """Describe a fitted detector without revealing anything about the machine or its users."""
    parameters = _parameters(detector)
    values = {parameter.name: parameter.value for parameter in parameters}
    n_weights = sum(tensor.numel() for tensor in detector.model.state_dict().values())
    losses = detector.history_.get("loss", [])
    n_held_out = len(getattr(detector, "held_out_scores_", ()))
    facts = {
        "Detector": type(detector).__name__,
        "Fitted to": f"{len(detector.decision_scores_):,} rows of "
        f"{detector.n_features_in_:,} features",
        "Rows held out for the threshold": f"{n_held_out:,}" if n_held_out else "none",
        "Threshold set by": f"contamination={values['contamination']}",
        "Training": f"{len(losses):,} epochs, loss {losses[0]:.4g} to {losses[-1]:.4g}"
        if losses
        else "not recorded",
        "Weights in the network": f"{n_weights:,}",
        "Seed (random_state)": values["random_state"],
        "Scored on": str(detector.scoring_module_.standardize.scale.device),
    }
    versions = {"Python": platform.python_version(), **{p: version(p) for p in _PACKAGES}}
    return Card(facts, parameters, versions)


def _parameters(detector: NeuralDetector) -> list[Parameter]:
    signature = inspect.signature(type(detector)).parameters
    parameters = [
        Parameter(name, format_value(value), format_value(signature[name].default))
        for name, value in detector.get_params(deep=False).items()
        if name not in _PRIVATE
    ]
    return sorted(parameters, key=lambda parameter: (not parameter.is_set, parameter.name))


def format_value(value: Any) -> str:
    """Format a parameter's value without the memory addresses that ``repr`` may contain."""
    if value is None or isinstance(value, (str, ThresholdRule)) or is_dataclass(value):
        return repr(value)
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {format_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(format_value, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return str(getattr(value, "__qualname__", type(value).__name__))
