"""The fastest way to score rows on a GPU: the fused kernel, a recorded graph, or the module."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pyod_ae_plugin.engine.cuda.fused import FusedScore, Precision, fused_score_function
from pyod_ae_plugin.engine.cuda.graphs import RecordedTiles
from pyod_ae_plugin.engine.devices import gpu_products
from pyod_ae_plugin.engine.pipeline import read_scoring
from pyod_ae_plugin.scoring import ScoreHead, ScoringModule

# The functions made for each module, by all that a function depends on.
_cache: WeakKeyDictionary[ScoringModule, dict[tuple[Any, ...], Callable[[Tensor], Tensor]]]
_cache = WeakKeyDictionary()
_cache_lock = threading.Lock()


def gpu_score_function(module: ScoringModule, precision: Precision) -> Callable[[Tensor], Tensor]:
    """Return the fastest function that scores rows on the GPU of a module.

    That is a :class:`~pyod_ae_plugin.engine.cuda.fused.FusedScore` if the kernel supports the
    module. If not, it is the module as a CUDA graph if network and head are known, and else the
    module itself. Only this thread may call the function, on the current stream.
    """
    device = module.standardize.scale.device
    precision = "float32" if module.head.needs_float32 else precision
    stream = torch.cuda.current_stream(device).cuda_stream
    weights = tuple(map(_identity, chain(module.parameters(), module.buffers())))
    key = threading.get_ident(), stream, precision, read_scoring(module), weights
    with _cache_lock:
        functions = _cache.setdefault(module, {})
        if key not in functions:
            for old in [k for k in functions if k[-1] != weights]:
                del functions[old]
            functions[key] = _new_function(module, precision)
        return functions[key]


def _identity(tensor: Tensor) -> tuple[int, int]:
    # New memory may have the address of memory that was freed, so the version counts, too.
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _new_function(module: ScoringModule, precision: Precision) -> Callable[[Tensor], Tensor]:
    fused = None if module.fills_gaps else fused_score_function(module, precision)
    if fused is not None and _compiles(fused, module):
        return fused
    # functions in the cache must not keep the module alive
    module_ref = weakref.ref(module)

    def plain(tile: Tensor) -> Tensor:
        with _matrix_products(precision):
            scores: Tensor = cast(ScoringModule, module_ref())(tile)
            return scores.float()

    can_be_recorded = read_scoring(module) is not None and _is_own(module.head)
    return RecordedTiles(plain) if can_be_recorded else plain


def _is_own(head: ScoreHead) -> bool:
    """Whether all of a score head is of this package; a plugin's may branch on values."""
    package = f"{__name__.partition('.')[0]}."
    return all(type(part).__module__.startswith(package) for part in head.modules())


def _compiles(fused: FusedScore, module: ScoringModule) -> bool:
    """Whether the fused kernel compiles for this GPU and fits it; a warning says if not."""
    scale = module.standardize.scale
    try:
        fused(scale.new_zeros(1, len(scale)))
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # Triton, its driver and the C compiler have no common base class
        warnings.warn(
            f"The fused kernel cannot be used here ({error!r}). Rows are scored on the GPU by "
            "several kernels, which is slower and otherwise the same.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


@contextmanager
def _matrix_products(precision: Precision) -> Iterator[None]:
    """Compute matrix products inside with factors of a precision."""
    lower = torch.autocast("cuda", torch.bfloat16) if precision == "bfloat16" else nullcontext()
    with gpu_products(tf32=precision == "tf32"), lower:
        yield
