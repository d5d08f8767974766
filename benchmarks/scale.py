"""Scoring and fitting on Ray, on a cluster of this machine, beside the local engine.

    python benchmarks/scale.py [--rows 100000 1000000] [--folder DIR]

Parquet files of 30 float64 features are scored, files to files, and an ``AutoEncoder`` is fitted to
them, by the local engine and by one and two workers. Prints seconds, rows a second and what Ray
adds. Workers are started for each run, and their start counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import ray
import ray.data

from pyod_ae_plugin import AutoEncoder, load_detector
from pyod_ae_plugin.integrations.ray import fit_dataset, score_dataset, write_parquet
from pyod_ae_plugin.scorefiles import score_table
from pyod_ae_plugin.tables.reading import read_table

N_FEATURES, FILE_ROWS, WORKERS = 30, 100_000, (1, 2)
Runs = Iterator[tuple[str, Callable[[], object]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 4_000_000])
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    start_ray(max(WORKERS))
    print("| | Rows | Engine | Seconds | Rows a second | Seconds beside local |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        model = Path(folder) / "model"
        X = np.random.default_rng(0).normal(size=(10_000, N_FEATURES))
        new_detector().fit(X).save(model)
        for n_rows in arguments.rows:
            rows = written(Path(folder) / f"{n_rows}", n_rows)
            measure("scoring", n_rows, scoring(model, rows, Path(folder) / f"scores-{n_rows}"))
            measure("fit", n_rows, fitting(rows))
    ray.shutdown()


def start_ray(n_cpus: int) -> None:
    """A cluster of this machine that prints nothing between the figures."""
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=n_cpus, **options)
    ray.data.DataContext.get_current().enable_progress_bars = False


def measure(what: str, n_rows: int, runs: Runs) -> None:
    """Print the seconds of each run, and what they are above those of the first."""
    local = None
    for engine, run in runs:
        began = time.perf_counter()
        run()
        seconds = time.perf_counter() - began
        beside = "" if local is None else f"{seconds - local:+.1f}"
        local = local or seconds
        rate = f"{n_rows / seconds:,.0f}"
        print(f"| {what} | {n_rows:,} | {engine} | {seconds:.1f} | {rate} | {beside} |", flush=True)


def scoring(model: Path, rows: Path, scores: Path) -> Runs:
    detector = load_detector(model, "cpu")
    yield (
        "local",
        lambda: score_table(
            read_table(rows),
            detector.decision_function,
            detector.threshold_,
            scores.with_suffix(".parquet"),
            model,
            "cpu",
        ),
    )
    for n in WORKERS:
        yield (
            f"Ray, {n}",
            lambda n=n: write_parquet(
                score_dataset(detector, ray.data.read_parquet(str(rows)), workers=n),
                f"{scores}-{n}",
            ),
        )


def fitting(rows: Path) -> Runs:
    yield "local", lambda: new_detector().fit(parquet.read_table(rows).to_pandas())
    for n in WORKERS:
        yield (
            f"Ray, {n}",
            lambda n=n: fit_dataset(new_detector(), ray.data.read_parquet(str(rows)), workers=n),
        )


def new_detector() -> AutoEncoder:
    return AutoEncoder(device="cpu", verbose=0)


def written(folder: Path, n_rows: int) -> Path:
    """A folder of Parquet files."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i, start in enumerate(range(0, n_rows, FILE_ROWS)):
        X = rng.normal(size=(min(FILE_ROWS, n_rows - start), N_FEATURES))
        columns = {f"f{j}": X[:, j] for j in range(N_FEATURES)}
        parquet.write_table(pa.table(columns), folder / f"{i:05}.parquet")
    return folder


if __name__ == "__main__":
    main()
