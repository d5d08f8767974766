"""What the workers of one fit tell each other, through torch.distributed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from pyod_ae_plugin.integrations.ray.errors import OURS, RefusedError
from pyod_ae_plugin.integrations.ray.extra import ray_module

T = TypeVar("T")


class Group:
    """The workers of a trainer, seen from one of them.

    Attributes
    ----------
    rank : int
        Its place among them, from 0.
    size : int
    device : torch.device
        Where it trains.
    """

    def __init__(self) -> None:
        context = ray_module("ray.train").get_context()
        self.rank: int = context.get_world_rank()
        self.size: int = context.get_world_size()
        self.device: torch.device = ray_module("ray.train.torch").get_device()
        # What is not gradients lies on the CPU, of which nccl knows nothing.
        self._on_cpu = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def average(self, tensor: Tensor) -> None:
        """Take a tensor to its mean over all workers, in place."""
        dist.all_reduce(tensor)
        tensor /= self.size

    def all(self, value: Any) -> list[Any]:
        """The values of all workers, by rank, for each of them."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self._on_cpu)
        return values

    def agreed(self, do: Callable[[], T]) -> T:
        """What each worker does, and what it gives back, unless one of them fails.

        Raises
        ------
        RefusedError
            By all of them, if one finds fault with what the user gave.
        """
        result, error = None, None
        try:
            result = do()
        except OURS as raised:
            error = raised
        for first in filter(None, self.all(error)):
            raise RefusedError(first)
        return cast("T", result)

    def gathered(self, value: Any) -> list[Any]:
        """The values of all workers, by rank, for the first; none for the others."""
        values: list[Any] | None = [value] * self.size if self.rank == 0 else None
        if self.size > 1:
            dist.gather_object(value, values, dst=0, group=self._on_cpu)
        return values or []

    def of_first(self, value: Any) -> Any:
        """The value of the first worker, for each."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, group=self._on_cpu)
        return values[0]
