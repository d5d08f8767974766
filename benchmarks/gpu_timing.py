"""What the parts of ``gpu.py`` share: a clock, the rates of the card, peers, and kept figures."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from figures import Figures
from torch import Tensor, nn

from pyod_ae_plugin.benchmarking.summary import environment
from pyod_ae_plugin.engine.devices import gpu_products
from pyod_ae_plugin.engine.pipeline import read_pipeline
from pyod_ae_plugin.scoring import Kernel, ScoringModule

ROUNDS = 7


class Part(Figures):
    """The figures of one part, in a file with those of the other parts.

    The file is written anew at each figure, so that a part that fails or is stopped keeps what it
    found. Earlier figures of the same part are replaced.
    """

    def __init__(self, name: str, path: Path, described: dict[str, Any]) -> None:
        super().__init__()
        self._name, self._path, self._described = name, path, described
        if not path.exists():
            return
        description = path.with_suffix(".json")
        if json.loads(description.read_text()) != described:
            sys.exit(
                f"{path} holds figures of another machine or of other versions, see {description}. "
                "Move both files, or write to another folder with --results."
            )
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            self._rows += [row for row in rows if row["what"].partition(": ")[0] != name]

    def add(self, what: str, value: float, unit: str = "") -> None:
        """Print a figure and keep it."""
        super().add(f"{self._name}: {what}", value, unit)
        self.write(self._path, self._described)


def described_by(device: torch.device) -> dict[str, Any]:
    """Versions, machine and card, on which figures depend."""
    described = environment("gpu")
    described["versions"] |= {"triton": _triton_version(), "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described |= {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory": properties.total_memory,
            "driver": _driver_version(),
        }
    return described


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def _driver_version() -> str | None:
    """The version of NVIDIA's driver, if its tool is here to tell."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True)
    return answer.stdout.partition("\n")[0] or None


# --------------------------------------------------------------------------------------- clock


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    functions: dict[str, Callable[[], object]],
    device: torch.device,
    rounds: int = ROUNDS,
    warm_up: bool = True,
) -> dict[str, float]:
    """Median seconds of each function until the device is done; ``warm_up`` calls do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + warm_up):
        for name, function in functions.items():
            wait_for(device)
            began = time.perf_counter()
            function()
            wait_for(device)
            if round_ or not warm_up:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


# --------------------------------------------------------------------------- rates and roofline


class Rates(NamedTuple):
    """What the card reaches in this run, in bytes and floating-point operations a second."""

    memory: float  # copy on the card, bytes read and written
    pinned: float  # copy to the card from page-locked memory
    pageable: float  # copy to the card from other memory
    matmul: dict[str, float]  # by precision

    def bound(self, n_bytes: float, operations: float, precision: str = "float32") -> float:
        """The roofline: the shortest time, in seconds, for these bytes and operations."""
        return max(n_bytes / self.memory, operations / self.matmul[precision])


def measure_rates(device: torch.device, n: int, width: int) -> Rates:
    """Measure with copies of n float32 numbers and products of width x width matrices."""
    target = torch.empty(n, device=device)
    source, pageable = torch.randn(n, device=device), torch.randn(n)
    pinned = pageable.pin_memory() if device.type == "cuda" else pageable
    a, b, out = (torch.randn(width, width, device=device) for _ in range(3))
    halves = [x.bfloat16() for x in (a, b, out)]
    seconds = in_turn(
        {
            "memory": lambda: target.copy_(source),
            "pinned": lambda: target.copy_(pinned, non_blocking=True),
            "pageable": lambda: target.copy_(pageable),
            "float32": partial(_multiply, a, b, out),
            "tf32": partial(_multiply, a, b, out, tf32=True),
            "bfloat16": partial(_multiply, *halves),
        },
        device,
    )
    n_bytes, operations = 4 * n, 2 * width**3
    return Rates(
        2 * n_bytes / seconds["memory"],
        n_bytes / seconds["pinned"],
        n_bytes / seconds["pageable"],
        {name: operations / seconds[name] for name in ("float32", "tf32", "bfloat16")},
    )


def _multiply(a: Tensor, b: Tensor, out: Tensor, tf32: bool = False) -> None:
    with gpu_products(tf32=tf32):
        torch.mm(a, b, out=out)


def operations_of(module: ScoringModule) -> int:
    """Floating-point operations in the matrix products of a row's score, without padding."""
    head = getattr(module.head, "head", module.head)
    pipeline = read_pipeline(module.network)
    if pipeline is None:
        raise ValueError(f"The operations of a {type(module.network).__name__} are not known.")
    layers = (*pipeline.encoding, *pipeline.decoding)
    matrices = [layer.weight for layer in layers if hasattr(layer, "weight")]
    matrices += [b for name, b in head.named_buffers() if "whitening" in name]
    if hasattr(head, "references"):
        # the kernel head multiplies by them for the distances, and again for the weighted mean
        matrices += [head.references] * (2 if isinstance(head, Kernel) else 1)
    return 2 * sum(matrix.numel() for matrix in matrices)


# --------------------------------------------------------------------------------------- peers

Peer = Callable[[Tensor], Tensor]
"""Takes a tile of rows on the device and returns its scores."""


def peers(module: ScoringModule, tile: Tensor) -> dict[str, Peer]:
    """What a user of torch would write to score tiles like this one by the module."""
    makers: dict[str, Callable[[ScoringModule, Tensor], Peer]] = {
        "eager": lambda module, tile: module,
        "torch.compile": compiled,
        "CUDA graph": graphed,
    }
    if tile.device.type != "cuda":
        del makers["CUDA graph"]
    found = {}
    for name, make in makers.items():
        try:
            with torch.inference_mode():
                found[name] = make(module, tile)
                found[name](tile)
        except Exception as error:  # a peer that does not run must not end the run
            print(f"  {name} failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            found.pop(name, None)
    return found


def compiled(module: ScoringModule, tile: Tensor) -> Peer:
    """The module by torch.compile, for tiles of one shape."""
    torch.compiler.reset()  # it gives up after a few modules of one class
    made: nn.Module = torch.compile(module, dynamic=False)
    return made


def graphed(module: ScoringModule, tile: Tensor) -> Peer:
    """The module as a CUDA graph, recorded as torch's documentation does."""
    source = tile.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            module(source)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = module(source)

    def replay(tile: Tensor) -> Tensor:
        source.copy_(tile)
        graph.replay()
        return result.clone()

    return replay


@torch.inference_mode()
def in_tiles(function: Peer, x: Tensor, height: int) -> Tensor:
    """Scores of rows on the device, tile by tile; the height must divide the number of rows."""
    return torch.cat([function(tile) for tile in x.split(height)])


# ------------------------------------------------------------------------------------- overlap


class Interval(NamedTuple):
    """When something ran on the card, in microseconds."""

    start: float
    stop: float


def on_the_card(work: Callable[[], object]) -> tuple[list[Interval], list[Interval]]:
    """When the card copied from the host, and when it computed, while it did some work."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    copies, kernels = [], []
    for event in profiled.events():
        if event.device_type == DeviceType.CUDA:
            interval = Interval(event.time_range.start, event.time_range.end)
            if "HtoD" in event.name:
                copies.append(interval)
            elif not event.name.startswith(("Memcpy", "Memset")):
                kernels.append(interval)
    return copies, kernels


def overlap(of: Iterable[Interval], others: Iterable[Interval]) -> float:
    """The share of the time of some intervals in which others run, too.

    >>> overlap([Interval(0, 4), Interval(6, 8)], [Interval(1, 2), Interval(3, 7)])
    0.5
    """
    of, others = list(of), list(others)
    total = sum(a.stop - a.start for a in of)
    common = sum(max(min(a.stop, b.stop) - max(a.start, b.start), 0.0) for a in of for b in others)
    return common / total if total else 0.0
