"""A plugin with a detector, a network and a score head."""

import torch
from torch import nn

from pyod_ae_plugin import AutoEncoder, hookimpl
from pyod_ae_plugin.networks import AutoEncoderNetwork
from pyod_ae_plugin.scoring import ScoreHead


class Tiny(AutoEncoder):
    """An autoencoder under another name."""


class ScaledL1(ScoreHead):
    """Mean absolute residual, each feature in units of its mean over the training rows."""

    def __init__(self, n_features):
        super().__init__(n_features)
        self.register_buffer("scale", torch.ones(n_features))

    def fit(self, residuals):
        total, n = torch.zeros_like(self.scale), 0
        for residual in residuals:
            total += residual.abs().sum(0)
            n += len(residual)
        mean = total / n
        self.scale.copy_(torch.where(mean > 0, mean, 1.0))

    def forward(self, residual):
        return (residual.abs() / self.scale).mean(1)


def linear(n_features):
    """Principal components, learned by gradient descent."""
    return AutoEncoderNetwork(nn.Linear(n_features, 2), nn.Linear(2, n_features))


@hookimpl
def pyod_ae_detectors():
    return {"Tiny": Tiny, "AutoEncoder": Tiny}


@hookimpl
def pyod_ae_networks():
    return {"linear": linear}


@hookimpl
def pyod_ae_score_heads():
    return {"scaled_l1": ScaledL1}
