"""How fit and scoring grow with the number of rows, and scoring with that of features, on a CPU.

    python benchmarks/growth.py

Fits and scores float32 rows in a memory map, from ten thousand to ten million of 30 features, by
our detectors with their defaults for training rows with outliers and for normal ones; and 5,000
rows of up to 2,048 features. Then measures, in processes of their own, how much memory the scores
of five million rows take beyond the rows. Writes the figures to ``benchmarks/results``
(``growth.csv``, ``.json``, ``.png``).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, draw_costs, parser_of
from speed import N_FEATURES, OURS, Kind, in_turn, timed

from pyod_ae_plugin.benchmarking.summary import environment
from pyod_ae_plugin.fitted import Array

ROW_COUNTS = (10_000, 100_000, 1_000_000, 10_000_000)
FEATURE_COUNTS = (8, 32, 128, 512, 2_048)
N_WIDE = 5_000
N_FOR_MEMORY = 5_000_000
Curves = dict[str, tuple[list[int], list[float]]]


def by_rows(figures: Figures) -> Curves:
    """Report fits and scoring of rows in a memory map, by their number."""
    curves: Curves = {}
    with tempfile.TemporaryDirectory() as folder:
        path, shape = Path(folder) / "rows.npy", (ROW_COUNTS[-1], N_FEATURES)
        X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        rng = np.random.default_rng(0)
        for start in range(0, len(X), 100_000):
            X[start : start + 100_000] = rng.normal(size=X[start : start + 100_000].shape)
        X = np.load(path, mmap_mode="r")
        for name, n in product(OURS, ROW_COUNTS):
            report(name, X[:n], "rows", n, figures, curves)
    return curves


def by_features(figures: Figures) -> Curves:
    """Report fits and scoring of rows, by the number of features."""
    curves: Curves = {}
    for name, d in product(OURS, FEATURE_COUNTS):
        X = np.random.default_rng(0).normal(size=(N_WIDE, d)).astype(np.float32)
        report(name, X, "features", d, figures, curves)
    return curves


def report(
    name: str, X: Array, quantity: str, count: int, figures: Figures, curves: Curves
) -> None:
    """Report microseconds a row of a fit and of scoring; the latter also in nanoseconds."""
    detector = OURS[name]()
    fit = timed(partial(detector.fit, X))
    rounds = 3 if len(X) <= 1_000_000 else 1
    score = in_turn({"": partial(detector.decision_function, X)}, rounds)[""]
    for what, seconds in (("fit", fit), ("scoring", score)):
        us = seconds * 1e6 / len(X)
        figures.add(f"{name}: {what} {count:,}", us, f"us a row, by {quantity}")
    counts, costs = curves.setdefault(name, ([], []))
    counts.append(count)
    costs.append(score * 1e9 / len(X))


def memory(kind: Kind) -> None:
    """Print by how much the peak of resident memory grows when five million rows are scored."""
    X = np.empty((N_FOR_MEMORY, N_FEATURES))
    np.random.default_rng(0).standard_normal(out=X)  # no second array, no peak
    detector: Any = kind().fit(X[:20_000])
    detector.decision_function(X[:20_000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    detector.decision_function(X)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--memory", choices=OURS, help="measure the memory of one detector only")
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
        "features": by_features(figures),
        "rows": by_rows(figures),
    }
    figures.write(arguments.results / "growth.csv", environment("growth"))
    draw_costs(curves, arguments.results / "growth.png")


if __name__ == "__main__":
    main()
