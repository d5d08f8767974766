"""Fits detectors, scores rows and measures how well and how fast, by one of two protocols."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyod.models.base import BaseDetector
from pyod.utils.utility import precision_n_scores
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from pyod_ae_plugin.benchmarking.datasets import Array, Dataset

METRICS = ("roc_auc", "average_precision", "precision_at_n")


@dataclass(frozen=True)
class Result:
    """One detector on one data set with one seed.

    Attributes
    ----------
    detector, dataset : str
    seed : int
    n_train, n_features : int
    roc_auc, average_precision, precision_at_n : float
        How well the scores rank the outliers, n being their number; NaN after an error.
    fit_seconds, score_seconds : float
        ``fit`` on the training rows; ``decision_function`` on the rows that are judged.
    error : str
        What went wrong, or empty.
    """

    detector: str
    dataset: str
    seed: int
    n_train: int
    n_features: int
    roc_auc: float = float("nan")
    average_precision: float = float("nan")
    precision_at_n: float = float("nan")
    fit_seconds: float = float("nan")
    score_seconds: float = float("nan")
    error: str = ""


def run(
    datasets: Iterable[Dataset],
    detectors: Sequence[str],
    create: Callable[..., BaseDetector],
    seeds: int,
    novelty: bool,
) -> Iterator[Result]:
    """Evaluate every detector on every data set with every seed.

    Parameters
    ----------
    datasets : iterable of Dataset
    detectors : sequence of str
        Names.
    create : callable
        Creates a detector of a name and keywords.
    seeds : int
        Seeds 0 to ``seeds - 1`` are used.
    novelty : bool
        If False, the outlier protocol: fit on all rows, judge the scores of the same rows. If
        True, the novelty protocol: fit on half of the inliers, judge the other half and all
        outliers.

    Yields
    ------
    Result
    """
    for dataset in datasets:
        for seed in range(seeds):
            for name in detectors:
                yield evaluate(name, create, dataset, seed, novelty)


def evaluate(
    name: str, create: Callable[..., BaseDetector], dataset: Dataset, seed: int, novelty: bool
) -> Result:
    """Evaluate one detector on one data set with one seed; see :func:`run`.

    Features are standardised on the training rows, for all detectors alike, since those that
    measure distances depend on it.
    """
    X_train, X_test, y_test = _split(dataset, seed) if novelty else (dataset.X,) * 2 + (dataset.y,)
    scaler = StandardScaler().fit(X_train)
    X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)
    described = (name, dataset.name, seed, len(X_train), X_train.shape[1])
    try:
        detector = _prepared(create, name, dataset, seed, novelty)
        began = time.perf_counter()
        detector.fit(X_train)
        fitted = time.perf_counter()
        scores = detector.decision_function(X_test)
        scored = time.perf_counter()
        if not novelty:
            scores = detector.decision_scores_
        return Result(
            *described,
            roc_auc=float(roc_auc_score(y_test, scores)),
            average_precision=float(average_precision_score(y_test, scores)),
            precision_at_n=float(precision_n_scores(y_test, scores)),
            fit_seconds=fitted - began,
            score_seconds=scored - fitted,
        )
    except Exception as error:  # a detector that fails is a result, not the end of the benchmark
        return Result(*described, error=f"{type(error).__name__}: {error}")


def _split(dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
    """Half of the inliers to train on; the other half and the outliers to judge."""
    inliers = np.random.default_rng(seed).permutation(np.flatnonzero(dataset.y == 0))
    half = len(inliers) // 2
    judged = np.concatenate([inliers[half:], np.flatnonzero(dataset.y == 1)])
    return dataset.X[inliers[:half]], dataset.X[judged], dataset.y[judged]


def _prepared(
    create: Callable[..., BaseDetector], name: str, dataset: Dataset, seed: int, novelty: bool
) -> BaseDetector:
    """Create a detector with what the benchmark sets, where it has it, and its own defaults."""
    settings: dict[str, Any] = {"random_state": seed, "verbose": 0}
    if novelty:
        settings["novelty"] = True
    needed: dict[str, Any] = {}
    try:
        detector = create(name)
    except TypeError:  # a few of PyOD's detectors must be told the number of features
        needed["n_features"] = dataset.X.shape[1]
        detector = create(name, **needed)
    known = detector.get_params(deep=False)
    # Anew, since PyOD's deep detectors take their seed when they are created.
    return create(name, **needed, **{k: v for k, v in settings.items() if k in known})
