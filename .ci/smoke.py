"""What an installed package must do: import, fit, predict, and be found by its entry points."""

from importlib.metadata import entry_points, metadata, version

import numpy as np

import pyod_ae_plugin
from pyod_ae_plugin import AutoEncoder, detector_names

assert version("pyod-ae-plugin") == pyod_ae_plugin.__version__
assert metadata("pyod-ae-plugin")["License-Expression"] == "BSD-2-Clause"

detectors = {point.name: point.load() for point in entry_points(group="pyod.detectors")}
assert detectors["AutoEncoder"] is AutoEncoder, detectors
assert {"AutoEncoder", "AutoEncoderEnsemble", "VAE"} <= detectors.keys(), detectors
plugins = [point.load().__name__ for point in entry_points(group="pyod_ae_plugin")]
assert plugins == ["pyod_ae_plugin.plugins.builtin"], plugins
assert "VAE" in detector_names()

X = np.random.default_rng(0).normal(size=(300, 5))
X[0] = 8
for Detector in detectors.values():
    detector = Detector(epoch_num=2, verbose=0).fit(X)
    assert detector.decision_scores_.argmax() == 0
    assert detector.predict(X[:1]).tolist() == [1]
print(f"pyod_ae_plugin {pyod_ae_plugin.__version__} in {pyod_ae_plugin.__path__[0]}")
