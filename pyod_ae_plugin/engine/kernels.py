"""Faster functions that give the same scores as a scoring module, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pyod_ae_plugin.scoring import ScoringModule
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

TileFunction = Callable[[Tensor], Tensor]


def score_function(module: ScoringModule) -> TileFunction:
    """Return what scores tiles fastest: the module's operations in a row, or the module.

    Looking up submodules and parameters takes about as long as a tenth of a tile's arithmetic.
    It is done once here, where the network lists its layers.
    """
    layers = getattr(module.network, "layers", None)
    if not callable(layers):
        return module
    steps = [_step(layer) for layer in layers()]
    standardize, head = module.standardize.forward, module.head.forward

    def score(x: Tensor) -> Tensor:
        h = z = standardize(x)
        for step in steps:
            h = step(h)
        return torch.nan_to_num(head(h.sub_(z)), nan=HIGHEST_SCORE)

    return score


def _step(layer: nn.Module) -> TileFunction:
    if isinstance(layer, nn.Linear):
        return partial(_affine, layer.weight.t(), layer.bias)
    if isinstance(layer, nn.ReLU):
        return torch.relu_ if layer.inplace else torch.relu
    return layer.forward


def _affine(weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
    return torch.addmm(bias, h, weight)
