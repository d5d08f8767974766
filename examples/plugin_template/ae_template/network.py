"""A network of one weight matrix, which encodes and, transposed, decodes."""

import torch
from torch import Tensor, nn


class TiedNetwork(nn.Module):
    """Encode rows x to codes z = tanh(W x + b), and decode these to W' z + c."""

    def __init__(self, n_features: int, generator: torch.Generator, latent_dim: int = 4) -> None:
        super().__init__()
        weight = torch.randn(latent_dim, n_features, generator=generator)
        self.weight = nn.Parameter(weight / n_features**0.5)
        self.bias = nn.Parameter(torch.zeros(latent_dim))
        self.offset = nn.Parameter(torch.zeros(n_features))

    def encode(self, x: Tensor) -> Tensor:
        """Latent codes [n, latent_dim] of rows [n, n_features]."""
        return torch.tanh(nn.functional.linear(x, self.weight, self.bias))

    def decode(self, z: Tensor) -> Tensor:
        """Rows [n, n_features] of latent codes [n, latent_dim]."""
        return nn.functional.linear(z, self.weight.T, self.offset)
