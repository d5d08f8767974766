"""The layers of convolutional networks, drawing from a private generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from pyod_ae_plugin.networks.layers import ACTIVATIONS, Dropout, draw_weights

STRIDE = 2
_KERNEL, _PADDING = 3, 1


class ImageBatchNorm(nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` that takes a single pixel by its running statistics.

    Notes
    -----
    Shapes:

    - Input: ``(n, num_features, height, width)``, n >= 1
    - Output: the same
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == self.num_features:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def hidden_layers(
    activation: str,
    batch_norm: bool,
    dropout_rate: float,
    generator: torch.Generator,
    n_channels: int,
) -> list[nn.Module]:
    """What stands behind a layer that makes images of so many channels."""
    layers: list[nn.Module] = [ImageBatchNorm(n_channels)] if batch_norm else []
    # A softmax is over the units of a layer, which here are the channels.
    layers.append(nn.Softmax2d() if activation == "softmax" else ACTIVATIONS[activation]())
    return [*layers, Dropout(dropout_rate, generator)] if dropout_rate > 0 else layers


def convolution(n_in: int, n_out: int, generator: torch.Generator) -> nn.Conv2d:
    """A layer that halves height and width, rounded up."""
    geometry = (_KERNEL, STRIDE, _PADDING)
    # The constructor of torch's own layers would draw from the global generator.
    layer: nn.Conv2d = skip_init(nn.Conv2d, n_in, n_out, *geometry, device=generator.device)
    draw_weights(layer, n_in * _KERNEL**2, generator)
    return layer


def transposed_convolution(
    n_in: int, n_out: int, size: Sequence[int], generator: torch.Generator
) -> nn.ConvTranspose2d:
    """A layer that makes images of this height and width of those that a convolution halved."""
    geometry = (_KERNEL, STRIDE, _PADDING, [(n - 1) % STRIDE for n in size])
    layer: nn.ConvTranspose2d = skip_init(
        nn.ConvTranspose2d, n_in, n_out, *geometry, device=generator.device
    )
    # On average a pixel lies under so many cells of the kernels beside it.
    draw_weights(layer, n_in * _KERNEL**2 / STRIDE**2, generator)
    return layer
