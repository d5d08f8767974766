"""Whether memory, open files and threads stay flat while detectors are fitted and scored on and on.

    python benchmarks/soak.py [--minutes 10] [--bound 1.0] [--seed 0]

Again and again draws a detector, its parameters and the shape of its data, and fits it, in one
piece or in batches; scores rows from up to eight threads at once, which must give the bits that one
thread gives; explains rows, checks drift, predicts, saves, loads and pickles. Every ten seconds
notes resident memory (after a garbage collection, free memory given back to the system), open files
and threads. Prints the slope of memory over the second half with its standard error, and a
verdict. Exit status 1 if that slope is above the bound, in MiB a minute, by more than two standard
errors, or if there are more open files or threads at the end than at the half. Writes what was
noted to ``benchmarks/results`` (``soak.csv``, ``.json``, ``.png``).
"""

from __future__ import annotations

import csv
import ctypes
import gc
import json
import pickle
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from figures import parser_of
from scipy.stats import linregress

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, load_detector
from pyod_ae_plugin.benchmarking.summary import environment
from pyod_ae_plugin.detectors import IncrementalDetector

EVERY = 10.0  # seconds
HEADS = ("euclidean", "mahalanobis", "joint_mahalanobis", "nearest_neighbor")
Noted = dict[str, float]


def drawn_detector(rng: np.random.Generator) -> IncrementalDetector:
    params = {
        "epoch_num": int(rng.integers(1, 4)),
        "novelty": bool(rng.integers(2)),
        "held_out_threshold": bool(rng.integers(2)),
        "score_head": str(rng.choice(HEADS)),
        "random_state": int(rng.integers(1000)),
        "device": "cpu",
        "verbose": 0,
    }
    kind = rng.integers(3)
    if kind == 0:
        widths = [int(width) for width in rng.integers(2, 100, size=2)]
        early = bool(rng.integers(2))
        return AutoEncoder(hidden_neuron_list=widths, early_stopping=early, **params)
    if kind == 1:
        return VAE(latent_dim=int(rng.integers(1, 8)), **params)
    return AutoEncoderEnsemble(n_estimators=int(rng.integers(1, 6)), **params)


def cycle(rng: np.random.Generator, folder: Path) -> None:
    """Fit and use one detector."""
    torch.set_num_threads(int(rng.integers(1, 3)))
    n_features = int(rng.integers(2, 50))
    X = rng.normal(size=(int(rng.integers(50, 1500)), n_features))
    X = X.astype(rng.choice(["float32", "float64"]))
    detector = drawn_detector(rng)
    if rng.integers(2):
        detector.fit(X)
    else:
        detector.fit_batches(np.array_split(X, 3)).partial_fit(X[:20])

    shapes = rng.integers(1, 2000, size=8)
    batches = [rng.normal(size=(n, n_features)).astype(X.dtype) for n in shapes]
    expected = [detector.decision_function(batch) for batch in batches]
    with ThreadPoolExecutor(int(rng.integers(1, 9))) as threads:
        scored = list(threads.map(detector.decision_function, batches))
    if not all(map(np.array_equal, scored, expected)):
        raise AssertionError(f"{detector} scores otherwise in threads")
    detector.check_drift(batches[0])
    detector.explain(batches[1][:5])
    detector.predict(batches[2], return_confidence=True)
    detector.transform(batches[3])
    detector.save(folder / "model")
    for copy in (load_detector(folder / "model"), pickle.loads(pickle.dumps(detector))):
        if not np.array_equal(copy.decision_function(batches[4]), expected[4]):
            raise AssertionError(f"{detector} scores otherwise when it is loaded again")


def soak(minutes: float, seed: int, note: Callable[[Noted], None]) -> None:
    """Run cycles for so long, and note the state of the process between them."""
    process, rng = psutil.Process(), np.random.default_rng(seed)
    began, due, n_cycles = time.monotonic(), 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        while (seconds := time.monotonic() - began) < 60 * minutes or n_cycles == 0:
            if seconds >= due:
                due = seconds + EVERY
                note({"seconds": round(seconds, 1), "cycles": n_cycles, **state(process)})
            cycle(rng, Path(folder))
            n_cycles += 1
        seconds = time.monotonic() - began
        note({"seconds": round(seconds, 1), "cycles": n_cycles, **state(process)})


def state(process: psutil.Process) -> Noted:
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what is free, but kept by malloc, is no leak
    return {
        "resident MiB": round(process.memory_info().rss / 2**20, 2),
        "open files": process.num_fds(),
        "threads": process.num_threads(),
    }


def verdict(noted: list[Noted], bound: float) -> tuple[bool, str, dict[str, float]]:
    """Whether all stayed flat over the second half, in words and in figures."""
    second = noted[len(noted) // 2 :]
    minutes = [row["seconds"] / 60 for row in second]
    fit = linregress(minutes, [row["resident MiB"] for row in second])
    first, last = second[0], second[-1]
    grows = fit.slope - 2 * fit.stderr > bound
    flat = not grows and all(last[k] <= first[k] for k in ("open files", "threads"))
    said = (
        f"{'flat' if flat else 'NOT FLAT'}: {last['cycles']:.0f} cycles. Over the second half "
        f"resident memory {first['resident MiB']:.0f} to {last['resident MiB']:.0f} MiB, "
        f"{fit.slope:+.2f} +- {fit.stderr:.2f} MiB a minute (bound {bound:g}); "
        f"open files {first['open files']:.0f} to {last['open files']:.0f}, "
        f"threads {first['threads']:.0f} to {last['threads']:.0f}."
    )
    return flat, said, {"slope": fit.slope, "standard error": fit.stderr, "bound": bound}


def draw(noted: list[Noted], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    minutes = [row["seconds"] / 60 for row in noted]
    axes.plot(minutes, [row["resident MiB"] for row in noted], color="#0072b2")
    axes.set(xlabel="minutes", ylabel="resident memory, MiB", xlim=(0, None), ylim=(0, None))
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--bound", type=float, default=1.0, help="MiB a minute")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="sklearn")

    noted: list[Noted] = []

    def note(row: Noted) -> None:
        noted.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)

    soak(arguments.minutes, arguments.seed, note)
    flat, said, figures = verdict(noted, arguments.bound)
    print(said)
    arguments.results.mkdir(parents=True, exist_ok=True)
    with (arguments.results / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, noted[0])
        writer.writeheader()
        writer.writerows(noted)
    described = {**environment("soak"), "verdict": said, **figures}
    (arguments.results / "soak.json").write_text(json.dumps(described, indent=1))
    draw(noted, arguments.results / "soak.png")
    sys.exit(0 if flat else 1)


if __name__ == "__main__":
    main()
