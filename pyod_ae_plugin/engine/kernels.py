"""Functions that give the scores of a scoring module in fewer and cheaper operations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from pyod_ae_plugin.engine.gpu import gpu_score_function
from pyod_ae_plugin.engine.triton_kernels import Precision
from pyod_ae_plugin.networks import AutoEncoderNetwork, VariationalNetwork
from pyod_ae_plugin.networks.layers import Linear, is_hooked
from pyod_ae_plugin.scoring import ScoreHead, ScoringModule, Standardize
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

TileFunction = Callable[[Tensor], Tensor]
# Takes a tile and the memory for the result.
Step = Callable[[Tensor, Tensor], Tensor]


def score_function(module: ScoringModule, precision: Precision = "float32") -> TileFunction:
    """Return what scores tiles fastest: a function of fewer operations, or the module itself.

    On a GPU that is :func:`~pyod_ae_plugin.engine.gpu.gpu_score_function`, to which ``precision``
    is passed. On a CPU, where the network is one of this package, encoder and decoder begin and end
    with a linear layer, and features are standardised in float32, standardisation becomes part of
    two of these: the first takes raw rows, and the last is added to its bias less the row, which
    leaves the residual. The scores are the module's up to rounding in float32. The function is for
    the thread that asked for it, and for inference mode.
    """
    if module.standardize.scale.is_cuda:
        return gpu_score_function(module, precision)
    network, head = module.network, module.head
    known = isinstance(network, (AutoEncoderNetwork, VariationalNetwork))
    layers = network.layers() if known and not is_hooked(module) else None
    in_float32 = module.standardize.scale.dtype is torch.float32
    if layers is None or not in_float32 or type(head).score is not ScoreHead.score:
        return module
    encoding, decoding = layers
    if not all(map(_is_affine, (encoding[0], decoding[0], decoding[-1]))):
        return module
    return _folded(module.standardize, encoding, decoding, head)


def _folded(
    standardize: Standardize,
    encoding: Sequence[nn.Module],
    decoding: Sequence[nn.Module],
    head: ScoreHead,
) -> TileFunction:
    scale, shift = standardize.scale, standardize.shift
    encoders = _stages(encoding)
    *decoders, (last, _) = _stages(decoding)
    steps: list[Step] = []
    lack: Tensor | None = shift
    lacks = []
    for layer, following in (*encoders, *decoders):
        weight = layer.weight if steps else layer.weight * scale
        bias = _bias(layer, lack)
        handed_on = _hands_bias_on(following)
        steps.append(_step(weight.t(), bias, following, handed_on))
        lack = bias if handed_on else None
        lacks.append(lack)
    code_lacks = lacks[len(encoders) - 1]
    weight, bias = last.weight.t(), _bias(last, lack) - shift
    widths = [layer.out_features for layer, _ in (*encoders, *decoders)]
    n_features, n_latent = len(scale), widths[len(encoders) - 1] if head.uses_code else 0

    def score(x: Tensor) -> Tensor:
        tiles = _scratch.tiles(len(x), (n_features, n_latent), (*widths, n_features))
        rows, code, *results, residual = tiles
        h = rows.copy_(x)
        for i, (step, result) in enumerate(zip(steps, results, strict=True), 1):
            h = step(h, result)
            if i == len(encoders) and head.uses_code:
                code = h.clone() if code_lacks is None else torch.add(h, code_lacks, out=code)
        torch.addcmul(bias, rows, scale, value=-1, out=residual).addmm_(h, weight)
        scores = head(residual, code) if head.uses_code else head(residual)
        return torch.nan_to_num(scores, nan=HIGHEST_SCORE)

    return score


def _stages(layers: Sequence[nn.Module]) -> list[tuple[nn.Linear, list[nn.Module]]]:
    """Each linear layer with the layers between it and the next one."""
    stages: list[tuple[nn.Linear, list[nn.Module]]] = []
    for layer in layers:
        if _is_affine(layer):
            stages.append((layer, []))
        else:
            stages[-1][1].append(layer)
    return stages


def _bias(layer: nn.Linear, lack: Tensor | None) -> Tensor:
    """The bias of a layer that is given rows less ``lack``."""
    return layer.bias if lack is None else torch.addmv(layer.bias, layer.weight, lack)


def _hands_bias_on(following: Sequence[nn.Module]) -> bool:
    """Whether a bias can be left for the next linear layer to add.

    Adding it takes a pass over the tile. That is spared if a linear layer follows, or a ReLU,
    since max(h + b, 0) = max(h, -b) + b.
    """
    return all(type(layer) is nn.ReLU for layer in following)


def _step(weight: Tensor, bias: Tensor, following: Sequence[nn.Module], handed_on: bool) -> Step:
    if not following:
        return lambda h, result: torch.mm(h, weight, out=result)
    if handed_on:
        lowest = -bias
        return lambda h, result: torch.mm(h, weight, out=result).clamp_min_(lowest)

    def step(h: Tensor, result: Tensor) -> Tensor:
        h = torch.addmm(bias, h, weight, out=result)
        for layer in following:
            h = layer(h)
        return h

    return step


def _is_affine(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is a linear one with a bias ."""
    return type(layer) in (Linear, nn.Linear) and layer.bias is not None


class _Scratch(threading.local):
    """Tiles in memory that each thread keeps from call to call.

    New memory comes from the operating system page by page, each of which it clears first; that
    can take as long as computing what is written there.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)
        self._shape: tuple[object, ...] = ()
        self._tiles: list[Tensor] = []

    def tiles(self, n: int, apart: Sequence[int], by_turns: Sequence[int]) -> list[Tensor]:
        """Tiles [n, width], whatever they hold; at the next call they are somebody else's.

        Those ``by_turns`` lie in two places, so that less of the cache is taken: writing to one
        destroys the one before the last.
        """
        widths = (*apart, *by_turns)
        if (n, apart, by_turns) != self._shape:
            turns = [n * max(by_turns[::2]), n * max(by_turns[1::2], default=0)]
            places = [*(n * width for width in apart), *turns]
            if len(self._memory) < sum(places):
                self._memory = torch.empty(sum(places))
            *first, one, other = self._memory[: sum(places)].split(places)
            memory = [*first, *(other if i % 2 else one for i in range(len(by_turns)))]
            self._tiles = [m[: n * w].view(n, w) for m, w in zip(memory, widths, strict=True)]
            self._shape = (n, apart, by_turns)
        return self._tiles


_scratch = _Scratch()
