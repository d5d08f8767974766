"""How many rows lie above each threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Up to so many rows the counts of every threshold are kept, beyond those of so many thresholds.
MAX_STEPS = 10_000


@dataclass(frozen=True)
class Sweep:
    """Exact numbers of rows above thresholds, for all rows that were scored.

    Attributes
    ----------
    thresholds : ndarray of shape (n_steps,)
        Scores that occur, ascending.
    n_above : ndarray of shape (n_steps,)
        Rows with a score above each of them.
    n_outliers_above : ndarray of shape (n_steps,) or None
        Outliers by the true labels among them.
    is_complete : bool
        Whether all scores that occur are there, so that thresholds in between are known, too.
    """

    thresholds: Array
    n_above: Array
    n_outliers_above: Array | None
    is_complete: bool


def sweep(scores: Array, labels: Array | None, threshold: float) -> Sweep:
    """Count rows above thresholds.

    Of more scores than ``MAX_STEPS`` the highest half of so many is kept, where thresholds lie,
    others spread evenly over the ranks, and the one by which ``threshold`` flags the same rows.

    Parameters
    ----------
    scores : ndarray of shape (n,)
    labels : ndarray of shape (n,) or None
        True labels of 0 and 1.
    threshold : float

    Returns
    -------
    Sweep

    Examples
    --------
    >>> counted = sweep(np.array([1.0, 3.0, 2.0, 3.0]), np.array([0, 1, 0, 0]), 2.5)
    >>> counted.thresholds, counted.n_above, counted.n_outliers_above
    (array([1., 2., 3.]), array([3, 2, 0]), array([1, 1, 0]))
    """
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    # where the last of equal scores stands
    last = np.flatnonzero(np.append(ascending[1:] > ascending[:-1], True))
    n_scores = len(last)
    if n_scores > MAX_STEPS:
        half = MAX_STEPS // 2
        below = np.linspace(0, n_scores - half - 1, half - 1).astype(int)
        at_threshold = np.searchsorted(ascending[last], threshold, side="right") - 1
        steps = np.concatenate(
            [below, [max(at_threshold, 0)], np.arange(n_scores - half, n_scores)]
        )
        last = last[np.unique(steps)]
    n_outliers_above = None
    if labels is not None:
        n_up_to = np.cumsum(labels[order])
        n_outliers_above = n_up_to[-1] - n_up_to[last]
    return Sweep(
        thresholds=ascending[last],
        n_above=len(scores) - 1 - last,
        n_outliers_above=n_outliers_above,
        is_complete=n_scores <= MAX_STEPS,
    )


@dataclass(frozen=True)
class Start:
    """The threshold that the page begins with.

    Attributes
    ----------
    threshold : float
        On the scale of the scores.
    n_differing : int
        Rows that the detector labels otherwise. 0 unless its rule for thresholds is none on the
        score, so that no threshold gives its labels.
    """

    threshold: float
    n_differing: int


def start_of(scores: Array, predicted: Array, threshold: float) -> Start:
    """The threshold on the score that gives a detector's labels, or as many outliers.

    Parameters
    ----------
    scores : ndarray of shape (n,)
    predicted : ndarray of shape (n,)
        Labels by the detector.
    threshold : float
        The detector's ``threshold_``, which some thresholders give on a scale of their own.

    Returns
    -------
    Start

    Examples
    --------
    >>> start_of(np.array([1.0, 3.0, 2.0]), np.array([0, 1, 0]), threshold=0.5)
    Start(threshold=2.0, n_differing=0)
    """
    if not np.array_equal(scores > threshold, predicted == 1):
        n_below = int((predicted == 0).sum())
        ascending = np.sort(scores)
        lowest = np.nextafter(ascending[0], -np.inf)
        threshold = ascending[n_below - 1] if n_below else lowest
    differing = (scores > threshold) != (predicted == 1)
    return Start(float(threshold), int(differing.sum()))
