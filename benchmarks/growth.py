"""How fit and scoring grow with the number of rows, and scoring with that of features, on a CPU.

    python benchmarks/growth.py

Fits and scores float32 rows in a memory map, from ten thousand to ten million of 30 features, by
our detectors with their defaults for training rows with outliers and for normal ones; and 5,000
rows of up to 2,048 features. Then measures, in processes of their own, how much memory the scores
of five million rows take beyond the rows. Writes the figures to ``benchmarks/results``
(``growth.csv``, ``.json``, ``.png``).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from figures import RESULTS, Figures, draw_costs
from speed import N_FEATURES, OURS, Kind, in_turn, timed

from pyod_ae_plugin.benchmarking.summary import environment

ROW_COUNTS = (10_000, 100_000, 1_000_000, 10_000_000)
FEATURE_COUNTS = (8, 32, 128, 512, 2_048)
N_WIDE = 5_000
N_FOR_MEMORY = 5_000_000
Curves = dict[str, tuple[list[int], list[float]]]


def by_rows(n_rows: tuple[int, ...], figures: Figures) -> Curves:
    """Report microseconds a row of fits and of scoring."""
    curves: Curves = {}
    with tempfile.TemporaryDirectory() as folder:
        path, shape = Path(folder) / "rows.npy", (n_rows[-1], N_FEATURES)
        X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        rng = np.random.default_rng(0)
        for start in range(0, len(X), 100_000):
            X[start : start + 100_000] = rng.normal(size=X[start : start + 100_000].shape)
        X = np.load(path, mmap_mode="r")
        for name, kind in OURS.items():
            for n in n_rows:
                detector = kind()
                fit = timed(partial(detector.fit, X[:n]))
                rounds = 3 if n <= 1_000_000 else 1
                score = in_turn({"": partial(detector.decision_function, X[:n])}, rounds)[""]
                for what, seconds in (("fit", fit), ("scoring", score)):
                    figures.add(f"{name}: {what} {n:,}", seconds * 1e6 / n, "us a row, by rows")
                _add(curves, name, n, score / n)
    return curves


def by_features(n_features: tuple[int, ...], figures: Figures) -> Curves:
    """Report microseconds a row of fits and of scoring, by the number of features."""
    curves: Curves = {}
    for name, kind in OURS.items():
        for d in n_features:
            X = np.random.default_rng(0).normal(size=(N_WIDE, d)).astype(np.float32)
            detector = kind()
            fit = timed(partial(detector.fit, X))
            score = in_turn({"": partial(detector.decision_function, X)}, 3)[""]
            for what, seconds in (("fit", fit), ("scoring", score)):
                us = seconds * 1e6 / N_WIDE
                figures.add(f"{name}: {what} {d:,}", us, "us a row, by features")
            _add(curves, name, d, score / N_WIDE)
    return curves


def _add(curves: Curves, name: str, x: int, seconds: float) -> None:
    for values, value in zip(curves.setdefault(name, ([], [])), (x, seconds * 1e9), strict=True):
        values.append(value)


def memory(kind: Kind) -> None:
    """Print by how much the peak of resident memory grows when five million rows are scored."""
    X = np.empty((N_FOR_MEMORY, N_FEATURES))
    np.random.default_rng(0).standard_normal(out=X)  # in place: no peak of its own
    detector: Any = kind().fit(X[:20_000])
    detector.decision_function(X[:20_000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    detector.decision_function(X)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--memory", choices=OURS, help="measure the memory of one detector only")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.memory:
        memory(OURS[arguments.memory])
        return
    figures = Figures()
    for name in OURS:  # first, since the peak of a child starts at what its parent holds
        command = [sys.executable, __file__, "--memory", name]
        grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures.add(f"{name}: scoring {N_FOR_MEMORY} rows, 38 MiB of scores", float(grown), "MiB")
    curves = {
        "features": by_features(FEATURE_COUNTS, figures),
        "rows": by_rows(ROW_COUNTS, figures),
    }
    figures.write(arguments.results / "growth.csv", environment("growth"))
    draw_costs(curves, arguments.results / "growth.png")


if __name__ == "__main__":
    main()
