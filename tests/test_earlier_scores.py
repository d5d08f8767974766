"""The same seeds give the scores that they gave earlier, which tests/data/scores.json holds.

Training amplifies how sums are rounded, which differs between CPUs, so scores are compared to
about three digits. What changes them on purpose writes the file anew: tests/data/make_scores.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble

SCORES = Path(__file__).parent / "data" / "scores.json"
N_TRAINED, N_NEW, N_FEATURES = 60, 10, 4

QUIET = {"epoch_num": 5, "verbose": 0, "device": "cpu"}
PLAIN = {"hidden_neuron_list": (8, 3), **QUIET}
VARIATIONAL = {
    "encoder_neuron_list": (8,),
    "decoder_neuron_list": (8,),
    "latent_dim": 3,
    **QUIET,
}
ENSEMBLE = {"n_estimators": 3, "hidden_neuron_list": (8, 3), **QUIET}


def fit(detector, X):
    return detector.fit(X)


def fit_float32(detector, X):
    return detector.fit(X.astype(np.float32))


def fit_batches(detector, X):
    return detector.fit_batches(np.array_split(X, 4))


def fit_in_two_parts(detector, X):
    return detector.partial_fit(X[:40]).partial_fit(X[40:])


def add_members(detector, X):
    detector.set_params(n_estimators=2, warm_start=True).fit(X)
    return detector.set_params(n_estimators=4).fit(X)


CASES = {
    "AutoEncoder": (fit, AutoEncoder(**PLAIN)),
    "AutoEncoder, default widths": (fit, AutoEncoder(**QUIET)),
    "AutoEncoder, mahalanobis": (fit, AutoEncoder(score_head="mahalanobis", **PLAIN)),
    "AutoEncoder, joint_mahalanobis": (fit, AutoEncoder(score_head="joint_mahalanobis", **PLAIN)),
    "AutoEncoder, nearest_neighbor": (fit, AutoEncoder(score_head="nearest_neighbor", **PLAIN)),
    "AutoEncoder, kernel": (fit, AutoEncoder(score_head="kernel", **PLAIN)),
    "AutoEncoder, robust": (fit, AutoEncoder(preprocessing="robust", **PLAIN)),
    "AutoEncoder, euclidean": (fit, AutoEncoder(score_head="euclidean", **PLAIN)),
    "AutoEncoder, nll": (fit, AutoEncoder(score_head="nll", **PLAIN)),
    "AutoEncoder, novelty": (fit, AutoEncoder(novelty=True, **PLAIN)),
    "AutoEncoder, trim": (fit, AutoEncoder(trim=0.2, contamination=0.05, **PLAIN)),
    "AutoEncoder, batch_norm": (fit, AutoEncoder(batch_norm=True, dropout_rate=0.1, **PLAIN)),
    "AutoEncoder, sgd": (
        fit,
        AutoEncoder(
            optimizer_name="sgd",
            lr=0.05,
            batch_size=16,
            optimizer_params={"sgd_momentum": 0.9},
            hidden_activation_name="tanh",
            **PLAIN,
        ),
    ),
    "AutoEncoder, unscaled": (fit, AutoEncoder(preprocessing=False, **PLAIN)),
    "AutoEncoder, held out": (fit, AutoEncoder(held_out_threshold=True, **PLAIN)),
    "AutoEncoder, float32": (fit_float32, AutoEncoder(**PLAIN)),
    "AutoEncoder, partial_fit": (fit_in_two_parts, AutoEncoder(**PLAIN)),
    "AutoEncoder, fit_batches": (fit_batches, AutoEncoder(**PLAIN)),
    "AutoEncoder, conv": (
        fit,
        AutoEncoder(network="conv", input_shape=(2, 2), **{**PLAIN, "hidden_neuron_list": (3, 2)}),
    ),
    "VAE": (fit, VAE(**VARIATIONAL)),
    "VAE, nll": (fit, VAE(score_head="nll", **VARIATIONAL)),
    "VAE, reconstruction_probability": (
        fit,
        VAE(score_head="reconstruction_probability", **VARIATIONAL),
    ),
    "VAE, elbo": (fit, VAE(score_head="elbo", beta=0.5, kl_warmup=0.5, **VARIATIONAL)),
    "VAE, capacity": (fit, VAE(capacity=2.0, novelty=True, **VARIATIONAL)),
    "VAE, batch_norm": (fit, VAE(batch_norm=True, dropout_rate=0.1, **VARIATIONAL)),
    "VAE, partial_fit": (fit_in_two_parts, VAE(held_out_threshold=True, **VARIATIONAL)),
    "AutoEncoderEnsemble": (fit, AutoEncoderEnsemble(**ENSEMBLE)),
    "AutoEncoderEnsemble, maximization": (
        fit,
        AutoEncoderEnsemble(
            combination="maximization", max_samples=30, score_head="mahalanobis", **ENSEMBLE
        ),
    ),
    "AutoEncoderEnsemble, euclidean": (
        fit,
        AutoEncoderEnsemble(novelty=True, score_head="euclidean", **ENSEMBLE),
    ),
    "AutoEncoderEnsemble, warm_start": (add_members, AutoEncoderEnsemble(**ENSEMBLE)),
    "AutoEncoderEnsemble, fit_batches": (
        fit_batches,
        AutoEncoderEnsemble(held_out_threshold=True, **ENSEMBLE),
    ),
}


def scores_of(case, rows):
    """Scores of the rows trained on and of the new ones, and the threshold."""
    fit_to, detector = CASES[case]
    fitted = fit_to(detector, rows[:N_TRAINED])
    scored = fitted.decision_function(rows[N_TRAINED:])
    return np.concatenate([fitted.decision_scores_, scored, [fitted.threshold_]])


@pytest.mark.filterwarnings("ignore:Posterior collapse")  # of a few steps
@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_earlier(case):
    earlier = json.loads(SCORES.read_text())
    expected = np.array(earlier["scores"][case])
    scores = scores_of(case, np.array(earlier["rows"]))
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3 * np.std(expected))
