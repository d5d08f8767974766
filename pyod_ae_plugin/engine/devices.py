"""Devices, threads, random number generators, and torch's settings in a process or thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

_MIN_OPERATIONS_TO_SHARE = 5e7

# A forked process has only the thread that forked, and GNU's OpenMP waits forever for the others
# of its parent. PyTorch's own forked workers also use one thread.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return a device by its name; None picks CUDA if there is a GPU, else the CPU.

    Raises ValueError if the name is not valid, or this machine does not have the device.
    """
    try:
        if device is None:
            resolved = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        else:
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
    set_threads_of_new_threads(before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_threads_of_new_threads(n: int) -> None:
    """Let threads that have not computed yet use ``n`` threads, and leave all others as they are.

    Each thread has its own number. A thread takes the number that was set last, by any thread, when
    it first computes. So a thread of its own sets the number here.
    """
    setter = threading.Thread(target=torch.set_num_threads, args=(n,))
    setter.start()
    setter.join()


# ----------------------------------------------------------------------------- torch's settings

_DEVICE_KINDS = ("cpu", "cuda", "mps", "xpu")
_SMALLEST = 5e-324  # the smallest denormal number

# These make floats unless they are told otherwise;
_MAKE_FLOATS = {
    torch.empty, torch.empty_permuted, torch.empty_strided, torch.zeros, torch.ones, torch.eye,
    torch.rand, torch.randn, torch.linspace, torch.logspace, torch.bartlett_window,
    torch.blackman_window, torch.hamming_window, torch.hann_window, torch.kaiser_window,
    torch.fft.fftfreq, torch.fft.rfftfreq,
}  # fmt: skip
# these make floats of floats;
_TAKE_NUMBERS = {torch.full, torch.arange, torch.range, torch.scalar_tensor}
# and these make floats of floats that have no type of their own, as those of NumPy have.
_TAKE_VALUES = {torch.tensor, torch.as_tensor, torch.asarray}


@contextmanager
def default_settings() -> Iterator[None]:
    """Compute inside, or in the decorated function, as torch does by default.

    That is: new tensors are float32 and on the CPU, autocast is off, gradients are recorded where
    nothing inside says otherwise, and denormal numbers are kept. All of this holds for this thread
    alone. Products of float32 are those of float32 factors: torch has this setting for the whole
    process, so that it holds for all threads meanwhile. The settings are as they were afterwards.
    Code of users that is to see their settings, such as a generator of batches, must not run
    inside.
    """
    with _full_float32, ExitStack() as stack:
        for override in _overrides():
            stack.enter_context(override)
        yield


def _overrides() -> Iterator[AbstractContextManager[Any]]:
    """Context that restores torch's defaults in this thread where settings differ from them."""
    made = torch.empty(0)  # a quarter of the time of the getters of type and device
    if made.dtype is not torch.float32:
        yield _Float32()
    if made.device.type != "cpu":
        yield torch.device("cpu")
    for kind in _DEVICE_KINDS:
        if torch.is_autocast_enabled(kind):
            yield torch.autocast(kind, enabled=False)
    if torch.is_inference_mode_enabled():
        yield torch.inference_mode(False)
    if not torch.is_grad_enabled():
        yield torch.enable_grad()
    if _SMALLEST * 1.0 == 0.0:
        yield _denormals_kept()


class _Flag(NamedTuple):
    """A setting of the process for products, and its values for float32 factors."""

    get: Callable[[], Any]
    set: Callable[[Any], None]
    full: tuple[Any, ...]
    tf32: Any = None  # its value for tf32 factors on a GPU, if it is a setting for GPUs


def _flags() -> list[_Flag]:
    """The settings for matrix products and convolutions that torch has on this machine."""
    backends: Any = torch.backends
    has_cudnn = torch.version.cuda is not None
    if not hasattr(backends.mkldnn, "matmul"):  # before torch 2.9
        get, set_ = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
        flags = [_Flag(get, set_, ("highest",), "high")]
        flags += [_attribute(backends.cudnn, "allow_tf32", False, tf32=True)] if has_cudnn else []
    else:
        name = "fp32_precision"
        on_cpu, on_gpu = [backends.mkldnn.matmul, backends.mkldnn.conv], [backends.cuda.matmul]
        on_gpu += [backends.cudnn.conv, backends.cudnn.rnn] if has_cudnn else []
        flags = [_attribute(owner, name, "ieee", "none") for owner in on_cpu]
        flags += [_attribute(owner, name, "ieee", "none", tf32="tf32") for owner in on_gpu]
    if has_cudnn:  # convolutions by algorithms that give the same bits at each call
        flags.append(_attribute(backends.cudnn, "benchmark", False))
        flags.append(_attribute(backends.cudnn, "deterministic", True))
    return flags


def _attribute(owner: Any, name: str, *full: object, tf32: object = None) -> _Flag:
    return _Flag(partial(getattr, owner, name), partial(setattr, owner, name), full, tf32)


class _FullFloat32:
    """Context in which products have float32 factors, for all threads, while any thread is in it.

    The last thread that leaves sets back what the others found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside, self._n_tf32 = 0, 0
        self._flags = _flags()
        self._before: dict[_Flag, Any] = {}
        if hasattr(os, "register_at_fork"):
            # A child must not inherit a lock that is held by a thread of its parent.
            release = self._lock.release
            os.register_at_fork(
                before=self._lock.acquire, after_in_parent=release, after_in_child=release
            )

    def __enter__(self) -> None:
        with self._lock:
            self._n_inside += 1
            for flag in self._flags:
                is_lower = self._n_tf32 > 0 and flag.tf32 is not None
                if flag.get() not in flag.full and not is_lower:
                    self._set(flag, flag.full[0])

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            while self._n_inside == 0 and self._before:
                flag, value = self._before.popitem()
                flag.set(value)

    def count_tf32(self, change: int) -> None:
        """Note that one thread more, 1, or less, -1, wants tf32 factors on GPUs."""
        with self._lock:
            self._n_tf32 += change
            for flag in self._flags:
                if flag.tf32 is not None:
                    self._set(flag, flag.tf32 if self._n_tf32 else flag.full[0])

    def _set(self, flag: _Flag, value: Any) -> None:
        """Change a setting, and keep what it was before the first change."""
        self._before.setdefault(flag, flag.get())
        flag.set(value)


@contextmanager
def gpu_products(*, tf32: bool) -> Iterator[None]:
    """Compute products on a GPU inside with tf32 factors, or in full float32.

    The setting is that of the process: while a thread is inside with ``tf32``, all threads use it.
    """
    with _full_float32:
        if not tf32:
            yield
            return
        _full_float32.count_tf32(1)
        try:
            yield
        finally:
            _full_float32.count_tf32(-1)


_full_float32 = _FullFloat32()


class _Float32(TorchFunctionMode):
    """Replaces the default type by float32.

    Other threads would see a default type that is set and set back; a mode is a thread's own.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is None and kwargs.get("out") is None:
            if func in _MAKE_FLOATS:
                kwargs["dtype"] = torch.float32
            elif func in _TAKE_NUMBERS or (
                func in _TAKE_VALUES and not any(hasattr(value, "dtype") for value in args)
            ):
                made = func(*args, **kwargs)
                if not made.is_floating_point():
                    return made
                kwargs["dtype"] = torch.float32
        return func(*args, **kwargs)


@contextmanager
def _denormals_kept() -> Iterator[None]:
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(True)
