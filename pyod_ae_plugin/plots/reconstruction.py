"""Rows beside their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import _safe_indexing

from pyod_ae_plugin.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    feature_names,
    in_standard_units,
    new_axes,
    without_frame,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyod_ae_plugin.detectors.base import NeuralDetector


def plot_reconstruction(
    detector: NeuralDetector, X: Any, i: int = 0, max_features: int = 20, ax: Axes | None = None
) -> Axes:
    """Draw each feature of a row beside what the network makes of it.

    Features are in standard deviations of the training rows from their mean, those that differ
    most on top.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted.
    X : array-like of shape (n_samples, n_features)
        Training rows or others.
    i : int, default=0
        Which row of X; the others are not looked at.
    max_features : int, default=20
        How many features are drawn.
    ax : matplotlib.axes.Axes or None, default=None
        Where to draw; None is the axes of a new figure of :mod:`matplotlib.pyplot`.

    Returns
    -------
    matplotlib.axes.Axes
        Those that were given, or the new ones.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_reconstruction
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> X[7, 3] = 8
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> axes = plot_reconstruction(detector, X, 7, ax=Figure().add_subplot())
    >>> axes.get_yticklabels()[0].get_text()
    'feature 3'
    """
    row = _safe_indexing(X, [i])
    given = in_standard_units(detector, np.asarray(row, dtype=np.float64))[0]
    rebuilt = in_standard_units(detector, detector.reconstruct(row))[0]
    shown = np.argsort(-np.abs(given - rebuilt), kind="stable")[:max_features]

    ax = new_axes(7, 1.3 + 0.3 * len(shown)) if ax is None else ax
    places = np.arange(len(shown))
    ax.hlines(places, given[shown], rebuilt[shown], color=GREY, linewidth=3)
    ax.plot(rebuilt[shown], places, "s", color=ORANGE, markerfacecolor="white", label="rebuilt")
    ax.plot(given[shown], places, "o", color=BLUE, label="row")
    ax.set_yticks(places, feature_names(detector)[shown])
    ax.invert_yaxis()
    ax.legend(frameon=False)
    score = detector.decision_function(row)[0]
    ax.set(xlabel="Standard deviations from the mean", title=f"Row {i}, score {score:.4g}")
    without_frame(ax)
    return ax


def plot_images(
    detector: NeuralDetector,
    X: Any,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw rows that are images above their reconstructions and what is missing in them.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted.
    X : array-like of shape (n_samples, n_features)
        All of them are drawn, side by side.
    image_shape : (int, int) or None, default=None
        Height and width; None is the detector's ``input_shape``.
    ax : matplotlib.axes.Axes or None, default=None
        Where to draw; None is the axes of a new figure of :mod:`matplotlib.pyplot`.

    Returns
    -------
    matplotlib.axes.Axes
        Those that were given, or the new ones.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If rows of so many features are no images of this shape.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from sklearn.datasets import load_digits
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_images
    >>> X = load_digits().data
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> axes = plot_images(detector, X[:10], (8, 8), ax=Figure().add_subplot())
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['row', 'rebuilt', 'difference']
    """
    shape = getattr(detector, "input_shape", None) if image_shape is None else image_shape
    n_features = detector.n_features_in_
    if shape is None or len(shape) not in (2, 3) or int(np.prod(shape)) != n_features:
        raise ValueError(
            f"image_shape={shape!r} is not that of images of {n_features} values. Pass (height, "
            "width), or fit with input_shape=."
        )
    given, rebuilt = np.asarray(X, dtype=np.float64), detector.reconstruct(X)
    lowest, highest = given.min(), max(given.max(), given.min() + 1e-12)
    shades = [(x - lowest) / (highest - lowest) for x in (given, rebuilt)]
    # Black is 1: strokes are dark on white, and so is what is missing or too much.
    strips = [_side_by_side(x, shape) for x in (*shades, np.abs(shades[0] - shades[1]))]
    n_high, n_wide = strips[0].shape
    ax = new_axes(min(1.2 * len(given) + 1, 14), 4) if ax is None else ax
    ax.imshow(np.vstack(strips), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set_yticks(n_high * (np.arange(3) + 0.5), ["row", "rebuilt", "difference"])
    scores = [f"{score:.3g}" for score in detector.decision_function(X)]
    width = n_wide / len(given)
    ax.set_xticks(width * (np.arange(len(given)) + 0.5), scores)
    ax.tick_params(length=0)
    ax.set(xlabel="Anomaly score")
    ax.spines[:].set_visible(False)
    return ax


def _side_by_side(rows: Any, shape: Sequence[int]) -> Any:
    """Images [n, height * width] in a strip, with room between; channels are averaged."""
    images = rows.reshape(len(rows), *shape)
    images = images.mean(1) if len(shape) == 3 else images
    return np.hstack(list(np.pad(images, [(0, 0), (1, 1), (1, 1)])))
