"""The plain autoencoder: encoder, bottleneck, decoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks.layers import (
    Linear,
    as_layers,
    dense_stack,
    inference_stack,
    output_distribution,
    output_layer,
)


class AutoEncoderNetwork(nn.Module):
    """An encoder that narrows a row to a latent code and a decoder that rebuilds the row.

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

    def layers(self) -> tuple[list[nn.Module], list[nn.Module]] | None:
        """The layers that encode and those that decode a row, in order.

        None where a subclass may do otherwise.
        """
        if type(self) is not AutoEncoderNetwork:
            return None
        return as_layers(self.encoder), as_layers(self.decoder)

    def for_inference(self) -> AutoEncoderNetwork:
        """The network as it is evaluated: batch norm folded, dropout gone."""
        if type(self) is not AutoEncoderNetwork:
            return self  # a subclass may do otherwise
        return AutoEncoderNetwork(inference_stack(self.encoder), inference_stack(self.decoder))


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
        last, the bottleneck, is linear.
    hidden_activation_name : str
        A name in ``pyod_ae_plugin.networks.layers.ACTIVATIONS``.
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
