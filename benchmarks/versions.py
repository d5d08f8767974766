"""Speed of this checkout beside another one, taking turns.

    git worktree add ../before <commit>
    python benchmarks/versions.py ../before

Starts a process for each checkout, in which the package is imported from there, and measures in
turn what ``speed.py`` measures of our detectors: fit and decision_function with the networks of
PyOD's defaults and with our own defaults. Prints medians, and the median over rounds of the ratio
of the two times: below 1, this checkout is faster. Shared machines are noisy; a slow moment hits
both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

TURN_SECONDS = 0.25


def tasks() -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    import numpy as np
    from speed import ALIKE, EPOCHS, N_FEATURES, N_ROWS, PAIRS

    from pyod_ae_plugin import AutoEncoderEnsemble

    X = np.random.default_rng(0).normal(size=(N_ROWS, N_FEATURES))
    options = {"verbose": 0, "device": "cpu"}
    found: dict[str, Callable[[], object]] = {}

    def add(name: str, detector: object, rows: np.ndarray, row_counts: tuple[int, ...]) -> None:
        detector.fit(rows)
        for n in row_counts:
            found[f"{name}: score {n}"] = partial(detector.decision_function, rows[:n])
        found[f"{name}: fit"] = partial(detector.fit, rows)

    kinds = {name: kind for name, (kind, _) in PAIRS.items()}
    for name, kind in kinds.items():
        alike = partial(kind, **options, epoch_num=EPOCHS, **ALIKE[name])
        add(f"{name}, PyOD's network", alike(), X, (1, N_ROWS))
        add(f"{name}, batches of 32", alike(batch_size=32), X, ())
        add(f"{name}, batch norm, dropout", alike(batch_norm=True, dropout_rate=0.2), X, ())
    for name, kind in {**kinds, "AutoEncoderEnsemble": AutoEncoderEnsemble}.items():
        add(f"{name}, defaults", kind(**options), X[:6000], (1, 6000))
    return found


def serve() -> None:
    """Time the task whose name comes on a line of standard input, and print seconds per call."""
    import time

    known = tasks()
    print("ready", flush=True)
    for line in sys.stdin:
        task, seconds, calls = known[line.strip()], 0.0, 0
        while seconds < TURN_SECONDS:
            began = time.perf_counter()
            task()
            seconds += time.perf_counter() - began
            calls += 1
        print(seconds / calls, flush=True)


class Checkout:
    """A process in which the package is that of a checkout."""

    def __init__(self, folder: Path) -> None:
        # not beside speed.py of here: each checkout has its own
        path = os.pathsep.join([str(folder.resolve()), str(folder.resolve() / "benchmarks")])
        command = [sys.executable, "-W", "ignore", __file__, "--serve"]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        """Wait until it can measure."""
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"The process of a checkout ended with {self.process.wait()}.")

    def seconds(self, task: str) -> float:
        """Seconds that a call takes."""
        print(task, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def main() -> None:
    """Compare two checkouts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, nargs="?", help="the other checkout")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default 7)")
    parser.add_argument("--only", default="", help="tasks whose name has this in it")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    if arguments.other is None:
        parser.error("the folder of the other checkout is missing")
    here = Path(__file__).parents[1]
    other, this = Checkout(arguments.other), Checkout(here)
    other.wait()
    this.wait()
    print(f"{'':48} {'other':>9} {'this':>9}  this / other")
    for task in [name for name in tasks() if arguments.only in name]:
        times = [(other.seconds(task), this.seconds(task)) for _ in range(arguments.rounds)]
        before, after = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        print(f"{task:48} {before * 1e3:6.2f} ms {after * 1e3:6.2f} ms {ratio:9.3f}", flush=True)


if __name__ == "__main__":
    main()
