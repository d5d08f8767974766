"""Tiles of rows: the one loop through which everything but training passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import torch
from torch import Tensor

from pyod_ae_plugin.engine.rows import Rows, rows_in_memory
from pyod_ae_plugin.engine.transfer import Download, TileBefore, Upload
from pyod_ae_plugin.engine.triton_kernels import FusedScore
from pyod_ae_plugin.scoring import ScoringModule

# Matrix kernels treat the last few rows of a matrix apart and round them otherwise. In a tile
# whose height is a multiple of this, every row meets the same arithmetic. Rows of a matrix with
# one column are shared out among the threads, so there each thread's share must be a multiple.
_ALIGNMENT = 64
# Wide rows come in low tiles. For their long inner products kernels choose by the height of the
# tile how to cut them up, so tiles up to this height are all of one height.
_LOW_TILE = 1024
# Torch shares a tensor among threads from this many cells each on. The last few cells of a share
# that is not a multiple of the alignment meet another routine for exponentials and the like.
_SHARED_CELLS = 32_768

# A fused kernel keeps nothing of a tile in memory, so what counts is how it is copied.
_COPIED_BYTES = 16 * 2**20


def map_rows(function: Callable[[Tensor], Tensor], rows: Rows, module: ScoringModule) -> Tensor:
    """Apply a function of a module tile by tile and collect what it returns, as float64 on the CPU.

    What a row is mapped to depends on that row alone, to the last bit. Only where the memory of a
    GPU runs out, tiles become half as high, which may change the last bits.

    Parameters
    ----------
    function : callable
        Maps tiles of shape (m, n_features) on the module's device to tensors of shape (m, ...)
        by the module's network.
    rows : Rows
        n >= 1 of them, on the CPU.
    module : ScoringModule

    Returns
    -------
    Tensor of shape (n, ...)
    """
    scale = module.standardize.scale
    tile_before: TileBefore = partial(_tile_before, rows)
    download = None
    if scale.is_cuda:
        tile_before, download = Upload(tile_before, scale), Download(scale.device)
    result = torch.empty(0)
    for start, stop, values in _mapped(function, len(rows), tile_before, module):
        if start == 0:
            result = torch.empty((len(rows), *values.shape[1:]), dtype=torch.float64)
        if download is None:
            result[start:stop] = values
        else:
            download.put(values, result[start:stop])
    if download is not None:
        download.finish()
    return result


def map_resident(
    function: Callable[[Tensor], Tensor], rows: Tensor, module: ScoringModule
) -> Tensor:
    """Return the same of rows on the module's device, where it stays, in the dtype it comes in.

    Nothing waits for the device.
    """
    if isinstance(function, FusedScore):
        return function(rows)
    tile_before = partial(_tile_before, rows)
    with torch.inference_mode():
        return torch.cat([v for _, _, v in _mapped(function, len(rows), tile_before, module)])


def _mapped(
    function: Callable[[Tensor], Tensor], n: int, tile_before: TileBefore, module: ScoringModule
) -> Iterator[tuple[int, int, Tensor]]:
    """Start and stop of each tile, and what its rows are mapped to."""
    if isinstance(function, FusedScore):
        height = min(max(_COPIED_BYTES // (4 * module.standardize.n_features), _ALIGNMENT), n)
    else:
        height = _tile_height(n, module, module.standardize.scale.device)
    start = 0
    while start < n:
        stop = min(start + height, n)
        try:
            with torch.inference_mode():
                values = function(tile_before(stop, height))[start - stop :]
        except torch.cuda.OutOfMemoryError:
            if height <= _ALIGNMENT:
                raise
            height = max(height // 2 // _ALIGNMENT, 1) * _ALIGNMENT
            continue
        yield start, stop, values
        start = stop


def _tile_height(n: int, module: ScoringModule, device: torch.device) -> int:
    """Rows in each of the tiles that n rows are cut into: all tiles alike, and few of them.

    A tile's values and activations fit in the cache, or in a small part of GPU memory, and no
    operation of the module rounds differently in different places of the tile.
    """
    n_features, widest_layer = module.standardize.n_features, module.widths[-1]
    most = rows_in_memory(n_features, max(widest_layer, module.head.widest), device)
    if device.type != "cpu":
        return max(most // _ALIGNMENT, 1) * _ALIGNMENT
    n_threads = torch.get_num_threads()
    alignment = _ALIGNMENT * (n_threads if module.has_single_column else 1)
    heights = _heights(most, alignment, () if module.rounds_alike else module.widths, n_threads)
    if rows_in_memory(n_features, widest_layer, device) <= _LOW_TILE:
        return heights[-1]
    n_tiles = -(-n // heights[-1])
    return next(height for height in heights if height * n_tiles >= n)


@lru_cache
def _heights(most: int, alignment: int, widths: tuple[int, ...], n_threads: int) -> list[int]:
    """Heights up to ``most`` at which threads share layers of these widths evenly, ascending."""

    def shared_evenly(n_cells: int) -> bool:
        n_sharing = min(n_threads, -(-n_cells // _SHARED_CELLS))
        return n_cells % (n_sharing * _ALIGNMENT) == 0

    heights = range(alignment, max(most, alignment) + 1, alignment)
    return [h for h in heights if all(shared_evenly(h * width) for width in widths)] or [alignment]


def _tile_before(rows: Rows, stop: int, height: int) -> Tensor:
    """The ``height`` rows before ``stop``, or fewer rows below copies of the first."""
    if stop >= height:
        return rows[stop - height : stop]
    return torch.cat([rows[:1].expand(height - stop, -1), rows[:stop]])
