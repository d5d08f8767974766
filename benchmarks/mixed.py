"""What ids, times, categories and gaps cost: a CSV file with them beside one of numbers.

    python benchmarks/mixed.py [--rows 1000000] [--rounds 3]

Fits and scores two CSV files of ten columns by ``pyod-ae``, taking turns: one of an id, a time, two
categories, a truth value, numbers and gaps; and one of numbers alone. Prints the seconds of each,
imports included, and their ratio, and the peak of resident memory. Writes the figures to
``benchmarks/results`` (``mixed.csv``, ``.json``).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
from figures import Figures, parser_of

from pyod_ae_plugin.benchmarking.summary import environment

KINDS = ("numbers", "mixed")
PIECE = 100_000
RUN = "import sys; from pyod_ae_plugin.cli import main; main()"


def write(path: Path, kind: str, n: int) -> None:
    """Write a table of n rows."""
    rng = np.random.default_rng(0)
    names = [f"x{j}" for j in range(10)]
    if kind == "mixed":
        names[:5] = ["order_id", "created_at", "country", "channel", "is_new"]
    with path.open("w") as file:
        file.write(",".join(names) + "\n")
        for start in range(0, n, PIECE):
            m = min(PIECE, n - start)
            columns = [[f"{x:.4f}" for x in rng.normal(size=m)] for _ in names]
            if kind == "mixed":
                times = np.datetime64("2024-01-01T00:00:00") + 37 * np.arange(start, start + m)
                columns[:5] = [
                    [f"A{i}" for i in range(start, start + m)],
                    times.astype(str).tolist(),
                    rng.choice(["DE", "FR", "NL", "AT", "CH"], m).tolist(),
                    rng.choice(["web", "app", "phone"], m).tolist(),
                    rng.choice(["True", "False"], m).tolist(),
                ]
                columns[5] = np.where(rng.random(m) < 0.05, "", columns[5]).tolist()
            file.writelines(",".join(row) + "\n" for row in zip(*columns, strict=True))


def seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", RUN, *command], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures, spent = Figures(), defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        paths = {kind: Path(folder) / f"{kind}.csv" for kind in KINDS}
        for kind, path in paths.items():
            write(path, kind, options.rows)
        for _ in range(options.rounds):
            for kind, path in paths.items():
                model, scores = str(path.with_suffix("")), str(path.with_suffix(".scores.csv"))
                spent[kind, "fit"].append(seconds("fit", str(path), "-o", model, "-p", "verbose=0"))
                scored = seconds("score", str(path), "--model", model, "-o", scores)
                spent[kind, "scoring"].append(scored)
    for (kind, what), times in spent.items():
        figures.add(f"{kind}: {what}", median(times), "s")
    totals = {
        kind: [a + b for a, b in zip(spent[kind, "fit"], spent[kind, "scoring"], strict=True)]
        for kind in KINDS
    }
    ratios = [mixed / plain for plain, mixed in zip(*totals.values(), strict=True)]
    figures.add("mixed: fit and scoring", median(ratios), "times as long as of numbers")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    figures.add("largest peak of resident memory", peak, "GiB")
    figures.write(options.results / "mixed.csv", {**environment("mixed"), "rows": options.rows})


if __name__ == "__main__":
    main()
