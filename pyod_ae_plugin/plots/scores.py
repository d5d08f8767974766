"""How scores are distributed, and where the threshold lies among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plots.style import BLUE, GREY, ORANGE, checked_labels, new_axes, without_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyod_ae_plugin.detectors.base import NeuralDetector

_N_BINS = 50
# How far above the bulk of the scores bins reach, in widths of the bulk. Few rows lie beyond, and
# to show them on their places would leave all others in one bin.
_REACH = 5.0


def plot_scores(
    detector: NeuralDetector, X: Any = None, y: Any = None, ax: Axes | None = None
) -> Axes:
    """Draw a histogram of scores with the threshold, by class where labels are given.

    The number of rows is on a logarithmic axis, as outliers are few. Scores far above the others
    are counted in the last bin; the label of the axis says how many they are.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted.
    X : array-like of shape (n_samples, n_features) or None, default=None
        Rows to score; None is the training rows, whose scores are known.
    y : array-like of shape (n_samples,) or None, default=None
        True labels, 0 for inliers and 1 for outliers.
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
        If the labels are others than 0 and 1 or not one for each row.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_scores
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> axes = plot_scores(detector, ax=Figure().add_subplot())
    >>> axes.get_title()
    '300 rows, 30 above the threshold'
    """
    check_is_fitted(detector, "scoring_module_")
    scores = detector.decision_scores_ if X is None else detector.decision_function(X)
    edges, n_beyond = score_bins(scores, detector.threshold_)
    shown = scores.clip(max=edges[-1])
    ax = new_axes() if ax is None else ax
    if y is None:
        ax.hist(shown, edges, color=GREY, edgecolor="black", linewidth=0.4)
    else:
        labels = checked_labels(y, len(scores))
        _draw_class(ax, shown[labels == 0], edges, "inliers", facecolor=GREY)
        _draw_class(ax, shown[labels == 1], edges, "outliers", facecolor=ORANGE, hatch="////")
    ax.set_yscale("log")
    beyond = f"; {n_beyond} beyond are in the last bin" if n_beyond else ""
    ax.set(xlabel=f"Anomaly score{beyond}", ylabel="Rows")
    without_frame(ax)
    # Some thresholders have a threshold on a scale of their own.
    if np.array_equal(detector.labels_, detector.decision_scores_ > detector.threshold_):
        threshold = f"threshold {detector.threshold_:.4g}"
        ax.axvline(detector.threshold_, color=BLUE, linestyle="--", label=threshold)
        n_outliers, kind = int((scores > detector.threshold_).sum()), "above the threshold"
    else:
        found = detector.labels_ if X is None else detector.predict(X)
        n_outliers, kind = int(np.sum(found)), "called outliers by the thresholder"
    ax.set_title(f"{len(scores)} rows, {n_outliers} {kind}")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax


def _draw_class(ax: Axes, scores: Array, edges: list[float], name: str, **style: Any) -> None:
    ax.hist(scores, edges, label=name, alpha=0.75, edgecolor="black", linewidth=0.4, **style)


def score_bins(scores: Array, threshold: float) -> tuple[list[float], int]:
    """Edges of bins that show the bulk of the scores and the threshold; scores beyond them."""
    low, middle, high = np.quantile(scores, [0.0, 0.5, 0.95])
    reach = max(high + _REACH * (high - middle), threshold + 0.5 * abs(threshold - middle))
    highest = min(scores.max(), reach)
    if not highest > low:
        low, highest = low - 0.5, low + 0.5
    return np.linspace(low, highest, _N_BINS + 1).tolist(), int((scores > highest).sum())
