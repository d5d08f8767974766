"""States: tensors by name, of which files and copies can be made."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def above(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with a prefix before each name."""
    return {prefix + name: value for name, value in state.items()}


def below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What lies below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state whose tensors are its own."""
    return {name: value.clone() for name, value in state.items()}
