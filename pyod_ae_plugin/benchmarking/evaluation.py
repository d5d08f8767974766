"""Runs of detectors on data sets: quality of the scores, and time."""

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
    """Result of one detector on one data set with one seed; figures are NaN after an error."""

    detector: str
    dataset: str
    seed: int
    n_train: int  # rows of the data set if it could not be split
    n_features: int
    roc_auc: float = float("nan")
    average_precision: float = float("nan")
    precision_at_n: float = float("nan")  # n is the number of outliers
    fit_seconds: float = float("nan")
    score_seconds: float = float("nan")  # of decision_function on the test rows
    error: str = ""  # type and message of the exception that ended the run


def run(
    datasets: Iterable[Dataset],
    detectors: Sequence[str],
    create: Callable[..., BaseDetector],
    protocol: Protocol,
    n_seeds: int,
) -> Iterator[Result]:
    """Evaluate every detector on every data set, which ``protocol.draw`` returned, with every seed.

    ``create`` takes a name and keyword arguments and returns a detector. The seeds are
    ``protocol.first_seed`` and the ``n_seeds - 1`` that follow it. Each result is yielded as its
    run ends; a run that fails yields one with ``error`` set.
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
        params = {"random_state": seed, "verbose": 0, **protocol.params}
        detector = create_supported(partial(create, name), n_features, **params)
        start = time.perf_counter()
        detector.fit(X_train)
        fitted = time.perf_counter()
        scores = detector.decision_function(X_test)
        scored = time.perf_counter()
        if protocol.evaluates_training_scores:
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
            fit_seconds=fitted - start,
            score_seconds=scored - fitted,
        )
    except Exception as error:  # a failed detector is reported and does not end the benchmark
        message = f"{type(error).__name__}: {error}"
        return Result(name, dataset.name, seed, n_train, n_features, error=message)
