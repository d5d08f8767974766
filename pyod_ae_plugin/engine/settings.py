"""Computing as torch does by default, whatever its settings are in this process or thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

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
    alone, and the settings are as they were afterwards. Code of users that is to see their
    settings, such as a generator of batches, must not run inside.
    """
    with ExitStack() as stack:
        for override in _overrides():
            stack.enter_context(override)
        yield


def _overrides() -> Iterator[AbstractContextManager[Any]]:
    """What sets this thread back to the defaults, as far as it is not there."""
    made = torch.empty(0)  # asks for type and device in a quarter of the time of the getters
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


class _Float32(TorchFunctionMode):
    """Makes float32 of what would be of the default type.

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
