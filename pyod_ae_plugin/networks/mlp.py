"""Fully connected networks: plain, variational, and members side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks.activations import ACTIVATIONS
from pyod_ae_plugin.networks.layers import (
    Linear,
    StackedLinear,
    dense_stack,
    inference_stack,
    output_distribution,
    output_layer,
)
from pyod_ae_plugin.networks.network import Network

# ---------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------


class AutoEncoderNetwork(nn.Module):
    """An encoder that maps a row to a latent code, and a decoder that reconstructs the row.

    Parameters
    ----------
    encoder : torch.nn.Module
        Maps ``(n, n_features)`` to ``(n, n_latent)``.
    decoder : torch.nn.Module
        Maps ``(n, n_latent)`` to ``(n, n_features)``.

    Notes
    -----
    Shapes:

    - Input: ``(n, n_features)``
    - Output: ``(n, n_features)``

    Examples
    --------
    >>> network = AutoEncoderNetwork(nn.Linear(5, 2), nn.Linear(2, 5))
    >>> network.encode(torch.zeros(3, 5)).shape, network(torch.zeros(3, 5)).shape
    (torch.Size([3, 2]), torch.Size([3, 5]))
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, x: Tensor) -> Tensor:
        """Latent codes [n, n_latent] of rows [n, n_features]."""
        code: Tensor = self.encoder(x)
        return code

    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions [n, n_features] of latent codes [n, n_latent]."""
        reconstruction: Tensor = self.decoder(z)
        return reconstruction

    def decode_distribution(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the rows, each [n, n_features], that codes decode to."""
        return output_distribution(self.decoder, z)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def for_inference(self) -> AutoEncoderNetwork:
        """Return the network as it is evaluated: batch norm folded, without dropout."""
        if type(self) is not AutoEncoderNetwork:
            return self  # a subclass may compute something else
        return AutoEncoderNetwork(inference_stack(self.encoder), inference_stack(self.decoder))


class VariationalNetwork(nn.Module):
    """An encoder to a normal distribution over latent codes, and a decoder [1]_.

    Parameters
    ----------
    encoder : torch.nn.Module
        Maps ``(n, n_features)`` to ``(n, width)``.
    mu, logvar : torch.nn.Module
        Map ``(n, width)`` to the mean and the log variance, each ``(n, n_latent)``.
    decoder : torch.nn.Module
        Maps ``(n, n_latent)`` to ``(n, n_features)``.
    logvar_clip : tuple of two floats or None, default=(-30.0, 20.0)
        Bounds of the log variance; None leaves it free.

    Notes
    -----
    Shapes:

    - Input: ``(n, n_features)``
    - Output: ``(n, n_features)``, decoded from the posterior mean, so that it is the same at
      every call

    References
    ----------
    .. [1] Kingma, D. P., & Welling, M. (2014). Auto-Encoding Variational Bayes. ICLR.

    Examples
    --------
    >>> network = VariationalNetwork(nn.Identity(), nn.Linear(5, 2), nn.Linear(5, 2),
    ...                              nn.Linear(2, 5))
    >>> mu, logvar = network.posterior(torch.zeros(3, 5))
    >>> mu.shape, logvar.shape, network(torch.zeros(3, 5)).shape
    (torch.Size([3, 2]), torch.Size([3, 2]), torch.Size([3, 5]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        mu: nn.Module,
        logvar: nn.Module,
        decoder: nn.Module,
        logvar_clip: tuple[float, float] | None = (-30.0, 20.0),
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mu = mu
        self.logvar = logvar
        self.decoder = decoder
        self.logvar_clip = logvar_clip

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [n, n_latent], of the codes of rows [n, n_features]."""
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        if self.logvar_clip is not None:
            logvar = logvar.clamp(*self.logvar_clip)
        return mu, logvar

    def encode(self, x: Tensor) -> Tensor:
        """Posterior means [n, n_latent] of rows [n, n_features]."""
        mu: Tensor = self.mu(self.encoder(x))
        return mu

    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions [n, n_features] of latent codes [n, n_latent]."""
        reconstruction: Tensor = self.decoder(z)
        return reconstruction

    def decode_distribution(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the rows, each [n, n_features], that codes decode to."""
        return output_distribution(self.decoder, z)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def for_inference(self) -> VariationalNetwork:
        """Return the network as it is evaluated: batch norm folded, without dropout."""
        if type(self) is not VariationalNetwork:
            return self  # a subclass may compute something else
        return VariationalNetwork(
            inference_stack(self.encoder),
            self.mu,
            self.logvar,
            inference_stack(self.decoder),
            self.logvar_clip,
        )


# ---------------------------------------------------------------------------------------
# How they are built
# ---------------------------------------------------------------------------------------


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
    stack = partial(
        dense_stack,
        activation=hidden_activation_name,
        batch_norm=batch_norm,
        dropout_rate=dropout_rate,
        generator=generator,
    )
    widths = [n_features, *hidden]
    encoder = [*stack(widths), Linear(widths[-1], n_latent, generator)]
    widths = [n_latent, *reversed(hidden)]
    decoder = stack(widths)
    decoder.append(output_layer(widths[-1], n_features, "identity", learn_variance, generator))
    return AutoEncoderNetwork(nn.Sequential(*encoder), nn.Sequential(*decoder))


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
    >>> network = variational_mlp(5, [8], [8], 2, "relu", "identity", False, 0.0, (-30, 20),
    ...                           torch.Generator().manual_seed(0))
    >>> network(torch.zeros(3, 5)).shape
    torch.Size([3, 5])
    """
    stack = partial(
        dense_stack,
        activation=hidden_activation_name,
        batch_norm=batch_norm,
        dropout_rate=dropout_rate,
        generator=generator,
    )
    encoder_widths = [n_features, *encoder_neuron_list]
    decoder_widths = [latent_dim, *decoder_neuron_list]
    output = output_layer(
        decoder_widths[-1], n_features, output_activation_name, learn_variance, generator
    )
    return VariationalNetwork(
        nn.Sequential(*stack(encoder_widths)),
        Linear(encoder_widths[-1], latent_dim, generator),
        Linear(encoder_widths[-1], latent_dim, generator),
        nn.Sequential(*stack(decoder_widths), output),
        logvar_clip,
    )


def stacked_mlp(
    n_features: int,
    hidden_neuron_lists: Sequence[Sequence[int]],
    hidden_activation_name: str,
    generator: torch.Generator,
) -> AutoEncoderNetwork:
    """Fully connected autoencoders side by side, each like that of :func:`mlp`.

    Parameters
    ----------
    n_features : int
        Width of a row.
    hidden_neuron_lists : sequence of sequences of int
        The widths of each member's encoder; all members have the same number of layers.
    hidden_activation_name : str
        An activation that maps zero to zero.
    generator : torch.Generator
        Source of the initial weights.

    Returns
    -------
    AutoEncoderNetwork
        Maps rows [n, n_features], or [n_members, n, n_features], to [n_members, n, n_features].

    Examples
    --------
    >>> network = stacked_mlp(5, [[4, 2], [3, 1]], "relu", torch.Generator().manual_seed(0))
    >>> network.encode(torch.zeros(3, 5)).shape, network(torch.zeros(3, 5)).shape
    (torch.Size([2, 3, 2]), torch.Size([2, 3, 5]))
    """
    rows = [n_features] * len(hidden_neuron_lists)
    encoder_widths = [rows, *zip(*hidden_neuron_lists, strict=True)]

    def stack(widths: Sequence[Sequence[int]]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [
                StackedLinear(n_in, n_out, generator),
                ACTIVATIONS[hidden_activation_name].make(),
            ]
        return nn.Sequential(*layers[:-1])

    return AutoEncoderNetwork(stack(encoder_widths), stack(encoder_widths[::-1]))


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
    >>> two, three = (stacked_mlp(5, [[4, 2]] * n, "relu", generator) for n in (2, 3))
    >>> joined(two, three)(torch.zeros(7, 5)).shape
    torch.Size([5, 7, 5])
    """
    others = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        parameter.data = torch.cat([parameter.data, others[name].data])
    return first
