"""What goes wrong outside the code: training that diverges, disks, memory, processes, signals."""

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, load_detector
from pyod_ae_plugin.engine import training
from pyod_ae_plugin.networks import AutoEncoderNetwork, mlp

DETECTORS = [AutoEncoder, VAE, AutoEncoderEnsemble]
EACH = pytest.mark.parametrize("Detector", DETECTORS)


def quick(Detector, **params):
    few = {"n_estimators": 3} if Detector is AutoEncoderEnsemble else {}
    return Detector(**{"epoch_num": 8, "verbose": 0, "device": "cpu", **few, **params})


# ------------------------------------------------------------------ training that diverges

# By plain gradient descent the loss is NaN at 10, for the VAE and the ensemble also at 1.
DIVERGING = {"optimizer_name": "sgd", "lr": 10, "on_divergence": "restart"}


def global_draws(n_features):
    """A network that draws from torch's global generator."""
    encoder = nn.Sequential(nn.Linear(n_features, 8), nn.Dropout(0.3), nn.Linear(8, 2))
    return AutoEncoderNetwork(encoder, nn.Linear(2, n_features))


DIVERGING_CASES = {
    "AutoEncoder": (AutoEncoder, {}),
    "VAE": (VAE, {"capacity": 2.0}),
    "ensemble": (AutoEncoderEnsemble, {"n_estimators": 3}),
    "early stopping": (AutoEncoder, {"early_stopping": True}),
    "batch norm, dropout, noise": (
        AutoEncoder,
        {"lr": 100, "batch_norm": True, "dropout_rate": 0.2, "noise": 0.2},
    ),
    "momentum": (AutoEncoder, {"optimizer_params": {"sgd_momentum": 0.9}}),
    "global randomness": (AutoEncoder, {"network": global_draws}),
}


@pytest.mark.parametrize("case", DIVERGING_CASES)
def test_a_diverging_fit_starts_anew_at_a_lower_learning_rate(case, X):
    Detector, own = DIVERGING_CASES[case]
    params = {**DIVERGING, **own}
    with pytest.warns(ConvergenceWarning) as caught:
        restarted = quick(Detector, **params).fit(X)
    rates = [params["lr"] / 10**i for i in range(len(caught) + 1)]
    for i, warning in enumerate(caught):
        message = str(warning.message)
        assert "Training diverged: " in message
        assert "loss" in message
        assert "epoch" in message
        assert f"at a learning rate of {rates[i]:g}." in message
        assert f"at {rates[i + 1]:g}, restart {i + 1} of 3" in message
    assert restarted.lr_ == rates[-1]
    at_once = quick(Detector, **{**params, "lr": rates[-1]}).fit(X)
    assert at_once.lr_ == rates[-1]
    assert np.array_equal(restarted.decision_scores_, at_once.decision_scores_)
    assert restarted.history_ == at_once.history_
    assert restarted.lr == params["lr"]  # the parameter is as it was passed


@EACH
def test_after_three_restarts_divergence_is_an_error(Detector, X):
    detector = quick(Detector).fit(X)
    before = dict(vars(detector))
    detector.set_params(**DIVERGING).set_params(lr=1e12)
    with (
        pytest.warns(ConvergenceWarning) as caught,
        pytest.raises(FloatingPointError, match=r"learning rate of 1e\+09\. Lower it"),
    ):
        detector.fit(X)
    assert len(caught) == 3
    assert np.array_equal(detector.decision_function(X), before["decision_scores_"])
    assert (detector.lr_, detector.history_) == (before["lr_"], before["history_"])


@EACH
def test_divergence_is_an_error_by_default_and_leaves_no_checkpoint(Detector, X, tmp_path):
    path = tmp_path / "training.safetensors"
    detector = quick(Detector, optimizer_name="sgd", lr=3, checkpoint=path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) in epoch \d of 8"):
            detector.fit(X)
    assert not path.exists()  # the next fit, at another rate, would refuse it
    detector.set_params(lr=0.01).fit(X)


@EACH
def test_a_fit_that_learns_warns_of_nothing_and_says_its_learning_rate(Detector, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = quick(Detector, on_divergence="restart").fit(data[0])
    assert detector.lr_ == 2e-3 * np.sqrt((128 if Detector is AutoEncoderEnsemble else 32) / 32)
    assert quick(Detector, lr=1e-3).fit(data[0]).lr_ == 1e-3


@EACH
def test_a_network_that_rebuilds_nothing_is_warned_about(Detector, X):
    # The whitening score heads would hide it: they measure residuals in their own units.
    with pytest.warns(ConvergenceWarning, match=r"times the squared error.*Lower it \(lr=0\.1\)"):
        detector = quick(Detector, lr=1.0, epoch_num=None).fit(X)
    with pytest.warns(ConvergenceWarning, match="restart 1 of 3"):
        detector.set_params(on_divergence="restart").fit(X)
    residuals = detector.reconstruct(X) - X
    assert np.median(np.square(residuals)) < 1


def test_a_restart_begins_with_the_weights_of_a_network_that_is_handed_out_again(X):
    trained = mlp(6, [8, 2], "silu", False, 0.0, torch.Generator().manual_seed(0))
    first = copy.deepcopy(trained)
    with pytest.warns(ConvergenceWarning):
        restarted = quick(AutoEncoder, network=lambda n_features: trained, **DIVERGING).fit(X)
    params = {**DIVERGING, "lr": restarted.lr_}
    at_once = quick(AutoEncoder, network=lambda n_features: first, **params).fit(X)
    assert np.array_equal(restarted.decision_scores_, at_once.decision_scores_)


@pytest.mark.parametrize("Detector", [AutoEncoder, AutoEncoderEnsemble])
def test_a_restarted_fit_goes_on_from_its_checkpoint(Detector, X, tmp_path, monkeypatch):
    path = tmp_path / "training.safetensors"
    params = {**DIVERGING, "lr": 3 if Detector is AutoEncoder else 1}  # NaN in a later epoch
    with pytest.warns(ConvergenceWarning):
        whole = quick(Detector, **params).fit(X)
    an_epoch = training.Training._epoch

    def breaks_off(self):
        if self.lr < params["lr"] and len(self.history) == 4:
            raise RuntimeError("the machine went down")
        return an_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_epoch", breaks_off)
        with pytest.warns(ConvergenceWarning), pytest.raises(RuntimeError, match="went down"):
            quick(Detector, checkpoint=path, **params).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it goes on at the lower rate, not from the beginning
        resumed = quick(Detector, checkpoint=path, **params).fit(X)
    assert np.array_equal(resumed.decision_scores_, whole.decision_scores_)
    assert (resumed.lr_, resumed.history_) == (whole.lr_, whole.history_)
    assert not path.exists()


def test_a_diverged_checkpoint_does_not_poison_the_restart(X, tmp_path, monkeypatch):
    path = tmp_path / "training.safetensors"
    an_epoch, there = training.Training._epoch, []

    def looks(self):
        there.append((self.lr, len(self.history), path.exists()))
        return an_epoch(self)

    monkeypatch.setattr(training.Training, "_epoch", looks)
    with pytest.warns(ConvergenceWarning):
        quick(AutoEncoder, checkpoint=path, **{**DIVERGING, "lr": 3}).fit(X)
    assert (3.0, 1, True) in there  # a checkpoint of an epoch before the loss was NaN
    assert (0.3, 0, False) in there


@EACH
def test_batches_and_later_rows_are_learned_from_after_a_restart(Detector, X):
    with pytest.warns(ConvergenceWarning):
        fitted = quick(Detector, **DIVERGING).fit(X)
    with pytest.warns(ConvergenceWarning):
        by_batches = quick(Detector, **DIVERGING).fit_batches([X[:100], X[100:]])
    assert np.array_equal(fitted.decision_scores_, by_batches.decision_scores_)
    detector = quick(Detector, **{**DIVERGING, "lr": 0.01}).partial_fit(X)
    with pytest.warns(ConvergenceWarning):
        detector.set_params(lr=100).partial_fit(X[:100])
    assert detector.lr_ < 100
    assert np.isfinite(detector.history_["loss"]).all()


def test_members_that_are_added_restart_alone(X):
    detector = quick(AutoEncoderEnsemble, warm_start=True).fit(X)
    before = [parameter[:3].clone() for parameter in detector.model.parameters()]
    with pytest.warns(ConvergenceWarning):
        detector.set_params(n_estimators=5, **DIVERGING).fit(X)
    after = [parameter[:3] for parameter in detector.model.parameters()]
    assert all(itertools.starmap(torch.equal, zip(before, after, strict=True)))


def test_the_learning_rate_that_was_used_is_saved(X, tmp_path):
    with pytest.warns(ConvergenceWarning):
        detector = quick(AutoEncoder, **DIVERGING).fit(X)
    detector.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert (loaded.lr_, loaded.lr, loaded.on_divergence) == (detector.lr_, 10, "restart")
