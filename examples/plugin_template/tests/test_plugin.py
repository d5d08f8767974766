"""The plugin as installed: pip install . pytest && pytest"""

from importlib.metadata import entry_points

import numpy as np
import pytest
from ae_template.detector import TiedAutoEncoder
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from pyod_ae_plugin import AutoEncoder, create_detector, load_detector


@pytest.fixture
def X():
    """200 rows on a plane in six dimensions, then 20 that are not."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6))
    return np.vstack([plane, 4 * rng.normal(size=(20, 6))])


def test_the_metadata_name_the_detector():
    assert entry_points(group="pyod.detectors")["TiedAutoEncoder"].load() is TiedAutoEncoder


def test_outliers_are_found(X):
    detector = create_detector("TiedAutoEncoder", latent_dim=2, verbose=0).fit(X)
    assert roc_auc_score(np.arange(220) >= 200, detector.decision_scores_) > 0.9


def test_the_parameter_reaches_the_network_and_survives_a_clone(X):
    detector = clone(TiedAutoEncoder(latent_dim=3, epoch_num=1, verbose=0)).fit(X)
    assert detector.transform(X).shape == (220, 3)


def test_scores_are_scaled_absolute_residuals(X):
    detector = AutoEncoder(network="tied", score_head="scaled_l1", epoch_num=1, verbose=0).fit(X)
    residual = np.abs(detector.reconstruct(X) - X) / X.std(axis=0)
    expected = (residual / residual.mean(axis=0)).mean(axis=1)
    np.testing.assert_allclose(detector.decision_scores_, expected, rtol=1e-3)


def test_it_scores_the_same_when_loaded(X, tmp_path):
    detector = TiedAutoEncoder(epoch_num=1, verbose=0).fit(X)
    detector.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert isinstance(loaded, TiedAutoEncoder)
    assert (loaded.decision_function(X) == detector.decision_scores_).all()
