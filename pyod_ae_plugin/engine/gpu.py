"""What scores rows fastest on a GPU: one fused kernel, or a recorded graph of the plain way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pyod_ae_plugin.engine.graphs import RecordedTiles
from pyod_ae_plugin.engine.triton_kernels import Precision, fused_score_function
from pyod_ae_plugin.networks import AutoEncoderNetwork, VariationalNetwork
from pyod_ae_plugin.networks.layers import is_hooked
from pyod_ae_plugin.scoring import ScoringModule

# What was made for a module, by what it hangs on. Made anew when that changes.
_made: WeakKeyDictionary[ScoringModule, dict[Hashable, Callable[[Tensor], Tensor]]]
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
    # memory that was freed may come back at the same place, so the version counts too
    tensors = tuple(
        (t.data_ptr(), t._version) for t in chain(module.parameters(), module.buffers())
    )
    key = threading.get_ident(), stream, precision, is_hooked(module), tensors
    with _making:
        made = _made.setdefault(module, {})
        if key not in made:
            for old in [k for k in made if k[-1] != tensors]:  # type: ignore[index]
                del made[old]
            made[key] = _new_function(module, precision)
        return made[key]


def _new_function(module: ScoringModule, precision: Precision) -> Callable[[Tensor], Tensor]:
    fused = fused_score_function(module, precision)
    if fused is not None:
        return fused

    def plain(tile: Tensor) -> Tensor:
        with _matrix_products(precision):
            scores: Tensor = module(tile)
            return scores

    # A network of others may look at values on the way, which a graph cannot.
    known = type(module.network) in (AutoEncoderNetwork, VariationalNetwork)
    return RecordedTiles(plain) if known and not is_hooked(module) else plain


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
