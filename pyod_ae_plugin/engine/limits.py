"""A limit on the memory that building a module may take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# Each operation counts for no fewer, so that the time is limited as well.
_LEAST_PER_OPERATION = 1000


class AllocationLimit(TorchDispatchMode):
    """Raise before an operation within would make more values than are left.

    Parameters
    ----------
    n_values : int
        How many values all operations together may make.

    Raises
    ------
    MemoryError
        Before the memory is taken.

    Examples
    --------
    >>> with AllocationLimit(10_000):
    ...     small = torch.ones(100)
    ...     large = torch.ones(10**9, 10**9)
    Traceback (most recent call last):
    MemoryError: aten.ones.default would make 1000000000000000000 values ...
    """

    def __init__(self, n_values: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = n_values

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to import dynamo takes more than a second

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        n_made = _n_made(func, args)
        self._left -= max(n_made, _LEAST_PER_OPERATION)
        if self._left < 0:
            raise MemoryError(f"{func} would make {n_made} values more than are allowed.")
        return func(*args, **kwargs or {})


def _n_made(func: Any, args: Sequence[Any]) -> int:
    """How many values an operation makes out of nothing; others make as many as they are given."""
    if any(isinstance(x, Tensor) for x in tree_iter(args)):
        return 0
    if func.overloadpacket is torch.ops.aten.eye:
        return int(args[0]) * int(args[-1])
    shapes = [math.prod(x) for x in args if isinstance(x, (list, tuple))]
    return max([*shapes, *(x for x in args if isinstance(x, int))], default=0)
