"""Devices, random number generators and threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch

_MIN_OPERATIONS_TO_SHARE = 5e7

# A forked process has only the thread that forked, and GNU's OpenMP waits forever for the others
# of its parent. PyTorch's own forked workers also use one thread.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return a device by its name; None picks CUDA if there is a GPU, else the CPU.

    Raises ValueError if the name is not valid, or this machine does not have the device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device={device!r} cannot be used here ({reason}). "
            "Use device=None to take a GPU when there is one, or device='cpu'."
        ) from error
    return resolved


def available_device(device: str | torch.device | None) -> torch.device:
    """Return a device if this machine has it, else the CPU.

    A model that was fitted on a GPU can thus be loaded on a machine without one.
    """
    try:
        return resolve_device(device)
    except ValueError:
        return torch.device("cpu")


# Reentrant, because a network factory may fit a detector.
_global_rng = threading.RLock()


@contextmanager
def seeded_global_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside, and restore them afterwards.

    For networks that draw from the global generators. Other threads see the seeded state
    meanwhile, except those that wait here.
    """
    with _global_rng, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def global_rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's global generators of the CPU and of a GPU."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def check_rng_state(name: str, state: torch.Tensor, device: torch.device) -> None:
    """Raise ValueError unless a generator of a device can continue from a state."""
    try:
        torch.Generator(device).set_state(state.cpu())
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name} is no state of a random generator: {error}") from error


def set_global_rng_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Set the states of torch's global generators."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def enough_threads(n_operations: float) -> Iterator[None]:
    """Use one thread inside if steps are too small for more.

    ``n_operations`` is the number of floating-point operations of one step. Below 5e7 a second
    thread gains nothing, and costs much if other work on the machine keeps the threads waiting for
    each other.
    """
    before = torch.get_num_threads()
    if n_operations >= _MIN_OPERATIONS_TO_SHARE or before == 1:
        yield
        return
    torch.set_num_threads(1)
    # Each thread has a number of its own. A thread that first computes later on takes the number
    # that any thread set last, so another thread sets it back.
    resetter = threading.Thread(target=torch.set_num_threads, args=(before,))
    resetter.start()
    resetter.join()
    try:
        yield
    finally:
        torch.set_num_threads(before)
