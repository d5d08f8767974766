"""CUDA graphs: work that is recorded once and then started as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyod_ae_plugin.engine.rows import ResidentBatches
from pyod_ae_plugin.networks import AutoEncoderNetwork, Network, VariationalNetwork
from pyod_ae_plugin.networks.layers import has_known_layers, is_hooked

_WARM_UPS = 3


def can_be_recorded(network: Network, batches: Callable[[Tensor], Tensor]) -> bool:
    """Whether a step of training by these batches can be recorded.

    Batches must be gathered on the GPU, and hooks would be called once only.
    """
    replayable = is_of_known_layers(network) and not is_hooked(network)
    return replayable and isinstance(batches, ResidentBatches)


def is_of_known_layers(network: Network) -> bool:
    """Whether a network is of this package throughout.

    Layers of others may look at values on the way, which a graph cannot.
    """
    return type(network) in (AutoEncoderNetwork, VariationalNetwork) and has_known_layers(network)


class Recorded:
    """Work on a GPU as a graph, of which all operations start at once.

    The work must read and write the same memory each time and not wait for the GPU.

    Parameters
    ----------
    work : callable
        Is called a few times and then recorded; it returns a tensor.
    device : torch.device
    generator : torch.Generator or None, default=None
        Whatever the work draws from; a replay draws on from there.

    Attributes
    ----------
    result : Tensor
        What the work returned; each replay writes it anew.
    """

    def __init__(
        self,
        work: Callable[[], Tensor],
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> None:
        current, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):  # libraries allocate when they are first used
                work()
        current.wait_stream(aside)
        graph: Any = torch.cuda.CUDAGraph()
        if generator is not None:
            graph.register_generator_state(generator)
        # what other threads do meanwhile is their business
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            self.result = work()
        self.replay: Callable[[], None] = graph.replay


class RecordedTiles:
    """A function of tiles on a GPU, recorded for each shape of tile.

    Calls are for one thread and one stream at a time.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._recorded: dict[tuple[torch.Size, torch.dtype], tuple[Tensor, Recorded]] = {}

    def __call__(self, tile: Tensor) -> Tensor:
        key = tile.shape, tile.dtype
        if key not in self._recorded:
            given = tile.clone()
            work = Recorded(lambda: self._function(given), tile.device)
            self._recorded[key] = given, work
        given, work = self._recorded[key]
        given.copy_(tile)
        work.replay()
        return work.result.clone()


class RecordedStep:
    """A step of training on a GPU, recorded for each shape of batch.

    Parameters
    ----------
    step : callable
        Changes ``state`` by a batch of indices and returns its loss.
    state : sequence of Tensor
        All that a step changes, besides what it draws.
    generator : torch.Generator
        What a step draws from.
    """

    def __init__(
        self,
        step: Callable[[Tensor], Tensor],
        state: Sequence[Tensor],
        generator: torch.Generator,
    ) -> None:
        self._step, self._state, self._generator = step, state, generator
        self._recorded: dict[torch.Size, tuple[Tensor, Recorded]] = {}

    def __call__(self, indices: Tensor) -> Tensor:
        if indices.shape not in self._recorded:
            self._recorded[indices.shape] = self._record(indices.clone())
        given, work = self._recorded[indices.shape]
        given.copy_(indices)
        work.replay()
        return work.result

    def _record(self, given: Tensor) -> tuple[Tensor, Recorded]:
        before, drawn = [tensor.clone() for tensor in self._state], self._generator.get_state()
        work = Recorded(lambda: self._step(given), given.device, self._generator)
        with torch.no_grad():
            for tensor, value in zip(self._state, before, strict=True):
                tensor.copy_(value)
        self._generator.set_state(drawn)
        return given, work
