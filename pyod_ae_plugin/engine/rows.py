"""Rows in tiles: the one loop through which everything but training passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Matrix kernels treat the last few rows of a matrix apart and round them otherwise. In a tile
# whose height is a multiple of this, every row meets the same arithmetic.
_ALIGNMENT = 64
# Wide rows come in low tiles. For their long inner products kernels choose by the height of the
# tile how to cut them up, so tiles as low as this are always filled.
_LOW_TILE = 1024

_TILE_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}
_MOST_ROWS = 2**20


def tile_rows(module: nn.Module, n_features: int, device: torch.device) -> int:
    """Rows whose values and activations fit in the cache, or in a small part of GPU memory."""
    width = max(n_features, _widest_layer(module))
    bytes_per_row = 8 * n_features + 4 * (2 * n_features + 2 * width)
    n = _TILE_BYTES.get(device.type, _TILE_BYTES["cpu"]) // bytes_per_row
    return min(max(n // _ALIGNMENT, 1) * _ALIGNMENT, _MOST_ROWS)


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
        Rows taken at a time, a multiple of the alignment.
    device : torch.device
        Where the function works.

    Returns
    -------
    Tensor of shape (n, ...)
    """
    result: Tensor | None = None
    with torch.inference_mode():
        for start in range(0, len(rows), tile_rows):
            tile = rows[start : start + tile_rows]
            values = function(_padded(tile, tile_rows, device).to(device))
            if result is None:
                result = torch.empty((len(rows), *values.shape[1:]), dtype=torch.float64)
            result[start : start + tile_rows] = values[: len(tile)]
    assert result is not None, "there must be rows"
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


def _widest_layer(module: nn.Module) -> int:
    return max((p.shape[0] for p in module.parameters() if p.ndim == 2), default=1)


def _padded(tile: Tensor, tile_rows: int, device: torch.device) -> Tensor:
    """The tile, grown with copies of its last row to a height at which rounding is the same."""
    height = tile_rows
    if device.type == "cpu" and tile_rows > _LOW_TILE:
        height = -(-len(tile) // _ALIGNMENT) * _ALIGNMENT
    if len(tile) == height:
        return tile
    return torch.cat([tile, tile[-1:].expand(height - len(tile), -1)])
