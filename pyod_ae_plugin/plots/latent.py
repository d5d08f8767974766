"""The latent space."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.decomposition import PCA

from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plots.style import BLUE, ORANGE, checked_labels, new_axes, without_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyod_ae_plugin.detectors.base import NeuralDetector


def plot_latent(detector: NeuralDetector, X: Any, y: Any = None, ax: Axes | None = None) -> Axes:
    """Draw rows by their latent codes.

    Codes of two dimensions are drawn as they are, those of more by their first two principal
    components, and those of one against the scores.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted.
    X : array-like of shape (n_samples, n_features)
        At least two rows.
    y : array-like of shape (n_samples,) or None, default=None
        True labels, 0 for inliers and 1 for outliers; None is those that the detector gives.
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
    >>> from pyod_ae_plugin import VAE
    >>> from pyod_ae_plugin.plots import plot_latent
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> detector = VAE(latent_dim=2, device="cpu", verbose=0).fit(X)
    >>> axes = plot_latent(detector, X, ax=Figure().add_subplot())
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('Latent dimension 1', 'Latent dimension 2')
    """
    codes = detector.transform(X)
    labels = detector.predict(X) if y is None else checked_labels(y, len(codes))
    points, names = in_two_dimensions(codes, lambda: detector.decision_function(X))
    ax = new_axes() if ax is None else ax
    kinds = ("inliers", "outliers") if y is not None else ("rows below the threshold", "above it")
    for label, kind, color, marker in zip((0, 1), kinds, (BLUE, ORANGE), ".x", strict=True):
        across, up = points[labels == label].T
        ax.scatter(across, up, s=25, color=color, marker=marker, label=kind)
    ax.legend(frameon=False)
    ax.set(xlabel=names[0], ylabel=names[1], title=f"Latent space of {type(detector).__name__}")
    without_frame(ax)
    return ax


def in_two_dimensions(codes: Array, score: Callable[[], Array]) -> tuple[Array, list[str]]:
    """Places [n, 2] of latent codes [n, n_latent], and what the two axes are.

    ``score`` gives the scores, which are asked for where codes have but one dimension.
    """
    n_latent = codes.shape[1]
    if n_latent == 1:
        return np.column_stack([codes, score()]), ["Latent code", "Anomaly score"]
    if n_latent == 2 or len(codes) < 2:  # of one row there are no principal components
        return codes[:, :2], ["Latent dimension 1", "Latent dimension 2"]
    with np.errstate(invalid="ignore"):  # equal codes have shares of no variance
        pca = PCA(2, svd_solver="full").fit(codes)
    shares = 100 * np.nan_to_num(pca.explained_variance_ratio_)
    names = [f"Principal component {i} ({s:.0f}% of the variance)" for i, s in enumerate(shares, 1)]
    return pca.transform(codes), names
