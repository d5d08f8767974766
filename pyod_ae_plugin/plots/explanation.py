"""What the features of a row contribute to its score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import _safe_indexing

from pyod_ae_plugin.plots.style import BLUE, GREY, ORANGE, feature_names, new_axes, without_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyod_ae_plugin.detectors.base import NeuralDetector as ScoringDetector


def plot_explanation(
    detector: ScoringDetector, X: Any, i: int = 0, max_features: int = 10, ax: Axes | None = None
) -> Axes:
    """Draw what the features of a row contribute to its score, the largest contributions on top.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted.
    X : array-like of shape (n_samples, n_features)
        Training rows or others.
    i : int, default=0
        Which row of X; the others are not looked at.
    max_features : int, default=10
        How many features have bars of their own; the others share one.
    ax : matplotlib.axes.Axes or None, default=None
        Where to draw; None is the axes of a new figure of :mod:`matplotlib.pyplot`.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on, to go on with.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    See Also
    --------
    pyod_ae_plugin.AutoEncoder.explain : The numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_explanation
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> X[7, 3] = 8
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> axes = plot_explanation(detector, X, 7, ax=Figure().add_subplot())
    >>> axes.get_yticklabels()[0].get_text()
    'feature 3 = 8'
    """
    row = _safe_indexing(X, [i])
    parts = detector.explain(row)[0]
    score = detector.decision_function(row)[0]
    order = np.argsort(-np.abs(parts), kind="stable")
    shown, others = order[:max_features], order[max_features:]
    values, names = np.asarray(row)[0], feature_names(detector)
    labels = [f"{names[j]} = {values[j]:.4g}" for j in shown]
    lengths = list(parts[shown])
    colors = [BLUE if length > 0 else ORANGE for length in lengths]
    if len(others):
        labels.append(f"{len(others)} others")
        lengths.append(parts[others].sum())
        colors.append(GREY)

    ax = new_axes(7, 1.3 + 0.36 * len(labels)) if ax is None else ax
    bars = ax.barh(range(len(labels)), lengths, color=colors)
    ax.bar_label(bars, fmt="{:+.3g}", padding=3)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.margins(x=0.3)  # room for the numbers
    ax.axvline(0, color="black", linewidth=0.8)
    without_frame(ax)
    baseline = score - parts.sum()
    # of additive score heads there is none, up to rounding
    above = f", from a baseline of {baseline:.4g}" if abs(baseline) > 1e-3 * abs(score) else ""
    ax.set(xlabel="Contribution to the anomaly score", title=f"Score {score:.4g}{above}")
    return ax
