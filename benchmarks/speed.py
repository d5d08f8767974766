"""Speed of our detectors beside PyOD's, in one process, taking turns.

    python benchmarks/speed.py

Prints, for AutoEncoder and VAE with the network and the score of PyOD's: the time of fit for the
same epochs, the throughput of decision_function, the throughput of a bare chain of torch.addmm on
one resident tile, the cost of scoring a row against the number of rows and of features, and the
memory that scoring 5 million rows takes beyond the caller's array. Then what our own defaults cost,
and what more members cost an ensemble. Writes all that to ``benchmarks/results`` (``speed.csv``,
``.json``, ``.png``). Figures are medians; peers are measured in turn, so that a slow moment of the
machine hits both.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import RESULTS, Figures, draw_costs
from pyod.models.auto_encoder import AutoEncoder as PyodAutoEncoder
from pyod.models.vae import VAE as PyodVAE

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.benchmarking.summary import environment
from pyod_ae_plugin.detectors import NeuralDetector
from pyod_ae_plugin.engine.pipeline import read_pipeline

N_ROWS, N_FEATURES, EPOCHS = 20_000, 30, 2
BARE_TILE_ROWS = 4096
TURN_SECONDS = 0.05
PAIRS = {"AutoEncoder": (AutoEncoder, PyodAutoEncoder), "VAE": (VAE, PyodVAE)}
# The networks of PyOD's defaults, and its score.
ALIKE: dict[str, dict[str, Any]] = {
    "AutoEncoder": {"hidden_neuron_list": (64, 32)},
    "VAE": {
        "encoder_neuron_list": (128, 64, 32),
        "decoder_neuron_list": (32, 64, 128),
        "latent_dim": 2,
    },
}
for alike in ALIKE.values():
    alike |= {"hidden_activation_name": "relu", "score_head": "euclidean"}
ROW_COUNTS = (10_000, 100_000, 1_000_000, 5_000_000)
FEATURE_COUNTS = (4, 16, 64, 256)


def in_turn(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function over rounds in which all have their turn.

    A turn is one call, or for short functions as many as fill TURN_SECONDS, after one that is
    not counted: else they would be measured with the caches that their predecessor left.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            calls = 1
            first = _timed(function, 1)
            if first < TURN_SECONDS:
                calls = math.ceil(TURN_SECONDS / first)
            seconds[name].append(_timed(function, calls))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _timed(function: Callable[[], object], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - began) / calls


def bare_chain(detector: NeuralDetector, activations: bool) -> Callable[[], None]:
    """The network's matrix products alone, over one resident float32 tile as often as needed."""
    steps: list[Callable[[torch.Tensor], torch.Tensor]] = []
    pipeline = read_pipeline(detector.model)
    for layer in (*pipeline.encoding, *pipeline.decoding):
        if isinstance(layer, torch.nn.Linear):
            weight, bias = layer.weight.t(), layer.bias
            steps.append(lambda h, w=weight, b=bias: torch.addmm(b, h, w))
        elif activations:
            steps.append(torch.relu_)
    n_tiles = -(-N_ROWS // BARE_TILE_ROWS)
    tile = torch.randn(-(-N_ROWS // n_tiles), N_FEATURES)

    @torch.inference_mode()
    def chain() -> None:
        for _ in range(n_tiles):
            h = tile
            for step in steps:
                h = step(h)

    return chain


def compare(name: str, rounds: int, figures: Figures) -> None:
    """Report fit and score of one detector beside PyOD's."""
    theirs, ours = PAIRS[name][1], partial(PAIRS[name][0], **ALIKE[name])
    X = np.random.default_rng(0).normal(size=(N_ROWS, N_FEATURES))
    options = {"epoch_num": EPOCHS, "verbose": 0, "device": "cpu"}
    regularised = {"batch_norm": True, "dropout_rate": 0.2}
    fit = in_turn(
        {
            "PyOD": lambda: theirs(**options).fit(X),
            "ours": lambda: ours(**options).fit(X),
            "ours, batch 32": lambda: ours(**options, batch_size=32).fit(X),
            "ours, batch norm and dropout": lambda: ours(**options, **regularised).fit(X),
        },
        rounds,
    )
    print(f"\n{name}: fit, {EPOCHS} epochs of {N_ROWS} x {N_FEATURES} float64")
    for what, seconds in fit.items():
        figures.add(f"{name}: fit, {what}", seconds, "s")
    for what, seconds in fit.items():
        if what != "PyOD":
            figures.add(f"{name}: fit, {what}", fit["PyOD"] / seconds, "x PyOD")

    detector, peer = ours(**options).fit(X), theirs(**options).fit(X)
    score = in_turn(
        {
            "PyOD": lambda: peer.decision_function(X),
            "ours": lambda: detector.decision_function(X),
            "bare chain of addmm": bare_chain(detector, activations=False),
            "the same with activations": bare_chain(detector, activations=True),
        },
        rounds,
    )
    print(f"{name}: decision_function, {N_ROWS} x {N_FEATURES} float64")
    for what, seconds in score.items():
        figures.add(f"{name}: scoring, {what}", N_ROWS / seconds / 1e6, "million rows/s")
    figures.add(f"{name}: scoring, ours", score["PyOD"] / score["ours"], "x PyOD")
    for chain in ("bare chain of addmm", "the same with activations"):
        figures.add(f"{name}: scoring, ours / {chain}", score[chain] / score["ours"])


def costs(figures: Figures) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Report the cost of scoring a row by the number of rows, and of features."""
    found: dict[str, dict[str, tuple[list[int], list[float]]]] = {"rows": {}, "features": {}}

    def cost(detector: Any, X: np.ndarray, name: str, quantity: str, count: int) -> None:
        seconds = in_turn({"": lambda: detector.decision_function(X)}, 3)[""]
        x, y = found[quantity].setdefault(name, ([], []))
        x.append(count)
        y.append(seconds / len(X) * 1e9)
        figures.add(f"{name}: scoring a row, {count} {quantity}", y[-1], "ns")

    print("\nCost of scoring a row")
    options = {"epoch_num": 1, "verbose": 0, "device": "cpu"}
    X = np.random.default_rng(0).normal(size=(ROW_COUNTS[-1], N_FEATURES))
    for name, (ours, theirs) in PAIRS.items():
        detector = ours(**options, **ALIKE[name]).fit(X[:N_ROWS])
        for n in ROW_COUNTS:
            cost(detector, X[:n], name, "rows", n)
        peer = theirs(**options).fit(X[:2000])
        for n in ROW_COUNTS[:2]:
            cost(peer, X[:n], f"PyOD's {name}", "rows", n)
        for d in FEATURE_COUNTS:
            wide = np.random.default_rng(0).normal(size=(N_ROWS, d))
            cost(ours(**options, **ALIKE[name]).fit(wide), wide, name, "features", d)
            cost(theirs(**options).fit(wide[:2000]), wide, f"PyOD's {name}", "features", d)
    return found


def defaults(rounds: int, figures: Figures) -> None:
    """Report what our detectors cost with their defaults, and what an ensemble's members do."""
    X = np.random.default_rng(0).normal(size=(N_ROWS, N_FEATURES))
    kinds = {
        "AutoEncoder": AutoEncoder,
        "VAE": VAE,
        "AutoEncoderEnsemble": AutoEncoderEnsemble,
        "AutoEncoderEnsemble, 1 member": partial(AutoEncoderEnsemble, n_estimators=1),
        "AutoEncoderEnsemble, 32 members": partial(AutoEncoderEnsemble, n_estimators=32),
    }
    detectors = {name: kind(verbose=0, device="cpu").fit(X) for name, kind in kinds.items()}
    fit = in_turn({name: partial(d.fit, X) for name, d in detectors.items()}, rounds)
    small = in_turn({name: partial(d.fit, X[:6000]) for name, d in detectors.items()}, rounds)
    score = in_turn(
        {name: partial(d.decision_function, X) for name, d in detectors.items()}, rounds
    )
    print("\nDefaults")
    for name in kinds:
        figures.add(f"{name}, defaults: fit of {N_ROWS} rows", fit[name], "s")
        figures.add(f"{name}, defaults: fit of 6000 rows", small[name], "s")
        rate = N_ROWS / score[name] / 1e6
        figures.add(f"{name}, defaults: scoring", rate, "million rows/s")
    training = {name: fit[name] - score[name] for name in kinds}
    many = training["AutoEncoderEnsemble, 32 members"]
    for name in ("AutoEncoder", "AutoEncoderEnsemble, 1 member"):
        figures.add(f"training 32 members / training {name}", many / training[name])


def memory() -> None:
    """Print how much the peak of resident memory grows when 5 million rows are scored."""
    X = np.empty((ROW_COUNTS[-1], N_FEATURES))
    np.random.default_rng(0).standard_normal(out=X)  # in place: no peak of its own
    for name, (ours, _) in PAIRS.items():
        detector = ours(epoch_num=1, verbose=0, device="cpu", **ALIKE[name]).fit(X[:N_ROWS])
        detector.decision_function(X[:N_ROWS])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        scores = detector.decision_function(X)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            f"{name}: scoring {len(X)} rows of {X.nbytes / 2**20:.0f} MiB took {grown / 1024:.0f} "
            f"MiB, {scores.nbytes / 2**20:.0f} MiB of them the scores"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="fits of each detector (default 5)")
    parser.add_argument("--memory", action="store_true", help="measure memory only")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.memory:
        memory()
        return
    described = {**environment("speed"), "threads": torch.get_num_threads()}
    print(described, flush=True)
    # The peak is of a process's whole life, so memory is measured in one of its own; and first,
    # since a child's peak starts at what its parent holds.
    subprocess.run([sys.executable, __file__, "--memory"], check=True)
    figures = Figures()
    for name in PAIRS:
        compare(name, arguments.rounds, figures)
    defaults(arguments.rounds, figures)
    found = costs(figures)
    figures.write(arguments.results / "speed.csv", described)
    draw_costs(found, arguments.results / "speed.png")


if __name__ == "__main__":
    main()
