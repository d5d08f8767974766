"""Rows in tiles: the one loop through which everything but training passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyod_ae_plugin.scoring import ScoringModule

# Matrix kernels treat the last few rows of a matrix apart and round them otherwise. In a tile
# whose height is a multiple of this, every row meets the same arithmetic.
_ALIGNMENT = 64
# Wide rows come in low tiles. For their long inner products kernels choose by the height of the
# tile how to cut them up, so tiles up to this height are all of one height.
_LOW_TILE = 1024
# From this many cells on torch shares a tensor among threads, cell by cell, and where the shares
# meet it computes exponentials and the like by another routine.
_SHARED_CELLS = 32_768

_TILE_BYTES = {"cpu": 5 * 2**20, "cuda": 256 * 2**20}
_MOST_ROWS = 2**20


def tile_rows(module: ScoringModule, device: torch.device) -> int:
    """Rows that a tile has at most when the module works on it.

    Their values and activations fit in the cache, or in a small part of GPU memory, and no
    operation of the module rounds differently in different places of the tile.
    """
    n_features = module.standardize.n_features
    n = _rows_in_memory(n_features, module.widest_layer, device)
    if device.type == "cpu" and not module.rounds_alike:
        n = min(n, _SHARED_CELLS // max(n_features, module.widest_layer))
    return max(n // _ALIGNMENT, 1) * _ALIGNMENT


def training_tile_rows(n_features: int, device: torch.device) -> int:
    """Rows taken at a time where only their values are looked at."""
    return max(_rows_in_memory(n_features, n_features, device), 1)


def _rows_in_memory(n_features: int, widest_layer: int, device: torch.device) -> int:
    width = max(n_features, widest_layer)
    bytes_per_row = 8 * n_features + 4 * (2 * n_features + 2 * width)
    return min(_TILE_BYTES.get(device.type, _TILE_BYTES["cpu"]) // bytes_per_row, _MOST_ROWS)


def map_rows(
    function: Callable[[Tensor], Tensor], rows: Tensor, tile_rows: int, device: torch.device
) -> Tensor:
    """Apply a function tile by tile and collect what it returns, as float64 on the CPU.

    What a row is mapped to depends on that row alone, to the last bit.

    Parameters
    ----------
    function : callable
        Maps tiles of shape (m, n_features) on the device to tensors of shape (m, ...).
    rows : Tensor of shape (n, n_features)
        Raw rows on the CPU, n >= 1.
    tile_rows : int
        Most rows taken at a time, a multiple of the alignment.
    device : torch.device
        Where the function works.

    Returns
    -------
    Tensor of shape (n, ...)
    """
    n = len(rows)
    height = _tile_height(n, tile_rows, device)
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


def _tile_height(n: int, tile_rows: int, device: torch.device) -> int:
    """Rows in each tile: all tiles alike, and as few of them as ``tile_rows`` lets."""
    if device.type != "cpu" or tile_rows <= _LOW_TILE:
        return tile_rows
    n_tiles = -(-n // tile_rows)
    return -(-n // (n_tiles * _ALIGNMENT)) * _ALIGNMENT


def _tile_before(stop: int, height: int, rows: Tensor, device: torch.device) -> Tensor:
    """The ``height`` rows before ``stop``, or fewer rows below copies of the first."""
    if stop >= height:
        tile = rows[stop - height : stop]
    else:
        tile = torch.cat([rows[:1].expand(height - stop, -1), rows[:stop]])
    return tile if device.type == "cpu" else tile.to(device)
