"""The rows to look at first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import _safe_indexing

from pyod_ae_plugin.plots.style import feature_names, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyod_ae_plugin.detectors.base import NeuralDetector

_N_FEATURES = 3


def plot_top(detector: NeuralDetector, X: Any, n: int = 10, ax: Axes | None = None) -> Axes:
    """Draw a table of the rows with the highest scores and what makes them so.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted.
    X : array-like of shape (n_samples, n_features)
        Rows of a DataFrame are named by its index.
    n : int, default=10
        How many rows, the highest score first.
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

    See Also
    --------
    pyod_ae_plugin.AutoEncoder.explain : The contributions of features, the largest of which are
        named.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_top
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> X[7, 3] = 8
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> axes = plot_top(detector, X, 3, ax=Figure().add_subplot())
    >>> axes.tables[0][1, 1].get_text().get_text()
    '7'
    """
    scores = detector.decision_function(X)
    order = np.argsort(-scores, kind="stable")[:n]
    rows = _safe_indexing(X, order)
    labels = detector.predict(rows)
    values, parts, names = np.asarray(rows), detector.explain(rows), feature_names(detector)
    index = np.asarray(getattr(X, "index", np.arange(len(scores))))[order]
    cells = []
    for rank, row in enumerate(index):
        largest = np.argsort(-parts[rank], kind="stable")[:_N_FEATURES]
        because = ", ".join(f"{names[j]} = {values[rank, j]:.4g}" for j in largest)
        verdict = "outlier" if labels[rank] else ""
        cells.append([rank + 1, row, f"{scores[order[rank]]:.4g}", verdict, because])

    ax = new_axes(9, 0.8 + 0.3 * len(cells)) if ax is None else ax
    columns = ["Rank", "Row", "Score", "Label", "Mostly because of"]
    table = ax.table(
        cells, colLabels=columns, cellLoc="left", colLoc="left", edges="horizontal", loc="center"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.3)
    table.auto_set_column_width(list(range(len(columns))))
    ax.set_axis_off()
    return ax
