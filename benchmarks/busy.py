"""Fit and scoring beside a process that keeps one core of two busy.

    python benchmarks/busy.py [--rounds 5]

Measures our detectors with their defaults on 6,000 and 100,000 rows of 30 features, on two cores of
this machine: in turn alone, and while another process loops. Prints the medians
and how many times as long it takes beside the other process. With half of the machine left, twice
as long is what can be expected. No environment variable is set. Writes the figures to
``benchmarks/results`` (``busy.csv``, ``.json``).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from figures import Figures, parser_of
from speed import CPU, N_FEATURES, Work, timed

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.benchmarking.summary import environment

ROW_COUNTS, N_CORES = (6_000, 100_000), 2


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process that computes while the code inside does."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    time.sleep(1.0)  # until it is there
    try:
        yield
    finally:
        process.kill()
        process.wait()


def medians(work: Work, rounds: int) -> tuple[float, float]:
    """Median seconds of work alone and beside a busy core, in turn."""
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(timed(work))
        with busy_core():
            beside.append(timed(work))
    return statistics.median(alone), statistics.median(beside)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:N_CORES])
    torch.set_num_threads(N_CORES)  # as torch would choose on a machine with two cores
    figures = Figures()
    for kind in (AutoEncoder, VAE, AutoEncoderEnsemble):
        for n in ROW_COUNTS:
            X = np.random.default_rng(0).normal(size=(n, N_FEATURES))
            detector = kind(**CPU).fit(X)
            for what, work in (("fit", detector.fit), ("scoring", detector.decision_function)):
                alone, beside = medians(partial(work, X), arguments.rounds)
                name = f"{kind.__name__}: {what}, {n} rows"
                figures.add(f"{name}, alone", alone, "s")
                figures.add(f"{name}, one core busy", beside, "s")
                figures.add(name, beside / alone, "times as long")
    figures.write(arguments.results / "busy.csv", environment("busy"))


if __name__ == "__main__":
    main()
