"""Faster functions that give the same scores as a scoring module, to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import AutoEncoderNetwork, VariationalNetwork
from pyod_ae_plugin.networks.layers import Linear
from pyod_ae_plugin.scoring import ScoringModule
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

TileFunction = Callable[[Tensor], Tensor]


def score_function(module: ScoringModule) -> TileFunction:
    """Return what scores tiles fastest: the module's operations in a row, or the module.

    Looking up submodules and parameters takes about as long as a tenth of a tile's arithmetic.
    For networks of this package it is done once, here.
    """
    network = module.network
    known = isinstance(network, (AutoEncoderNetwork, VariationalNetwork))
    layers = network.layers() if known else None
    if layers is None:
        return module
    steps = [_step(layer) for layer in layers]
    standardize, head = module.standardize.forward, module.head

    def score(x: Tensor) -> Tensor:
        h = z = standardize(x)
        for step in steps:
            h = step(h)
        return torch.nan_to_num(head(h.sub_(z)), nan=HIGHEST_SCORE)

    return score


def _step(layer: nn.Module) -> TileFunction:
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    if isinstance(layer, nn.Linear) and type(layer) in (Linear, nn.Linear) and not hooked:
        return layer.forward if layer.bias is None else _affine(layer.weight.t(), layer.bias)
    if isinstance(layer, nn.ReLU) and not hooked:
        return torch.relu_ if layer.inplace else torch.relu
    return layer


def _affine(weight: Tensor, bias: Tensor) -> TileFunction:
    def affine(h: Tensor) -> Tensor:
        return torch.addmm(bias, h, weight)

    return affine
