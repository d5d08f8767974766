"""Copies of tiles to a GPU and back while it computes.

Only copies from and to page-locked (pinned) memory run beside computations. Two pinned tiles take
turns: while one is copied, the CPU fills or empties the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

TileBefore = Callable[[int, int], Tensor]
"""Takes an index and a height, and returns the tile of that many rows before the index."""


class Upload:
    """Copies tiles to the GPU on a stream of its own.

    Work that reads a tile must be queued before the next call. ``scale`` is that of the
    standardisation: tiles are copied to its device, and float64 rows as float32 if it is float32.
    """

    def __init__(self, tile_before: TileBefore, scale: Tensor) -> None:
        self._tile_before = tile_before
        self._scale = scale
        self._stream = torch.cuda.Stream(scale.device)
        self._copied = [torch.cuda.Event(), torch.cuda.Event()]
        self._used = [torch.cuda.Event(), torch.cuda.Event()]
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._turn = 0

    def __call__(self, stop: int, height: int) -> Tensor:
        computing = torch.cuda.current_stream(self._scale.device)
        turn, self._turn = self._turn, 1 - self._turn
        # all work that reads the last tile is queued by now
        self._used[1 - turn].record(computing)
        tile = self._tile_before(stop, height)
        if not self._buffers:  # later tiles are not higher
            self._buffers = [self._new_buffers(tile) for _ in range(2)]
            # their memory may have been freed by work that is still queued
            self._stream.wait_stream(computing)
        pinned, resident = (buffer[:height] for buffer in self._buffers[turn])
        self._copied[turn].synchronize()
        pinned.copy_(tile)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._used[turn])
            resident.copy_(pinned, non_blocking=True)
            self._copied[turn].record(self._stream)
        computing.wait_event(self._copied[turn])
        return resident

    def _new_buffers(self, tile: Tensor) -> tuple[Tensor, Tensor]:
        dtype = tile.dtype
        if dtype is torch.float64 and self._scale.dtype is torch.float32:
            dtype = torch.float32  # which standardisation casts to, too; half as much to copy
        pinned = torch.empty(tile.shape, dtype=dtype, pin_memory=True)
        return pinned, torch.empty_like(pinned, device=self._scale.device, pin_memory=False)


class Download:
    """Copies values from a GPU to tensors on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waiting: deque[tuple[torch.cuda.Event, Tensor, Tensor]] = deque()

    def put(self, values: Tensor, target: Tensor) -> None:
        """Copy values into a target; it holds them when :meth:`finish` has returned."""
        if len(self._waiting) == 2:
            self._empty_oldest()
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        pinned.copy_(values, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self._device))
        self._waiting.append((copied, pinned, target))

    def finish(self) -> None:
        """Wait until all values are copied."""
        while self._waiting:
            self._empty_oldest()

    def _empty_oldest(self) -> None:
        copied, pinned, target = self._waiting.popleft()
        copied.synchronize()
        target.copy_(pinned)
