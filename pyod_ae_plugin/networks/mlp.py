"""Fully connected networks: plain, variational, and members side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from pyod_ae_plugin.networks.activations import ACTIVATIONS
from pyod_ae_plugin.networks.layers import (
    GaussianOutput,
    HiddenLayers,
    Linear,
    StackedLinear,
    hidden_layers,
)
from pyod_ae_plugin.networks.network import AutoEncoderNetwork, Network, VariationalNetwork


def mlp(
    n_features: int,
    hidden_neuron_list: Sequence[int],
    hidden_activation_name: str,
    batch_norm: bool,
    dropout_rate: float,
    generator: torch.Generator,
    learn_variance: bool = False,
) -> AutoEncoderNetwork:
    """Fully connected autoencoder, mirrored about its last hidden layer, the bottleneck.

    Parameters
    ----------
    n_features : int
        Width of a row.
    hidden_neuron_list : sequence of int
        Widths of the encoder's layers; ``[64, 32]`` gives n_features-64-32-64-n_features. The
        last layer, the bottleneck, is linear.
    hidden_activation_name : str
        A name in ``pyod_ae_plugin.networks.activations.ACTIVATIONS``.
    batch_norm : bool
        Normalise each hidden layer over the batch.
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

    Examples
    --------
    >>> network = mlp(5, [4, 2], "relu", False, 0.0, torch.Generator().manual_seed(0))
    >>> network.encode(torch.zeros(3, 5)).shape
    torch.Size([3, 2])
    """
    *hidden, n_latent = hidden_neuron_list
    activation = ACTIVATIONS[hidden_activation_name].make
    following = partial(hidden_layers, activation, batch_norm, dropout_rate, generator)
    widths = [n_features, *hidden]
    encoder = _dense(widths, following, generator)
    encoder.append(Linear(widths[-1], n_latent, generator))
    widths = [n_latent, *reversed(hidden)]
    decoder = _dense(widths, following, generator)
    decoder.append(_output(widths[-1], n_features, "identity", learn_variance, generator))
    return AutoEncoderNetwork(encoder, decoder)


def variational_mlp(
    n_features: int,
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
    """Fully connected variational autoencoder.

    Parameters
    ----------
    n_features : int
        Width of a row.
    encoder_neuron_list, decoder_neuron_list : sequence of int
        Widths of the hidden layers before and after the latent code.
    latent_dim : int
        Width of the latent code.
    hidden_activation_name, output_activation_name : str
        Names in ``pyod_ae_plugin.networks.activations.ACTIVATIONS``.
    batch_norm : bool
        Normalise each hidden layer over the batch.
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

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> network = variational_mlp(5, [8], [8], 2, "relu", "identity", False, 0.0, None, generator)
    >>> network(torch.zeros(3, 5)).shape
    torch.Size([3, 5])
    """
    activation = ACTIVATIONS[hidden_activation_name].make
    following = partial(hidden_layers, activation, batch_norm, dropout_rate, generator)
    encoder_widths = [n_features, *encoder_neuron_list]
    decoder_widths = [latent_dim, *decoder_neuron_list]
    output = _output(
        decoder_widths[-1], n_features, output_activation_name, learn_variance, generator
    )
    encoder = _dense(encoder_widths, following, generator)
    mu, logvar = (Linear(encoder_widths[-1], latent_dim, generator) for _ in range(2))
    decoder = _dense(decoder_widths, following, generator)
    return VariationalNetwork(encoder, mu, logvar, decoder.append(output), logvar_clip)


def _dense(
    widths: Sequence[int], following: HiddenLayers, generator: torch.Generator
) -> nn.Sequential:
    """Linear layers from each width to the next, each with the layers that follow it."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [Linear(n_in, n_out, generator), *following(n_out)]
    return nn.Sequential(*layers)


def _output(
    width: int, n_features: int, activation: str, learn_variance: bool, generator: torch.Generator
) -> nn.Module:
    """The last layer of a decoder."""
    mean: nn.Module = Linear(width, n_features, generator)
    if activation != "identity":
        mean = nn.Sequential(mean, ACTIVATIONS[activation].make())
    return GaussianOutput(mean, Linear(width, n_features, generator)) if learn_variance else mean


def stacked_mlp(
    n_features: int,
    hidden_neuron_list: Sequence[int],
    codes: Sequence[int],
    variational: Sequence[bool] | None,
    hidden_activation_name: str,
    generator: torch.Generator,
) -> AutoEncoderNetwork | VariationalNetwork:
    """Fully connected autoencoders, plain and variational ones, side by side.

    Beside variational members, a plain one is a variational one that uses no log variances: these
    layers start at zero, and ``engine.objectives.DrawnCodes`` gives
    them no gradient.

    Parameters
    ----------
    n_features : int
        Width of a row.
    hidden_neuron_list : sequence of int
        Widths of the encoder's layers, the last of them the widest latent code; the decoder mirrors
        them.
    codes : sequence of int
        The width of each member's latent code.
    variational : sequence of bool or None
        Whether each member is a variational autoencoder; None stacks plain ones only.
    hidden_activation_name : str
        A name in ``pyod_ae_plugin.networks.activations.ACTIVATIONS``.
    generator : torch.Generator
        Source of the initial weights.

    Returns
    -------
    AutoEncoderNetwork or VariationalNetwork
        Maps rows [n, n_features], or [n_members, n, n_features], to [n_members, n, n_features].
        The former if ``variational`` is None.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> network = stacked_mlp(5, [4, 3], [3, 2], [False, True], "relu", generator)
    >>> network.encode(torch.zeros(7, 5)).shape, network(torch.zeros(7, 5)).shape
    (torch.Size([2, 7, 3]), torch.Size([2, 7, 5]))
    """
    *hidden, n_latent = hidden_neuron_list
    # the width that each member uses, and the widest, before and behind every layer
    rows, *between = [([width] * len(codes), width) for width in (n_features, *hidden)]
    levels = [rows, *between, (codes, n_latent)]

    def linear(before: tuple[Sequence[int], int], behind: tuple[Sequence[int], int]) -> nn.Module:
        (used_in, n_in), (used_out, n_out) = before, behind
        return StackedLinear(used_in, used_out, generator, in_features=n_in, out_features=n_out)

    def dense(levels: Sequence[tuple[Sequence[int], int]]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for before, behind in pairwise(levels):
            layers += [linear(before, behind), ACTIVATIONS[hidden_activation_name].make()]
        return layers

    encoder, mu = dense(levels[:-1]), linear(levels[-2], levels[-1])
    decoder, mean = dense(levels[:0:-1]), linear(levels[1], rows)
    if variational is None:
        return AutoEncoderNetwork(nn.Sequential(*encoder, mu), nn.Sequential(*decoder, mean))
    # a plain member uses none of the log variances
    of_rows = linear(levels[1], ([n_features * draws for draws in variational], n_features))
    drawn = [code * draws for code, draws in zip(codes, variational, strict=True)]
    logvar, output = linear(levels[-2], (drawn, n_latent)), GaussianOutput(mean, of_rows)
    return VariationalNetwork(nn.Sequential(*encoder), mu, logvar, nn.Sequential(*decoder, output))


def joined(first: Network, second: Network) -> Network:
    """Join the members of two stacks of equal widths into one; the first is changed in place.

    Parameters
    ----------
    first, second : torch.nn.Module
        Made by :func:`stacked_mlp` with the same activation.

    Returns
    -------
    torch.nn.Module
        The first, with the members of the second after its own.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> two, one = (
    ...     stacked_mlp(5, [4, 2], [2] * n, [True] * n, "relu", generator) for n in (2, 1)
    ... )
    >>> joined(two, one)(torch.zeros(7, 5)).shape
    torch.Size([3, 7, 5])
    """
    others = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        parameter.data = torch.cat([parameter.data, others[name].data])
    return first
