"""Encoder-decoder networks in pure torch: from rows to latent codes and back."""

from pyod_ae_plugin.networks.conv import conv, variational_conv
from pyod_ae_plugin.networks.mlp import joined, mlp, stacked_mlp, variational_mlp
from pyod_ae_plugin.networks.network import AutoEncoderNetwork, Network, VariationalNetwork

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
