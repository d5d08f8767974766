"""Raw rows, the batches that training gathers from them, and samples of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyod_ae_plugin.scoring import Standardize

# Memory for all values of a tile: it fits the cache of a core, or that of a GPU.
_TILE_BYTES = {"cpu": 8 * 2**20, "cuda": 64 * 2**20}
_MAX_TILE_ROWS = 2**20
# Memory for a copy, row by row, of rows that are stored by columns.
_COPIED_BYTES = 256 * 2**20
# The pieces of a sample are merged when they have this many times its capacity.
_MAX_EXCESS = 1.25


class Rows(Protocol):
    """Raw rows on the CPU: a tensor [n, n_features], or an object that is read piece by piece."""

    @property
    def shape(self) -> Sequence[int]:
        """Number of rows and of features."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Rows by their indices."""


class SelectedRows:
    """The rows with given indices, in their order, without a copy."""

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
    """Height of tiles that are only read, and not passed through a network."""
    return max(rows_in_memory(n_features, n_features, device), 1)


def row_tiles(rows: Rows) -> Iterator[Tensor]:
    """Rows on the CPU, tile by tile, in order."""
    height = training_tile_rows(rows.shape[1], torch.device("cpu"))
    for start in range(0, len(rows), height):
        yield rows[start : start + height]


def rows_in_memory(n_features: int, max_width: int, device: torch.device) -> int:
    """Number of rows whose values fit in memory if each becomes at most ``max_width`` values."""
    width = max(n_features, max_width)
    bytes_per_row = 8 * n_features + 4 * (2 * n_features + 2 * width)
    return min(_TILE_BYTES.get(device.type, _TILE_BYTES["cpu"]) // bytes_per_row, _MAX_TILE_ROWS)


def training_batches(
    rows: Rows, standardize: Standardize, device: torch.device, farthest: float
) -> Callable[[Tensor], Tensor]:
    """Return a function that gathers batches: from indices to standardised rows on the device.

    Indices [*, m] become rows [*, m, n_features], whose values are at most ``farthest`` from 0. On
    a CPU they are read from the caller's own rows. A small table that is stored by columns, as a
    DataFrame is, is copied row by row first, since rows are then gathered faster. On a GPU all rows
    are standardised once and kept there as float32, unless they would take more than half of its
    free memory; then they are copied batch by batch.
    """
    n_features = rows.shape[1]
    if device.type != "cpu" and 4 * len(rows) * n_features <= _free_memory(device) // 2:
        resident = torch.empty(tuple(rows.shape), device=device)
        height = training_tile_rows(n_features, device)
        for start in range(0, len(rows), height):
            tile = standardize(rows[start : start + height])
            resident[start : start + height] = tile.clamp_(-farthest, farthest)
        return ResidentBatches(resident)
    standardize = copy.deepcopy(standardize).to(device)
    if isinstance(rows, Tensor) and rows.nbytes <= _COPIED_BYTES:
        rows = rows.contiguous() if rows.stride(0) < rows.stride(1) else rows

    def standardized_batch(indices: Tensor) -> Tensor:
        x: Tensor = standardize(_gather(rows, indices.to("cpu")).to(device))
        return x.clamp_(-farthest, farthest)

    return standardized_batch


class ResidentBatches:
    """Batches of standardised rows that are kept on a GPU."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows

    def __call__(self, indices: Tensor) -> Tensor:
        return _gather(self._rows, indices)


def _free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _gather(rows: Rows, indices: Tensor) -> Tensor:
    return rows.index_select(0, indices.reshape(-1)).view(*indices.shape, -1)


class RowSample(NamedTuple):
    """A uniform sample of all rows seen so far; all of them, in order, if they are few.

    Each row draws a key at random, and the sample is the rows with the lowest keys.
    """

    capacity: int  # maximal number of rows in the sample
    n_seen: int = 0
    pieces: tuple[tuple[Tensor, Tensor], ...] = ()  # rows [m, n_features] and their keys [m]
    bound: float = math.inf  # rows with this key or a higher one are not in the sample

    def added(self, rows: Tensor, generator: torch.Generator) -> RowSample:
        """Return the sample with these rows added; they are copied."""
        keys = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        kept = keys < self.bound
        pieces = (*self.pieces, (rows[kept], keys[kept]))
        sample = self._replace(n_seen=self.n_seen + len(rows), pieces=pieces)
        if sum(len(k) for _, k in pieces) <= _MAX_EXCESS * self.capacity:
            return sample
        piece = sample._piece()
        return sample._replace(pieces=(piece,), bound=piece[1].max().item())

    def rows(self) -> Tensor:
        """The rows [m, n_features] of the sample, m <= capacity."""
        return self._piece()[0]

    @property
    def is_complete(self) -> bool:
        """Whether the sample has all rows that were seen."""
        return self.n_seen <= self.capacity

    def _piece(self) -> tuple[Tensor, Tensor]:
        parts = [r for r, _ in self.pieces]
        if len({part.dtype for part in parts}) > 1:
            # torch concatenates int64 and float16 as float16, which cannot hold 70,000
            parts = [part.double() for part in parts]
        rows = torch.cat(parts)
        keys = torch.cat([k for _, k in self.pieces])
        if len(keys) <= self.capacity:
            return rows, keys
        kept = keys.topk(self.capacity, largest=False, sorted=False).indices.sort().values
        return rows[kept], keys[kept]
