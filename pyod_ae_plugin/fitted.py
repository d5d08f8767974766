"""What fit leaves in a detector, by name and kind."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

# PyOD's own, which are without the underscore at the end.
_OF_PYOD = ("_mu", "_sigma", "_classes")
# scoring_module_ is kept as tensors, and thresholder_ follows from threshold_.
_KEPT_APART = ("scoring_module_", "thresholder_")


def is_fitted_name(name: str) -> bool:
    """Whether fit sets such an attribute, and it is to be kept as it is."""
    learned = name.endswith("_") and not name.startswith("_")
    return (learned and name not in _KEPT_APART) or name in _OF_PYOD


def check_attributes(Detector: type, attributes: Mapping[str, Any]) -> None:
    """Raise unless attributes that come from a file are what fit could have left.

    Raises
    ------
    ValueError, TypeError
        If one is missing or of another kind, or it is none that fit sets.
    """
    for name, value in attributes.items():
        if not is_fitted_name(name) or hasattr(Detector, name):
            raise TypeError(f"{name!r} is no attribute that fit sets")
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            raise ValueError(f"{name} holds NaN or infinity")
    for name, (is_right, expected) in _KINDS.items():
        if name not in attributes and name not in _OPTIONAL:
            raise ValueError(f"{name} is missing")
        if name in attributes and not is_right(attributes[name]):
            got = reprlib.repr(attributes[name])
            raise ValueError(f"{name} must be {expected}, got {got}")
    if len(attributes["labels_"]) != len(attributes["decision_scores_"]):
        raise ValueError("labels_ and decision_scores_ are not of one length")
    n_features = attributes["n_features_in_"]
    if len(attributes.get("feature_names_in_", range(n_features))) != n_features:
        raise ValueError("feature_names_in_ are not n_features_in_ names")
    reference = attributes.get("drift_reference_")
    if reference is not None and reference.shape[1] != n_features:
        raise ValueError("drift_reference_ has not n_features_in_ columns")


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_history(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(losses, list) and all(map(_is_number, losses)) for losses in value.values()
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and len(value) > 0


def _are_scores(value: Any) -> bool:
    is_row = isinstance(value, np.ndarray) and value.ndim == 1 and len(value) > 0
    return is_row and value.dtype.kind == "f"


def _are_ascending_scores(value: Any) -> bool:
    return _are_scores(value) and bool((value[1:] >= value[:-1]).all())


def _are_flags(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind == "b"


def _are_labels(value: Any) -> bool:
    is_row = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu"
    return is_row and bool(np.isin(value, (0, 1)).all())


_KINDS = {
    "n_features_in_": (_is_count, "an int of 1 or more"),
    "feature_names_in_": (_is_list_of_names, "a list of str"),
    "history_": (_is_history, "lists of numbers by name"),
    "decision_scores_": (_are_scores, "floats in one dimension"),
    "drift_reference_": (_is_table, "numbers in two dimensions"),
    "held_out_scores_": (_are_ascending_scores, "ascending floats in one dimension"),
    "kl_": (_are_scores, "floats in one dimension"),
    "active_units_": (_are_flags, "booleans in one dimension"),
    "labels_": (_are_labels, "0 and 1 in one dimension"),
    "lr_": (_is_number, "a finite number"),
    "threshold_": (_is_number, "a finite number"),
    "_mu": (_is_number, "a finite number"),
    "_sigma": (_is_number, "a finite number"),
    "_classes": (_is_count, "an int of 1 or more"),
}
_OPTIONAL = (
    "feature_names_in_",
    "held_out_scores_",
    "drift_reference_",
    "lr_",
    "kl_",
    "active_units_",
)
