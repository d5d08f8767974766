"""Fits detectors, scores rows and measures how well and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pyod.models.base import BaseDetector
from pyod.utils.utility import precision_n_scores
from sklearn.metrics import average_precision_score, roc_auc_score

from pyod_ae_plugin.benchmarking.datasets import Dataset
from pyod_ae_plugin.benchmarking.protocols import Protocol
from pyod_ae_plugin.plugins.manager import create_supported

METRICS = ("roc_auc", "average_precision", "precision_at_n")


@dataclass(frozen=True)
class Result:
    """One detector on one data set with one seed.

    Attributes
    ----------
    detector, dataset : str
    seed : int
    n_train, n_features : int
        Shape of the training rows; of the data set where it could not be split.
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
    protocol: Protocol,
    n_seeds: int,
) -> Iterator[Result]:
    """Evaluate every detector on every data set with every seed.

    Parameters
    ----------
    datasets : iterable of Dataset
        What ``protocol.draw`` gave.
    detectors : sequence of str
        Names.
    create : callable
        Creates a detector of a name and keywords.
    protocol : Protocol
    n_seeds : int
        The seeds are ``protocol.first_seed`` and those that follow it.

    Yields
    ------
    Result
    """
    for dataset in datasets:
        for seed in range(protocol.first_seed, protocol.first_seed + n_seeds):
            for name in detectors:
                yield evaluate(name, create, dataset, seed, protocol)


def evaluate(
    name: str,
    create: Callable[..., BaseDetector],
    dataset: Dataset,
    seed: int,
    protocol: Protocol,
) -> Result:
    """Evaluate one detector on one data set with one seed; see :func:`run`."""
    n_train, n_features = dataset.X.shape
    try:
        X_train, X_test, y_test = protocol.scaled_split(dataset, seed)
        n_train = len(X_train)
        settings = {"random_state": seed, "verbose": 0, **protocol.settings}
        detector = create_supported(partial(create, name), n_features, **settings)
        began = time.perf_counter()
        detector.fit(X_train)
        fitted = time.perf_counter()
        scores = detector.decision_function(X_test)
        scored = time.perf_counter()
        if protocol.judges_training_rows:
            scores = detector.decision_scores_
        return Result(
            name,
            dataset.name,
            seed,
            n_train,
            n_features,
            roc_auc=float(roc_auc_score(y_test, scores)),
            average_precision=float(average_precision_score(y_test, scores)),
            precision_at_n=float(precision_n_scores(y_test, scores)),
            fit_seconds=fitted - began,
            score_seconds=scored - fitted,
        )
    except Exception as error:  # a detector that fails is a result, not the end of the benchmark
        what = f"{type(error).__name__}: {error}"
        return Result(name, dataset.name, seed, n_train, n_features, error=what)
