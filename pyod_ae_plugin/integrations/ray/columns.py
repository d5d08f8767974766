"""Which columns of a dataset are features, and their values as one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

Array = np.ndarray[Any, Any]


def feature_columns(
    detector: NeuralDetector | None, columns: Sequence[str], asked: Sequence[str] | None
) -> list[str]:
    """Those that were asked for, or that the detector was fitted to, or all.

    Raises
    ------
    ValueError
        If the dataset lacks one.
    """
    fitted_to = getattr(detector, "feature_names_in_", None)
    names = list(columns if fitted_to is None else fitted_to) if asked is None else list(asked)
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(
            f"The dataset has no column {missing[0]!r}; there are {list(columns)}. Name the "
            "columns of the features by features=[...], in the order of fit."
        )
    return names


def as_array(batch: Mapping[str, Array], names: Sequence[str]) -> Array:
    """Columns of numbers, or of arrays of numbers, side by side.

    Raises
    ------
    TypeError
        If a column holds anything else.
    """
    for name in names:
        if batch[name].dtype.kind not in "biuf":
            raise TypeError(
                f"Column {name!r} holds {batch[name].dtype}, not numbers. Name the columns of the "
                "features by features=[...]."
            )
    return np.column_stack([batch[name] for name in names])
