"""Rows in tiles: the one loop through which everything but training passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

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

_TILE_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
_MOST_ROWS = 2**20


def training_tile_rows(n_features: int, device: torch.device) -> int:
    """Rows taken at a time where only their values are looked at."""
    return max(_rows_in_memory(n_features, n_features, device), 1)


def _rows_in_memory(n_features: int, widest: int, device: torch.device) -> int:
    width = max(n_features, widest)
    bytes_per_row = 8 * n_features + 4 * (2 * n_features + 2 * width)
    return min(_TILE_BYTES.get(device.type, _TILE_BYTES["cpu"]) // bytes_per_row, _MOST_ROWS)


def map_rows(function: Callable[[Tensor], Tensor], rows: Tensor, module: ScoringModule) -> Tensor:
    """Apply a function of a module tile by tile and collect what it returns, as float64 on the CPU.

    What a row is mapped to depends on that row alone, to the last bit.

    Parameters
    ----------
    function : callable
        Maps tiles of shape (m, n_features) on the module's device to tensors of shape (m, ...)
        by the module's network.
    rows : Tensor of shape (n, n_features)
        Raw rows on the CPU, n >= 1.
    module : ScoringModule

    Returns
    -------
    Tensor of shape (n, ...)
    """
    n, device = len(rows), module.standardize.scale.device
    height = _tile_height(n, module, device)
    result = torch.empty(0)
    with torch.inference_mode():
        for start in range(0, n, height):
            stop = min(start + height, n)
            values = function(_tile_before(stop, height, rows, device))
            if start == 0:
                result = torch.empty((n, *values.shape[1:]), dtype=torch.float64)
            result[start:stop] = values[start - stop :]
    return result


def training_rows(
    rows: Tensor, standardize: nn.Module, tile_rows: int, device: torch.device
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Rows where training gathers its batches, and what turns a batch into standardised rows.

    On a CPU these are the caller's own rows, so that nothing is copied; elsewhere they are
    standardised once and lie on the device as float32.
    """
    if device.type == "cpu":
        return rows, standardize
    resident = torch.empty(rows.shape, device=device)
    for start in range(0, len(rows), tile_rows):
        resident[start : start + tile_rows] = standardize(rows[start : start + tile_rows])
    return resident, _unchanged


def _unchanged(x: Tensor) -> Tensor:
    return x


def _tile_height(n: int, module: ScoringModule, device: torch.device) -> int:
    """Rows in each of the tiles that n rows are cut into: all tiles alike, and few of them.

    A tile's values and activations fit in the cache, or in a small part of GPU memory, and no
    operation of the module rounds differently in different places of the tile.
    """
    n_features, widest_layer = module.standardize.n_features, module.widths[-1]
    most = _rows_in_memory(n_features, max(widest_layer, module.head.widest), device)
    if device.type != "cpu":
        return max(most // _ALIGNMENT, 1) * _ALIGNMENT
    n_threads = torch.get_num_threads()
    alignment = _ALIGNMENT * (n_threads if module.has_single_column else 1)
    heights = _heights(most, alignment, () if module.rounds_alike else module.widths, n_threads)
    if _rows_in_memory(n_features, widest_layer, device) <= _LOW_TILE:
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


def _tile_before(stop: int, height: int, rows: Tensor, device: torch.device) -> Tensor:
    """The ``height`` rows before ``stop``, or fewer rows below copies of the first."""
    if stop >= height:
        tile = rows[stop - height : stop]
    else:
        tile = torch.cat([rows[:1].expand(height - stop, -1), rows[:stop]])
    return tile if device.type == "cpu" else tile.to(device)
