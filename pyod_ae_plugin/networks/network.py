"""What this package asks of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

_N = TypeVar("_N")


class Network(Protocol):
    """A :class:`torch.nn.Module` with an encoder and a decoder.

    A plugin's network needs no base class of this package: any module with ``encode`` and
    ``decode`` is one. The other methods here are those of :class:`torch.nn.Module` that are used.
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

    def buffers(self) -> Iterator[Tensor]: ...

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...

    def state_dict(self) -> Mapping[str, Tensor]: ...


class PosteriorNetwork(Network, Protocol):
    """A network that encodes a row as a normal distribution over latent codes, as a VAE does."""

    def posterior(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [n, n_latent], of the codes of rows [n, n_features]."""


class DistributionNetwork(Network, Protocol):
    """A network that decodes a code to a normal distribution over rows."""

    def decode_distribution(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [n, n_features], of the rows that codes decode to."""
