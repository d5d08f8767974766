"""Scoring and training on Ray, on a cluster of this machine, beside the local engine.

    python benchmarks/scale.py [--rows 100000 1000000] [--folder DIR] [--only scoring|training]
                               [--data DIR]

Scores Parquet files of 30 float64 features by the local engine and by one and two workers, and
fits detectors to data sets, locally with three seeds and by one and two workers: the first of those
inside scikit-learn, or those in a folder, such as ADBench's, of which at most 6,000 rows are drawn.
Prints two tables: seconds, rows a second and what Ray adds for scoring; ROC AUC and seconds for
training. Workers are started for each run, and their start counts.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import ray
import ray.data
from sklearn.metrics import roc_auc_score

from pyod_ae_plugin import AutoEncoder, load_detector
from pyod_ae_plugin.benchmarking.datasets import Dataset, folder_datasets, shipped_datasets
from pyod_ae_plugin.benchmarking.protocols import PROTOCOLS
from pyod_ae_plugin.integrations.ray import fit_dataset, score_dataset
from pyod_ae_plugin.scorefiles import score_table
from pyod_ae_plugin.tables import read_table

N_FEATURES, FILE_ROWS, N_DATASETS, MOST_ROWS = 30, 100_000, 4, 6_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 4_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=["scoring", "training"])
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.only != "training":
            scoring(arguments.rows, Path(folder))
        if arguments.only != "scoring":
            training(arguments.data)
    ray.shutdown()


def scoring(sizes: list[int], folder: Path) -> None:
    X = np.random.default_rng(0).normal(size=(10_000, N_FEATURES))
    AutoEncoder(device="cpu", epoch_num=5, verbose=0).fit(X).save(folder / "model")
    detector = load_detector(folder / "model", "cpu")
    print("| Rows | Engine | Seconds | Rows a second | Seconds beside local |")
    print("|---|---|---|---|---|")
    for n_rows in sizes:
        path = written(folder / f"{n_rows}", n_rows)
        began = time.perf_counter()
        table, output = read_table(path), folder / "local.parquet"
        threshold = detector.threshold_
        score_table(table, detector.decision_function, threshold, output, folder / "model", "cpu")
        local = time.perf_counter() - began
        print(f"| {n_rows:,} | local | {local:.1f} | {n_rows / local:,.0f} | |")
        for workers in (1, 2):
            began = time.perf_counter()
            rows = ray.data.read_parquet(str(path))
            scored = score_dataset(detector, rows, workers=workers)
            scored.write_parquet(str(folder / f"scores-{n_rows}-{workers}"))
            seconds = time.perf_counter() - began
            figures = f"{seconds:.1f} | {n_rows / seconds:,.0f} | {seconds - local:+.1f}"
            print(f"| {n_rows:,} | Ray, {workers} | {figures} |", flush=True)


def written(folder: Path, n_rows: int) -> Path:
    """A folder of Parquet files."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i, start in enumerate(range(0, n_rows, FILE_ROWS)):
        X = rng.normal(size=(min(FILE_ROWS, n_rows - start), N_FEATURES))
        columns = {f"f{j}": X[:, j] for j in range(N_FEATURES)}
        parquet.write_table(pa.table(columns), folder / f"{i:05}.parquet")
    return folder


def datasets(folder: Path | None) -> Iterable[Dataset]:
    if folder is None:
        return itertools.islice(shipped_datasets(), N_DATASETS)
    return map(PROTOCOLS["outlier"](MOST_ROWS).draw, folder_datasets(folder))


def training(folder: Path | None) -> None:
    print("| Data set | Rows | Local, three seeds | Ray, 1 worker | Ray, 2 workers | Seconds |")
    print("|---|---|---|---|---|---|")
    for dataset in datasets(folder):
        order = np.random.default_rng(0).permutation(len(dataset.X))
        X, y = dataset.X[order], dataset.y[order]
        local = [auc(y, detector(seed).fit(X)) for seed in (0, 1, 2)]
        rows, seconds, remote = ray.data.from_numpy(X), [], []
        for workers in (1, 2):
            began = time.perf_counter()
            remote.append(auc(y, fit_dataset(detector(0), rows, workers=workers)))
            seconds.append(time.perf_counter() - began)
        seeds = f"{min(local):.3f} to {max(local):.3f}"
        figures = " | ".join(f"{value:.3f}" for value in remote)
        took = " and ".join(f"{value:.0f}" for value in seconds)
        print(f"| {dataset.name} | {len(X)} | {seeds} | {figures} | {took} |", flush=True)


def detector(seed: int) -> AutoEncoder:
    return AutoEncoder(device="cpu", random_state=seed, verbose=0)


def auc(y: np.ndarray, fitted: AutoEncoder) -> float:
    return float(roc_auc_score(y, fitted.decision_scores_))


if __name__ == "__main__":
    main()
