"""Fit and scoring on a GPU, beside what the same card reaches in the same run.

    python benchmarks/gpu.py [PART ...] [--adbench DIR] [--results DIR]

Without names all parts are measured, in this order:

- ``resident``: scoring of rows on the card, as a share of the roofline, beside the same module by
  torch alone: eager, by torch.compile, and as a CUDA graph;
- ``host``: scoring of rows on the host, as a share of the rate of copying them;
- ``fit``: steps of training in a second, beside steps that are not recorded and beside the CPU,
  and whole fits by the number of rows;
- ``row``: the latency of one row;
- ``accuracy``: scores beside those of the CPU, and of lower precisions, with the ROC AUC on the
  data sets in DIR;
- ``pyod``: fit and scoring beside PyOD's detectors on the same card.

``small`` is not measured: it runs each path of scoring and training once, for compute-sanitizer.
Figures go to ``benchmarks/results`` (``gpu.csv``, ``.json``) as they are found; each part replaces
its own. ``--device cpu`` only tries the code, with few rows: its figures, which go to
``gpu-trial.csv``, say nothing of a GPU. Figures are medians over rounds in which all peers have
their turn.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import pickle
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from figures import parser_of
from gpu_cases import (
    EUCLIDEAN,
    FITTED,
    N_FEATURES,
    NETWORKS,
    ON_A_CPU,
    ON_A_GPU,
    PAIRS,
    PRECISIONS,
    RESIDENT,
)
from gpu_timing import (
    Part,
    Rates,
    described_by,
    in_tiles,
    in_turn,
    measure_rates,
    on_the_card,
    operations_of,
    overlap,
    peers,
    wait_for,
)
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pyod_ae_plugin import AutoEncoder
from pyod_ae_plugin.benchmarking.datasets import folder_datasets
from pyod_ae_plugin.detectors import NeuralDetector
from pyod_ae_plugin.detectors.base import recipe_of
from pyod_ae_plugin.engine import training
from pyod_ae_plugin.engine.rows import training_batches
from pyod_ae_plugin.scoring import Standardize


class Bench:
    """Where a run measures, how much, and where its figures go."""

    def __init__(self, device: str, results: Path, adbench: Path | None) -> None:
        self.device = torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        self.sizes = ON_A_GPU if self.on_gpu else ON_A_CPU
        self.adbench = adbench
        self.described = described_by(self.device)
        self._path = results / ("gpu.csv" if self.on_gpu else "gpu-trial.csv")

    def part(self, name: str) -> Part:
        """Where the figures of a part go."""
        return Part(name, self._path, self.described)

    def in_turn(
        self, functions: dict[str, Callable[[], object]], rounds: int = 5, warm_up: bool = True
    ) -> dict[str, float]:
        """Median seconds of each function."""
        return in_turn(functions, self.device, rounds, warm_up)

    def rows(self, n: int, dtype: type = np.float32) -> np.ndarray:
        """Standard normal rows on the host; those after the first million repeat these."""
        shape = (min(n, 2**20), N_FEATURES)
        block = np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype)
        return np.resize(block, (n, N_FEATURES))

    def fitted(self, Detector: type = AutoEncoder, **params: Any) -> NeuralDetector:
        """A detector that was trained for two epochs."""
        options = {"epoch_num": 2, "verbose": 0, "device": self.device, **params}
        detector: NeuralDetector = Detector(**options).fit(self.rows(self.sizes.trained))
        return detector

    @cached_property
    def rates(self) -> Rates:
        """The rates of the card, measured at the first need."""
        return measure_rates(self.device, self.sizes.copied, self.sizes.matrix)

    def add_rates(self, figures: Part) -> None:
        """Note the rates that shares of a part refer to."""
        figures.add("copy on the card, bytes read and written", self.rates.memory / 1e9, "GB/s")
        figures.add("copy from page-locked memory", self.rates.pinned / 1e9, "GB/s")
        figures.add("copy from pageable memory", self.rates.pageable / 1e9, "GB/s")
        for precision, rate in self.rates.matmul.items():
            figures.add(f"matrix product, {precision}", rate / 1e12, "TFLOP/s")


# --------------------------------------------------------------------------- rows on the card


def resident(bench: Bench, figures: Part) -> None:
    """Score rows on the card by our detectors, and by their modules without our engine."""
    bench.add_rates(figures)
    x = torch.from_numpy(bench.rows(bench.sizes.rows)).to(bench.device)
    for name, (Detector, params) in RESIDENT.items():
        detector = bench.fitted(Detector, **params)
        began = time.perf_counter()
        detector.score_tensor(x[:1])
        wait_for(bench.device)
        figures.add(f"{name}: first call, which compiles", time.perf_counter() - began, "s")
        _beside_torch(bench, figures, name, detector, x)
        for precision in PRECISIONS[1:]:
            detector.set_params(precision=precision)
            seconds = bench.in_turn({"": partial(detector.score_tensor, x)})[""]
            _add_speed(bench, figures, f"{name}, {precision}", detector, len(x), seconds)


def _beside_torch(
    bench: Bench, figures: Part, name: str, detector: NeuralDetector, x: Tensor
) -> None:
    module = detector.scoring_module_
    # the activations of a tile fit the card's memory, for an ensemble and the kernel head, too
    widest = max(module.widths[-1], module.head.max_width)
    height = min(2**20 if widest <= 256 else 2**16, len(x))
    calls: dict[str, Callable[[], object]] = {"ours": partial(detector.score_tensor, x)}
    for peer, function in peers(module, x[:height]).items():
        calls[peer] = partial(in_tiles, function, x, height)
    seconds = bench.in_turn(calls)
    _add_speed(bench, figures, name, detector, len(x), seconds.pop("ours"))
    for peer, taken in seconds.items():
        figures.add(f"{name}: {peer}", len(x) / taken / 1e6, "million rows/s")


def _add_speed(
    bench: Bench, figures: Part, name: str, detector: NeuralDetector, n: int, seconds: float
) -> None:
    precision = str(detector.precision)
    if detector.scoring_module_.head.needs_float32:
        precision = "float32"
    operations = n * operations_of(detector.scoring_module_)
    n_bytes = n * 4 * (N_FEATURES + 1)  # a row read and its score written
    figures.add(f"{name}: ours", n / seconds / 1e6, "million rows/s")
    bound = bench.rates.bound(n_bytes, operations, precision)
    figures.add(f"{name}: share of the roofline", bound / seconds)


# --------------------------------------------------------------------------- rows on the host


def host(bench: Bench, figures: Part) -> None:
    """Score rows on the host, in memory of several kinds and in a file."""
    bench.add_rates(figures)
    n = bench.sizes.rows
    for name, params in {"AutoEncoder": {}, "30-64-32-64-30, euclidean": EUCLIDEAN}.items():
        detector = bench.fitted(**params)
        for dtype in (np.float32, np.float64):
            rows = bench.rows(n, dtype)
            calls: dict[str, Callable[[], object]] = {
                "pageable": partial(detector.decision_function, rows)
            }
            if bench.on_gpu:
                pinned = torch.from_numpy(rows).pin_memory()
                calls["page-locked"] = partial(detector.decision_function, pinned.numpy())
            for memory, seconds in bench.in_turn(calls, rounds=3).items():
                what = f"{name}, {np.dtype(dtype).name}, {memory}"
                _add_copies(bench, figures, what, n, seconds)
            del rows, calls
        _add_overlap(bench, figures, name, detector)
        with _memory_map(bench) as rows:
            seconds = bench.in_turn({"": partial(detector.decision_function, rows)}, rounds=2)[""]
            what = f"{name}, float32, memory map of {rows.nbytes / 2**30:.3g} GiB"
            _add_copies(bench, figures, what, len(rows), seconds)


def _add_copies(bench: Bench, figures: Part, what: str, n: int, seconds: float) -> None:
    figures.add(f"{what}: ours", n / seconds / 1e6, "million rows/s")
    # float64 rows are copied as float32, so this is what has to be copied of either
    share = 4 * n * N_FEATURES / bench.rates.pinned / seconds
    figures.add(f"{what}: share of the rate of copying from page-locked memory", share)


def _add_overlap(bench: Bench, figures: Part, name: str, detector: NeuralDetector) -> None:
    if not bench.on_gpu:
        print("  no profile: there is no GPU")
        return
    rows = bench.rows(2**22)
    copies, kernels = on_the_card(partial(detector.decision_function, rows))
    figures.add(f"{name}: copies in a profile of 4 million rows", len(copies))
    figures.add(f"{name}: share of the time of kernels beside copies", overlap(kernels, copies))


@contextlib.contextmanager
def _memory_map(bench: Bench) -> Iterator[np.ndarray]:
    shape = (bench.sizes.mapped_bytes // (4 * N_FEATURES), N_FEATURES)
    block = bench.rows(min(2**20, shape[0]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        rows = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for start in range(0, len(rows), len(block)):
            rows[start : start + len(block)] = block[: len(rows) - start]
        del rows
        yield np.load(path, mmap_mode="r")


# ----------------------------------------------------------------------------------------- fit


def fit(bench: Bench, figures: Part) -> None:
    """Measure steps of training, and whole fits beside those on the CPU."""
    for name, (Detector, params) in FITTED.items():
        for batch_size in bench.sizes.batches:
            detector = Detector(batch_size=batch_size, epoch_num=2, verbose=0, **params)
            ways = {"recorded": bench.device, "not recorded": bench.device, "on the CPU": "cpu"}
            for way, device in ways.items():
                steps = steps_in_a_second(detector, batch_size, torch.device(device), way)
                figures.add(f"{name}, batches of {batch_size}, {way}", steps, "steps/s")
    for name, (Detector, params) in FITTED.items():
        _whole_fits(bench, figures, name, partial(Detector, verbose=0, **params))


def steps_in_a_second(
    detector: NeuralDetector, batch_size: int, device: torch.device, way: str
) -> float:
    """Steps of training a second in the second of two epochs; the first records them."""
    n_steps = min(max(2**19 // batch_size, 30), 300)
    rows = torch.randn(n_steps * batch_size, N_FEATURES)
    recipe = recipe_of(detector, N_FEATURES)
    generator = torch.Generator(device).manual_seed(0)
    network = recipe.build_network(generator, device)
    batches = training_batches(rows, Standardize(N_FEATURES), device, recipe.max_trained)
    with contextlib.ExitStack() as stack:
        if way == "not recorded":
            never = mock.patch.object(training, "can_be_recorded", return_value=False)
            stack.enter_context(never)
        made = training.Training(
            network, recipe.objective, batches, len(rows), recipe.options, generator
        )
    _, second = made.epochs()
    # members of an ensemble may be trained on fewer rows
    per_epoch = -(-training.n_trained(recipe.options, len(rows)) // batch_size)
    return per_epoch / second.seconds


def _whole_fits(
    bench: Bench, figures: Part, name: str, make: Callable[..., NeuralDetector]
) -> None:
    """Report seconds of fits by the number of rows, and from which number on the card is faster."""
    fewest = None
    for n in bench.sizes.tables:
        rows = bench.rows(n)
        calls = {
            "on the card": lambda rows=rows: make(device=bench.device).fit(rows),
            "on the CPU": lambda rows=rows: make(device="cpu").fit(rows),
        }
        if n > 10**6:
            del calls["on the CPU"]  # minutes, and it is known by then which is faster
        is_short = n < 10**5
        seconds = bench.in_turn(calls, rounds=3 if is_short else 1, warm_up=is_short)
        for where, taken in seconds.items():
            figures.add(f"{name}, {n} rows, whole fit {where}", taken, "s")
        is_faster = seconds["on the card"] < seconds.get("on the CPU", float("inf"))
        fewest = (fewest or n) if is_faster else None
    figures.add(f"{name}: rows from which a fit on the card is faster", fewest or float("nan"))


# ------------------------------------------------------------------------------------- one row


def row(bench: Bench, figures: Part) -> None:
    """Measure calls with one row, warm, each until its score is there."""
    for name, (Detector, params) in FITTED.items():
        for device in dict.fromkeys([bench.device, torch.device("cpu")]):
            detector = bench.fitted(Detector, **{**params, "device": device})
            x = torch.zeros(1, N_FEATURES, device=device)
            calls: dict[str, Callable[[], object]] = {
                "score_tensor": partial(detector.score_tensor, x),
                "decision_function": partial(detector.decision_function, x.cpu().numpy()),
            }
            for what, call in calls.items():
                taken = sorted(_latencies(call, device, bench.sizes.calls))
                for percent in (50, 99):
                    at = taken[min(len(taken) * percent // 100, len(taken) - 1)]
                    label = f"{name} on {device.type}, {what}, p{percent}"
                    figures.add(label, at * 1e6, "us")


def _latencies(call: Callable[[], object], device: torch.device, n: int) -> list[float]:
    for _ in range(20):
        call()
    taken = []
    for _ in range(n):
        wait_for(device)
        began = time.perf_counter()
        call()
        wait_for(device)
        taken.append(time.perf_counter() - began)
    return taken


# ------------------------------------------------------------------------------------ accuracy


def accuracy(bench: Bench, figures: Part) -> None:
    """Compare scores with those of the CPU, and of lower precisions with those of float64."""
    rows = bench.rows(2 * bench.sizes.trained)
    for name, (Detector, params) in NETWORKS.items():
        detector = bench.fitted(Detector, **params)
        on_cpu = pickle.loads(pickle.dumps(copy.copy(detector).set_params(device="cpu")))
        expected = on_cpu.decision_function(rows)
        # the likelihoods of some rows are near 0, so a difference is taken of a typical score
        difference = np.abs(detector.decision_function(rows) - expected)
        relative = difference / np.maximum(np.abs(expected), np.median(np.abs(expected)))
        figures.add(f"{name}: largest relative difference from the CPU", relative.max())
    x = torch.from_numpy(rows).to(bench.device)
    for name, params in {"30-64-32-64-30, euclidean": EUCLIDEAN, "AutoEncoder": {}}.items():
        detector = bench.fitted(**params)
        exact = _in_float64(detector, x)
        for precision in PRECISIONS:
            scores = detector.set_params(precision=precision).score_tensor(x).double()
            error = ((scores - exact) / exact).abs()
            figures.add(f"{name}, {precision}: median relative error", error.median().item())
            figures.add(f"{name}, {precision}: largest relative error", error.max().item())
    if bench.adbench is None:
        print("  no ROC AUC: pass --adbench DIR")
    else:
        _data_sets(bench, figures, bench.adbench)


@torch.inference_mode()
def _in_float64(detector: NeuralDetector, x: Tensor) -> Tensor:
    """Scores by the same module in float64."""
    module = copy.deepcopy(detector.scoring_module_).double()
    z = x.double() * module.standardize.scale + module.standardize.shift
    scores: Tensor = module.head.score(module.network, z)
    return scores


def _data_sets(bench: Bench, figures: Part, folder: Path) -> None:
    """Report the mean ROC AUC of each precision over data sets, by detectors fitted once."""
    found: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for dataset in folder_datasets(folder):
        some = dataset.at_most(bench.sizes.set_rows, seed=0)
        detector = AutoEncoder(verbose=0, device=bench.device).fit(some.X)
        for precision in PRECISIONS:
            scores = detector.set_params(precision=precision).decision_function(some.X)
            found[precision].append(float(roc_auc_score(some.y, scores)))
    for precision, aucs in found.items():
        what = f"ROC AUC over {len(aucs)} data sets, {precision}"
        figures.add(f"{what}: mean", statistics.fmean(aucs))
        worst = max(abs(a - b) for a, b in zip(aucs, found["float32"], strict=True))
        figures.add(f"{what}: largest difference from float32", worst)


# ------------------------------------------------------------------------------- beside PyOD's


def pyod(bench: Bench, figures: Part) -> None:
    """Fit and score beside PyOD's detectors of the same networks, on the same device."""
    n, epochs = bench.sizes.peer_rows, 2
    rows, many = bench.rows(n), bench.rows(bench.sizes.rows)
    for name, (Peer, Ours) in PAIRS.items():
        options = {"epoch_num": epochs, "verbose": 0, "device": bench.device}
        peer, ours = Peer(**options), Ours(**options)
        same = Ours(**options, batch_size=32)
        seconds = bench.in_turn(
            {
                "PyOD": lambda peer=peer: peer.fit(rows),
                "ours": lambda ours=ours: ours.fit(rows),
                "same batches": lambda same=same: same.fit(rows),
            },
            rounds=2,
        )
        figures.add(f"{name}, fit of {n} rows: ours", seconds["ours"], "s")
        for what in ("ours", "same batches"):
            times = seconds["PyOD"] / seconds[what]
            figures.add(f"{name}, fit of {n} rows, {what}", times, "times PyOD's")
        _scores_beside(bench, figures, name, peer, ours, rows, many)


def _scores_beside(
    bench: Bench,
    figures: Part,
    name: str,
    peer: Any,
    ours: NeuralDetector,
    rows: np.ndarray,
    many: np.ndarray,
) -> None:
    few = bench.in_turn(
        {
            "PyOD": lambda: peer.decision_function(rows),
            "ours": lambda: ours.decision_function(rows),
        },
        rounds=3,
    )
    large = bench.in_turn({"": lambda: ours.decision_function(many)}, rounds=3)[""]
    figures.add(f"{name}, scores of {len(rows)} rows", few["PyOD"] / few["ours"], "times PyOD's")
    times = (few["PyOD"] / len(rows)) / (large / len(many))
    figures.add(f"{name}, scores of {len(many)} rows, for each row", times, "times PyOD's")


# --------------------------------------------------------------------------- for a sanitizer


def small(bench: Bench) -> None:
    """Run scoring and training once on few rows, by each path: fused, recorded and plain."""
    rows = bench.rows(200)
    for name in ("AutoEncoder, kernel", "VAE, joint_mahalanobis", "ensemble", "wide", "conv",
                 "a plugin's network"):  # fmt: skip
        Detector, params = NETWORKS[name]
        detector = Detector(epoch_num=1, verbose=0, device=bench.device, **params).fit(rows)
        detector.score_tensor(torch.from_numpy(rows).to(bench.device))
        print(f"  {name}: {detector.decision_function(rows).mean():.4g}")


PARTS: dict[str, Callable[[Bench, Part], None]] = {
    "resident": resident,
    "host": host,
    "fit": fit,
    "row": row,
    "accuracy": accuracy,
    "pyod": pyod,
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join([*PARTS, "small"]))
    parser.add_argument("--adbench", type=Path, help="ADBench's .npz files")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - {*PARTS, "small"}
    if unknown:
        parser.error(f"There is no part {sorted(unknown)[0]!r}. There are {', '.join(PARTS)}.")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device, and torch sees none.")
    warnings.filterwarnings("ignore")
    bench = Bench(arguments.device, arguments.results, arguments.adbench)
    print(json.dumps(bench.described, indent=1))
    for name in arguments.parts or PARTS:
        print(name, flush=True)
        if name == "small":
            small(bench)
        else:
            PARTS[name](bench, bench.part(name))
        gc.collect()  # detectors hold recorded graphs
        if bench.on_gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
