"""The layers that encoders and decoders are made of, drawing from a private generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    # In place: a ReLU is its own derivative's witness, so nothing is lost and memory is saved.
    "relu": lambda: nn.ReLU(inplace=True),
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softmax": lambda: nn.Softmax(dim=-1),
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` initialised from a private generator (He et al. 2015).

    Weights are drawn from U(-sqrt(6 / fan_in), sqrt(6 / fan_in)), biases from
    U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), as PyOD's layers are.

    **Shape**

    - Input: ``(*, in_features)``
    - Output: ``(*, out_features)``

    Examples
    --------
    >>> layer = Linear(3, 2, torch.Generator().manual_seed(0))
    >>> layer(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, in_features: int, out_features: int, generator: torch.Generator) -> None:
        # nn.Linear's own __init__ would draw from the global generator.
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        bound = 1 / math.sqrt(in_features)
        with torch.no_grad():
            self.weight.uniform_(-math.sqrt(6) * bound, math.sqrt(6) * bound, generator=generator)
            self.bias.uniform_(-bound, bound, generator=generator)


class Dropout(nn.Module):
    """Inverted dropout whose mask comes from a private generator.

    The mask compares 16 random bits with the rate, which costs an eighth of drawing a uniform
    float for every element; the rate is thereby rounded to a multiple of 2**-16.

    **Shape**

    - Input: ``(*)``
    - Output: ``(*)``, the same shape

    Examples
    --------
    >>> drop = Dropout(0.5, torch.Generator().manual_seed(0))
    >>> drop(torch.ones(1000)).unique()
    tensor([0., 2.])
    >>> drop.eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self.dropped = min(round(rate * 2**16), 2**16 - 1)
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self.generator)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        kept = (bits >= self.dropped - 2**15).to(x.dtype)
        return x * kept.mul_(2**16 / (2**16 - self.dropped))


class BatchNorm(nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` that takes a batch of one row by its running statistics.

    **Shape**

    - Input: ``(n, num_features)``, n >= 1
    - Output: ``(n, num_features)``
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] == 1:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def dense_stack(
    widths: Sequence[int],
    *,
    activation: str,
    batch_norm: bool,
    dropout_rate: float,
    generator: torch.Generator,
) -> list[nn.Module]:
    """Linear layers from each width to the next, each with norm, activation and dropout."""
    layers: list[nn.Module] = []
    for in_features, out_features in pairwise(widths):
        layers.append(Linear(in_features, out_features, generator))
        if batch_norm:
            layers.append(BatchNorm(out_features))
        layers.append(ACTIVATIONS[activation]())
        if dropout_rate > 0:
            layers.append(Dropout(dropout_rate, generator))
    return layers


def as_layers(stack: nn.Module) -> list[nn.Module]:
    """The layers of a sequence, or the one module that is none."""
    return list(stack) if isinstance(stack, nn.Sequential) else [stack]


def inference_stack(stack: nn.Module) -> nn.Module:
    """Return the stack as it is evaluated: batch norm folded into the linear layers, no dropout.

    Only sequences of this module's own layers are rewritten; any other module is returned as is.
    """
    if not isinstance(stack, nn.Sequential):
        return stack
    layers: list[nn.Module] = []
    for layer in stack:
        if isinstance(layer, BatchNorm) and layers and isinstance(layers[-1], Linear):
            layers[-1] = fuse_linear_bn_eval(layers[-1], layer)
        elif not isinstance(layer, (Dropout, nn.Identity)):
            layers.append(layer)
    return nn.Sequential(*layers)
