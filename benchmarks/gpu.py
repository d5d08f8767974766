"""Speed on a GPU, beside what the same GPU reaches at copying and multiplying in the same run.

    python benchmarks/gpu.py [--rows 10000000]

Prints and writes to ``benchmarks/results`` (``gpu.csv``, ``.json``, ``.png``):

- rates of the GPU: copying on the device, copying from page-locked memory, and matrix products;
- scoring of rows of 30 float32 features by the network 30-64-32-64-30, on the device and from the
  host, as times of the plain module, of PyOD's AutoEncoder, and as a share of the bound
  ``max(bytes / bandwidth, FLOPs / matmul rate)``; the same for our defaults and for an ensemble of
  32 members;
- the error of each precision against float64;
- training at batches of 256, as times of steps that are not recorded and of PyOD's fit;
- cost per row against the number of rows and of features.

Figures are medians over rounds in which all peers have their turn.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from figures import Figures, draw_costs, parser_of
from pyod.models.auto_encoder import AutoEncoder as PyodAutoEncoder

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.benchmarking.summary import environment
from pyod_ae_plugin.detectors import NeuralDetector
from pyod_ae_plugin.engine import training
from pyod_ae_plugin.engine.pipeline import read_pipeline

N_FEATURES, N_TRAINING = 30, 20_000
ROUNDS = 7
NETWORK: dict[str, Any] = {"hidden_neuron_list": (64, 32), "hidden_activation_name": "relu"}
PLAIN = {**NETWORK, "score_head": "euclidean"}
PLAIN_TILE = 2**20

figures = Figures()


def in_turn(functions: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each function, until the GPU is done, after one call not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            function()
            torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def rates() -> dict[str, float]:
    """Bytes and floating-point operations a second that the GPU reaches."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    host = torch.empty(2**28).pin_memory()
    a, b, c = torch.randn(3, 8192, 8192, device="cuda")
    matmul = partial(torch.mm, a, b, out=c)

    def with_tf32() -> None:
        torch.backends.cuda.matmul.allow_tf32 = True
        matmul()
        torch.backends.cuda.matmul.allow_tf32 = False

    seconds = in_turn(
        {
            "copy": lambda: target.copy_(source),
            "pinned": lambda: target.copy_(host, non_blocking=True),
            "float32": matmul,
            "tf32": with_tf32,
        }
    )
    found = {
        "bytes": 2 * source.nbytes / seconds["copy"],
        "pinned": host.nbytes / seconds["pinned"],
        "float32": 2 * 8192**3 / seconds["float32"],
        "tf32": 2 * 8192**3 / seconds["tf32"],
    }
    figures.add("copy on the device, bytes read and written", found["bytes"] / 1e9, "GB/s")
    figures.add("copy from page-locked memory", found["pinned"] / 1e9, "GB/s")
    figures.add("matrix product, float32", found["float32"] / 1e12, "TFLOP/s")
    figures.add("matrix product, tf32", found["tf32"] / 1e12, "TFLOP/s")
    return found


def flops(detector: NeuralDetector) -> int:
    """Operations in the matrix products of a row's score, as they are, without padding."""
    module = detector.scoring_module_
    head = getattr(module.head, "head", module.head)
    pipeline = read_pipeline(module.network)
    layers = (*pipeline.encoding, *pipeline.decoding)
    weights = [layer.weight for layer in layers if hasattr(layer, "weight")]
    whitening = [b for name, b in head.named_buffers() if "whitening" in name]
    references = [head.references] if hasattr(head, "references") else []
    return 2 * sum(t.numel() for t in (*weights, *whitening, *references))


def scoring(X: np.ndarray, rate: dict[str, float]) -> None:
    """Report scoring by several detectors, on the device and from the host."""
    fit = {"epoch_num": 2, "verbose": 0, "device": "cuda"}
    detectors = {
        "30-64-32-64-30, Euclidean": AutoEncoder(**PLAIN, **fit),
        "AutoEncoder": AutoEncoder(**fit),
        "VAE": VAE(**fit),
        "AutoEncoderEnsemble of 32": AutoEncoderEnsemble(n_estimators=32, **fit),
    }
    resident = torch.from_numpy(X).cuda()
    for name, detector in detectors.items():
        detector.fit(X[:N_TRAINING])
        module = detector.scoring_module_
        # an ensemble needs memory for each member, and more time than all others together
        n = len(X) if name != "AutoEncoderEnsemble of 32" else len(X) // 20
        tile = PLAIN_TILE if n == len(X) else 2**13
        x, rows = resident[:n], X[:n]

        @torch.inference_mode()
        def plain(x: torch.Tensor = x, module: Any = module, tile: int = tile) -> None:
            for part in x.split(tile):
                module(part)

        seconds = in_turn(
            {
                "plain": plain,
                "ours": partial(detector.score_tensor, x),
                "host": partial(detector.decision_function, rows),
            }
        )
        bytes_, operations = 4 * n * (N_FEATURES + 1), n * flops(detector)
        bound = max(bytes_ / rate["bytes"], operations / rate["float32"])
        figures.add(f"{name}: rows on the device", n / seconds["ours"] / 1e6, "million rows/s")
        figures.add(
            f"{name}: ... as times of the plain module", seconds["plain"] / seconds["ours"], "x"
        )
        figures.add(f"{name}: ... of the bound", bound / seconds["ours"], "")
        share = operations / seconds["ours"] / rate["float32"]
        figures.add(f"{name}: ... of the matmul rate, float32", share, "")
        figures.add(f"{name}: rows on the host", n / seconds["host"] / 1e6, "million rows/s")
        of_copying = rows.nbytes / seconds["host"] / rate["pinned"]
        figures.add(f"{name}: ... of copying them from page-locked memory", of_copying, "")

    peer = PyodAutoEncoder(epoch_num=1, verbose=0, device="cuda", hidden_neuron_list=[64, 32])
    peer.fit(X[:2000])
    few = X[:N_TRAINING]
    ours = detectors["30-64-32-64-30, Euclidean"]
    peers = in_turn({"PyOD": lambda: peer.decision_function(few)}, rounds=3)
    host = in_turn({"ours": lambda: ours.decision_function(X)}, rounds=3)
    times = (peers["PyOD"] / len(few)) / (host["ours"] / len(X))
    figures.add("30-64-32-64-30: rows on the host, as times of PyOD's AutoEncoder", times, "x")


def errors(X: np.ndarray) -> None:
    """Report how far scores of each precision are from those computed in float64."""
    x = torch.from_numpy(X[:100_000]).cuda()
    for name, params in {"30-64-32-64-30, Euclidean": PLAIN, "AutoEncoder": {}}.items():
        detector = AutoEncoder(epoch_num=5, verbose=0, device="cuda", **params).fit(X[:N_TRAINING])
        exact = reference_scores(detector, x)
        for precision in ("float32", "tf32", "bfloat16"):
            detector.set_params(precision=precision)
            error = ((detector.score_tensor(x).double() - exact) / exact).abs()
            figures.add(f"{name}, {precision}: median relative error", error.median().item(), "")
            figures.add(f"{name}, {precision}: largest relative error", error.max().item(), "")


@torch.inference_mode()
def reference_scores(detector: NeuralDetector, x: torch.Tensor) -> torch.Tensor:
    """Scores by the same module in float64."""
    module = copy.deepcopy(detector.scoring_module_).double()
    z = x.double() * module.standardize.scale + module.standardize.shift
    return module.head.score(module.network, z)


def fitting(X: np.ndarray) -> None:
    """Report training at batches of 256 beside steps that are not recorded, and beside PyOD."""
    rows = X[:N_TRAINING].astype(np.float64)
    epochs = 20
    options: dict[str, Any] = {"epoch_num": epochs, "verbose": 0, "device": "cuda"}
    ours = partial(AutoEncoder, **PLAIN, **options, batch_size=256)

    def eagerly() -> None:
        with mock.patch.object(training, "can_be_recorded", return_value=False):
            ours().fit(rows)

    peer = PyodAutoEncoder(**{**options, "epoch_num": 1}, hidden_neuron_list=[64, 32])
    seconds = in_turn(
        {
            "ours": lambda: ours().fit(rows),
            "eager": eagerly,
            "ours, defaults": lambda: AutoEncoder(verbose=0, device="cuda").fit(rows),
            "PyOD, one epoch": lambda: peer.fit(rows),
        },
        rounds=3,
    )
    steps = epochs * -(-N_TRAINING // 256)
    figures.add("training, batches of 256: fit", seconds["ours"], "s")
    figures.add("training, batches of 256: steps in a second of fit", steps / seconds["ours"], "/s")
    figures.add("... as times of steps not recorded", seconds["eager"] / seconds["ours"], "x")
    times = epochs * seconds["PyOD, one epoch"] / seconds["ours"]
    figures.add("... as times of PyOD's fit of as many epochs, at its batches of 32", times, "x")
    figures.add("training with our defaults: fit", seconds["ours, defaults"], "s")


def costs(X: np.ndarray) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Nanoseconds a row on the device, by the number of rows and of features."""
    fit = {"epoch_num": 1, "verbose": 0, "device": "cuda"}
    detector = AutoEncoder(**PLAIN, **fit).fit(X[:N_TRAINING])
    counts = [n for n in (1, 10**3, 10**4, 10**5, 10**6, 10**7) if n <= len(X)]
    times = []
    for n in counts:
        x = torch.from_numpy(X[:n]).cuda()
        times.append(in_turn({"": partial(detector.score_tensor, x)})[""])
        figures.add(f"30-64-32-64-30: {n} rows on the device", times[-1] * 1e6, "microseconds")
    by_rows = counts, [t / n * 1e9 for t, n in zip(times, counts, strict=True)]
    widths, per_row = [4, 8, 16, 32, 64, 128, 256], []
    for d in widths:
        x = torch.randn(10**6, d, device="cuda")
        wide = AutoEncoder(**PLAIN, **fit).fit(x[:N_TRAINING].cpu().numpy())
        per_row.append(in_turn({"": partial(wide.score_tensor, x)})[""] / len(x) * 1e9)
        figures.add(f"d-64-32-64-d: {d} features, a row on the device", per_row[-1], "ns")
    return {
        "rows": {"30-64-32-64-30": by_rows},
        "features": {"d-64-32-64-d": (widths, per_row)},
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=10**7)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device; torch sees none.")
    warnings.filterwarnings("ignore")
    properties = torch.cuda.get_device_properties(0)
    described = {**environment("gpu"), "gpu": properties.name}
    print(json.dumps(described, indent=1))
    X = np.random.default_rng(0).standard_normal((arguments.rows, N_FEATURES), np.float32)
    scoring(X, rates())
    errors(X)
    fitting(X)
    found = costs(X)
    figures.write(arguments.results / "gpu.csv", described)
    draw_costs(found, arguments.results / "gpu.png")


if __name__ == "__main__":
    main()
