"""Models that earlier versions saved are read, and score as they did when they were saved.

tests/data/make_models.py writes the models of a version.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, load_detector

MODELS = Path(__file__).parent / "data" / "models"
QUICK = {"epoch_num": 2, "verbose": 0, "device": "cpu"}
CASES = {
    "autoencoder": lambda: AutoEncoder(hidden_neuron_list=(8, 2), **QUICK),
    "novelty": lambda: AutoEncoder(hidden_neuron_list=(8, 2), novelty=True, **QUICK),
    "table": lambda: AutoEncoder(hidden_neuron_list=(8, 2), columns="auto", **QUICK),
    "conv": lambda: AutoEncoder(
        hidden_neuron_list=(3, 2), network="conv", input_shape=(2, 2), **QUICK
    ),
    "vae": lambda: VAE(encoder_neuron_list=(8,), decoder_neuron_list=(8,), latent_dim=2, **QUICK),
    "ensemble": lambda: AutoEncoderEnsemble(3, hidden_neuron_list=(8, 2), **QUICK),
}


def rows_of(detector):
    """The rows that a model was fitted to: an array, or a table with a category and gaps."""
    X = np.random.default_rng(0).normal(size=(80, 4))
    if detector.columns is None:
        return X
    table = pd.DataFrame(X, columns=list("abcd"))
    table.loc[::9, "a"] = np.nan
    return table.assign(kind=np.resize(["x", "x", "y"], 80), id=[f"A{i}" for i in range(80)])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("path", sorted(MODELS.iterdir()), ids=lambda path: path.stem)
def test_models_of_earlier_versions_are_read(path):
    detector = load_detector(path)
    rows = rows_of(detector)
    scores = detector.decision_function(rows)
    np.testing.assert_allclose(scores, detector.decision_scores_, rtol=1e-4)
    apart = ~np.isclose(scores, detector.threshold_, rtol=1e-4)
    assert np.array_equal(detector.predict(rows)[apart], detector.labels_[apart])


def test_there_is_a_model_of_each_kind():
    kinds = {path.stem.split("-", 1)[1] for path in MODELS.glob("*.safetensors")}
    assert kinds == set(CASES)
