"""Tiles of rows: the loop in which everything but training is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import torch
from torch import Tensor

from pyod_ae_plugin.engine.cuda.fused import FusedScore
from pyod_ae_plugin.engine.cuda.transfer import Download, TileBefore, Upload
from pyod_ae_plugin.engine.rows import Rows, rows_in_memory
from pyod_ae_plugin.scoring import ScoringModule

# Matrix kernels treat the last few rows of a matrix separately and round them differently. In a
# tile whose height is a multiple of this, every row meets the same arithmetic. The rows of a matrix
# with one column are divided among the threads; there each thread's part must be a multiple.
_ALIGNMENT = 64
# Tiles of wide rows are low. Kernels divide long inner products according to the height of the
# tile, so tiles up to this height all have the same height.
_LOW_TILE = 1024
# Torch divides a tensor among threads if each gets at least this many cells. Exponentials and the
# like use another routine for the last few cells of a part that is not a multiple of the alignment.
_SHARED_CELLS = 32_768

# The fused kernel keeps no values of a tile in memory, so only the cost of copying counts.
_COPIED_BYTES = 16 * 2**20


def map_rows(function: Callable[[Tensor], Tensor], rows: Rows, module: ScoringModule) -> Tensor:
    """Apply a function tile by tile, and collect its results as float64 on the CPU.

    The result for a row depends on that row only, to the last bit. If the memory of a GPU runs out,
    tiles become half as high, which may change the last bits.
    The function maps tiles [m, n_features] on the module's device to tensors [m, ...] by the
    module's network. There must be at least one row.
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
    """Apply a function to rows on the module's device; the results stay there in their dtype.

    Does not wait for the device.
    """
    if isinstance(function, FusedScore):
        return function(rows)
    tile_before = partial(_tile_before, rows)
    with torch.inference_mode():
        return torch.cat([v for _, _, v in _mapped(function, len(rows), tile_before, module)])


def _mapped(
    function: Callable[[Tensor], Tensor], n: int, tile_before: TileBefore, module: ScoringModule
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield start and stop of each tile, and the results of its rows."""
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
    """Height of the tiles that n rows are divided into; all have the same height.

    A tile's values and activations fit in the cache, or in a small part of GPU memory, and every
    operation of the module rounds alike everywhere in the tile.
    """
    n_features, max_width = module.standardize.n_features, module.widths[-1]
    most = rows_in_memory(n_features, max(max_width, module.head.max_width), device)
    if device.type != "cpu":
        return max(most // _ALIGNMENT, 1) * _ALIGNMENT
    n_threads = torch.get_num_threads()
    alignment = _ALIGNMENT * (n_threads if module.has_single_column else 1)
    heights = _heights(most, alignment, () if module.rounds_alike else module.widths, n_threads)
    if rows_in_memory(n_features, max_width, device) <= _LOW_TILE:
        return heights[-1]
    n_tiles = -(-n // heights[-1])
    return next(height for height in heights if height * n_tiles >= n)


@lru_cache
def _heights(most: int, alignment: int, widths: tuple[int, ...], n_threads: int) -> list[int]:
    """Heights up to ``most`` at which layers of these widths are divided evenly, ascending."""

    def divided_evenly(n_cells: int) -> bool:
        n_parts = min(n_threads, -(-n_cells // _SHARED_CELLS))
        return n_cells % (n_parts * _ALIGNMENT) == 0

    heights = range(alignment, max(most, alignment) + 1, alignment)
    return [h for h in heights if all(divided_evenly(h * width) for width in widths)] or [alignment]


def _tile_before(rows: Rows, stop: int, height: int) -> Tensor:
    """The ``height`` rows before ``stop``; if there are fewer, the first row is repeated."""
    if stop >= height:
        return rows[stop - height : stop]
    return torch.cat([rows[:1].expand(height - stop, -1), rows[:stop]])
