"""Detection of changes of a module, in microseconds, since each call checks it."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import nn

from pyod_ae_plugin.engine.pipeline import are_all_hooked


class Snapshot:
    """The state of a module on a CPU when the snapshot was taken.

    That is: all modules in it, their attributes, and the bits of their parameters and buffers. It
    also sees changes that torch does not count, such as those by ``.data``. It does not look into
    lists and other objects that attributes hold, and it does not keep the module alive.

    Parameters
    ----------
    module : torch.nn.Module

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> snapshot = Snapshot(layer)
    >>> snapshot.is_of(layer)
    True
    >>> layer.weight.data[0, 0] = 7.0
    >>> snapshot.is_of(layer)
    False
    """

    def __init__(self, module: nn.Module) -> None:
        _, *self._parts = module.modules()
        self._attributes = [_attributes(part) for part in (module, *self._parts)]
        self._values = []
        for tensor in (*module.parameters(), *module.buffers()):
            memory = tensor.detach().numpy()
            self._values.append((tensor, tensor.data_ptr(), memory, memory.tobytes()))

    def is_of(self, module: nn.Module) -> bool:
        """Whether the module is unchanged since the snapshot."""
        for part, attributes in zip((module, *self._parts), self._attributes, strict=True):
            now = _attributes(part)
            if len(now) != len(attributes) or not all(map(is_, now, attributes)):
                return False
        for tensor, address, memory, content in self._values:
            # .data may be set to other memory
            if tensor.data_ptr() != address or memory.tobytes() != content:
                return False
        return not are_all_hooked()


def _attributes(module: nn.Module) -> list[Any]:
    """All that a module calls or computes with."""
    return [
        type(module),
        *vars(module).values(),
        *module._modules.values(),
        *module._parameters.values(),
        *module._buffers.values(),
        *module._forward_pre_hooks.values(),
        *module._forward_hooks.values(),
    ]
