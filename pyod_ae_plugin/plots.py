"""Plots of detectors, each drawn on one matplotlib Axes.

The colours can be told apart with colour-blind eyes. Classes also differ in marker or hatch, so
that a black-and-white print loses nothing. Each function raises an ImportError if matplotlib (extra
``plots``) is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted, column_or_1d

from pyod_ae_plugin.detectors.base import fitted_of, matrix_of, reconstructed_matrix, rows_of
from pyod_ae_plugin.fitted import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyod_ae_plugin.detectors.base import NeuralDetector

__all__ = [
    "plot_explanation",
    "plot_history",
    "plot_images",
    "plot_latent",
    "plot_precision_recall",
    "plot_reconstruction",
    "plot_roc",
    "plot_scores",
    "plot_top",
]

# From the palette of Okabe and Ito, made for colour-blind readers. In grey, BLUE is the darker.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#BBBBBB"

# ---------------------------------------------------------------- training


def plot_history(detector: NeuralDetector, ax: Axes | None = None) -> Axes:
    """Draw the training loss of each epoch and, with early stopping, the validation loss.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted detector.
    ax : matplotlib.axes.Axes or None, default=None
        Axes to draw on. Default: those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_history
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> detector = AutoEncoder(epoch_num=20, device="cpu", verbose=0).fit(X)
    >>> len(plot_history(detector).lines[0].get_xdata())
    20
    """
    check_is_fitted(detector, "history_")
    history = detector.history_
    epochs = range(1, len(history["loss"]) + 1)
    ax = open_axes(ax)
    ax.plot(epochs, history["loss"], color=BLUE, marker=".", label="training rows")
    if "validation_loss" in history:
        validation = history["validation_loss"]
        ax.plot(epochs, validation, color=ORANGE, ls="--", marker="x", label="rows held out")
        ax.legend(frameon=False)
    ax.locator_params(axis="x", integer=True)
    ax.set(xlabel="Epoch", ylabel="Loss", title=f"Training of {type(detector).__name__}")
    return ax


# ---------------------------------------------------------------- scores and threshold


def plot_scores(
    detector: NeuralDetector, X: Any = None, y: Any = None, ax: Axes | None = None
) -> Axes:
    """Draw a histogram of scores with the threshold, by class if labels are given.

    The number of rows is on a logarithmic axis, because outliers are few. Scores far above the
    others are counted in the last bin; the axis label says how many they are.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted detector.
    X : array-like of shape (n_samples, n_features) or None, default=None
        Rows to score. None takes the training rows, whose scores the detector keeps.
    y : array-like of shape (n_samples,) or None, default=None
        True labels, 0 for inliers and 1 for outliers.
    ax : matplotlib.axes.Axes or None, default=None
        Axes to draw on. Default: those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If y does not hold one label, 0 or 1, for each row.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_scores
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> plot_scores(detector).get_title()
    '300 rows, 30 above the threshold'
    """
    check_is_fitted(detector, "scoring_module_")
    scores = detector.decision_scores_ if X is None else detector.decision_function(X)
    edges, n_beyond = score_bins(scores, detector.threshold_)
    binned = scores.clip(max=edges[-1])
    bars: dict[str, Any] = {"bins": edges, "edgecolor": "black", "linewidth": 0.6}
    ax = open_axes(ax)
    if y is None:
        ax.hist(binned, facecolor=GREY, **bars)
    else:
        labels = checked_labels(y, len(scores))
        ax.hist(binned[labels == 0], facecolor=GREY, label="inliers", **bars)
        # Narrower, so that a bar of inliers behind a higher bar of outliers can be seen.
        bars |= {"rwidth": 0.5, "hatch": "////"}
        ax.hist(binned[labels == 1], facecolor=ORANGE, label="outliers", **bars)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.5)  # a bar of a single row has a height, too
    ax.yaxis.set_major_formatter("{x:,.0f}")
    beyond = f" ({n_beyond:,} higher in the last bin)" if n_beyond else ""
    ax.set(xlabel=f"Anomaly score{beyond}", ylabel="Rows")
    # The threshold_ of some thresholders is not on the scale of the scores.
    if fitted_of(detector).is_labelled_by_score:
        threshold = f"threshold {format_number(detector.threshold_)}"
        ax.axvline(detector.threshold_, color=BLUE, linestyle="--", label=threshold)
        n_outliers, kind = int((scores > detector.threshold_).sum()), "above the threshold"
    else:
        predicted = detector.labels_ if X is None else detector.predict(X)
        n_outliers, kind = int(np.sum(predicted)), "called outliers by the thresholder"
    ax.set_title(f"{len(scores):,} rows, {n_outliers:,} {kind}")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax


def plot_roc(detector: NeuralDetector, X: Any, y: Any, ax: Axes | None = None) -> Axes:
    """Draw the receiver operating characteristic and mark the detector's threshold on it.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted detector.
    X : array-like of shape (n_samples, n_features)
        Rows to score.
    y : array-like of shape (n_samples,)
        True labels, 0 for inliers and 1 for outliers. Both classes must occur.
    ax : matplotlib.axes.Axes or None, default=None
        Axes to draw on. Default: those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If y does not hold one label, 0 or 1, for each row, or holds one class only.

    Examples
    --------
    >>> from pyod.utils.data import generate_data
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_roc
    >>> X, _, y, _ = generate_data(n_train=300, n_test=1, n_features=5, random_state=0)
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> plot_roc(detector, X, y).get_xlabel()
    'False positive rate'
    """
    scores, labels, flagged = _evaluated(detector, X, y)
    false_positive_rate, true_positive_rate, _ = roc_curve(labels, scores)
    name = f"{type(detector).__name__} (AUC {roc_auc_score(labels, scores):.3f})"
    ax = open_axes(ax, 4.8, 4.8)
    ax.plot(false_positive_rate, true_positive_rate, color=BLUE, label=name)
    ax.plot([0, 1], [0, 1], **_RANDOM)
    ax.plot(flagged[labels == 0].mean(), flagged[labels == 1].mean(), "o", **_MARK)
    ax.set(xlabel="False positive rate", ylabel="True positive rate", title="ROC")
    ax.legend(loc="lower right", frameon=False)
    return ax


def plot_precision_recall(detector: NeuralDetector, X: Any, y: Any, ax: Axes | None = None) -> Axes:
    """Draw precision against recall and mark the detector's threshold on the curve.

    If outliers are rare, this curve says more than the ROC: it shows how many alarms are false.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted detector.
    X : array-like of shape (n_samples, n_features)
        Rows to score.
    y : array-like of shape (n_samples,)
        True labels, 0 for inliers and 1 for outliers. Both classes must occur.
    ax : matplotlib.axes.Axes or None, default=None
        Axes to draw on. Default: those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If y does not hold one label, 0 or 1, for each row, or holds one class only.

    Examples
    --------
    >>> from pyod.utils.data import generate_data
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_precision_recall
    >>> X, _, y, _ = generate_data(n_train=300, n_test=1, n_features=5, random_state=0)
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> plot_precision_recall(detector, X, y).get_ylabel()
    'Precision'
    """
    scores, labels, flagged = _evaluated(detector, X, y)
    precision, recall, _ = precision_recall_curve(labels, scores)
    mean = average_precision_score(labels, scores)
    name = f"{type(detector).__name__} (average precision {mean:.3f})"
    ax = open_axes(ax, 4.8, 4.8)
    # Steps, because precision between two thresholds does not lie on a straight line.
    ax.plot(recall, precision, color=BLUE, drawstyle="steps-post", label=name)
    ax.axhline(labels.mean(), **_RANDOM)
    if flagged.any():
        ax.plot(flagged[labels == 1].mean(), labels[flagged].mean(), "o", **_MARK)
    ax.set(xlabel="Recall", ylabel="Precision", title="Precision and recall", ylim=(0, 1.05))
    ax.legend(loc="lower left", frameon=False)
    return ax


_RANDOM: dict[str, Any] = {"color": "dimgray", "linestyle": ":", "label": "random scores"}
_MARK: dict[str, Any] = {"color": "black", "mfc": "white", "ms": 8, "label": "at the threshold"}


def _evaluated(detector: NeuralDetector, X: Any, y: Any) -> tuple[Array, Array, Array]:
    """Scores, true labels (of both classes) and whether the detector calls a row an outlier."""
    scores = detector.decision_function(X)
    labels = checked_labels(y, len(scores))
    if labels.min() == labels.max():
        raise ValueError(
            f"y must hold inliers and outliers, got {len(labels)} labels that are all {labels[0]}. "
            "A curve needs rows of both classes."
        )
    return scores, labels, np.asarray(detector.predict(X)) == 1


# ---------------------------------------------------------------- latent space


def plot_latent(detector: NeuralDetector, X: Any, y: Any = None, ax: Axes | None = None) -> Axes:
    """Draw rows by their latent codes.

    Two-dimensional codes are drawn as they are. Of codes with more dimensions the first two
    principal components are drawn. One-dimensional codes are drawn against the scores.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted detector.
    X : array-like of shape (n_samples, n_features)
        Rows to draw.
    y : array-like of shape (n_samples,) or None, default=None
        True labels, 0 for inliers and 1 for outliers. None takes the detector's predictions.
    ax : matplotlib.axes.Axes or None, default=None
        Axes to draw on. Default: those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If y does not hold one label, 0 or 1, for each row.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin import VAE
    >>> from pyod_ae_plugin.plots import plot_latent
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> detector = VAE(latent_dim=2, device="cpu", verbose=0).fit(X)
    >>> plot_latent(detector, X).get_xlabel()
    'Latent dimension 1'
    """
    codes = detector.transform(X)
    if y is None:
        labels, classes = detector.predict(X), ("predicted inliers", "predicted outliers")
    else:
        labels, classes = checked_labels(y, len(codes)), ("inliers", "outliers")
    points, (x_name, y_name) = in_two_dimensions(codes, lambda: detector.decision_function(X))
    ax = open_axes(ax)
    outlined = {"marker": "^", "s": 30, "facecolor": ORANGE, "edgecolor": "black", "linewidth": 0.6}
    styles: tuple[dict[str, Any], ...] = ({"marker": ".", "s": 25, "color": BLUE}, outlined)
    for label, (name, style) in enumerate(zip(classes, styles, strict=True)):
        drawn = points[labels == label]
        ax.scatter(drawn[:, 0], drawn[:, 1], label=name, **style)
    ax.legend(frameon=False)
    ax.set(xlabel=x_name, ylabel=y_name, title=f"Latent space of {type(detector).__name__}")
    return ax


# ---------------------------------------------------------------- single rows


def plot_reconstruction(
    detector: NeuralDetector, X: Any, i: int = 0, max_features: int = 20, ax: Axes | None = None
) -> Axes:
    """Draw each feature of a row beside its reconstruction, the largest differences on top.

    Both are in standard deviations of the training rows from their mean.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted detector.
    X : array-like of shape (n_samples, n_features)
        Rows to choose from.
    i : int, default=0
        Position in X of the row to draw.
    max_features : int, default=20
        Number of features to draw.
    ax : matplotlib.axes.Axes or None, default=None
        Axes to draw on. Default: those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_reconstruction
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> X[7, 3] = 8
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> plot_reconstruction(detector, X, 7).get_yticklabels()[0].get_text()
    'feature 3'
    """
    row = _safe_indexing(X, [i])
    score = detector.decision_function(row)[0]
    given = in_standard_units(detector, matrix_of(detector, row))[0]
    reconstructed = in_standard_units(detector, reconstructed_matrix(detector, row))[0]
    given = np.where(np.isnan(given), reconstructed, given)  # a gap is filled by it
    drawn = np.argsort(-np.abs(given - reconstructed), kind="stable")[:max_features]
    given, reconstructed = given[drawn], reconstructed[drawn]

    places = np.arange(len(drawn))
    ax = open_axes(ax, 7, 1.3 + 0.3 * len(drawn))
    ax.hlines(places, given, reconstructed, color=GREY, linewidth=3)
    ax.plot(reconstructed, places, "s", color=ORANGE, mec="black", label="reconstruction")
    ax.plot(given, places, "o", color=BLUE, label="row")
    ax.set_yticks(places, _escaped(module_names(detector))[drawn])
    ax.invert_yaxis()
    ax.legend(frameon=False)
    ax.set(
        xlabel="Standard deviations from the mean", title=f"Row {i}, score {format_number(score)}"
    )
    return ax


def plot_images(
    detector: NeuralDetector,
    X: Any,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw rows that are images above their reconstructions and the differences between the two.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted detector.
    X : array-like of shape (n_samples, n_features)
        Rows to draw, all of them, side by side.
    image_shape : tuple of int or None, default=None
        (height, width) or (channels, height, width). Channels are averaged. None takes the
        detector's ``input_shape``.
    ax : matplotlib.axes.Axes or None, default=None
        Axes to draw on. Default: those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If images of this shape do not have as many values as a row.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_images
    >>> X = load_digits().data
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> axes = plot_images(detector, X[:10], (8, 8))
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['row', 'reconstruction', 'difference']
    """
    check_is_fitted(detector, "scoring_module_")
    shape = getattr(detector, "input_shape", None) if image_shape is None else image_shape
    n_features = detector.n_features_in_
    if shape is None or len(shape) not in (2, 3) or int(np.prod(shape)) != n_features:
        raise ValueError(
            f"image_shape={shape!r} does not describe images of {n_features} values. Pass (height, "
            "width) or (channels, height, width), or fit with input_shape=."
        )
    scores = detector.decision_function(X)
    given, reconstructed = np.asarray(X, dtype=np.float64), detector.reconstruct(X)
    lowest, highest = given.min(), max(given.max(), given.min() + 1e-12)
    shades = [(x - lowest) / (highest - lowest) for x in (given, reconstructed)]
    # 1 is drawn black: strokes are dark on white, and so are differences.
    strips = [_side_by_side(x, shape) for x in (*shades, np.abs(shades[0] - shades[1]))]
    height, width = strips[0].shape
    drawn_width = min(1.2 * len(given), 12.5)
    # 1.5 and 0.8 inches of room for the labels
    ax = open_axes(ax, drawn_width + 1.5, drawn_width * 3 * height / width + 0.8)
    ax.set_anchor("W")  # beside its labels, for which layouts then keep enough room
    ax.imshow(np.vstack(strips), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set_yticks(height * (np.arange(3) + 0.5), ["row", "reconstruction", "difference"])
    middles = width / len(given) * (np.arange(len(given)) + 0.5)
    ax.set_xticks(middles, [f"{score:.3g}" for score in scores])
    ax.tick_params(length=0)
    ax.set(xlabel="Anomaly score")
    ax.spines[:].set_visible(False)
    return ax


def _side_by_side(rows: Array, shape: Sequence[int]) -> Array:
    """Join the images of rows [n, n_features] into one strip, with a margin of one pixel each."""
    images = rows.reshape(len(rows), *shape)
    images = images.mean(1) if len(shape) == 3 else images
    return np.hstack(list(np.pad(images, [(0, 0), (1, 1), (1, 1)])))


def plot_explanation(
    detector: NeuralDetector, X: Any, i: int = 0, max_features: int = 10, ax: Axes | None = None
) -> Axes:
    """Draw what each feature of a row contributes to its score, as ``explain`` computes it.

    The largest contributions are on top.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted detector.
    X : array-like of shape (n_samples, n_features)
        Rows to choose from.
    i : int, default=0
        Position in X of the row to draw.
    max_features : int, default=10
        Number of features with a bar of their own. The others share one.
    ax : matplotlib.axes.Axes or None, default=None
        Axes to draw on. Default: those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_explanation
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> X[7, 3] = 8
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> plot_explanation(detector, X, 7).get_yticklabels()[0].get_text()
    'feature 3 = 8'
    """
    row = _safe_indexing(X, [i])
    contributions = detector.explain(row)[0]
    score = detector.decision_function(row)[0]
    order = np.argsort(-np.abs(contributions), kind="stable")
    drawn, others = order[:max_features], order[max_features:]
    cells, names = shown_cells(detector, rows_of(detector, row))[0], feature_names(detector)
    labels = list(_escaped([f"{names[j]} = {cells[j]}" for j in drawn]))
    lengths = list(contributions[drawn])
    colors = [BLUE if length > 0 else ORANGE for length in lengths]
    if len(others):
        labels.append(f"{len(others)} others")
        lengths.append(contributions[others].sum())
        colors.append(GREY)

    ax = open_axes(ax, 7, 1.3 + 0.36 * len(labels))
    bars = ax.barh(range(len(labels)), lengths, color=colors)
    ax.bar_label(bars, fmt=_format_of(lengths), padding=3)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.margins(x=0.3)  # room for the numbers
    ax.axvline(0, color="black", linewidth=0.8)
    baseline = score - contributions.sum()
    # The contributions of additive score heads sum to the score, up to rounding.
    has_baseline = abs(baseline) > 1e-3 * abs(score)
    title = f"Score {format_number(score)}"
    if has_baseline:
        title += f", from a baseline of {format_number(baseline)}"
    ax.set(xlabel="Contribution to the anomaly score", title=title)
    return ax


def _format_of(lengths: Sequence[float]) -> str:
    """A format with three digits of the largest number, and as many decimals for the others."""
    largest = max(map(abs, lengths))
    if not 1e-4 <= largest < 1e9:
        return "{:+.3g}"
    return f"{{:+,.{max(2 - math.floor(math.log10(largest)), 0)}f}}"


# ---------------------------------------------------------------- ranking


def plot_top(detector: NeuralDetector, X: Any, n: int = 10, ax: Axes | None = None) -> Axes:
    """Draw a table of the rows with the highest scores and the features that contribute most.

    The reasons are up to three features. Those that contribute less than a tenth of the largest
    contribution are left out.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted detector.
    X : array-like of shape (n_samples, n_features)
        Rows to score. Those of a DataFrame are named by its index, others by their position.
    n : int, default=10
        Number of rows in the table, the highest score first.
    ax : matplotlib.axes.Axes or None, default=None
        Axes to draw on, which the table fills. Default: those of a new pyplot figure that is as
        large as the table needs.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_top
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> X[7, 3] = 8
    >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
    >>> plot_top(detector, X, 3).tables[0][1, 1].get_text().get_text()
    '7'
    """
    scores = detector.decision_function(X)
    order = np.argsort(-scores, kind="stable")[:n]
    rows = _safe_indexing(X, order)
    values, names = shown_cells(detector, rows_of(detector, rows)), feature_names(detector)
    labels, contributions = detector.predict(rows), detector.explain(rows)
    index = np.asarray(getattr(X, "index", np.arange(len(scores))))[order]
    cells = []
    for i, row_name in enumerate(index):
        parts = [f"{names[j]} = {values[i][j]}" for j in main_reasons(contributions[i])]
        reasons = "\n".join(wrap(", ".join(parts), 90))
        label = "outlier" if labels[i] else ""
        score = format_number(scores[order[i]])
        cells.append([str(i + 1), str(row_name), score, label, reasons])
    lines = [["Rank", "Row", "Score", "Label", "Reasons"], *cells]
    # In inches, at 9 points.
    widths = [0.2 + 0.075 * max(map(_width, column)) for column in zip(*lines, strict=True)]
    heights = [0.13 + 0.17 * (line[-1].count("\n") + 1) for line in lines]
    scale = 1.0
    if ax is not None:  # the table fills these axes, in smaller letters if need be
        box, dpi = ax.get_window_extent(), ax.figure.dpi
        scale = min(1.0, box.width / dpi / sum(widths), box.height / dpi / sum(heights))
    ax = open_axes(ax, sum(widths), sum(heights))
    from matplotlib.transforms import Bbox  # here, since open_axes names the extra if it is missing

    table = ax.table(
        [list(_escaped(line)) for line in lines],
        colWidths=[width / sum(widths) for width in widths],
        bbox=Bbox.unit(),
        cellLoc="left",
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9 * scale)
    for (i, j), cell in table.get_celld().items():
        cell.set_height(heights[i])
        cell.PAD = 0.1 / widths[j]  # as a share of the width
    ax.set_axis_off()
    return ax


def _width(text: str) -> int:
    """Characters of the longest line."""
    return max(map(len, text.split("\n")))


def _escaped(texts: Sequence[str]) -> Array:
    """Texts, escaped for matplotlib, which reads $...$ as a formula."""
    return np.array([text.replace("$", r"\$") for text in texts], dtype=object)


# ---------------------------------------------------------------- shared with reports and charts


def open_axes(ax: Axes | None, width: float = 6.4, height: float = 4.0) -> Axes:
    """Return ax, or the axes of a new pyplot figure of this size in inches, with an open frame."""
    if ax is None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            message = "Plots need matplotlib: pip install 'pyod-ae-plugin[plots]'."
            raise ImportError(message) from error
        ax = pyplot.subplots(figsize=(width, height), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def score_bins(scores: Array, threshold: float) -> tuple[list[float], int]:
    """Edges of 50 bins that show the bulk of the scores, and the number of scores above them.

    A few extreme scores would squeeze all others into one bin. So the bins end five times the
    distance from the median to the 95% quantile above that quantile, or beyond the threshold.
    """
    lowest, median, high = np.quantile(scores, [0.0, 0.5, 0.95])
    limit = max(high + 5.0 * (high - median), threshold + 0.5 * abs(threshold - median))
    highest = min(scores.max(), limit)
    if not highest > lowest:
        lowest, highest = lowest - 0.5, lowest + 0.5
    return np.linspace(lowest, highest, 51).tolist(), int((scores > highest).sum())


def in_two_dimensions(codes: Array, scores: Callable[[], Array]) -> tuple[Array, list[str]]:
    """Latent codes [n, n_latent] as points [n, 2] to draw, and the names of the two axes.

    ``scores`` is called for the second coordinate of one-dimensional codes, and only for those.
    """
    n_latent = codes.shape[1]
    if n_latent == 1:
        return np.column_stack([codes, scores()]), ["Latent code", "Anomaly score"]
    if n_latent == 2 or len(codes) < 2:  # one row alone has no principal components
        return codes[:, :2], ["Latent dimension 1", "Latent dimension 2"]
    with np.errstate(invalid="ignore"):  # equal codes: a variance of 0 divided by 0
        pca = PCA(2, svd_solver="full").fit(codes)
    shares = 100 * np.nan_to_num(pca.explained_variance_ratio_)
    names = [f"Principal component {i} ({s:.0f}% of the variance)" for i, s in enumerate(shares, 1)]
    return pca.transform(codes), names


def in_standard_units(detector: NeuralDetector, rows: Array) -> Array:
    """Rows [n, n_features] in standard deviations of the training rows from their mean."""
    standardize = detector.scoring_module_.standardize
    scale, shift = (p.double().cpu().numpy() for p in (standardize.scale, standardize.shift))
    standardized: Array = rows * scale + shift
    return standardized


def feature_names(detector: NeuralDetector) -> list[str]:
    """The detector's feature names, or 'feature 0', 'feature 1', ... if it has none."""
    numbered = [f"feature {j}" for j in range(detector.n_features_in_)]
    return [str(name) for name in getattr(detector, "feature_names_in_", numbered)]


def module_names(detector: NeuralDetector) -> list[str]:
    """Names of what the network takes: the features, or what the columns are encoded to."""
    return fitted_of(detector).module_names or feature_names(detector)


def format_number(x: float, separator: str = ",") -> str:
    """Format with four significant digits, or as an integer from 10,000 to a billion.

    ``separator`` stands between thousands. A cell of the data has none, since it may be a year.
    """
    is_whole = math.isfinite(x) and x == round(x)
    is_integer = abs(x) < 1e9 and (is_whole or abs(x) >= 1e4)
    return f"{x:{separator}.0f}" if is_integer else f"{x:{separator}.4g}"


def shown_cells(detector: NeuralDetector, rows: Any) -> list[list[str]]:
    """The values of each feature of rows, as text."""
    columns = getattr(detector, "columns_", None)
    if columns is None:
        return [
            ["missing" if v != v else format_number(v, separator="") for v in row]
            for row in rows.tolist()
        ]
    frame = rows_of(detector, rows)
    return [columns.shown(frame, i) for i in range(len(frame))]


def main_reasons(contributions: Array) -> Array:
    """Up to three features of a row that raise its score most, the largest contribution first.

    Contributions below a tenth of the largest are left out: they explain nothing.
    """
    largest = np.argsort(-contributions, kind="stable")[:3]
    least = 0.1 * max(contributions.max(), 0.0)
    reasons: Array = largest[contributions[largest] > least]
    return reasons


def checked_labels(y: Any, n: int) -> Array:
    """Return y as an integer array of n labels; raise ValueError unless each is 0 or 1."""
    labels: Array = column_or_1d(y)
    are_numbers = labels.dtype.kind in "biuf" or all(isinstance(label, Real) for label in labels)
    if len(labels) != n or not are_numbers or not np.isin(labels, (0, 1)).all():
        values = list({repr(label): label for label in labels.tolist()}.values())[:5]
        raise ValueError(
            f"y must hold {n} labels, 0 for inliers and 1 for outliers; got {len(labels)} labels "
            f"with the values {values}."
        )
    return labels.astype(int)
