"""Which rows a page shows, and how they are taken from rows that come in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def highest(scores: Array, n: int) -> Array:
    """Indices of the n highest scores, the highest first."""
    candidates = np.arange(len(scores))
    if n < len(scores):
        candidates = np.sort(np.argpartition(-scores, n)[:n])
    ranked: Array = candidates[np.argsort(-scores[candidates], kind="stable")]
    return ranked


def half_highest(scores: Array, n: int) -> Array:
    """Ascending indices of n rows: those of the highest scores, and as many others at random.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,)
    n : int
        If there are no more rows, all of them.

    Returns
    -------
    ndarray of shape (min(n, n_rows),)
        The same each time.

    Examples
    --------
    >>> half_highest(np.arange(1000.0), 4)[-2:]
    array([998, 999])
    """
    if n >= len(scores):
        return np.arange(len(scores))
    top = highest(scores, n // 2)
    others = np.delete(np.arange(len(scores)), top)
    drawn = np.random.default_rng(0).choice(others, n - len(top), replace=False)
    return np.sort(np.concatenate([top, drawn]))


def selected(batches: Iterable[Array], indices: Array) -> Iterator[tuple[Array, Array]]:
    """Rows by ascending indices over all batches: pieces of the indices, and their rows.

    Examples
    --------
    >>> [rows.tolist() for _, rows in selected([np.eye(2), np.ones((3, 2))], np.array([1, 4]))]
    [[[0.0, 1.0]], [[1.0, 1.0]]]
    """
    start = 0
    for batch in batches:
        stop = start + len(batch)
        first, last = np.searchsorted(indices, [start, stop])
        if last > first:
            yield indices[first:last], batch[indices[first:last] - start]
        start = stop
