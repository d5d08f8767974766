"""What each default of ours is worth, beside PyOD's detectors with theirs.

    python benchmarks/defaults.py DIR [--seeds 3]

DIR holds ADBench's ``.npz`` files. Prints mean ROC AUC over the data sets and its standard
deviation over the seeds, by the outlier and the novelty protocol of ``pyod-ae bench``, for our
defaults, for our defaults with one of them changed, and for PyOD's.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pyod.models.base import BaseDetector

from pyod_ae_plugin import create_detector
from pyod_ae_plugin.benchmarking.datasets import folder_datasets
from pyod_ae_plugin.benchmarking.evaluation import run

NORM_AND_DROPOUT = {"batch_norm": True, "dropout_rate": 0.2}
DETECTORS = {
    "pyod.AutoEncoder": partial(create_detector, "pyod.AutoEncoder"),
    "AutoEncoder": partial(create_detector, "AutoEncoder"),
    "AutoEncoder trim=0": partial(create_detector, "AutoEncoder", trim=0),
    "AutoEncoder trim=0.5": partial(create_detector, "AutoEncoder", trim=0.5),
    "AutoEncoder batch_size=32": partial(create_detector, "AutoEncoder", batch_size=32),
    "AutoEncoder lr=1e-3": partial(create_detector, "AutoEncoder", lr=1e-3),
    "AutoEncoder norm, dropout": partial(create_detector, "AutoEncoder", **NORM_AND_DROPOUT),
    "AutoEncoder norm, dropout, trim=0": partial(
        create_detector, "AutoEncoder", trim=0, **NORM_AND_DROPOUT
    ),
    "pyod.VAE": partial(create_detector, "pyod.VAE"),
    "VAE": partial(create_detector, "VAE"),
    "VAE trim=0": partial(create_detector, "VAE", trim=0),
    "VAE beta=0": partial(create_detector, "VAE", beta=0),
    "VAE norm, dropout": partial(create_detector, "VAE", **NORM_AND_DROPOUT),
}


def create(name: str, **settings: Any) -> BaseDetector:
    """Create one of DETECTORS."""
    return DETECTORS[name](**settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="names that hold this word")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-rows", type=int, default=6_000)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    datasets = [d.at_most(arguments.max_rows, 0) for d in folder_datasets(arguments.folder)]
    print(f"{len(datasets)} data sets, {arguments.seeds} seeds, at most {arguments.max_rows} rows")
    print(f"{'mean ROC AUC':36} {'outlier':>14} {'novelty':>14}")
    for name in [name for name in DETECTORS if arguments.only in name]:
        cells = []
        for novelty in (False, True):
            by_seed = defaultdict(list)
            for result in run(
                datasets,
                [name],
                lambda n, **settings: DETECTORS[n](**settings),
                arguments.seeds,
                novelty,
            ):
                if result.error:
                    raise RuntimeError(f"{name} on {result.dataset}: {result.error}")
                by_seed[result.seed].append(result.roc_auc)
            means = [np.mean(aucs) for aucs in by_seed.values()]
            cells.append(f"{np.mean(means):.4f} ± {np.std(means):.4f}")
        print(f"{name:36} {cells[0]:>14} {cells[1]:>14}", flush=True)


if __name__ == "__main__":
    main()
