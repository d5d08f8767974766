"""Convolutional networks, for rows that hold images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import skip_init

from pyod_ae_plugin.networks.activations import ACTIVATIONS
from pyod_ae_plugin.networks.layers import (
    GaussianOutput,
    HiddenLayers,
    Linear,
    draw_weights,
    hidden_layers,
)
from pyod_ae_plugin.networks.network import AutoEncoderNetwork, VariationalNetwork


def conv(
    n_features: int,
    input_shape: Sequence[int] | None,
    hidden_neuron_list: Sequence[int],
    hidden_activation_name: str,
    batch_norm: bool,
    dropout_rate: float,
    generator: torch.Generator,
    learn_variance: bool = False,
) -> AutoEncoderNetwork:
    """Convolutional autoencoder of rows that hold images.

    Each convolution, with kernels of 3 x 3 pixels and a stride of 2, halves height and width,
    rounded up. A linear layer maps the output of the last one to the latent code. The decoder
    mirrors the encoder with transposed convolutions.

    Parameters
    ----------
    n_features : int
        Width of a row.
    input_shape : sequence of int
        ``(height, width)`` or ``(channels, height, width)`` of the image in a row. The last
        index runs fastest, as in :meth:`numpy.ndarray.reshape`.
    hidden_neuron_list : sequence of int
        Output channels of the convolutions, then the width of the latent code: ``[16, 32, 8]``
        gives two convolutions and a code of 8 numbers.
    hidden_activation_name : str
        A name in ``pyod_ae_plugin.networks.activations.ACTIVATIONS``.
    batch_norm : bool
        Normalise each channel over the batch.
    dropout_rate : float
        Share of each hidden layer's outputs zeroed while training, in [0, 1).
    generator : torch.Generator
        Source of the initial weights and of the dropout masks.
    learn_variance : bool, default=False
        Whether the decoder also gives the variance of each feature.

    Returns
    -------
    AutoEncoderNetwork
        Rows [n, n_features] in and out, untrained.

    Raises
    ------
    ValueError
        If ``input_shape`` is not the shape of a row, or ``hidden_neuron_list`` has no convolution.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> conv(64, (8, 8), [4, 6, 2], "relu", False, 0.0, generator).encode(torch.zeros(3, 64)).shape
    torch.Size([3, 2])
    """
    *channels, n_latent = map(int, hidden_neuron_list)
    if not channels:
        raise ValueError(
            "hidden_neuron_list of a convolutional network must hold the channels of at least one "
            f"convolution, and then the width of the latent code; got {hidden_neuron_list!r}."
        )
    image = _image_shape(input_shape, n_features)
    activation = _make_activation(hidden_activation_name)
    following = partial(hidden_layers, activation, batch_norm, dropout_rate, generator)
    encoder = _encoder(image, channels, following, generator)
    encoder.append(Linear(_n_encoded(image, channels), n_latent, generator))
    decoder = _decoder(n_latent, channels[::-1], image, following, generator)
    decoder.append(_output(channels[0], image, "identity", learn_variance, generator))
    return AutoEncoderNetwork(nn.Sequential(*encoder), nn.Sequential(*decoder))


def variational_conv(
    n_features: int,
    input_shape: Sequence[int] | None,
    encoder_neuron_list: Sequence[int],
    decoder_neuron_list: Sequence[int],
    latent_dim: int,
    hidden_activation_name: str,
    output_activation_name: str,
    batch_norm: bool,
    dropout_rate: float,
    logvar_clip: tuple[float, float] | None,
    generator: torch.Generator,
    learn_variance: bool = False,
) -> VariationalNetwork:
    """Convolutional variational autoencoder of rows that hold images; see :func:`conv`.

    Parameters
    ----------
    n_features : int
        Width of a row.
    input_shape : sequence of int
        ``(height, width)`` or ``(channels, height, width)`` of the image in a row.
    encoder_neuron_list, decoder_neuron_list : sequence of int
        Output channels of the encoder's convolutions, and input channels of the decoder's.
    latent_dim : int
        Width of the latent code.
    hidden_activation_name, output_activation_name : str
        Names in ``pyod_ae_plugin.networks.activations.ACTIVATIONS``.
    batch_norm : bool
        Normalise each channel over the batch.
    dropout_rate : float
        Share of each hidden layer's outputs zeroed while training, in [0, 1).
    logvar_clip : tuple of two floats or None
        Bounds of the posterior's log variance.
    generator : torch.Generator
        Source of the initial weights and of the dropout masks.
    learn_variance : bool, default=False
        Whether the decoder also gives the variance of each feature.

    Returns
    -------
    VariationalNetwork
        Rows [n, n_features] in and out, untrained.

    Raises
    ------
    ValueError
        If ``input_shape`` is not the shape of a row.

    Examples
    --------
    >>> network = variational_conv(64, (8, 8), [4], [4], 2, "relu", "identity", False, 0.0, None,
    ...                            torch.Generator().manual_seed(0))
    >>> network(torch.zeros(3, 64)).shape
    torch.Size([3, 64])
    """
    image = _image_shape(input_shape, n_features)
    activation = _make_activation(hidden_activation_name)
    following = partial(hidden_layers, activation, batch_norm, dropout_rate, generator)
    n_encoded = _n_encoded(image, encoder_neuron_list)
    decoder = _decoder(latent_dim, decoder_neuron_list, image, following, generator)
    decoder.append(
        _output(decoder_neuron_list[-1], image, output_activation_name, learn_variance, generator)
    )
    return VariationalNetwork(
        nn.Sequential(*_encoder(image, encoder_neuron_list, following, generator)),
        Linear(n_encoded, latent_dim, generator),
        Linear(n_encoded, latent_dim, generator),
        nn.Sequential(*decoder),
        logvar_clip,
    )


_STRIDE, _KERNEL, _PADDING = 2, 3, 1

Image = tuple[int, int, int]
"""Channels, height and width."""


def _make_activation(name: str) -> Callable[[], nn.Module]:
    # Softmax runs over the units of a layer; here these are the channels.
    return nn.Softmax2d if name == "softmax" else ACTIVATIONS[name].make


def _image_shape(input_shape: Sequence[int] | None, n_features: int) -> Image:
    if input_shape is None:
        raise ValueError(
            f"A convolutional network needs input_shape=, the (height, width) or (channels, "
            f"height, width) of the images in rows of {n_features} features."
        )
    # torch does not accept NumPy's integers
    channels, height, width = map(int, (1, *input_shape) if len(input_shape) == 2 else input_shape)
    if channels * height * width != n_features:
        raise ValueError(
            f"input_shape={tuple(input_shape)} is that of {channels * height * width} features, "
            f"but rows have {n_features}. Pass the shape of the images as they were before they "
            "were made rows."
        )
    return channels, height, width


def _sizes(image: Image, n: int) -> list[tuple[int, int]]:
    """Heights and widths of the input and of the output of each of n convolutions."""
    _, height, width = image
    return [(-(-height // _STRIDE**i), -(-width // _STRIDE**i)) for i in range(n + 1)]


def _n_encoded(image: Image, channels: Sequence[int]) -> int:
    """Numbers in the output of the last convolution for one row."""
    return int(channels[-1]) * math.prod(_sizes(image, len(channels))[-1])


def _encoder(
    image: Image, channels: Sequence[int], following: HiddenLayers, generator: torch.Generator
) -> list[nn.Module]:
    """Layers from rows to the flattened output of the last convolution."""
    layers: list[nn.Module] = [nn.Unflatten(1, image)]
    for n_in, n_out in pairwise([image[0], *channels]):
        layers += [_convolution(n_in, n_out, generator), *following(n_out)]
    return [*layers, nn.Flatten()]


def _decoder(
    n_latent: int,
    channels: Sequence[int],
    image: Image,
    following: HiddenLayers,
    generator: torch.Generator,
) -> list[nn.Module]:
    """Layers from latent codes to the input of the last transposed convolution."""
    *sizes, smallest = _sizes(image, len(channels))
    first = (int(channels[0]), *smallest)
    layers: list[nn.Module] = [Linear(n_latent, math.prod(first), generator)]
    layers += [nn.Unflatten(1, first), *following(channels[0])]
    for (n_in, n_out), size in zip(pairwise(channels), sizes[:0:-1], strict=True):
        layers += [_transposed_convolution(n_in, n_out, size, generator), *following(n_out)]
    return layers


def _output(
    n_in: int, image: Image, activation: str, learn_variance: bool, generator: torch.Generator
) -> nn.Module:
    """The last layer of a decoder, from images of ``n_in`` channels to rows."""
    n_out, *size = image

    def to_rows(*activation: nn.Module) -> nn.Module:
        layer = _transposed_convolution(n_in, n_out, size, generator)
        return nn.Sequential(layer, nn.Flatten(), *activation)

    mean = to_rows() if activation == "identity" else to_rows(ACTIVATIONS[activation].make())
    return GaussianOutput(mean, to_rows()) if learn_variance else mean


def _default_device() -> torch.device:
    """Where torch makes tensors: "meta" while a saved network is checked.

    torch.get_default_device() of torch 2.6 overlooks ``with torch.device(...)``, and fails after
    set_default_device(None).
    """
    return torch.empty(0).device


def _convolution(n_in: int, n_out: int, generator: torch.Generator) -> nn.Conv2d:
    """A convolution that halves height and width, rounded up."""
    geometry = (_KERNEL, _STRIDE, _PADDING)
    # The constructor of torch's own layers would draw from the global generator.
    layer: nn.Conv2d = skip_init(nn.Conv2d, n_in, n_out, *geometry, device=_default_device())
    draw_weights(layer, n_in * _KERNEL**2, generator)
    return layer


def _transposed_convolution(
    n_in: int, n_out: int, size: Sequence[int], generator: torch.Generator
) -> nn.ConvTranspose2d:
    """A convolution that restores images to the size that they had before they were halved."""
    geometry = (_KERNEL, _STRIDE, _PADDING, [(n - 1) % _STRIDE for n in size])
    layer: nn.ConvTranspose2d = skip_init(
        nn.ConvTranspose2d, n_in, n_out, *geometry, device=_default_device()
    )
    # The kernels that overlap a pixel contribute this many inputs on average.
    draw_weights(layer, n_in * _KERNEL**2 / _STRIDE**2, generator)
    return layer
