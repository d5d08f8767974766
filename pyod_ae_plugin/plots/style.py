"""What the figures share: axes to draw to, colours, names of features, classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import column_or_1d

from pyod_ae_plugin.detectors.base import Array
from pyod_ae_plugin.detectors.base import NeuralDetector as ScoringDetector

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of the colours of Okabe and Ito, which the colour-blind can tell apart. In grey, BLUE is darker.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#BBBBBB"


def new_axes(width: float = 6.4, height: float = 4.0) -> Axes:
    """Return the axes of a new figure of pyplot, its size in inches.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'pyod-ae-plugin[plots]'.") from error
    axes: Axes = pyplot.subplots(figsize=(width, height), layout="constrained")[1]
    return axes


def without_frame(ax: Axes) -> None:
    """Leave two of the four lines around the plot."""
    ax.spines[["top", "right"]].set_visible(False)


def plain_feature_names(detector: ScoringDetector) -> list[str]:
    """Names of the features, or what stands for them."""
    unnamed = [f"feature {j}" for j in range(detector.n_features_in_)]
    return [str(name) for name in getattr(detector, "feature_names_in_", unnamed)]


def feature_names(detector: ScoringDetector) -> Array:
    """Names of the features, or what stands for them, as matplotlib writes them unchanged."""
    # between dollars there would be a formula
    names = [name.replace("$", r"\$") for name in plain_feature_names(detector)]
    return np.array(names, dtype=object)


def in_standard_units(detector: ScoringDetector, rows: Array) -> Array:
    """Rows [n, n_features] in standard deviations of the training rows from their mean."""
    standardize = detector.scoring_module_.standardize
    scale, shift = (p.double().cpu().numpy() for p in (standardize.scale, standardize.shift))
    standardized: Array = rows * scale + shift
    return standardized


def checked_labels(y: Any, n: int) -> Array:
    """Labels [n] of 0 and 1.

    Raises
    ------
    ValueError
        If they are others or of another number.
    """
    labels: Array = column_or_1d(y)
    if len(labels) != n or not np.isin(labels, (0, 1)).all():
        kinds = np.unique(labels)[:5].tolist()
        raise ValueError(
            f"y must hold {n} labels, 0 for inliers and 1 for outliers; got {len(labels)} of the "
            f"values {kinds}."
        )
    return labels.astype(int)
