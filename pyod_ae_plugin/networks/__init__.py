"""Encoder-decoder networks in pure torch: rows in, latent codes and reconstructions out."""

from typing import Any, TypeAlias

from pyod_ae_plugin.networks.autoencoder import AutoEncoderNetwork, mlp
from pyod_ae_plugin.networks.convolutional import conv, variational_conv
from pyod_ae_plugin.networks.stacked import joined, stacked_mlp
from pyod_ae_plugin.networks.variational import VariationalNetwork, variational_mlp

Network: TypeAlias = Any
"""A :class:`torch.nn.Module` with ``encode`` (rows [n, n_features] to latent codes [n, n_latent])
and ``decode`` (back again); for a VAE also ``posterior`` (rows to mu and logvar). Third parties'
networks need no base class, so there is none to name here."""

__all__ = [
    "AutoEncoderNetwork",
    "Network",
    "VariationalNetwork",
    "conv",
    "joined",
    "mlp",
    "stacked_mlp",
    "variational_conv",
    "variational_mlp",
]
