"""PyOD detectors: numpy in, numpy out."""

from pyod_ae_plugin.detectors.autoencoder import AutoEncoder
from pyod_ae_plugin.detectors.base import NeuralDetector
from pyod_ae_plugin.detectors.ensemble import AutoEncoderEnsemble
from pyod_ae_plugin.detectors.vae import VAE

# Every detector can go on learning; the name is kept for code that asks for it.
IncrementalDetector = NeuralDetector

__all__ = ["VAE", "AutoEncoder", "AutoEncoderEnsemble", "IncrementalDetector", "NeuralDetector"]
