"""What a page shows, computed from a detector and rows."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from pyod_ae_plugin.plots import checked_labels, score_bins
from pyod_ae_plugin.report.card import Card, model_card
from pyod_ae_plugin.report.shown import Feature, Points, RankedRow, shown_rows
from pyod_ae_plugin.report.sweep import Start, Sweep, start_of, sweep

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Histogram:
    """Numbers of rows in bins of scores.

    Attributes
    ----------
    edges : ndarray of shape (n_bins + 1,)
    inliers, outliers : ndarray of shape (n_bins,)
        By the true labels; without labels all are in the first.
    n_beyond : int
        Rows in the last bin whose scores are above it.
    low, high : float
        What is shown: the bins, and the threshold that the page begins with.
    """

    edges: Array
    inliers: Array
    outliers: Array
    n_beyond: int
    low: float
    high: float


@dataclass(frozen=True)
class Contents:
    """All that a page shows.

    Attributes
    ----------
    source : str
        Name of the data.
    n_rows, n_features : int
    n_flagged : int
        Rows above the threshold that the page begins with.
    n_outliers : int or None
        By the true labels.
    roc_auc, average_precision : float or None
        None without labels of both classes.
    sweep : Sweep
    start : Start
    histogram : Histogram
    ranked : list of RankedRow
        The highest score first.
    features : list of Feature
        The largest share first.
    points : Points
    card : Card
    made : str
        When.
    seconds : float
        How long scoring took.
    """

    source: str
    n_rows: int
    n_features: int
    n_flagged: int
    n_outliers: int | None
    roc_auc: float | None
    average_precision: float | None
    sweep: Sweep
    start: Start
    histogram: Histogram
    ranked: list[RankedRow]
    features: list[Feature]
    points: Points
    card: Card
    made: str
    seconds: float


def gather(
    detector: NeuralDetector,
    batches: Iterable[Array],
    y: Any = None,
    name_of: Callable[[int], Any] = str,
    source: str = "",
) -> Contents:
    """Score rows and collect what a page shows of them.

    Parameters
    ----------
    detector : NeuralDetector
        Fitted.
    batches : iterable of ndarray of shape (n, n_features)
        Gone through twice: to score, and to take the rows that are shown.
    y : array-like of shape (n_rows,) or None, default=None
        True labels, 0 for inliers and 1 for outliers.
    name_of : callable, default=str
        What the i-th row is called.
    source : str, default=''
        What the data are called.

    Returns
    -------
    Contents
    """
    with warnings.catch_warnings():
        # Whoever called has matched them.
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        began = time.perf_counter()
        scores = np.concatenate([detector.decision_function(batch) for batch in batches])
        seconds = time.perf_counter() - began
        labels = None if y is None else checked_labels(y, len(scores))
        # not predict, which would score the rows again
        start = start_of(scores, detector._labels(scores), detector.threshold_)
        ranked, features, points = shown_rows(detector, batches, scores, labels, name_of)
    has_both = labels is not None and 0 < labels.sum() < len(labels)
    return Contents(
        source=source,
        n_rows=len(scores),
        n_features=detector.n_features_in_,
        n_flagged=int((scores > start.threshold).sum()),
        n_outliers=None if labels is None else int(labels.sum()),
        roc_auc=float(roc_auc_score(labels, scores)) if has_both else None,
        average_precision=float(average_precision_score(labels, scores)) if has_both else None,
        sweep=sweep(scores, labels, start.threshold),
        start=start,
        histogram=_histogram(scores, labels, start.threshold),
        ranked=ranked,
        features=features,
        points=points,
        card=model_card(detector),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        seconds=seconds,
    )


def _histogram(scores: Array, labels: Array | None, threshold: float) -> Histogram:
    edges, n_beyond = score_bins(scores, threshold)
    binned = np.minimum(scores, edges[-1])
    is_outlier = np.zeros(len(scores), bool) if labels is None else labels == 1
    inliers, outliers = (np.histogram(binned[of], edges)[0] for of in (~is_outlier, is_outlier))
    return Histogram(
        edges=np.asarray(edges),
        inliers=inliers,
        outliers=outliers,
        n_beyond=n_beyond,
        low=min(edges[0], threshold),
        high=max(edges[-1], threshold),
    )
