"""Runs of detectors on data sets, and protocols: the rows to fit to and those to evaluate on."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from pyod.models.base import BaseDetector
from pyod.utils.utility import precision_n_scores
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from pyod_ae_plugin.benchmarking.datasets import Dataset
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plugins.manager import create_supported

METRICS = ("roc_auc", "average_precision", "precision_at_n")

# ---------------------------------------------------------------- protocols


@dataclass(frozen=True)
class Protocol(ABC):
    """How a data set is sampled, split and scaled.

    Features are scaled for all detectors alike, because detectors that measure distances depend on
    it.
    """

    max_rows: int = 10_000  # drawn from a data set at most

    name: ClassVar[str]
    first_seed: ClassVar[int] = 0
    n_seeds: ClassVar[int] = 1  # default number of seeds
    scaler: ClassVar[type] = StandardScaler  # fitted on the training rows
    params: ClassVar[Mapping[str, Any]] = {}  # set on detectors that have them
    evaluates_training_scores: ClassVar[bool] = False  # decision_scores_, not scores of other rows

    def draw(self, dataset: Dataset) -> Dataset:
        """Draw the rows that all seeds share, stratified by label."""
        return dataset.at_most(self.max_rows, seed=0)

    @abstractmethod
    def split(self, dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
        """Training rows, test rows and test labels, from the rows that ``draw`` returned."""

    def scaled_split(self, dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
        """Split the rows, and scale them as the training rows are."""
        X_train, X_test, y_test = self.split(dataset, seed)
        scaler = self.scaler().fit(X_train)
        return scaler.transform(X_train), scaler.transform(X_test), y_test


@dataclass(frozen=True)
class OutlierProtocol(Protocol):
    """Fit to all rows; evaluate the scores of the same rows."""

    name = "outlier"
    evaluates_training_scores = True

    def split(self, dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
        """Return all rows as both training and test rows."""
        return dataset.X, dataset.X, dataset.y


@dataclass(frozen=True)
class NoveltyProtocol(Protocol):
    """Fit to half of the inliers; evaluate on the other half and all outliers."""

    name = "novelty"
    params: ClassVar[Mapping[str, Any]] = {"novelty": True}

    def split(self, dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
        """Return a random half of the inliers, and the other half with the outliers."""
        inliers = np.random.default_rng(seed).permutation(np.flatnonzero(dataset.y == 0))
        half = len(inliers) // 2
        test = np.concatenate([inliers[half:], np.flatnonzero(dataset.y == 1)])
        return dataset.X[inliers[:half]], dataset.X[test], dataset.y[test]


@dataclass(frozen=True)
class AdBenchProtocol(Protocol):
    """Fit to 70 % of the rows, outliers included; evaluate on the other 30 %, as ADBench [1]_ does.

    The same seed gives the same rows as the unsupervised mode of ADBench 0.1.11. Rows are drawn
    for each seed separately and regardless of labels, the split is stratified, and features are
    scaled to [0, 1].

    References
    ----------
    .. [1] Han, S., Hu, X., Huang, H., Jiang, M., Zhao, Y. ADBench: Anomaly detection benchmark.
       NeurIPS 2022.
    """

    name = "adbench"
    first_seed = 1
    n_seeds = 3
    scaler = MinMaxScaler

    # Draw 1,000 rows with replacement from data sets that have fewer, as ADBench does by default.
    # Copies of a row can then be in both the training and the test rows.
    duplicates: bool = False

    def draw(self, dataset: Dataset) -> Dataset:
        """Return all rows, since each seed draws its own."""
        return dataset

    def split(self, dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
        """Return 70 % and 30 % of the rows, stratified by label."""
        n_rows = len(dataset.X)
        # ADBench seeds NumPy's global legacy generator once, and draws and splits with it.
        rng = np.random.RandomState(seed)
        drawn = np.arange(n_rows)
        if self.duplicates and n_rows < 1_000:
            drawn = rng.choice(n_rows, 1_000, replace=True)
        elif n_rows > self.max_rows:
            drawn = rng.choice(n_rows, self.max_rows, replace=False)
        y = dataset.y[drawn]
        train, test = train_test_split(drawn, test_size=0.3, stratify=y, random_state=rng)
        return dataset.X[train], dataset.X[test], dataset.y[test]


PROTOCOLS: Mapping[str, type[Protocol]] = {
    protocol.name: protocol for protocol in (OutlierProtocol, NoveltyProtocol, AdBenchProtocol)
}


# ---------------------------------------------------------------- runs


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
