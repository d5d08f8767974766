"""Folded scoring on a CPU: the scores of a scoring module from fewer and cheaper operations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyod_ae_plugin.engine.cuda.dispatch import gpu_score_function
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.pipeline import Layers, Pipeline, is_linear, read_scoring
from pyod_ae_plugin.scoring import ScoreHead, ScoringModule, Standardize
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

TileFunction = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Tensor], Tensor]
"""Takes a tile and the memory for the result."""


def score_function(module: ScoringModule, precision: Precision = "float32") -> TileFunction:
    """Return the fastest function that scores tiles: folded, of the GPU, or the module itself.

    On a CPU, standardisation is folded into two linear layers: the first takes raw rows, and the
    last subtracts the standardised row in its bias, which gives the residual. The scores are the
    module's up to rounding in float32. ``precision`` is that of matrix products on a GPU. The
    function may be called by the thread that asked for it, in inference mode.
    """
    if module.standardize.scale.is_cuda:
        return gpu_score_function(module, precision)
    pipeline = read_scoring(module)
    if pipeline is None or not can_be_folded(pipeline, module):
        return module
    return _folded(module.standardize, pipeline, module.head)


def can_be_folded(pipeline: Pipeline | None, module: ScoringModule) -> bool:
    """Whether standardisation can become part of a network's linear layers.

    It can if rows are standardised in float32, the head scores residuals in the plain way, and
    encoder and decoder each begin with a linear layer and the decoder ends with one.
    """
    if pipeline is None or pipeline.n_members is not None:
        return False
    ends = (*pipeline.encoding[:1], *pipeline.decoding[:1], *pipeline.decoding[-1:])
    return (
        module.standardize.scale.dtype is torch.float32
        and type(module.head).score is ScoreHead.score
        and len(ends) == 3
        and all(map(is_linear, ends))
    )


def _folded(standardize: Standardize, pipeline: Pipeline, head: ScoreHead) -> TileFunction:
    scale, shift = standardize.scale, standardize.shift
    encoders = _stages(pipeline.encoding)
    *decoders, (last, _) = _stages(pipeline.decoding)
    steps: list[Step] = []
    deferred: Tensor | None = shift
    deferred_biases = []
    for layer, following in (*encoders, *decoders):
        weight = layer.weight if steps else layer.weight * scale
        bias = _bias(layer, deferred)
        defers = _can_defer_bias(following)
        steps.append(_step(weight.t(), bias, following, defers))
        deferred = bias if defers else None
        deferred_biases.append(deferred)
    code_bias = deferred_biases[len(encoders) - 1]
    weight, bias = last.weight.t(), _bias(last, deferred) - shift
    widths = [layer.out_features for layer, _ in (*encoders, *decoders)]
    n_features, n_latent = len(scale), widths[len(encoders) - 1] if head.uses_code else 0

    def score(x: Tensor) -> Tensor:
        tiles = _scratch.tiles(len(x), (n_features, n_latent), (*widths, n_features))
        rows, code, *results, residual = tiles
        h = rows.copy_(x)
        for i, (step, result) in enumerate(zip(steps, results, strict=True), 1):
            h = step(h, result)
            if i == len(encoders) and head.uses_code:
                code = h.clone() if code_bias is None else torch.add(h, code_bias, out=code)
        torch.addcmul(bias, rows, scale, value=-1, out=residual).addmm_(h, weight)
        row = torch.addcmul(shift, rows, scale) if head.uses_row else rows
        scores = head(residual, *head.other_inputs(code, row))
        return torch.nan_to_num(scores, nan=HIGHEST_SCORE)

    return score


def _stages(layers: Layers) -> list[tuple[nn.Linear, list[nn.Module]]]:
    """Each linear layer with the layers between it and the next one."""
    stages: list[tuple[nn.Linear, list[nn.Module]]] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            stages.append((layer, []))
        else:
            stages[-1][1].append(layer)
    return stages


def _bias(layer: nn.Linear, deferred_bias: Tensor | None) -> Tensor:
    """The bias of a layer, with that which the layer before did not add."""
    if deferred_bias is None:
        return layer.bias
    return torch.addmv(layer.bias, layer.weight, deferred_bias)


def _can_defer_bias(following: Sequence[nn.Module]) -> bool:
    """Whether the next linear layer can add a layer's bias, which spares a pass over the tile.

    It can if nothing is between them, or ReLUs, since max(h + b, 0) = max(h, -b) + b.
    """
    return all(type(layer) is nn.ReLU for layer in following)


def _step(weight: Tensor, bias: Tensor, following: Sequence[nn.Module], defers: bool) -> Step:
    """A linear layer and the layers after it, without the bias if that is deferred."""
    if not following:
        return lambda h, result: torch.mm(h, weight, out=result)
    if defers:
        lowest = -bias
        return lambda h, result: torch.mm(h, weight, out=result).clamp_min_(lowest)

    def step(h: Tensor, result: Tensor) -> Tensor:
        h = torch.addmm(bias, h, weight, out=result)
        for layer in following:
            h = layer(h)
        return h

    return step


class _Scratch(threading.local):
    """Memory for tiles that each thread keeps from call to call.

    The operating system clears new memory page by page, which can take as long as the computation
    that writes to it.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)
        self._shape: tuple[object, ...] = ()
        self._tiles: list[Tensor] = []

    def tiles(self, n: int, separate: Sequence[int], alternating: Sequence[int]) -> list[Tensor]:
        """Uninitialised tiles [n, width], valid until the next call.

        ``alternating`` tiles share two places, so that they take less of the cache: writing to one
        overwrites the one before the last.
        """
        widths = (*separate, *alternating)
        if (n, separate, alternating) != self._shape:
            turns = [n * max(alternating[::2]), n * max(alternating[1::2], default=0)]
            places = [*(n * width for width in separate), *turns]
            if len(self._memory) < sum(places):
                self._memory = torch.empty(sum(places))
            *first, even, odd = self._memory[: sum(places)].split(places)
            memory = [*first, *(odd if i % 2 else even for i in range(len(alternating)))]
            self._tiles = [m[: n * w].view(n, w) for m, w in zip(memory, widths, strict=True)]
            self._shape = (n, separate, alternating)
        return self._tiles


_scratch = _Scratch()
