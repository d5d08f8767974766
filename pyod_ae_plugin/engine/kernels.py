"""Functions that give the scores of a scoring module in fewer and cheaper operations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import AutoEncoderNetwork, VariationalNetwork
from pyod_ae_plugin.networks.layers import Linear
from pyod_ae_plugin.scoring import ScoringModule
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

TileFunction = Callable[[Tensor], Tensor]
# A layer as a function of a tile and of memory for the result, which not every layer uses.
Step = Callable[[Tensor, Tensor], Tensor]


def score_function(module: ScoringModule) -> TileFunction:
    """Return what scores tiles fastest: a function of fewer operations, or the module itself.

    Where the network is one of this package, begins and ends with a linear layer, and features
    are standardised in float32, standardisation becomes part of these two layers: the first takes
    raw rows, and the last is added to its bias less the row, which leaves the residual.
    The scores are the module's up to rounding in float32. The function is for the thread that
    asked for it, and for inference mode.
    """
    network = module.network
    known = isinstance(network, (AutoEncoderNetwork, VariationalNetwork))
    layers = network.layers() if known else None
    if layers is None or len(layers) < 2 or module.standardize.scale.dtype is not torch.float32:
        return module
    first, *between, last = layers
    if not (_is_affine(first) and _is_affine(last)):
        return module
    return _folded(module, first, between, last)


def _folded(
    module: ScoringModule, first: nn.Linear, between: Sequence[nn.Module], last: nn.Linear
) -> TileFunction:
    scale, shift, head = module.standardize.scale, module.standardize.shift, module.head
    layers = [first, *between, last]
    steps, lack = _steps(layers, scale, shift)
    weight, bias = last.weight.t(), _bias(last, lack) - shift
    widths = [len(scale), len(scale), *(_width(layer) for layer in layers[:-1])]

    def score(x: Tensor) -> Tensor:
        rows, residual, *results = _scratch.tiles(len(x), widths, scale.device)
        h = rows.copy_(x)
        for step, result in zip(steps, results, strict=True):
            h = step(h, result)
        torch.addcmul(bias, rows, scale, value=-1, out=residual).addmm_(h, weight)
        return torch.nan_to_num(head(residual), nan=HIGHEST_SCORE)

    return score


def _steps(
    layers: Sequence[nn.Module], scale: Tensor, shift: Tensor
) -> tuple[list[Step], Tensor | None]:
    """All layers but the last as steps, and what their result lacks.

    Adding a bias takes a pass over the tile. It is spared where the next layer is a ReLU, since
    max(h + b, 0) = max(h, -b) + b, or linear: what rows lack is handed on to the next bias.
    """
    steps: list[Step] = []
    lack: Tensor | None = shift
    for layer, following in pairwise(layers):
        if _is_affine(layer):
            weight = layer.weight * scale if layer is layers[0] else layer.weight
            bias = _bias(layer, lack)
            if _is_affine(following) or _is_relu(following):
                steps.append(_multiply(weight.t()))
                lack = bias
            else:
                steps.append(_multiply_and_add(weight.t(), bias))
                lack = None
        elif lack is not None:
            steps.append(_clamp(-lack))
        else:
            steps.append(_apply(layer))
    return steps, lack


def _bias(layer: nn.Linear, lack: Tensor | None) -> Tensor:
    """The bias of a layer that is given rows less ``lack``."""
    return layer.bias if lack is None else torch.addmv(layer.bias, layer.weight, lack)


def _multiply(weight: Tensor) -> Step:
    return lambda h, result: torch.mm(h, weight, out=result)


def _multiply_and_add(weight: Tensor, bias: Tensor) -> Step:
    return lambda h, result: torch.addmm(bias, h, weight, out=result)


def _clamp(lowest: Tensor) -> Step:
    return lambda h, _: h.clamp_min_(lowest)


def _apply(layer: nn.Module) -> Step:
    return lambda h, _: layer(h)


def _width(layer: nn.Module) -> int:
    """Width of the memory that a layer's step uses."""
    return layer.out_features if _is_affine(layer) else 0


def _is_affine(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is a linear one with a bias and does nothing else besides."""
    return type(layer) in (Linear, nn.Linear) and layer.bias is not None and not _is_hooked(layer)


def _is_relu(layer: nn.Module) -> bool:
    return type(layer) is nn.ReLU and not _is_hooked(layer)


def _is_hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


class _Scratch(threading.local):
    """Tiles in memory that each thread keeps from call to call.

    New memory comes from the operating system page by page, each of which it clears first; that
    can take as long as computing what is written there.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)
        self._shape: tuple[int, Sequence[int]] = (0, ())
        self._tiles: list[Tensor] = []

    def tiles(self, n: int, widths: Sequence[int], device: torch.device) -> list[Tensor]:
        """Tiles [n, width], whatever they hold; at the next call they are somebody else's."""
        if device.type != "cpu":
            return [torch.empty(n, width, device=device) for width in widths]
        if (n, widths) != self._shape:
            sizes = [n * width for width in widths]
            if len(self._memory) < sum(sizes):
                self._memory = torch.empty(sum(sizes))
            pieces = self._memory[: sum(sizes)].split(sizes)
            self._tiles = [
                piece.view(n, width) for piece, width in zip(pieces, widths, strict=True)
            ]
            self._shape = (n, widths)
        return self._tiles


_scratch = _Scratch()
