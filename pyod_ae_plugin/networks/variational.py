"""The variational autoencoder: the encoder forks into mu and logvar of a latent normal."""

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

    def layers(self) -> tuple[list[nn.Module], list[nn.Module]] | None:
        """The layers that encode a row to its posterior mean and those that decode it, in order.

        None where a subclass may do otherwise.
        """
        if type(self) is not VariationalNetwork:
            return None
        return [*as_layers(self.encoder), *as_layers(self.mu)], as_layers(self.decoder)

    def for_inference(self) -> VariationalNetwork:
        """The network as it is evaluated: batch norm folded, dropout gone."""
        if type(self) is not VariationalNetwork:
            return self  # a subclass may do otherwise
        return VariationalNetwork(
            inference_stack(self.encoder),
            self.mu,
            self.logvar,
            inference_stack(self.decoder),
            self.logvar_clip,
        )


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
        Widths of the hidden layers before and behind the latent code.
    latent_dim : int
        Width of the latent code.
    hidden_activation_name, output_activation_name : str
        Names in ``pyod_ae_plugin.networks.layers.ACTIVATIONS``.
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
