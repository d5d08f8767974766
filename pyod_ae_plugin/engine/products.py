"""Full float32 in matrix products and convolutions, whatever users have set for all of torch.

torch may round the factors of float32 products to tf32 or bfloat16, and cuDNN may sum in another
order at each call. Settings of the whole process say so; by default convolutions on a GPU use tf32.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.backends import cudnn

# Since 2.9 torch has a setting for each kind of operation, and warns of its older settings, or
# refuses to read them where the two disagree. These functions take a tenth of the time of the
# attributes of torch.backends that call them.
_get: Any = getattr(torch._C, "_get_fp32_precision_getter", None)
_set: Any = getattr(torch._C, "_set_fp32_precision_setter", None)
_ON_GPU = (("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"))
_ON_CPU = (("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"))
# A kind without a setting of its own takes that of its library, or of all libraries.
_ABOVE = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))

_Settings = tuple[dict[tuple[str, str], str], bool, bool]
"""By kind, and whether cuDNN is to be fast and to be repeatable."""

_lock = threading.Lock()
_n_exact, _n_tf32 = 0, 0  # blocks that threads are in
_users: _Settings  # before the first of them


def must_be_set() -> bool:
    """Whether products in this process need :func:`float32_products` to be in full float32.

    They need it, too, while another thread is in such a block, since that thread will leave it.
    """
    if _n_exact or _n_tf32 or torch.cuda.is_initialized():
        return True
    if _get is None:
        return torch.get_float32_matmul_precision() != "highest"
    return any(_get(*kind) in ("tf32", "bf16") for kind in _ON_CPU)


@contextmanager
def float32_products(tf32: bool = False) -> Iterator[None]:
    """Compute products and convolutions inside in full float32, or on a GPU in tf32.

    cuDNN computes convolutions by algorithms that give the same bits at each call. The settings are
    those of the process. The first thread that enters such a block sets them, and the last one that
    leaves restores those of the user. While one thread is in a block with ``tf32``, operations of
    all threads use it.
    """
    _enter(tf32, 1)
    try:
        yield
    finally:
        _enter(tf32, -1)


def _enter(tf32: bool, change: int) -> None:
    """Count the blocks that are entered, 1, or left, -1, and set what those that are left need."""
    global _n_exact, _n_tf32, _users
    with _lock:
        if not (_n_exact or _n_tf32):
            _users = _read()
        before = _n_exact > 0, _n_tf32 > 0
        if tf32:
            _n_tf32 += change
        else:
            _n_exact += change
        if not (_n_exact or _n_tf32):
            _write(_users)
        elif before != (_n_exact > 0, _n_tf32 > 0):
            _write(_wanted(_n_tf32 > 0))


def _wanted(tf32: bool) -> _Settings:
    on_gpu, on_cpu = (
        dict.fromkeys(_ON_GPU, "tf32" if tf32 else "ieee"),
        dict.fromkeys(_ON_CPU, "ieee"),
    )
    return {**on_gpu, **on_cpu}, False, True


def _read() -> _Settings:
    """The settings that users have made."""
    if _get is None:
        matmul, conv = torch.get_float32_matmul_precision(), "tf32" if cudnn.allow_tf32 else "ieee"
        kinds = {("cuda", "matmul"): matmul, ("cuda", "conv"): conv}
        return kinds, cudnn.benchmark, cudnn.deterministic
    above = {}
    for kind in _ABOVE:  # without them a kind tells what it is set to itself
        above[kind] = _get(*kind)
        _set(*kind, "none")
    kinds = {kind: _get(*kind) for kind in (*_ON_GPU, *_ON_CPU)}
    for kind, precision in above.items():
        _set(*kind, precision)
    return kinds, cudnn.benchmark, cudnn.deterministic


def _write(settings: _Settings) -> None:
    kinds, cudnn.benchmark, cudnn.deterministic = settings
    if _get is None:
        older = {"ieee": "highest", "tf32": "high"}
        matmul = kinds["cuda", "matmul"]
        torch.set_float32_matmul_precision(older.get(matmul, matmul))
        cudnn.allow_tf32 = kinds["cuda", "conv"] == "tf32"
        return
    for kind, precision in kinds.items():
        _set(*kind, precision)
