"""What a service waits for on a CPU: the score of one row, and the first fit of a process.

    python benchmarks/latency.py

Measures decision_function, predict and score_tensor of one row of 30 features by fitted detectors
with their defaults, beside the bare scoring module, which tells the cost of the network itself, and
PyOD's AutoEncoder. Then, in processes of their own, the seconds from the start of Python to a first
fit of 1,000 rows, by what takes them. Writes the figures to ``benchmarks/results``
(``latency.csv``, ``.json``). Figures are medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import torch
from figures import Figures, parser_of
from speed import N_FEATURES, OURS, PEERS, in_turn

from pyod_ae_plugin.benchmarking.summary import environment

# Prints the seconds that each step of a process takes, by its name.
FIRST_FIT = """
import json, time
marks = {}
def step(name, do):
    began = time.perf_counter()
    do()
    marks[name] = time.perf_counter() - began
step("import numpy", lambda: __import__("numpy"))
step("import torch", lambda: __import__("torch"))
step("import PyOD's AutoEncoder", lambda: __import__("pyod.models.auto_encoder"))
step("import pyod_ae_plugin", lambda: __import__("pyod_ae_plugin"))
import numpy as np
X = np.random.default_rng(0).normal(size=(1000, 30))
def fit():
    from pyod_ae_plugin import AutoEncoder
    AutoEncoder(verbose=0, device="cpu").fit(X)
step("first fit", fit)
step("second fit", fit)
print(json.dumps(marks))
"""


def one_row(rounds: int, figures: Figures) -> None:
    """Report microseconds that the score of one row takes."""
    X = np.random.default_rng(0).normal(size=(5_000, N_FEATURES))
    row = X[:1].copy()
    peer = PEERS["PyOD's AutoEncoder"]().fit(X)
    seconds = in_turn({"": partial(peer.decision_function, row)}, rounds)
    figures.add("PyOD's AutoEncoder: decision_function", seconds[""] * 1e6, "us")
    print("One row")
    for name, kind in OURS.items():
        detector = kind().fit(X)
        module, tensor = detector.scoring_module_, torch.from_numpy(row)

        @torch.inference_mode()
        def bare(module: torch.nn.Module = module, tensor: torch.Tensor = tensor) -> torch.Tensor:
            return module(tensor)

        calls = {
            "the bare module": bare,
            "decision_function": partial(detector.decision_function, row),
            "predict": partial(detector.predict, row),
            "score_tensor": partial(detector.score_tensor, tensor),
        }
        for what, taken in in_turn(calls, rounds).items():
            figures.add(f"{name}: {what}", taken * 1e6, "us")


def first_fit(rounds: int, figures: Figures) -> None:
    """Report the seconds of a process from its start to its first fit."""
    command = [sys.executable, "-c", FIRST_FIT]
    found = [
        json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        for _ in range(rounds)
    ]
    for step in found[0]:
        figures.add(f"a new process: {step}", statistics.median(f[step] for f in found), "s")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    figures = Figures()
    one_row(arguments.rounds, figures)
    first_fit(arguments.rounds, figures)
    figures.write(arguments.results / "latency.csv", environment("latency"))


if __name__ == "__main__":
    main()
