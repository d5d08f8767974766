"""Speed of our detectors beside PyOD's on a CPU, in one process, taking turns.

    python benchmarks/speed.py

Measures fit and decision_function on 20,000 rows of 30 float64 features: PyOD's AutoEncoder, VAE,
IForest, KNN and ECOD, and our detectors with their defaults for training rows with outliers and for
normal ones; then our detectors with the networks and the score of PyOD's. Prints times, ratios to
PyOD's AutoEncoder, and which share of the possible rate of scoring ours reach: that of the matrix
products alone, in as many threads, on tiles that stay in the cache. Then the time of a fit by its
parts, for 6,000 and 1,000,000 rows, and what gradients in closed form gain. Writes all that to
``benchmarks/results`` (``speed.csv``, ``.json``). Figures are medians; a slow moment of the machine
hits all that take turns.
"""

from __future__ import annotations

import cProfile
import math
import pstats
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Figures, parser_of
from pyod.models.auto_encoder import AutoEncoder as PyodAutoEncoder
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.vae import VAE as PyodVAE

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.benchmarking.summary import environment
from pyod_ae_plugin.detectors import NeuralDetector
from pyod_ae_plugin.detectors.base import recipe_of
from pyod_ae_plugin.engine.closed_form import batch_gradient, gradient_by_autograd
from pyod_ae_plugin.engine.devices import enough_threads
from pyod_ae_plugin.engine.optimizers import flatten_parameters
from pyod_ae_plugin.engine.pipeline import is_linear, read_scoring
from pyod_ae_plugin.engine.workers import run_in_workers
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.networks.activations import activation_of
from pyod_ae_plugin.networks.layers import StackedLinear
from pyod_ae_plugin.scoring import Kernel

Work = Callable[[], object]
Kind = Callable[[], Any]

N_ROWS, N_FEATURES, EPOCHS = 20_000, 30, 2
BATCH_SIZES = (32, 128, 1024)
TURN_SECONDS = 0.05
RESIDENT_ROWS, N_PIECES = 500, 10
CPU: dict[str, Any] = {"verbose": 0, "device": "cpu"}
PEERS: dict[str, Kind] = {
    "PyOD's AutoEncoder": partial(PyodAutoEncoder, **CPU),
    "PyOD's VAE": partial(PyodVAE, **CPU),
    "PyOD's IForest": IForest,
    "PyOD's KNN": KNN,
    "PyOD's ECOD": ECOD,
}
OURS: dict[str, Kind] = {
    f"{kind.__name__}{', novelty=True' if novelty else ''}": partial(kind, novelty=novelty, **CPU)
    for novelty, kind in product((False, True), (AutoEncoder, VAE, AutoEncoderEnsemble))
}
# The networks, the activation and the score of PyOD's, for the same epochs.
ALIKE = {"hidden_activation_name": "relu", "score_head": "euclidean", "epoch_num": EPOCHS, **CPU}
AUTOENCODER = partial(AutoEncoder, hidden_neuron_list=(64, 32), **ALIKE)
VARIATIONAL = partial(
    VAE,
    encoder_neuron_list=(128, 64, 32),
    decoder_neuron_list=(32, 64, 128),
    latent_dim=2,
    **ALIKE,
)
SAME_NETWORK: dict[str, Kind] = {
    f"PyOD's AutoEncoder, {EPOCHS} epochs": partial(PyodAutoEncoder, epoch_num=EPOCHS, **CPU),
    f"PyOD's VAE, {EPOCHS} epochs": partial(PyodVAE, epoch_num=EPOCHS, **CPU),
    "AutoEncoder, PyOD's network": AUTOENCODER,
    "VAE, PyOD's network": VARIATIONAL,
    "AutoEncoder, PyOD's network, batches of 32": partial(AUTOENCODER, batch_size=32),
    "VAE, PyOD's network, batches of 32": partial(VARIATIONAL, batch_size=32),
}
# The functions that a fit calls, by what they are for.
PARTS = {
    "standardise": ("_hold_out", "_standardize"),
    "train": ("_train",),
    "head": ("_fitted_module", "_latent_usage"),
    "score the training rows": ("score_rows",),
    "threshold": ("chosen_by", "drift_reference"),
}


def in_turn(functions: dict[str, Work], rounds: int) -> dict[str, float]:
    """Median seconds of each function over rounds in which all have their turn.

    A turn is one call, or for short functions as many as fill TURN_SECONDS, after one that is
    not counted: else they would be measured with the caches that their predecessor left.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            calls = 1
            first = timed(function, 1)
            if first < TURN_SECONDS:
                calls = math.ceil(TURN_SECONDS / first)
                first = timed(function, calls)
            seconds[name].append(first)
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(function: Work, calls: int = 1) -> float:
    """Seconds of a call, on average over some."""
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - began) / calls


# ------------------------------------------------------------------------------------- the limit


def products(detector: NeuralDetector) -> Iterator[tuple[int, int, Any]]:
    """Inputs and outputs of each matrix product of a score, and the activation behind it."""
    module = detector.scoring_module_
    pipeline = read_scoring(module)
    if pipeline is None:
        raise TypeError(f"It is not known what {detector!r} computes.")
    layers = (*pipeline.encoding, *pipeline.decoding)
    for _ in range(pipeline.n_members or 1):
        for layer, following in zip(layers, (*layers[1:], None), strict=True):
            if isinstance(layer, StackedLinear):
                yield *layer.weight.shape[1:], activation_of(following)
            elif is_linear(layer):
                yield layer.in_features, layer.out_features, activation_of(following)
    if isinstance(module.head, Kernel):
        n, width = module.head.references.shape
        yield width, n, None
        yield n, width, None


def bare(detector: NeuralDetector, activations: bool) -> Work:
    """The matrix products of N_ROWS rows, in as many threads, each on a tile in its cache."""
    steps = [
        (torch.randn(n_in, n_out) / math.sqrt(n_in), activation.out if activation else None)
        for n_in, n_out, activation in products(detector)
    ]
    widest = max(max(weight.shape) for weight, _ in steps)
    bias = torch.zeros(widest)

    @torch.inference_mode()
    def chain(_: int) -> None:
        places = torch.zeros(2, RESIDENT_ROWS * widest)
        for _ in range(N_ROWS // (N_PIECES * RESIDENT_ROWS)):
            for i, (weight, compute) in enumerate(steps):
                n_in, n_out = weight.shape
                h = places[i % 2, : RESIDENT_ROWS * n_in].view(RESIDENT_ROWS, n_in)
                out = places[1 - i % 2, : RESIDENT_ROWS * n_out].view(RESIDENT_ROWS, n_out)
                torch.addmm(bias[:n_out], h, weight, out=out)
                if activations and compute is not None:
                    compute(out, out=out)

    return lambda: run_in_workers(chain, N_PIECES)


# --------------------------------------------------------------------------------------- figures


def compare(kinds: dict[str, Kind], rounds: int, figures: Figures) -> None:
    """Report fit and scoring of detectors, the first of them being what others are compared to."""
    X = np.random.default_rng(0).normal(size=(N_ROWS, N_FEATURES))
    peer = next(iter(kinds))
    detectors = {name: kind() for name, kind in kinds.items()}
    fit = in_turn({n: partial(d.fit, X) for n, d in detectors.items()}, rounds)
    score = in_turn({n: partial(d.decision_function, X) for n, d in detectors.items()}, rounds)
    for name, detector in detectors.items():
        print(name)
        figures.add(f"{name}: fit", fit[name], "s")
        figures.add(f"{name}: fit", fit[peer] / fit[name], f"times as fast as {peer}")
        figures.add(f"{name}: scoring", N_ROWS / score[name] / 1e6, "million rows/s")
        figures.add(f"{name}: scoring", score[peer] / score[name], f"times as fast as {peer}")
        if isinstance(detector, NeuralDetector):
            compare_with_limits(name, detector, X, rounds, figures)


def compare_with_limits(
    name: str, detector: NeuralDetector, X: Array, rounds: int, figures: Figures
) -> None:
    """Report the share of the possible rate of scoring that a detector reaches."""
    limits = {
        "matrix products": bare(detector, activations=False),
        "products and activations": bare(detector, activations=True),
    }
    seconds = in_turn({"": partial(detector.decision_function, X), **limits}, 2 * rounds)
    for limit in limits:
        figures.add(f"{name}: scoring", seconds[limit] / seconds[""], f"of the rate of {limit}")


def parts(figures: Figures) -> None:
    """Report what each part of a fit takes."""
    for n in (6_000, 1_000_000):
        X = np.random.default_rng(0).normal(size=(n, N_FEATURES))
        for name, kind in OURS.items():
            profile = cProfile.Profile()
            seconds = timed(partial(profile.runcall, kind().fit, X))
            called = pstats.Stats(profile).stats.items()
            cumulative = {
                function: times[3]
                for (file, _, function), times in called
                if Path(file).name in ("fit.py", "fitted.py")
            }
            print(f"{name}: fit of {n} rows, {seconds:.3g} s")
            rest = seconds
            for part, functions in PARTS.items():
                taken = sum(cumulative.get(function, 0.0) for function in functions)
                rest -= taken
                figures.add(f"{name}, {n} rows: {part}", taken / seconds, "of the time")
            figures.add(f"{name}, {n} rows: the rest", rest / seconds, "of the time")


def gradients(rounds: int, figures: Figures) -> None:
    """Report how many times faster a batch's gradient is in closed form than by autograd."""
    cpu = torch.device("cpu")
    for name, kind in OURS.items():
        recipe = recipe_of(kind(), N_FEATURES)
        options = recipe.options
        for n in BATCH_SIZES:
            generator = torch.Generator().manual_seed(0)
            network = recipe.build_network(generator, cpu).train()
            vector = flatten_parameters(network)
            shape = (
                (n, N_FEATURES) if options.n_members is None else (options.n_members, n, N_FEATURES)
            )
            given = (recipe.objective, options.trim, vector, generator)
            of_batch = {
                "closed form": batch_gradient(network, *given, stacked=len(shape) == 3),
                "autograd": gradient_by_autograd(network, *given),
            }
            x = torch.randn(shape)
            with enough_threads(6 * len(vector) * n):
                seconds = in_turn({how: partial(f, x, 0.5) for how, f in of_batch.items()}, rounds)
            gain = seconds["autograd"] / seconds["closed form"]
            figures.add(f"{name}: batches of {n:,}", gain, "times as fast as autograd")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each detector (default 3)")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    described = {**environment("speed"), "threads": torch.get_num_threads()}
    print(described, flush=True)
    figures = Figures()
    compare({**PEERS, **OURS}, arguments.rounds, figures)
    compare(SAME_NETWORK, arguments.rounds, figures)
    parts(figures)
    gradients(arguments.rounds, figures)
    figures.write(arguments.results / "speed.csv", described)


if __name__ == "__main__":
    main()
