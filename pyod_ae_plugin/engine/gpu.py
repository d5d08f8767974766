"""What scores rows fastest on a GPU: one fused kernel, or a recorded graph of the plain way."""

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

from pyod_ae_plugin.engine.graphs import RecordedTiles, is_of_known_layers
from pyod_ae_plugin.engine.triton_kernels import FusedScore, Precision, fused_score_function
from pyod_ae_plugin.networks.layers import is_hooked
from pyod_ae_plugin.scoring import ScoringModule

# What was made for a module, by what it hangs on. Made anew when that changes.
_made: WeakKeyDictionary[ScoringModule, dict[tuple[Any, ...], Callable[[Tensor], Tensor]]]
_made = WeakKeyDictionary()
_making = threading.Lock()


def gpu_score_function(module: ScoringModule, precision: Precision) -> Callable[[Tensor], Tensor]:
    """Return what scores rows fastest on the GPU of a module.

    That is a :class:`~pyod_ae_plugin.engine.triton_kernels.FusedScore` where there is one; else
    for networks of this package the module as a CUDA graph; else the module itself. It is for
    this thread and the stream that is current.

    Parameters
    ----------
    module : ScoringModule
    precision : {'float32', 'tf32', 'bfloat16'}
        Of the factors in matrix products.
    """
    device = module.standardize.scale.device
    stream = torch.cuda.current_stream(device).cuda_stream
    weights = tuple(map(_identity, chain(module.parameters(), module.buffers())))
    key = threading.get_ident(), stream, precision, is_hooked(module), weights
    with _making:
        made = _made.setdefault(module, {})
        if key not in made:
            for old in [k for k in made if k[-1] != weights]:
                del made[old]
            made[key] = _new_function(module, precision)
        return made[key]


def _identity(tensor: Tensor) -> tuple[int, int]:
    # memory that was freed may come back at the same place, so the version counts too
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _new_function(module: ScoringModule, precision: Precision) -> Callable[[Tensor], Tensor]:
    fused = fused_score_function(module, precision)
    if fused is not None and _compiles(fused, module):
        return fused
    # what is kept for a module must not keep the module
    scored_by = weakref.ref(module)

    def plain(tile: Tensor) -> Tensor:
        with _matrix_products(precision):
            scores: Tensor = cast(ScoringModule, scored_by())(tile)
            return scores.float()

    replayable = is_of_known_layers(module.network) and not is_hooked(module)
    return RecordedTiles(plain) if replayable else plain


def _compiles(fused: FusedScore, module: ScoringModule) -> bool:
    """Whether the fused kernel can be compiled and has room on this GPU; else warn."""
    scale = module.standardize.scale
    try:
        fused(scale.new_zeros(1, len(scale)))
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # of Triton, of its driver or of the C compiler, without a base
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
    """Compute matrix products with factors of a precision."""
    before = torch.backends.cuda.matmul.allow_tf32
    lower = torch.autocast("cuda", torch.bfloat16) if precision == "bfloat16" else nullcontext()
    try:
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        with lower:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
