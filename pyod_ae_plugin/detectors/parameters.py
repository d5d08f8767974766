"""Constraints of the parameters of detectors, and some of their defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

from pyod_ae_plugin.engine.optimizers import OPTIMIZERS
from pyod_ae_plugin.engine.options import Corruption, EarlyStopping
from pyod_ae_plugin.fitted import is_count
from pyod_ae_plugin.networks.activations import ACTIVATIONS
from pyod_ae_plugin.thresholds import ThresholdRule

# Measured on contaminated data: benchmarks/quality.py.
DEFAULT_TRIM = 0.3
DEFAULT_OPTIMIZER_PARAMS: Mapping[str, float] = {"weight_decay": 1e-5}
# By default a tenth of the rows is held out. With novelty=True at least 150 rows are, but no more
# than half of them.
_HELD_OUT, _FEWEST_HELD_OUT = 0.1, 150

# Training computes in float32.
LARGEST = float(torch.finfo(torch.float32).max)

_CONTAMINATION = (
    "contamination must be in (0, 0.5], the share of outliers, or a rule that finds the threshold: "
    "MeanStd(k=2), TopN(n) or Quantile(q) of pyod_ae_plugin.thresholds, or one of "
    "pyod.models.thresholds, such as FILTER(). Got"
)

COMPILE_MODES = {"default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"}

COMMON_CONSTRAINTS: dict[str, list[Any]] = {
    "contamination": [Interval(Real, 0, 0.5, closed="right"), HasMethods(["fit", "predict"])],
    "preprocessing": ["boolean", StrOptions({"robust"})],
    "lr": [Interval(Real, 0, LARGEST, closed="right"), None],
    "epoch_num": [Interval(Integral, 1, None, closed="left"), None],
    "batch_size": [Interval(Integral, 1, None, closed="left"), None],
    "optimizer_name": [StrOptions(set(OPTIMIZERS))],
    "device": [str, torch.device, None],
    "random_state": ["random_state"],
    "use_compile": ["boolean"],
    "compile_mode": [StrOptions(COMPILE_MODES)],
    "verbose": [Interval(Integral, 0, 2, closed="both"), "boolean"],
    "optimizer_params": [dict, None],
    "hidden_activation_name": [StrOptions(set(ACTIVATIONS))],
    "batch_norm": ["boolean"],
    "dropout_rate": [Interval(Real, 0, 1, closed="left")],
    "novelty": ["boolean"],
    "trim": [Interval(Real, 0, 1, closed="left"), None],
    "corruption": [Corruption, dict, None],
    "network": [str, callable],
    "input_shape": ["array-like", None],
    "missing": [StrOptions({"refuse", "mask"}), None],
    "columns": [StrOptions({"auto"}), dict, None],
    "score_head": [str, None],
    "early_stopping": ["boolean", EarlyStopping, dict],
    "checkpoint": [str, os.PathLike, None],
    "held_out_threshold": ["boolean", Interval(Real, 0, 1, closed="neither"), None],
    "on_divergence": [StrOptions({"raise", "restart"})],
    "precision": [StrOptions({"float32", "tf32", "bfloat16"})],
}

# The values that parameters may have besides plain ones, with the constraints of their fields.
VALUES: dict[type, dict[str, list[Any]]] = {
    Corruption: {
        "mask": [Interval(Real, 0, 1, closed="left")],
        "noise": [Interval(Real, 0, LARGEST, closed="both")],
    },
    EarlyStopping: {
        "patience": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    },
}

# The options that PyOD's optimizers know; each optimizer uses those that it has.
_OPTIMIZER_PARAMS = {
    "weight_decay": [Interval(Real, 0, LARGEST, closed="both")],
    "adam_eps": [Interval(Real, 0, LARGEST, closed="right")],
    "sgd_momentum": [Interval(Real, 0, LARGEST, closed="both")],
    "sgd_nesterov": ["boolean"],
}

Value = TypeVar("Value")


def as_value(kind: type[Value], value: Value | Mapping[str, Any] | None) -> Value | None:
    """Return a value of a parameter that may be given as a mapping of its fields."""
    return kind(**value) if isinstance(value, Mapping) else value


def check_value(name: str, kind: type, value: Any) -> None:
    """Raise unless the fields of a parameter's value are usable; it may be a mapping of them."""
    if isinstance(value, kind):
        value = vars(value)
    if not isinstance(value, Mapping):
        return
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise ValueError(f"{name} has no {unknown[0]!r}; {kind.__name__} takes {known}.")
    validate_parameter_constraints(VALUES[kind], value, kind.__name__)


def calibration_share(held_out_threshold: bool | float | None, novelty: bool) -> CalibrationShare:
    """The rows kept from training to set the threshold, as a parameter requests."""
    if held_out_threshold is None:
        held_out_threshold = novelty
    if not isinstance(held_out_threshold, (bool, np.bool_)):
        return CalibrationShare(float(held_out_threshold))
    if not held_out_threshold:
        return CalibrationShare(0.0)
    return CalibrationShare(_HELD_OUT, _FEWEST_HELD_OUT if novelty else 0)


class CalibrationShare(NamedTuple):
    """The number of rows kept from training to set the threshold."""

    fraction: float  # of all rows
    fewest: int = 0  # hold out at least this number, but no more than half of the rows for it

    def n_rows(self, n: int) -> int:
        """Number of rows to keep from training, of ``n`` rows, at least 2."""
        wanted = max(round(self.fraction * n), min(self.fewest, n // 2))
        return min(max(wanted, 1), n - 1)


def check_contamination(contamination: Any) -> None:
    """Raise unless contamination is a share, or a rule with usable parameters."""
    check_share(contamination)
    if isinstance(contamination, Real) and not isinstance(contamination, float):
        raise TypeError(
            f"contamination must be a float, got {type(contamination).__name__}; "
            "pass float(contamination)."
        )
    if isinstance(contamination, ThresholdRule):
        contamination._validate_params()
    if isinstance(contamination, type) or not (
        isinstance(contamination, float)
        or all(callable(getattr(contamination, name, None)) for name in ("fit", "predict"))
    ):
        raise ValueError(f"{_CONTAMINATION} {contamination!r}.")


def check_share(contamination: Any) -> None:
    """Raise on an impossible share of outliers."""
    if not isinstance(contamination, Real) or 0 < float(contamination) <= 0.5:
        return
    remedy = ""
    if contamination == 0:
        remedy = (
            " If no training row is an outlier, fit with novelty=True, and choose by contamination "
            "which share of such rows may be called outliers, such as 0.01."
        )
    elif 0.5 < float(contamination) < 1:
        remedy = f" For a larger share, pass Quantile({1 - float(contamination):g})."
    raise ValueError(f"{_CONTAMINATION} {contamination!r}.{remedy}")


def check_checkpoint(checkpoint: Any, random_state: Any) -> None:
    """Raise unless a checkpoint can be written and an int seeds the fit, which it then resumes."""
    if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
        raise ValueError(
            f"checkpoint={checkpoint!r} is in a folder that is not there. Make it, or name a file "
            "elsewhere."
        )
    if checkpoint is not None and not isinstance(random_state, Integral):
        raise ValueError(
            "checkpoint= needs an int as random_state, so that a fit that goes on draws what it "
            f"would have drawn; got random_state={random_state!r}."
        )


def named_files(detector: BaseEstimator) -> dict[str, Any]:
    """The parameters that name files, with their values; None names no file."""
    names = [n for n, kinds in detector._parameter_constraints.items() if os.PathLike in kinds]
    values = {name: getattr(detector, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def check_optimizer_params(options: Mapping[str, Any]) -> None:
    """Raise unless every option of the optimizer is known and usable."""
    unknown = sorted(set(options) - set(_OPTIMIZER_PARAMS))
    if unknown:
        raise ValueError(f"optimizer_params may be {sorted(_OPTIMIZER_PARAMS)}, got {unknown}.")
    validate_parameter_constraints(_OPTIMIZER_PARAMS, options, "optimizer_params")
    if options.get("sgd_nesterov") and not options.get("sgd_momentum"):
        raise ValueError("optimizer_params: sgd_nesterov=True needs a sgd_momentum above 0.")


def check_widths(name: str, widths: Sequence[int]) -> None:
    """Raise unless a parameter is a sequence of at least one layer width."""
    if not isinstance(widths, (list, tuple, np.ndarray)):
        raise TypeError(f"{name} must be a list or tuple of layer widths; got {widths!r}.")
    if len(widths) == 0 or not all(map(is_count, widths)):
        raise ValueError(
            f"{name} must hold at least one layer width, each an int >= 1; got {widths!r}."
        )


def check_input_shape(shape: Any) -> None:
    """Raise unless a parameter is None or the shape of an image."""
    if shape is None:
        return
    sequence = isinstance(shape, (list, tuple, np.ndarray)) and len(shape) in (2, 3)
    if not sequence or not all(map(is_count, shape)):
        raise ValueError(
            "input_shape must be (height, width) or (channels, height, width), each an int >= 1; "
            f"got {shape!r}."
        )


def check_clip(logvar_clip: Any) -> None:
    """Raise unless a parameter is None or a lower and a larger upper bound."""
    if logvar_clip is None:
        return
    try:
        lower, upper = logvar_clip
        in_order = bool(lower < upper)
    except (TypeError, ValueError):
        in_order = False
    if not in_order or not all(isinstance(bound, Real) for bound in logvar_clip):
        raise ValueError(
            "logvar_clip must hold a lower and a larger upper bound, or be None; "
            f"got {logvar_clip!r}."
        )


def seed_of(random_state: Any) -> int:
    """A seed for torch; None draws one from the operating system, not from NumPy's global state."""
    if random_state is None:
        return torch.Generator().seed()
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
