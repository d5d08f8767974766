"""Rows in tiles: the one loop through which everything but training passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from pyod_ae_plugin.scoring import ScoringModule, Standardize

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


class Rows(Protocol):
    """Raw rows on the CPU: a tensor [n, n_features], or what turns into one piece by piece."""

    @property
    def shape(self) -> Sequence[int]:
        """Number of rows and of features."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Rows by their indices."""


def training_tile_rows(n_features: int, device: torch.device) -> int:
    """Rows taken at a time where only their values are looked at."""
    return max(_rows_in_memory(n_features, n_features, device), 1)


def _rows_in_memory(n_features: int, widest: int, device: torch.device) -> int:
    width = max(n_features, widest)
    bytes_per_row = 8 * n_features + 4 * (2 * n_features + 2 * width)
    return min(_TILE_BYTES.get(device.type, _TILE_BYTES["cpu"]) // bytes_per_row, _MOST_ROWS)


def map_rows(function: Callable[[Tensor], Tensor], rows: Rows, module: ScoringModule) -> Tensor:
    """Apply a function of a module tile by tile and collect what it returns, as float64 on the CPU.

    What a row is mapped to depends on that row alone, to the last bit.

    Parameters
    ----------
    function : callable
        Maps tiles of shape (m, n_features) on the module's device to tensors of shape (m, ...)
        by the module's network.
    rows : Rows
        n >= 1 of them.
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


def training_batches(
    rows: Rows, standardize: Standardize, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return what gathers batches: indices in, standardised rows on the device out.

    Indices [*, m] become rows [*, m, n_features]. On a CPU these come from the caller's own rows,
    so that nothing is copied. Elsewhere all rows are standardised once and lie on the device as
    float32, or, where they would take more than half of its free memory, come batch by batch.
    """
    n_features = rows.shape[1]
    if device.type != "cpu" and 4 * len(rows) * n_features <= _free_memory(device) // 2:
        resident = torch.empty(tuple(rows.shape), device=device)
        height = training_tile_rows(n_features, device)
        for start in range(0, len(rows), height):
            resident[start : start + height] = standardize(rows[start : start + height])
        return lambda indices: _taken(resident, indices)
    standardize = copy.deepcopy(standardize).to(device)

    def gather(indices: Tensor) -> Tensor:
        x: Tensor = standardize(_taken(rows, indices.to("cpu")).to(device))
        return x

    return gather


def _free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _taken(rows: Rows, indices: Tensor) -> Tensor:
    return rows.index_select(0, indices.reshape(-1)).view(*indices.shape, -1)


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


def _tile_before(stop: int, height: int, rows: Rows, device: torch.device) -> Tensor:
    """The ``height`` rows before ``stop``, or fewer rows below copies of the first."""
    if stop >= height:
        tile = rows[stop - height : stop]
    else:
        tile = torch.cat([rows[:1].expand(height - stop, -1), rows[:stop]])
    return tile if device.type == "cpu" else tile.to(device)
