"""A sample of rows that come piece by piece, of which there may be too many to keep."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Pieces are put together when they hold so many times the capacity.
_SLACK = 1.25


class RowSample(NamedTuple):
    """A uniform sample of all rows seen so far; all of them, in order, if they are few.

    Each row draws a key, and the rows with the lowest keys are the sample.

    Attributes
    ----------
    capacity : int
        Most rows in the sample.
    n_seen : int
        Rows it was drawn from.
    pieces : tuple of pairs of Tensor
        Rows [m, n_features] and their keys [m].
    bound : float
        Rows with keys from here on are not in the sample.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> sample = RowSample(3).added(torch.tensor([[1.0], [2.0]]), generator)
    >>> sample.rows().T
    tensor([[1., 2.]])
    >>> sample.added(torch.zeros(1000, 1), generator).rows().shape
    torch.Size([3, 1])
    """

    capacity: int
    n_seen: int = 0
    pieces: tuple[tuple[Tensor, Tensor], ...] = ()
    bound: float = math.inf

    def added(self, rows: Tensor, generator: torch.Generator) -> RowSample:
        """Return the sample of these rows as well; they are copied."""
        keys = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        kept = keys < self.bound
        pieces = (*self.pieces, (rows[kept], keys[kept]))
        sample = self._replace(n_seen=self.n_seen + len(rows), pieces=pieces)
        if sum(len(k) for _, k in pieces) <= _SLACK * self.capacity:
            return sample
        piece = sample._piece()
        return sample._replace(pieces=(piece,), bound=piece[1].max().item())

    def rows(self) -> Tensor:
        """The rows [m, n_features] of the sample, m <= capacity."""
        return self._piece()[0]

    @property
    def is_complete(self) -> bool:
        """Whether the sample is all rows that were seen."""
        return self.n_seen <= self.capacity

    def _piece(self) -> tuple[Tensor, Tensor]:
        rows = torch.cat(_of_one_dtype([r for r, _ in self.pieces]))
        keys = torch.cat([k for _, k in self.pieces])
        if len(keys) <= self.capacity:
            return rows, keys
        kept = keys.topk(self.capacity, largest=False, sorted=False).indices.sort().values
        return rows[kept], keys[kept]


def _of_one_dtype(pieces: list[Tensor]) -> list[Tensor]:
    """Pieces in the dtype that they share, else in float64.

    torch would join int64 and float16 as float16, which does not hold 70,000.
    """
    return pieces if len({p.dtype for p in pieces}) == 1 else [p.double() for p in pieces]
