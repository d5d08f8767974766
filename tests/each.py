"""The detectors, and a mark that runs a test with each of them."""

import pytest

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble

DETECTORS = [AutoEncoder, VAE, AutoEncoderEnsemble]
# AutoEncoder suffices where time counts.
EACH = pytest.mark.parametrize(
    "Detector", [AutoEncoder, *(pytest.param(D, marks=pytest.mark.slow) for D in DETECTORS[1:])]
)
