"""Labelled data sets: those of scikit-learn, and folders of files in ADBench's format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import train_test_split

from pyod_ae_plugin.sources import Array, Source, npz_arrays

WINE_OUTLIERS = 10
DIGIT_OUTLIERS = 20


@dataclass(frozen=True)
class Dataset:
    """A table of rows X [n, n_features] with labels y [n]: 1 for outliers, 0 for inliers."""

    name: str
    X: Array
    y: Array

    def at_most(self, n_rows: int, seed: int) -> Dataset:
        """Draw at most ``n_rows`` rows, stratified by label; small sets are not changed."""
        if len(self.X) <= n_rows:
            return self
        try:
            X, _, y, _ = train_test_split(
                self.X, self.y, train_size=n_rows, stratify=self.y, random_state=seed
            )
        except ValueError as error:
            raise ValueError(
                f"{self.name}: cannot draw {n_rows} of {len(self.X)} rows: {error}"
            ) from error
        return Dataset(self.name, X, y)


def shipped_datasets(n_digits: int = 10) -> Iterator[Dataset]:
    """Yield data sets that ship with scikit-learn, turned into outlier detection problems.

    - breast_cancer: malignant cases are the outliers.
    - wine: the first ten wines of class 0 are the outliers, and all wines of classes 1 and 2 the
      inliers.
    - digits-0, digits-1 and so on: the images of one digit are the inliers, and twenty images of
      the other digits, evenly spaced over the data, the outliers.
    """
    X, y = load_breast_cancer(return_X_y=True)
    yield Dataset("breast_cancer", X, (y == 0).astype(int))
    X, y = load_wine(return_X_y=True)
    kept = np.concatenate([np.flatnonzero(y == 0)[:WINE_OUTLIERS], np.flatnonzero(y != 0)])
    yield Dataset("wine", X[kept], (y[kept] == 0).astype(int))
    X, y = load_digits(return_X_y=True)
    for digit in range(n_digits):
        others = np.flatnonzero(y != digit)
        outliers = others[:: len(others) // DIGIT_OUTLIERS][:DIGIT_OUTLIERS]
        kept = np.concatenate([outliers, np.flatnonzero(y == digit)])
        yield Dataset(f"digits-{digit}", X[kept], (y[kept] != digit).astype(int))


def folder_datasets(folder: Path) -> Iterator[Dataset]:
    """Yield the data sets of a folder of ``.npz`` files, ordered by number and name.

    The files hold arrays X [n, n_features] and y [n], 1 for outliers and 0 for inliers, as those of
    ADBench do. Raises FileNotFoundError if there are none, and ValueError if one has another form.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    paths = sorted(folder.glob("*.npz"), key=_number_then_name)
    if not paths:
        raise FileNotFoundError(
            f"There are no .npz files in {folder}; each data set is one with arrays X and y."
        )
    for path in paths:
        yield _load(path)


def _load(path: Path) -> Dataset:
    """Read and check one data set."""
    with Source.open(path, ".npz").reading():
        X, y = npz_arrays(path, ["X", "y"])
    y = y.ravel()
    if X.ndim != 2 or len(X) != len(y) or set(np.unique(y)) != {0, 1}:
        raise ValueError(
            f"{path} must hold X, numbers of shape [n, n_features], and y, labels of shape [n]: 0 "
            f"for inliers and 1 for outliers, of which both must occur; got X of shape {X.shape} "
            f"and {X.dtype}, and y of shape {y.shape} with values {np.unique(y)[:5]}."
        )
    return Dataset(path.stem, np.asarray(X, dtype=np.float64), y.astype(int))


def _number_then_name(path: Path) -> tuple[int, str]:
    """Sort key by which "2_a" comes before "10_b", and names without a number come first."""
    number = path.stem.partition("_")[0]
    return (int(number) if number.isdigit() else -1, path.stem)
