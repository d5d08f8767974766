"""Tiles of rows: the loop of all computations but training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from pyod_ae_plugin.engine.cuda.fused import FusedScore
from pyod_ae_plugin.engine.cuda.transfer import Download, TileBefore, Upload
from pyod_ae_plugin.engine.folded import ALIGNMENT, FoldedScore
from pyod_ae_plugin.engine.rows import Rows, rows_in_memory
from pyod_ae_plugin.engine.workers import run_in_workers
from pyod_ae_plugin.scoring import ScoringModule

# The fused kernel keeps no values of a tile in memory, so only the cost of copying counts.
_COPIED_BYTES = 16 * 2**20


def map_rows(function: Callable[[Tensor], Tensor], rows: Rows, module: ScoringModule) -> Tensor:
    """Apply a function tile by tile, and collect its results as float64 on the CPU.

    The result for a row depends on that row only, to the last bit. If the memory of a GPU runs out,
    tiles become half as high, which may change the last bits.
    The function maps tiles [m, n_features] on the module's device to tensors [m, ...] by the
    module's network; on a CPU it is called from several threads. There must be at least one row.
    """
    scale = module.standardize.scale
    if not scale.is_cuda:
        return _mapped_on_cpu(function, rows, module, torch.float64)
    tile_before, download = Upload(partial(_tile_before, rows), scale), Download(scale.device)
    result = torch.empty(0)
    for start, stop, values in mapped_in_turn(function, len(rows), tile_before, module):
        if start == 0:
            result = torch.empty((len(rows), *values.shape[1:]), dtype=torch.float64)
        download.put(values, result[start:stop])
    download.finish()
    return result


def map_resident(
    function: Callable[[Tensor], Tensor], rows: Tensor, module: ScoringModule
) -> Tensor:
    """Apply a function to rows on the module's device; the results stay there in their dtype.

    Does not wait for a GPU.
    """
    if isinstance(function, FusedScore):
        return function(rows)
    if not module.standardize.scale.is_cuda:
        return _mapped_on_cpu(function, rows, module, None)
    tile_before = partial(_tile_before, rows)
    with torch.inference_mode():
        parts = mapped_in_turn(function, len(rows), tile_before, module)
        return torch.cat([values for _, _, values in parts])


def _mapped_on_cpu(
    function: Callable[[Tensor], Tensor],
    rows: Rows,
    module: ScoringModule,
    dtype: torch.dtype | None,
) -> Tensor:
    """The results of all rows, as ``dtype`` or as the function returns them."""
    n = len(rows)
    low = function.lowest_height if isinstance(function, FoldedScore) and n < ALIGNMENT else 0
    height = low if n <= low else _cpu_tile_height(n, module)
    lock = threading.Lock()
    result: Tensor | None = None

    def compute(i: int) -> None:
        nonlocal result
        stop = min((i + 1) * height, n)
        with torch.inference_mode():
            values = function(_tile_before(rows, stop, height))[i * height - stop :]
        with lock:
            if result is None:
                result = torch.empty((n, *values.shape[1:]), dtype=dtype or values.dtype)
        result[i * height : stop] = values

    if n <= low:
        compute(0)  # by this thread, since another takes longer to wake than to compute the tile
    else:
        run_in_workers(compute, -(-n // height))
    assert result is not None
    return result


def _cpu_tile_height(n: int, module: ScoringModule) -> int:
    """Height of the tiles that n rows are divided into."""
    widest = max(module.widths[-1], module.head.max_width)
    most = rows_in_memory(module.standardize.n_features, widest, torch.device("cpu"))
    return min(max(most // ALIGNMENT, 1), -(-n // ALIGNMENT)) * ALIGNMENT


def mapped_in_turn(
    function: Callable[[Tensor], Tensor], n: int, tile_before: TileBefore, module: ScoringModule
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield start and stop of each tile, and the results of its rows, one tile after the other."""
    if isinstance(function, FusedScore):
        height = min(max(_COPIED_BYTES // (4 * module.standardize.n_features), ALIGNMENT), n)
    else:
        most = rows_in_memory(
            module.standardize.n_features,
            max(module.widths[-1], module.head.max_width),
            module.standardize.scale.device,
        )
        height = max(most // ALIGNMENT, 1) * ALIGNMENT
    start = 0
    while start < n:
        stop = min(start + height, n)
        try:
            with torch.inference_mode():
                values = function(tile_before(stop, height))[start - stop :]
        except torch.cuda.OutOfMemoryError:
            if height <= ALIGNMENT:
                raise
            height = max(height // 2 // ALIGNMENT, 1) * ALIGNMENT
            continue
        yield start, stop, values
        start = stop


def _tile_before(rows: Rows, stop: int, height: int) -> Tensor:
    """The ``height`` rows before ``stop``; if there are fewer, the first row is repeated."""
    if stop >= height:
        return rows[stop - height : stop]
    return torch.cat([rows[:1].expand(height - stop, -1), rows[:stop]])
