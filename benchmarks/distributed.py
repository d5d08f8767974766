"""How well detectors fitted on Ray detect, beside the same ones fitted locally.

    python benchmarks/distributed.py DIR [--seeds 3] [--only NAME ...]

DIR holds ADBench's ``.npz`` files. By the outlier protocol of ``pyod-ae bench``, on the sets of
DIR of at most 500 features, at most 6,000 rows of each, in random order. Each detector is fitted
with the same seeds locally and by two workers of this machine. Prints ROC AUC of each set, mean
over the seeds, then the mean over the sets and what Ray adds to it, with its standard error.
Writes every run (``distributed.csv``), versions and machine (``.json``) to ``benchmarks/results``.
With ``--only`` some detectors are measured, and what earlier runs wrote of the others is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import ray
import ray.data
from figures import RESULTS
from pyod.models.base import BaseDetector
from quality import MOST_FEATURES, MOST_ROWS, earlier_runs
from scale import start_ray
from sklearn.metrics import average_precision_score, roc_auc_score
from tables import table

from pyod_ae_plugin import create_detector
from pyod_ae_plugin.benchmarking.datasets import Dataset, folder_datasets
from pyod_ae_plugin.benchmarking.evaluation import OutlierProtocol, Result
from pyod_ae_plugin.benchmarking.summary import environment, write_results
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.integrations.ray import fit_dataset

Fit = Callable[[BaseDetector, Array], BaseDetector]

WORKERS = 2
DETECTORS = ("AutoEncoder", "VAE", "AutoEncoderEnsemble")


def on_ray(spread: str) -> Fit:
    """Fit by workers that share out rows, or members."""
    return lambda detector, X: fit_dataset(
        detector, ray.data.from_numpy(X), workers=WORKERS, spread=spread
    )


def fits_of(name: str) -> dict[str, Fit]:
    """How a detector is fitted, by what the results call it."""
    fits: dict[str, Fit] = {name: lambda detector, X: detector.fit(X)}
    for spread in ("rows", "members") if name == "AutoEncoderEnsemble" else ("rows",):
        fits[f"{name}, Ray, {spread} shared out"] = on_ray(spread)
    return fits


def in_random_order(dataset: Dataset) -> Dataset:
    order = np.random.default_rng(0).permutation(len(dataset.X))
    return Dataset(dataset.name, dataset.X[order], dataset.y[order])


def measured(name: str, detector: BaseDetector, fit: Fit, dataset: Dataset, seed: int) -> Result:
    X, _, y = OutlierProtocol().scaled_split(dataset, seed)
    began = time.perf_counter()
    scores = fit(detector, X).decision_scores_
    seconds = time.perf_counter() - began
    auc, precision = roc_auc_score(y, scores), average_precision_score(y, scores)
    return Result(name, dataset.name, seed, *X.shape, auc, precision, fit_seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="ADBench's .npz files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=DETECTORS, default=DETECTORS)
    arguments = parser.parse_args()
    path = RESULTS / "distributed.csv"
    fits = {name: fits_of(name) for name in DETECTORS}
    order = [how for name in DETECTORS for how in fits[name]]
    kept = [how for name in DETECTORS if name not in arguments.only for how in fits[name]]
    results = [r for r in earlier_runs(path) if r.detector in kept]
    start_ray(WORKERS)
    source = (d for d in folder_datasets(arguments.folder) if d.X.shape[1] <= MOST_FEATURES)
    datasets = [in_random_order(d.at_most(MOST_ROWS, 0)) for d in source]
    for name in arguments.only:
        for dataset, seed, (how, fit) in product(
            datasets, range(arguments.seeds), fits[name].items()
        ):
            detector = create_detector(name, random_state=seed, verbose=0, device="cpu")
            results.append(measured(how, detector, fit, dataset, seed))
            last = f"{results[-1].roc_auc:.3f}, {results[-1].fit_seconds:.1f} s"
            print(f"{how}, {dataset.name}, seed {seed}: {last}", flush=True)
        results.sort(key=lambda result: order.index(result.detector))
        write_results(results, path, OutlierProtocol.name)
    described = environment(OutlierProtocol.name)
    described["versions"]["ray"] = ray.__version__
    path.with_suffix(".json").write_text(json.dumps(described, indent=1))
    ray.shutdown()
    print(table("distributed"))


if __name__ == "__main__":
    main()
