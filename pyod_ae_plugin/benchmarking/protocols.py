"""Protocols: which rows of a labelled data set are fitted to, and which are judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from pyod_ae_plugin.benchmarking.datasets import Array, Dataset


@dataclass(frozen=True)
class Protocol(ABC):
    """How a data set is drawn, split and scaled.

    Parameters
    ----------
    max_rows : int, default=10_000
        No more rows than this are drawn from a data set.

    Attributes
    ----------
    name : str
    first_seed, n_seeds : int
        Seeds go up from the first; so many are used unless another number is asked for.
    scaler : type
        Scales the features, for all detectors alike, since those that measure distances depend
        on it. It is fitted on the training rows.
    settings : mapping
        Parameters that are set on detectors that have them.
    judges_training_rows : bool
        Whether ``decision_scores_`` are judged, rather than scores of other rows.
    """

    max_rows: int = 10_000

    name: ClassVar[str]
    first_seed: ClassVar[int] = 0
    n_seeds: ClassVar[int] = 1
    scaler: ClassVar[type] = StandardScaler
    settings: ClassVar[Mapping[str, Any]] = {}
    judges_training_rows: ClassVar[bool] = False

    def draw(self, dataset: Dataset) -> Dataset:
        """Draw the rows that all seeds share, the share of outliers kept."""
        return dataset.at_most(self.max_rows, seed=0)

    @abstractmethod
    def split(self, dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
        """Split what ``draw`` gave into rows to fit to, rows to judge, and labels of the latter."""

    def scaled_split(self, dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
        """Split as ``split`` does, features scaled on the rows to fit to."""
        X_train, X_test, y_test = self.split(dataset, seed)
        scaler = self.scaler().fit(X_train)
        return scaler.transform(X_train), scaler.transform(X_test), y_test


@dataclass(frozen=True)
class OutlierProtocol(Protocol):
    """Fit to all rows, judge the scores of the same rows."""

    name = "outlier"
    judges_training_rows = True

    def split(self, dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
        """All rows, both times."""
        return dataset.X, dataset.X, dataset.y


@dataclass(frozen=True)
class NoveltyProtocol(Protocol):
    """Fit to half of the inliers, judge the other half and all outliers."""

    name = "novelty"
    settings: ClassVar[Mapping[str, Any]] = {"novelty": True}

    def split(self, dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
        """Half of the inliers; the other half and the outliers."""
        inliers = np.random.default_rng(seed).permutation(np.flatnonzero(dataset.y == 0))
        half = len(inliers) // 2
        judged = np.concatenate([inliers[half:], np.flatnonzero(dataset.y == 1)])
        return dataset.X[inliers[:half]], dataset.X[judged], dataset.y[judged]


@dataclass(frozen=True)
class AdBenchProtocol(Protocol):
    """Fit to 70 % of the rows, outliers among them, judge the others, as ADBench does.

    The same seed gives the same rows as the unsupervised mode of ADBench 0.1.11: rows are drawn
    anew for each seed and without regard to labels, the split is stratified, and features are
    scaled to [0, 1].

    Parameters
    ----------
    max_rows : int, default=10_000
    duplicates : bool, default=False
        Whether data sets of fewer than 1,000 rows are drawn from, with replacement, until there
        are 1,000, as ADBench does by default. Copies of one row then stand on both sides of the
        split.

    References
    ----------
    .. [1] Han, S., Hu, X., Huang, H., Jiang, M., Zhao, Y. ADBench: Anomaly detection benchmark.
       NeurIPS 2022.
    """

    name = "adbench"
    first_seed = 1
    n_seeds = 3
    scaler = MinMaxScaler
    least_rows: ClassVar[int] = 1_000

    duplicates: bool = False

    def draw(self, dataset: Dataset) -> Dataset:
        """All rows: each seed draws its own."""
        return dataset

    def split(self, dataset: Dataset, seed: int) -> tuple[Array, Array, Array]:
        """70 % and 30 % of the rows, the share of outliers the same in both."""
        n_rows = len(dataset.X)
        # The legacy generator, and one for all draws, since ADBench seeds NumPy's global one.
        rng = np.random.RandomState(seed)
        drawn = np.arange(n_rows)
        if self.duplicates and n_rows < self.least_rows:
            drawn = rng.choice(n_rows, self.least_rows, replace=True)
        elif n_rows > self.max_rows:
            drawn = rng.choice(n_rows, self.max_rows, replace=False)
        y = dataset.y[drawn]
        train, test = train_test_split(drawn, test_size=0.3, stratify=y, random_state=rng)
        return dataset.X[train], dataset.X[test], dataset.y[test]


PROTOCOLS: Mapping[str, type[Protocol]] = {
    protocol.name: protocol for protocol in (OutlierProtocol, NoveltyProtocol, AdBenchProtocol)
}
