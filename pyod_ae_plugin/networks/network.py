"""The interface of a network, and its two classes: plain and variational autoencoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks.layers import inference_stack, output_distribution

_N = TypeVar("_N")


class Network(Protocol):
    """A :class:`torch.nn.Module` with an encoder and a decoder.

    A plugin's network needs no base class of this package: any module with ``encode`` and
    ``decode`` is one. The other members here are those of :class:`torch.nn.Module` that are used.
    """

    training: bool

    def encode(self, x: Tensor, /) -> Tensor:
        """Latent codes [n, n_latent] of rows [n, n_features]."""

    def decode(self, z: Tensor, /) -> Tensor:
        """Reconstructions [n, n_features] of latent codes [n, n_latent]."""

    def train(self: _N, mode: bool = True) -> _N: ...
    def eval(self: _N) -> _N: ...
    def requires_grad_(self: _N, requires_grad: bool = True) -> _N: ...
    def to(self: _N, device: torch.device, /) -> _N: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state_dict(self) -> Mapping[str, Tensor]: ...
    def buffers(self) -> Iterator[Tensor]: ...
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...


class PosteriorNetwork(Network, Protocol):
    """A network that encodes a row as a normal distribution over latent codes, as a VAE does."""

    def posterior(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [n, n_latent], of the codes of rows [n, n_features]."""


class DistributionNetwork(Network, Protocol):
    """A network that decodes a code to a normal distribution over rows."""

    def decode_distribution(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [n, n_features], of the rows that codes decode to."""


class AutoEncoderNetwork(nn.Module):
    """An encoder that maps a row to a latent code, and a decoder that reconstructs the row.

    Rows ``(n, n_features)`` become reconstructions ``(n, n_features)``.

    Parameters
    ----------
    encoder : torch.nn.Module
        Maps ``(n, n_features)`` to ``(n, n_latent)``.
    decoder : torch.nn.Module
        Maps ``(n, n_latent)`` to ``(n, n_features)``.

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
        """Mean and log variance, each [n, n_features], of the rows that codes decode to."""
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

    Rows ``(n, n_features)`` become reconstructions ``(n, n_features)``. They are decoded from the
    posterior mean, so that they are the same at every call.

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

    References
    ----------
    .. [1] Kingma, D. P., & Welling, M. (2014). Auto-Encoding Variational Bayes. ICLR.

    Examples
    --------
    >>> layers = nn.Identity(), nn.Linear(5, 2), nn.Linear(5, 2), nn.Linear(2, 5)
    >>> mu, logvar = VariationalNetwork(*layers).posterior(torch.zeros(3, 5))
    >>> mu.shape, logvar.shape
    (torch.Size([3, 2]), torch.Size([3, 2]))
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
        """Mean and log variance, each [n, n_features], of the rows that codes decode to."""
        return output_distribution(self.decoder, z)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def for_inference(self) -> VariationalNetwork:
        """Return the network as it is evaluated: batch norm folded, without dropout."""
        if type(self) is not VariationalNetwork:
            return self  # a subclass may compute something else
        encoder, decoder = inference_stack(self.encoder), inference_stack(self.decoder)
        return VariationalNetwork(encoder, self.mu, self.logvar, decoder, self.logvar_clip)
