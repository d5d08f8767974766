"""Protocols: which rows of a labelled data set a detector is fitted to and evaluated on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from pyod_ae_plugin.benchmarking.datasets import Dataset
from pyod_ae_plugin.fitted import Array


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
    min_rows: ClassVar[int] = 1_000

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
        if self.duplicates and n_rows < self.min_rows:
            drawn = rng.choice(n_rows, self.min_rows, replace=True)
        elif n_rows > self.max_rows:
            drawn = rng.choice(n_rows, self.max_rows, replace=False)
        y = dataset.y[drawn]
        train, test = train_test_split(drawn, test_size=0.3, stratify=y, random_state=rng)
        return dataset.X[train], dataset.X[test], dataset.y[test]


PROTOCOLS: Mapping[str, type[Protocol]] = {
    protocol.name: protocol for protocol in (OutlierProtocol, NoveltyProtocol, AdBenchProtocol)
}
