"""Encoder-decoder networks in pure torch: rows in, latent codes and reconstructions out."""

from pyod_ae_plugin.networks.autoencoder import AutoEncoderNetwork, mlp
from pyod_ae_plugin.networks.variational import VariationalNetwork, variational_mlp

__all__ = ["AutoEncoderNetwork", "VariationalNetwork", "mlp", "variational_mlp"]
