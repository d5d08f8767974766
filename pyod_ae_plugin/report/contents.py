"""What a report shows, computed from a detector and rows."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from pyod_ae_plugin.detectors.base import fitted_of
from pyod_ae_plugin.plots import Array, checked_labels, score_bins
from pyod_ae_plugin.report.card import Card, model_card
from pyod_ae_plugin.report.rows_shown import Feature, Points, RankedRow, describe_rows

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

# With more distinct scores than this, counts are kept for this many thresholds only.
MAX_STEPS = 10_000


@dataclass(frozen=True)
class Contents:
    """Everything that a report shows.

    Attributes
    ----------
    source : str
        Name of the data.
    n_rows, n_features : int
        Shape of the data.
    n_flagged : int
        Number of rows above the starting threshold.
    n_outliers : int or None
        Number of true outliers. None without labels.
    roc_auc, average_precision : float or None
        None without labels of both classes.
    sweep : Sweep
        Counts for every threshold that the reader may choose.
    start : StartingThreshold
        The threshold at first.
    histogram : Histogram
        Distribution of the scores.
    ranked : list of RankedRow
        The highest score first.
    features : list of Feature
        The largest share first.
    points : Points
        Rows in the latent space.
    card : Card
        The model card.
    made : str
        Date and time.
    seconds : float
        Duration of scoring.
    """

    source: str
    n_rows: int
    n_features: int
    n_flagged: int
    n_outliers: int | None
    roc_auc: float | None
    average_precision: float | None
    sweep: Sweep
    start: StartingThreshold
    histogram: Histogram
    ranked: list[RankedRow]
    features: list[Feature]
    points: Points
    card: Card
    made: str
    seconds: float


def compute_contents(
    detector: NeuralDetector,
    batches: Iterable[Array],
    y: Any = None,
    name_of: Callable[[int], Any] = str,
    source: str = "",
) -> Contents:
    """Score rows and compute what a report shows of them.

    Parameters
    ----------
    detector : NeuralDetector
        Fitted detector.
    batches : iterable of ndarray of shape (n, n_features)
        The rows. They are read twice: for scoring, and for the rows that are shown individually.
    y : array-like of shape (n_rows,) or None, default=None
        True labels, 0 for inliers and 1 for outliers.
    name_of : callable, default=str
        Maps the position of a row to its name.
    source : str, default=''
        Name of the data.

    Returns
    -------
    Contents
    """
    with warnings.catch_warnings():
        # The caller has matched the feature names; the batches are plain arrays.
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        began = time.perf_counter()
        scores = np.concatenate([detector.decision_function(batch) for batch in batches])
        seconds = time.perf_counter() - began
        labels = None if y is None else checked_labels(y, len(scores))
        ranked, features, points = describe_rows(detector, batches, scores, labels, name_of)
    start = starting_threshold(scores, fitted_of(detector).labels_of(scores), detector.threshold_)
    has_both = labels is not None and 0 < labels.sum() < len(labels)
    return Contents(
        source=source,
        n_rows=len(scores),
        n_features=detector.n_features_in_,
        n_flagged=int((scores > start.threshold).sum()),
        n_outliers=None if labels is None else int(labels.sum()),
        roc_auc=float(roc_auc_score(labels, scores)) if has_both else None,
        average_precision=float(average_precision_score(labels, scores)) if has_both else None,
        sweep=sweep_thresholds(scores, labels, start.threshold),
        start=start,
        histogram=_histogram(scores, labels, start.threshold),
        ranked=ranked,
        features=features,
        points=points,
        card=model_card(detector),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        seconds=seconds,
    )


# ---------------------------------------------------------------- thresholds


@dataclass(frozen=True)
class StartingThreshold:
    """The threshold that the page starts with.

    Attributes
    ----------
    threshold : float
        On the scale of the scores.
    n_differing : int
        Number of rows that the detector labels differently. 0, unless its labels do not follow from
        any threshold on the score.
    """

    threshold: float
    n_differing: int


def starting_threshold(scores: Array, predicted: Array, threshold: float) -> StartingThreshold:
    """The threshold that gives the detector's labels or, if there is none, flags as many rows.

    Parameters
    ----------
    scores : ndarray of shape (n,)
    predicted : ndarray of shape (n,)
        The detector's labels.
    threshold : float
        The detector's ``threshold_``. Some thresholders give it on a scale of their own.

    Returns
    -------
    StartingThreshold

    Examples
    --------
    >>> starting_threshold(np.array([1.0, 3.0, 2.0]), np.array([0, 1, 0]), threshold=0.5)
    StartingThreshold(threshold=2.0, n_differing=0)
    """
    if not np.array_equal(scores > threshold, predicted == 1):
        n_inliers = int((predicted == 0).sum())
        ascending = np.sort(scores)
        below_all = np.nextafter(ascending[0], -np.inf)
        threshold = ascending[n_inliers - 1] if n_inliers else below_all
    differing = (scores > threshold) != (predicted == 1)
    return StartingThreshold(float(threshold), int(differing.sum()))


@dataclass(frozen=True)
class Sweep:
    """Exact numbers of rows above each of a series of thresholds.

    Attributes
    ----------
    thresholds : ndarray of shape (n_steps,)
        Scores that occur, ascending.
    n_above : ndarray of shape (n_steps,)
        Number of rows with a score above the threshold.
    n_outliers_above : ndarray of shape (n_steps,) or None
        Number of true outliers among them. None without labels.
    is_complete : bool
        Whether all scores that occur are thresholds. Then the counts at any other threshold are
        known as well.
    """

    thresholds: Array
    n_above: Array
    n_outliers_above: Array | None
    is_complete: bool


def sweep_thresholds(scores: Array, labels: Array | None, threshold: float) -> Sweep:
    """Count the rows above each threshold.

    If there are more than ``MAX_STEPS`` distinct scores, the thresholds are the highest half of
    ``MAX_STEPS``, since useful thresholds lie there; others, evenly spaced over the ranks below;
    and the last score that does not exceed ``threshold``, which flags the same rows.

    Parameters
    ----------
    scores : ndarray of shape (n,)
    labels : ndarray of shape (n,) or None
        True labels, 0 or 1.
    threshold : float
        The starting threshold.

    Returns
    -------
    Sweep

    Examples
    --------
    >>> counts = sweep_thresholds(np.array([1.0, 3.0, 2.0, 3.0]), np.array([0, 1, 0, 0]), 2.5)
    >>> counts.thresholds, counts.n_above, counts.n_outliers_above
    (array([1., 2., 3.]), array([3, 2, 0]), array([1, 1, 0]))
    """
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    # Position of the last of each group of equal scores.
    last = np.flatnonzero(np.append(ascending[1:] > ascending[:-1], True))
    n_scores = len(last)
    if n_scores > MAX_STEPS:
        half = MAX_STEPS // 2
        spread = np.linspace(0, n_scores - half - 1, half - 1).astype(int)
        at_threshold = np.searchsorted(ascending[last], threshold, side="right") - 1
        highest = np.arange(n_scores - half, n_scores)
        last = last[np.unique(np.r_[spread, max(at_threshold, 0), highest])]
    n_outliers_above = None
    if labels is not None:
        n_outliers_up_to = np.cumsum(labels[order])
        n_outliers_above = n_outliers_up_to[-1] - n_outliers_up_to[last]
    return Sweep(
        thresholds=ascending[last],
        n_above=len(scores) - 1 - last,
        n_outliers_above=n_outliers_above,
        is_complete=n_scores <= MAX_STEPS,
    )


# ---------------------------------------------------------------- histogram


@dataclass(frozen=True)
class Histogram:
    """Numbers of rows in bins of scores.

    Attributes
    ----------
    edges : ndarray of shape (n_bins + 1,)
        Edges of the bins.
    inliers, outliers : ndarray of shape (n_bins,)
        Number of rows in each bin by true label. Without labels all rows count as inliers.
    n_beyond : int
        Number of rows above the last edge. They are counted in the last bin.
    low, high : float
        Range of the axis. It includes the bins and the starting threshold.
    """

    edges: Array
    inliers: Array
    outliers: Array
    n_beyond: int
    low: float
    high: float


def _histogram(scores: Array, labels: Array | None, threshold: float) -> Histogram:
    edges, n_beyond = score_bins(scores, threshold)
    binned = np.minimum(scores, edges[-1])
    is_outlier = np.zeros(len(scores), bool) if labels is None else labels == 1
    return Histogram(
        edges=np.asarray(edges),
        inliers=np.histogram(binned[~is_outlier], edges)[0],
        outliers=np.histogram(binned[is_outlier], edges)[0],
        n_beyond=n_beyond,
        low=min(edges[0], threshold),
        high=max(edges[-1], threshold),
    )
