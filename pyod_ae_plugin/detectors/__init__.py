"""PyOD detectors: numpy in, numpy out."""

from pyod_ae_plugin.detectors.autoencoder import AutoEncoder
from pyod_ae_plugin.detectors.base import NeuralDetector
from pyod_ae_plugin.detectors.ensemble import AutoEncoderEnsemble
from pyod_ae_plugin.detectors.incremental import IncrementalDetector
from pyod_ae_plugin.detectors.vae import VAE

__all__ = ["VAE", "AutoEncoder", "AutoEncoderEnsemble", "IncrementalDetector", "NeuralDetector"]
