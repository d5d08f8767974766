"""Functions that give the scores of a scoring module in fewer and cheaper operations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import AutoEncoderNetwork, VariationalNetwork
from pyod_ae_plugin.networks.layers import Linear
from pyod_ae_plugin.scoring import ScoringModule
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

TileFunction = Callable[[Tensor], Tensor]
# Takes a tile and the memory for the result.
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
    if not (_is_affine(layers[0]) and _is_affine(layers[-1])):
        return module
    return _folded(module, layers)


def _folded(module: ScoringModule, layers: Sequence[nn.Module]) -> TileFunction:
    scale, shift, head = module.standardize.scale, module.standardize.shift, module.head
    *stages, (last, _) = _stages(layers)
    steps: list[Step] = []
    lack: Tensor | None = shift
    for layer, following in stages:
        weight = layer.weight if steps else layer.weight * scale
        bias = _bias(layer, lack)
        steps.append(_step(weight.t(), bias, following))
        lack = bias if _hands_bias_on(following) else None
    weight, bias = last.weight.t(), _bias(last, lack) - shift
    widths = [len(scale), *(layer.out_features for layer, _ in stages), len(scale)]

    def score(x: Tensor) -> Tensor:
        rows, *results, residual = _scratch.tiles(len(x), widths, scale.device)
        h = rows.copy_(x)
        for step, result in zip(steps, results, strict=True):
            h = step(h, result)
        torch.addcmul(bias, rows, scale, value=-1, out=residual).addmm_(h, weight)
        return torch.nan_to_num(head(residual), nan=HIGHEST_SCORE)

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
    return all(type(layer) is nn.ReLU and not _is_hooked(layer) for layer in following)


def _step(weight: Tensor, bias: Tensor, following: Sequence[nn.Module]) -> Step:
    if not following:
        return lambda h, result: torch.mm(h, weight, out=result)
    if _hands_bias_on(following):
        lowest = -bias
        return lambda h, result: torch.mm(h, weight, out=result).clamp_min_(lowest)

    def step(h: Tensor, result: Tensor) -> Tensor:
        h = torch.addmm(bias, h, weight, out=result)
        for layer in following:
            h = layer(h)
        return h

    return step


def _is_affine(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is a linear one with a bias and does nothing else besides."""
    return type(layer) in (Linear, nn.Linear) and layer.bias is not None and not _is_hooked(layer)


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
        """Tiles [n, width], whatever they hold; at the next call they are somebody else's.

        All but the first tile lie by turns in two places, so that less of the cache is taken:
        writing to one destroys the one before the last.
        """
        if device.type != "cpu":
            return [torch.empty(n, width, device=device) for width in widths]
        if (n, widths) != self._shape:
            places = [n * widths[0], n * max(widths[1::2]), n * max(widths[2::2], default=0)]
            if len(self._memory) < sum(places):
                self._memory = torch.empty(sum(places))
            first, *others = self._memory[: sum(places)].split(places)
            self._tiles = [first.view(n, widths[0])]
            for i, width in enumerate(widths[1:]):
                self._tiles.append(others[i % 2][: n * width].view(n, width))
            self._shape = (n, widths)
        return self._tiles


_scratch = _Scratch()
