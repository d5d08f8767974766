"""What ``gpu.py`` measures, and how much of it: detectors, networks and sizes."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from pyod.models.auto_encoder import AutoEncoder as PyodAutoEncoder
from pyod.models.vae import VAE as PyodVAE
from torch import Tensor, nn

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.detectors import NeuralDetector

N_FEATURES = 30
PRECISIONS = ("float32", "tf32", "bfloat16")
PYOD_NETWORK: dict[str, Any] = {"hidden_neuron_list": (64, 32), "hidden_activation_name": "relu"}
EUCLIDEAN = {**PYOD_NETWORK, "score_head": "euclidean"}

Case = tuple[type[NeuralDetector], dict[str, Any]]
"""A detector and its parameters."""


class Sizes(NamedTuple):
    """How much is measured."""

    rows: int  # scored, a power of two
    copied: int  # numbers, for the rate of copying
    matrix: int  # width, for the rate of multiplying
    trained: int  # rows that detectors are fitted to
    tables: tuple[int, ...]  # numbers of rows of whole fits
    batches: tuple[int, ...]
    calls: int  # with one row
    peer_rows: int  # that PyOD's detectors fit and score
    mapped_bytes: int  # of a memory map
    set_rows: int  # the most rows that are drawn from a data set


ON_A_GPU = Sizes(
    rows=2**24,
    copied=2**28,
    matrix=8192,
    trained=20_000,
    tables=(200, 1_000, 6_000, 50_000, 10**6, 10**7),
    batches=(32, 256, 2_048, 16_384),
    calls=1_000,
    peer_rows=20_000,
    mapped_bytes=2**32,
    set_rows=20_000,
)
ON_A_CPU = Sizes(
    rows=2**12,
    copied=2**16,
    matrix=64,
    trained=500,
    tables=(200, 300),
    batches=(32, 256),
    calls=20,
    peer_rows=300,
    mapped_bytes=2**20,
    set_rows=200,
)


# Rows on the card, the most telling first.
RESIDENT: dict[str, Case] = {
    "30-64-32-64-30, euclidean": (AutoEncoder, EUCLIDEAN),
    "AutoEncoder, joint_mahalanobis": (AutoEncoder, {}),
    "AutoEncoder, kernel": (AutoEncoder, {"score_head": "kernel"}),
    "AutoEncoder, euclidean": (AutoEncoder, {"score_head": "euclidean"}),
    "30-64-32-64-30, joint_mahalanobis": (AutoEncoder, PYOD_NETWORK),
    "30-64-32-64-30, kernel": (AutoEncoder, {**PYOD_NETWORK, "score_head": "kernel"}),
    "VAE": (VAE, {}),
    "ensemble of 8": (AutoEncoderEnsemble, {"n_estimators": 8}),
}

FITTED: dict[str, Case] = {
    "AutoEncoder": (AutoEncoder, {}),
    "VAE": (VAE, {}),
    "ensemble": (AutoEncoderEnsemble, {}),
}


class PluginNetwork(nn.Module):
    """A network that the engine does not know, so that it is scored as it is."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(n_features, 8), nn.Linear(8, n_features)

    def encode(self, x: Tensor) -> Tensor:
        """Codes of rows."""
        return torch.sin(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """Rows of codes."""
        decoded: Tensor = self.decoder(z)
        return decoded


IMAGE = {"input_shape": (5, 6)}
NETWORKS: dict[str, Case] = {
    **{
        f"AutoEncoder, {head}": (AutoEncoder, {"score_head": head})
        for head in (
            "euclidean", "mahalanobis", "joint_mahalanobis", "nearest_neighbor", "kernel", "nll"
        )
    },
    **{f"VAE, {head}": (VAE, {"score_head": head}) for head in ("joint_mahalanobis", "elbo",
                                                                "reconstruction_probability")},
    "ensemble": (AutoEncoderEnsemble, {}),
    "ensemble, kernel": (AutoEncoderEnsemble, {"score_head": "kernel"}),
    "wide": (AutoEncoder, {"hidden_neuron_list": (512, 16)}),
    "conv": (AutoEncoder, {"network": "conv", "hidden_neuron_list": (8, 4), **IMAGE}),
    "variational_conv": (
        VAE,
        {
            "network": "variational_conv", "encoder_neuron_list": (8,),
            "decoder_neuron_list": (8,), **IMAGE,
        },
    ),
    "a plugin's network": (AutoEncoder, {"network": PluginNetwork}),
}  # fmt: skip

# PyOD's detectors with their defaults, and ours with the same networks.
PAIRS: dict[str, tuple[Any, Any]] = {
    "AutoEncoder": (
        PyodAutoEncoder,
        partial(AutoEncoder, **PYOD_NETWORK, batch_norm=True, dropout_rate=0.2),
    ),
    "VAE": (
        PyodVAE,
        partial(
            VAE,
            encoder_neuron_list=(128, 64, 32),
            decoder_neuron_list=(32, 64, 128),
            latent_dim=2,
            hidden_activation_name="relu",
            dropout_rate=0.2,
        ),
    ),
}
