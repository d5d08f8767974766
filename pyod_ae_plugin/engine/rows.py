"""Raw rows, and the batches that training gathers from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pyod_ae_plugin.scoring import Standardize

# What of a tile is in memory at a time: it fits the cache of a core, or that of a GPU.
_TILE_BYTES = {"cpu": 8 * 2**20, "cuda": 64 * 2**20}
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


class SelectedRows:
    """Some of the rows, in the order of their indices, without a copy."""

    def __init__(self, rows: Rows, indices: Tensor) -> None:
        self._rows, self._indices = rows, indices
        self.shape = (len(indices), rows.shape[1])

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, rows: slice, /) -> Tensor:
        return self._rows.index_select(0, self._indices[rows])

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        return self._rows.index_select(dim, self._indices[index.long()])


def training_tile_rows(n_features: int, device: torch.device) -> int:
    """Rows taken at a time where only their values are looked at."""
    return max(rows_in_memory(n_features, n_features, device), 1)


def row_tiles(rows: Rows) -> Iterator[Tensor]:
    """Rows on the CPU, tile by tile, in order."""
    height = training_tile_rows(rows.shape[1], torch.device("cpu"))
    for start in range(0, len(rows), height):
        yield rows[start : start + height]


def rows_in_memory(n_features: int, widest: int, device: torch.device) -> int:
    """How many rows are taken at a time, of which each becomes ``widest`` numbers."""
    width = max(n_features, widest)
    bytes_per_row = 8 * n_features + 4 * (2 * n_features + 2 * width)
    return min(_TILE_BYTES.get(device.type, _TILE_BYTES["cpu"]) // bytes_per_row, _MOST_ROWS)


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
        return ResidentBatches(resident)
    standardize = copy.deepcopy(standardize).to(device)

    def gather(indices: Tensor) -> Tensor:
        x: Tensor = standardize(_taken(rows, indices.to("cpu")).to(device))
        return x

    return gather


class ResidentBatches:
    """Batches of rows that lie standardised on a GPU."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows

    def __call__(self, indices: Tensor) -> Tensor:
        return _taken(self._rows, indices)


def _free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _taken(rows: Rows, indices: Tensor) -> Tensor:
    return rows.index_select(0, indices.reshape(-1)).view(*indices.shape, -1)
