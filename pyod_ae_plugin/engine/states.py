"""States: tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_FLOATS = {torch.float32, torch.float64}


def add_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with a prefix added to each name."""
    return {prefix + name: value for name, value in state.items()}


def strip_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a state whose names have a prefix, without the prefix."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with copies of the tensors."""
    return {name: value.clone() for name, value in state.items()}


def load_exactly(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module copies of the tensors of a state; see :func:`check_loadable`."""
    check_loadable(module, state)
    module.load_state_dict(copied(state), assign=True)  # assign keeps the types of the state


def check_loadable(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise unless a state has the names, shapes and types of a module's tensors.

    A buffer may be float32 or float64, since a module chooses between them when it is fitted.

    Raises
    ------
    ValueError
        If a tensor is missing, unexpected, of another shape or dtype, or has NaN or infinity.
    """
    expected = module.state_dict()
    if expected.keys() != state.keys():
        names = sorted(expected.keys() ^ state.keys())
        raise ValueError(f"{names[0]!r} is missing or one tensor too many")
    parameters = dict(module.named_parameters())
    for name, tensor in state.items():
        like = expected[name]
        if tensor.shape != like.shape:
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)}, expected {tuple(like.shape)}"
            )
        may_differ = name not in parameters and {tensor.dtype, like.dtype} <= _FLOATS
        if tensor.dtype != like.dtype and not may_differ:
            raise ValueError(f"{name} is of {tensor.dtype}, expected {like.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinity")
