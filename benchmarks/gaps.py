"""What missing values cost: cells removed at random, and hidden or filled by medians.

    python benchmarks/gaps.py ADBENCH [--share 0.1] [--seeds 1]

Removes a share of the cells of each data set, in the rows to fit to and in those to evaluate on,
and compares three detectors of a kind by ROC AUC: fitted to the complete rows, fitted with
``missing='mask'``, and fitted to rows whose gaps are filled by the medians of the training rows.
Outliers are among the training rows. Writes the figures to ``benchmarks/results`` (``gaps.csv``,
``.json``).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
from figures import RESULTS, Figures
from sklearn.impute import SimpleImputer
from sklearn.metrics import roc_auc_score

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.benchmarking.datasets import Dataset, folder_datasets
from pyod_ae_plugin.benchmarking.summary import environment

DETECTORS = (AutoEncoder, VAE, AutoEncoderEnsemble)
WAYS = ("complete", "hidden", "medians")
MOST_FEATURES, MOST_ROWS = 500, 5_000


def auc(Detector: type, dataset: Dataset, way: str, share: float, seed: int) -> float:
    """ROC AUC of the scores of all rows, with gaps or without."""
    X, rng = dataset.X.copy(), np.random.default_rng(seed)
    gaps = rng.random(X.shape) < share
    params = {"verbose": 0, "device": "cpu", "random_state": seed}
    if way != "complete":
        X[gaps] = np.nan
        X = X[:, ~np.isnan(X).all(axis=0)]
    if way == "hidden":
        params["missing"] = "mask"
    if way == "medians":
        X = SimpleImputer(strategy="median").fit_transform(X)
    return float(roc_auc_score(dataset.y, Detector(**params).fit(X).decision_scores_))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="ADBench's .npz files")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    figures = Figures()
    datasets = [d for d in folder_datasets(options.folder) if d.X.shape[1] <= MOST_FEATURES]
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for dataset, seed in product(datasets, range(options.seeds)):
        rows = dataset.at_most(MOST_ROWS, seed=0)
        for Detector, way in product(DETECTORS, WAYS):
            name = Detector.__name__
            found[name, way].append(auc(Detector, rows, way, options.share, seed))
            figures.add(f"{name}, {way}, {rows.name}, seed {seed}", found[name, way][-1])
    for Detector in DETECTORS:
        aucs = {way: np.array(found[Detector.__name__, way]) for way in WAYS}
        for way in WAYS:
            figures.add(f"{Detector.__name__}, {way}, mean", float(aucs[way].mean()))
        for a, b in (("hidden", "complete"), ("hidden", "medians")):
            difference = aucs[a] - aucs[b]
            by_set = difference.reshape(len(datasets), options.seeds).mean(axis=1)
            error = float(by_set.std(ddof=1) / len(by_set) ** 0.5)
            figures.add(f"{Detector.__name__}, {a} less {b}", float(by_set.mean()))
            figures.add(f"{Detector.__name__}, {a} less {b}, standard error", error)
    figures.write(RESULTS / "gaps.csv", environment("gaps"))


if __name__ == "__main__":
    main()
