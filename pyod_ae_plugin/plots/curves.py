"""How well scores tell outliers from inliers, threshold by threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from pyod_ae_plugin.plots.style import BLUE, GREY, checked_labels, new_axes, without_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyod_ae_plugin.detectors.base import NeuralDetector


def plot_roc(detector: NeuralDetector, X: Any, y: Any, ax: Axes | None = None) -> Axes:
    """Draw the receiver operating characteristic, and the point of the detector's threshold.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted.
    X : array-like of shape (n_samples, n_features)
        Rows to score, not necessarily those of training.
    y : array-like of shape (n_samples,)
        True labels, 0 for inliers and 1 for outliers, of both at least one.
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
        If the labels are others than 0 and 1, of one class alone or not one for each row.

    See Also
    --------
    sklearn.metrics.roc_curve : Computes it.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from pyod.utils.data import generate_data
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_roc
    >>> X, _, y, _ = generate_data(n_train=300, n_test=1, n_features=5, random_state=0)
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> axes = plot_roc(detector, X, y, ax=Figure().add_subplot())
    >>> axes.get_xlabel()
    'False positive rate'
    """
    scores = detector.decision_function(X)
    labels = _of_two_classes(y, len(scores))
    ax = new_axes(4.8, 4.8) if ax is None else ax
    false_positives, true_positives, _ = roc_curve(labels, scores)
    name = f"{type(detector).__name__} (AUC {roc_auc_score(labels, scores):.3f})"
    ax.plot(false_positives, true_positives, color=BLUE, label=name)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="scores that say nothing")
    flagged = np.asarray(detector.predict(X)) == 1
    ax.plot(
        flagged[labels == 0].mean(),
        flagged[labels == 1].mean(),
        **_POINT,
        label="at the threshold",
    )
    ax.set(xlabel="False positive rate", ylabel="True positive rate", title="ROC")
    ax.legend(loc="lower right", frameon=False)
    without_frame(ax)
    return ax


def plot_precision_recall(detector: NeuralDetector, X: Any, y: Any, ax: Axes | None = None) -> Axes:
    """Draw precision against recall, and the point of the detector's threshold.

    Where outliers are rare it says more than the ROC: it shows how many alarms are false.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted.
    X : array-like of shape (n_samples, n_features)
        Rows to score, not necessarily those of training.
    y : array-like of shape (n_samples,)
        True labels, 0 for inliers and 1 for outliers, of both at least one.
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
        If the labels are others than 0 and 1, of one class alone or not one for each row.

    See Also
    --------
    sklearn.metrics.precision_recall_curve : Computes it.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from pyod.utils.data import generate_data
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_precision_recall
    >>> X, _, y, _ = generate_data(n_train=300, n_test=1, n_features=5, random_state=0)
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> axes = plot_precision_recall(detector, X, y, ax=Figure().add_subplot())
    >>> axes.get_ylabel()
    'Precision'
    """
    scores = detector.decision_function(X)
    labels = _of_two_classes(y, len(scores))
    ax = new_axes(4.8, 4.8) if ax is None else ax
    precision, recall, _ = precision_recall_curve(labels, scores)
    mean = average_precision_score(labels, scores)
    name = f"{type(detector).__name__} (average precision {mean:.3f})"
    # between two thresholds there is no point on a straight line
    ax.plot(recall, precision, color=BLUE, drawstyle="steps-post", label=name)
    ax.axhline(labels.mean(), color=GREY, linestyle=":", label="scores that say nothing")
    flagged = np.asarray(detector.predict(X)) == 1
    if flagged.any():
        found = flagged[labels == 1]
        ax.plot(found.mean(), labels[flagged].mean(), **_POINT, label="at the threshold")
    ax.set(xlabel="Recall", ylabel="Precision", title="Precision and recall", ylim=(0, 1.05))
    ax.legend(loc="lower left", frameon=False)
    without_frame(ax)
    return ax


_POINT: dict[str, Any] = {
    "marker": "o",
    "markersize": 8,
    "markerfacecolor": "white",
    "color": "black",
    "linestyle": "",
}


def _of_two_classes(y: Any, n: int) -> Any:
    labels = checked_labels(y, n)
    if labels.min() == labels.max():
        raise ValueError(
            f"y must hold inliers and outliers; all {n} labels are {labels[0]}. Without both there "
            "is no curve."
        )
    return labels
