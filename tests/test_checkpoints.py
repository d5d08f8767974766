"""Fits that are broken off: checkpoints, and Ctrl-C."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, Corruption, EarlyStopping
from pyod_ae_plugin.engine import training
from pyod_ae_plugin.networks import AutoEncoderNetwork
from pyod_ae_plugin.storage import read_sealed, write_sealed

CASES = {
    "AutoEncoder": (AutoEncoder, {}),
    "noise, batch norm, dropout": (
        AutoEncoder,
        {"corruption": Corruption(mask=0.2, noise=0.2), "batch_norm": True, "dropout_rate": 0.2},
    ),
    "early stopping": (AutoEncoder, {"early_stopping": EarlyStopping(patience=3)}),
    "SGD": (AutoEncoder, {"optimizer_name": "sgd", "optimizer_params": {"sgd_momentum": 0.9}}),
    "convolutions": (
        AutoEncoder,
        {"network": "conv", "input_shape": (2, 3), "hidden_neuron_list": (4, 2)},
    ),
    "VAE": (VAE, {"capacity": 2.0, "kl_warmup": 0.6}),
    "ensemble": (AutoEncoderEnsemble, {"n_estimators": 3}),
}


def global_draws(n_features):
    """A network that draws from torch's global generator."""
    encoder = nn.Sequential(nn.Linear(n_features, 8), nn.Dropout(0.3), nn.Linear(8, 2))
    return AutoEncoderNetwork(encoder, nn.Linear(2, n_features))


CASES["global randomness"] = (AutoEncoder, {"network": global_draws})
QUICK = ("noise, batch norm, dropout", "ensemble")  # where time counts
EACH = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES],
)


def make(case, **params):
    Detector, own = CASES[case]
    return Detector(**{"epoch_num": 8, "verbose": 0, "device": "cpu", **own, **params})


@pytest.fixture
def breaks_off(monkeypatch):
    """Break training off in its fifth epoch, as a crash (or Ctrl-C) would."""

    def after_four_epochs(error):
        whole = training.Training._epoch

        def epoch(self):
            if len(self.history) == 4:
                self._step(self._batches(self._training[..., :10]))  # half an epoch is done
                raise error
            return whole(self)

        monkeypatch.setattr(training.Training, "_epoch", epoch)
        return lambda: monkeypatch.setattr(training.Training, "_epoch", whole)

    return after_four_epochs


@EACH
def test_a_fit_goes_on_to_the_same_bits(case, X, tmp_path, breaks_off):
    path = tmp_path / "training.safetensors"
    whole = make(case).fit(X)
    mend = breaks_off(RuntimeError("the machine went down"))
    with pytest.raises(RuntimeError, match="went down"):
        make(case, checkpoint=path).fit(X)
    mend()
    assert path.exists()
    torch.rand(1)  # another process would have another global state
    resumed = make(case, checkpoint=str(path)).fit(X)
    assert np.array_equal(resumed.decision_scores_, whole.decision_scores_)
    assert resumed.history_ == whole.history_
    assert not path.exists()


def test_a_folder_that_is_not_there_is_said_before_training(X, tmp_path):
    detector = AutoEncoder(checkpoint=tmp_path / "missing" / "state", verbose=0, device="cpu")
    with pytest.raises(ValueError, match="in a folder that is not there"):
        detector.fit(X)


def test_a_checkpoint_of_another_fit_is_refused(X, tmp_path, breaks_off):
    path = tmp_path / "training.safetensors"
    mend = breaks_off(RuntimeError)
    with pytest.raises(RuntimeError):
        make("AutoEncoder", checkpoint=path).fit(X)
    mend()
    for params, rows in (({"lr": 1e-4}, X), ({}, X + 1), ({}, X[:100]), ({}, X.astype("f4"))):
        with pytest.raises(ValueError, match="other parameters or other data"):
            make("AutoEncoder", checkpoint=path, **params).fit(rows)
    make("AutoEncoder", checkpoint=path, contamination=0.1).fit(X)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 100])
def test_a_damaged_checkpoint_is_refused(content, X, tmp_path):
    path = tmp_path / "training.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged.*Delete it"):
        make("AutoEncoder", checkpoint=path).fit(X)
    assert path.read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a named pipe")
def test_a_pipe_is_no_checkpoint(X, tmp_path):
    os.mkfifo(tmp_path / "state")
    with pytest.raises(ValueError, match="no regular file"):
        make("AutoEncoder", checkpoint=tmp_path / "state").fit(X)


@pytest.mark.parametrize("forgery", ["a negative rate", "another shape", "a NaN", "one too many"])
def test_a_checkpoint_whose_values_cannot_be_is_refused(forgery, X, tmp_path, breaks_off):
    path = tmp_path / "training.safetensors"
    mend = breaks_off(RuntimeError)
    with pytest.raises(RuntimeError):
        make("AutoEncoder", checkpoint=path).fit(X)
    mend()
    description, tensors = read_sealed(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    if forgery == "a negative rate":
        tensors["lr"].fill_(-1)
    elif forgery == "another shape":
        tensors["optimizer.mean"] = tensors["optimizer.mean"][1:].clone()
    elif forgery == "a NaN":
        tensors["optimizer.square"][0] = torch.nan
    else:
        tensors["evil"] = torch.zeros(1)
    write_sealed(path, description, tensors)  # with the digest that belongs to it
    with pytest.raises(ValueError, match=rf"The checkpoint {path} is damaged: .*Delete it"):
        make("AutoEncoder", checkpoint=path).fit(X)


def test_learning_from_later_rows_leaves_the_file_at_checkpoint_alone(X, tmp_path):
    detector = make("AutoEncoder", checkpoint=tmp_path / "state").fit(X)
    (tmp_path / "state").write_text("of somebody else")
    detector.partial_fit(X)
    assert (tmp_path / "state").read_text() == "of somebody else"


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(0)])
def test_a_checkpoint_needs_a_seed(random_state, X, tmp_path):
    with pytest.raises(ValueError, match="needs an int as random_state"):
        make("AutoEncoder", checkpoint=tmp_path / "a", random_state=random_state).fit(X)


@EACH
def test_ctrl_c_leaves_the_detector_as_the_last_epoch_made_it(case, X, breaks_off):
    detector = make(case)
    mend = breaks_off(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="after 4 epochs"):
        detector.fit(X)
    mend()
    assert len(detector.history_["loss"]) == 4
    assert np.array_equal(detector.decision_function(X), detector.decision_scores_)
    assert np.array_equal(detector.predict(X), detector.labels_)


def test_ctrl_c_drops_the_unfinished_epoch(X, breaks_off):
    interrupted, weights = make("AutoEncoder"), []
    breaks_off(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(X)
    whole = training.Training.epochs

    def remember(self):
        for epoch in whole(self):
            weights.append(self._vector.clone())
            yield epoch

    training.Training.epochs = remember
    try:
        with pytest.raises(KeyboardInterrupt):
            make("AutoEncoder").fit(X)
    finally:
        training.Training.epochs = whole
    got = torch.cat([p.reshape(-1) for p in interrupted.model.parameters()])
    assert torch.equal(got, weights[3])


def test_ctrl_c_before_the_first_epoch_leaves_the_detector_untouched(X, monkeypatch):
    def epoch(self):
        raise KeyboardInterrupt

    fitted, new = make("AutoEncoder").fit(X), make("AutoEncoder")
    before = fitted.decision_scores_
    monkeypatch.setattr(training.Training, "_epoch", epoch)
    for detector in (fitted, new):
        with pytest.raises(KeyboardInterrupt):
            detector.fit(X + 1)
    assert fitted.decision_scores_ is before
    assert not hasattr(new, "decision_scores_")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_a_real_ctrl_c_in_a_process_of_its_own():
    program = textwrap.dedent("""
        import signal
        import numpy as np, torch
        from pyod_ae_plugin import AutoEncoder
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of nohup ignores it
        torch.set_num_threads(1)
        X = np.random.default_rng(0).normal(size=(2000, 6))
        detector = AutoEncoder(epoch_num=100000, verbose=2, device="cpu")
        try:
            detector.fit(X)
        except KeyboardInterrupt as interrupt:
            assert (detector.predict(X) == detector.labels_).all()
            print("interrupted:", interrupt, flush=True)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith("Epoch 1/")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert "interrupted: Training was interrupted after" in rest
