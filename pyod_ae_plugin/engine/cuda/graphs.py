"""CUDA graphs: operations are recorded once and then launched together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyod_ae_plugin.engine.pipeline import Pipeline
from pyod_ae_plugin.engine.rows import ResidentBatches

_WARM_UPS = 3


def can_be_recorded(pipeline: Pipeline | None, batches: Callable[[Tensor], Tensor]) -> bool:
    """Whether a step of training by these batches can be recorded.

    The network must be known. A hook would run while the step is recorded and never again, and an
    unknown layer may branch on values. The batches must be gathered on the GPU.
    """
    return pipeline is not None and isinstance(batches, ResidentBatches)


class Recorded:
    """Work on a GPU, recorded as a graph.

    The work must use the same memory at each call, and must not wait for the GPU. It is called a
    few times before it is recorded. Each replay advances the ``generator`` that the work draws
    from, and overwrites ``result``, the tensor that the work returned.
    """

    def __init__(
        self,
        work: Callable[[], Tensor],
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> None:
        current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):  # libraries allocate memory at their first use
                work()
        current.wait_stream(side)
        graph: Any = torch.cuda.CUDAGraph()
        if generator is not None:
            graph.register_generator_state(generator)
        # other threads may use the GPU meanwhile
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            self.result = work()
        self.replay: Callable[[], None] = graph.replay


class RecordedTiles:
    """A function of tiles on a GPU, recorded for each shape of tile.

    Only one thread may call it at a time, on one stream.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._recorded: dict[tuple[torch.Size, torch.dtype], tuple[Tensor, Recorded]] = {}

    def __call__(self, tile: Tensor) -> Tensor:
        key = tile.shape, tile.dtype
        if key not in self._recorded:
            source = tile.clone()
            work = Recorded(lambda: self._function(source), tile.device)
            self._recorded[key] = source, work
        source, work = self._recorded[key]
        source.copy_(tile)
        work.replay()
        return work.result.clone()


class RecordedStep:
    """A step of training on a GPU, recorded for each shape of batch.

    The step takes a batch of indices and returns its loss. It changes only the tensors of
    ``state``, and draws from ``generator`` alone.
    """

    def __init__(
        self, step: Callable[[Tensor], Tensor], state: Sequence[Tensor], generator: torch.Generator
    ) -> None:
        self._step, self._state, self._generator = step, state, generator
        self._recorded: dict[torch.Size, tuple[Tensor, Recorded]] = {}

    def __call__(self, indices: Tensor) -> Tensor:
        if indices.shape not in self._recorded:
            self._recorded[indices.shape] = self._record(indices.clone())
        source, work = self._recorded[indices.shape]
        source.copy_(indices)
        work.replay()
        return work.result

    def _record(self, source: Tensor) -> tuple[Tensor, Recorded]:
        """Record a step, and undo the changes of the steps that recording makes."""
        before, random_state = [t.clone() for t in self._state], self._generator.get_state()
        work = Recorded(lambda: self._step(source), source.device, self._generator)
        with torch.no_grad():
            for tensor, value in zip(self._state, before, strict=True):
                tensor.copy_(value)
        self._generator.set_state(random_state)
        return source, work
