"""Where tensors live and where their randomness comes from."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch

_SHARED_OPERATIONS = 5e7

# A forked process has no threads but the one that forked, and GNU's OpenMP waits for ever for the
# others that its parent had. PyTorch's own forked workers take one thread, too.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for; None picks CUDA when there is one, else the CPU.

    Raises
    ------
    ValueError
        If the device has no valid name or is not on this machine.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
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
    """Return the device asked for if it is on this machine, else the CPU.

    For models that come from elsewhere: fitted on a GPU, they score on a CPU.
    """
    try:
        return resolve_device(device)
    except ValueError:
        return torch.device("cpu")


# Reentrant, since a factory may itself fit a detector.
_global_rng = threading.RLock()


@contextmanager
def seeded_global_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside, and put them back as they were.

    For networks that know no private generator. Other threads see the seeded state meanwhile,
    except those that wait here for their turn.
    """
    with _global_rng, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def global_rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Where torch's global generators of the CPU and of a GPU stand."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_global_rng_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Put torch's global generators where they stood."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def enough_threads(n_operations: float) -> Iterator[None]:
    """Compute inside with one thread where the steps are too small to be shared.

    ``n_operations`` are those of one step, in floating point. Below 5e7 a step gains nothing from
    a second thread, and loses much where other work keeps the threads from meeting in time.
    """
    before = torch.get_num_threads()
    if n_operations >= _SHARED_OPERATIONS or before == 1:
        yield
        return
    torch.set_num_threads(1)
    # The number is each thread's own; but torch gives the number that was set last to threads that
    # first compute later on, and they keep it. Another thread sets that one back.
    setting_back = threading.Thread(target=torch.set_num_threads, args=(before,))
    setting_back.start()
    setting_back.join()
    try:
        yield
    finally:
        torch.set_num_threads(before)
