"""The contracts of the detectors: drop-in, determinism, errors, small tables, odd data."""

import copy
import inspect
import os
import pickle
import random
import threading
import warnings

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyod.models.auto_encoder import AutoEncoder as PyodAutoEncoder
from pyod.models.vae import VAE as PyodVAE
from scipy import sparse
from sklearn.metrics import roc_auc_score
from torch import nn

from pyod_ae_plugin import VAE, AutoEncoder, EarlyStopping
from pyod_ae_plugin.networks import AutoEncoderNetwork, VariationalNetwork

# AutoEncoder suffices where time counts.
BOTH = pytest.mark.parametrize("Detector", [AutoEncoder, pytest.param(VAE, marks=pytest.mark.slow)])


# ------------------------------------------------------------------------------ drop-in


@pytest.mark.parametrize(("ours", "theirs"), [(AutoEncoder, PyodAutoEncoder), (VAE, PyodVAE)])
def test_pyods_keywords_come_first_and_in_its_order(ours, theirs):
    wanted = list(inspect.signature(theirs.__init__).parameters)
    assert list(inspect.signature(ours.__init__).parameters)[: len(wanted)] == wanted


@pytest.mark.parametrize(("ours", "theirs"), [(AutoEncoder, PyodAutoEncoder), (VAE, PyodVAE)])
def test_pyods_own_defaults_are_accepted(ours, theirs, X):
    params = theirs(verbose=0).get_params()
    detector = ours(**{**params, "epoch_num": 2, "device": "cpu"}).fit(X)
    assert len(detector.history_["loss"]) == 2
    assert np.isfinite(detector.decision_scores_).all()


@BOTH
def test_finds_the_outliers_and_offers_what_a_pyod_detector_offers(quick, Detector, data):
    X_train, X_test, _, y_test = data
    detector = quick(Detector, epoch_num=10).fit(X_train)
    scores = detector.decision_function(X_test)
    assert roc_auc_score(y_test, scores) > 0.95
    assert detector.decision_scores_.shape == (600,)
    assert detector.labels_.sum() == 60
    assert isinstance(detector.model, nn.Module)
    labels, confidence = detector.predict(X_test, return_confidence=True)
    assert set(labels) == {0, 1}
    assert ((confidence >= 0) & (confidence <= 1)).all()
    for method in ("linear", "unify"):
        probabilities = detector.predict_proba(X_test, method=method)
        assert probabilities.shape == (200, 2)
        assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert set(detector.predict_with_rejection(X_test)) <= {-2, 0, 1}


@BOTH
def test_scores_are_euclidean_in_standard_units_as_pyods_are(quick, Detector, X):
    detector = quick(Detector, score_head="euclidean").fit(X)
    mean, std = X.mean(0), X.std(0)
    residual = (detector.reconstruct(X) - mean) / std - (X - mean) / std
    expected = np.linalg.norm(residual, axis=1)
    assert np.allclose(detector.decision_function(X), expected, rtol=1e-4)


def test_transform_and_reconstruct_have_their_shapes(quick, X):
    assert quick(AutoEncoder, hidden_neuron_list=[8, 3]).fit(X).transform(X).shape == (300, 3)
    vae = quick(VAE, latent_dim=4).fit(X)
    assert vae.transform(X).shape == (300, 4)
    assert vae.reconstruct(X).shape == X.shape


def test_reconstruction_is_in_the_data_s_own_units(quick):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 1)) * [1.0, 50.0, 0.01] + [0.0, 1000.0, 3.0]
    rebuilt = quick(AutoEncoder, epoch_num=60, novelty=True).fit(X).reconstruct(X)
    assert (np.abs(rebuilt - X).mean(0) < 0.3 * X.std(0)).all()


def test_preprocessing_false_takes_rows_as_they_are(quick, X):
    detector = quick(AutoEncoder, preprocessing=False, score_head="euclidean").fit(X)
    expected = np.linalg.norm(detector.reconstruct(X) - X, axis=1)
    assert np.allclose(detector.decision_scores_, expected, rtol=1e-5)


def test_verbose_prints_in_pyods_manner(quick, X, capsys):
    quick(AutoEncoder, verbose=0).fit(X)
    assert capsys.readouterr() == ("", "")
    quick(AutoEncoder, verbose=1).fit(X)
    assert "Training: " in capsys.readouterr().err
    quick(AutoEncoder, verbose=2).fit(X)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]


def test_early_stopping_is_on_request(quick, X):
    stopped = quick(AutoEncoder, epoch_num=300, early_stopping=EarlyStopping(patience=2)).fit(X)
    losses = stopped.history_["validation_loss"]
    assert len(losses) == len(stopped.history_["loss"]) < 300
    assert "validation_loss" not in quick(AutoEncoder).fit(X).history_


@pytest.mark.parametrize("on", [np.True_, {}, {"patience": 10}, EarlyStopping()])
def test_early_stopping_is_asked_for_in_several_ways(quick, on, X):
    assert np.array_equal(
        quick(early_stopping=on).fit(X).decision_scores_,
        quick(early_stopping=True).fit(X).decision_scores_,
    )


@pytest.mark.slow
def test_compiled_training_scores_like_uncompiled(quick, X):
    batches = {"batch_size": 100}  # of one size, since each size is compiled
    plain = quick(AutoEncoder, **batches).fit(X)
    compiled = quick(AutoEncoder, **batches, use_compile=True).fit(X)
    assert np.allclose(plain.decision_scores_, compiled.decision_scores_, rtol=1e-3)


def test_trimming_is_for_outlier_detection(quick, data):
    X_train = data[0]
    default, novelty = (
        quick(AutoEncoder).fit(X_train),
        quick(AutoEncoder, novelty=True).fit(X_train),
    )
    same_as_default = quick(
        AutoEncoder, trim=0.3, hidden_neuron_list=(64, 8), score_head="joint_mahalanobis"
    ).fit(X_train)
    same_as_novelty = quick(
        AutoEncoder,
        novelty=True,
        trim=0,
        hidden_neuron_list=(64, 32),
        score_head="kernel",
        held_out_threshold=True,
    ).fit(X_train)
    assert np.array_equal(default.decision_scores_, same_as_default.decision_scores_)
    assert np.array_equal(novelty.decision_scores_, same_as_novelty.decision_scores_)
    assert not np.array_equal(default.decision_scores_, novelty.decision_scores_)


@pytest.mark.parametrize(("novelty", "width"), [(False, 8), (True, 32)])
def test_the_bottleneck_hangs_on_what_the_training_rows_are(quick, X, novelty, width):
    assert quick(AutoEncoder, novelty=novelty).fit(X).transform(X).shape == (len(X), width)


@BOTH
@pytest.mark.parametrize("part", ["mask", "noise"])
def test_corruption_changes_what_is_learned(quick, Detector, X, part):
    clean, corrupted = quick(Detector).fit(X), quick(Detector, corruption={part: 0.3}).fit(X)
    assert not np.array_equal(clean.decision_scores_, corrupted.decision_scores_)


# -------------------------------------------------------------------------- determinism


@BOTH
def test_same_seed_same_bits(quick, Detector, X):
    first, second = (quick(Detector).fit(X) for _ in range(2))
    assert np.array_equal(first.decision_scores_, second.decision_scores_)
    assert np.array_equal(first.decision_function(X), first.decision_function(X))
    other = quick(Detector, random_state=1).fit(X)
    assert not np.array_equal(first.decision_scores_, other.decision_scores_)


@BOTH
@pytest.mark.parametrize("params", [{}, {"batch_norm": True, "dropout_rate": 0.3}])
def test_no_global_state_is_touched(quick, Detector, params, X):
    def state():
        return (
            random.getstate(),
            np.random.get_state()[1].tobytes(),
            torch.get_rng_state().numpy().tobytes(),
            dict(os.environ),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
        )

    before = state()
    quick(Detector, random_state=None, **params).fit(X).predict(X)
    assert state() == before


def test_random_state_may_be_an_object_or_none(quick, X):
    scores = [
        quick(AutoEncoder, random_state=np.random.RandomState(3)).fit(X).decision_scores_
        for _ in range(2)
    ]
    assert np.array_equal(*scores)
    free = [quick(AutoEncoder, random_state=None).fit(X).decision_scores_ for _ in range(2)]
    assert not np.array_equal(*free)


@BOTH
@pytest.mark.parametrize("n_features", [1, 3, 30, 700])
def test_a_row_s_score_is_its_own(quick, Detector, n_features):
    """Neither order, neighbours nor the number of rows changes one bit."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, n_features))
    detector = quick(Detector, epoch_num=1).fit(X[:200])
    scores = detector.decision_function(X)
    order = rng.permutation(1500)
    assert np.array_equal(detector.decision_function(X[order]), scores[order])
    for n in (1, 2, 63, 64, 65, 1000):
        assert np.array_equal(detector.decision_function(X[:n]), scores[:n])
    for i in (0, 7, 1499):
        assert detector.decision_function(X[i : i + 1])[0] == scores[i]


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        *({"hidden_activation_name": name} for name in ["relu", "silu", "sigmoid", "elu", "tanh"]),
        {"hidden_neuron_list": [8, 1]},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_features", [1, 40])
def test_a_row_s_score_is_its_own_with_any_number_of_threads(
    quick, set_threads, params, n_features
):
    X = np.random.default_rng(0).normal(size=(3001, n_features))
    detector = quick(AutoEncoder, **params, epoch_num=1).fit(X[:200])
    got = []
    for n in (1, 2, 3, 5):
        set_threads(n)
        got += [detector.decision_function(X), detector.reconstruct(X)[:, 0]]
        assert np.array_equal(detector.decision_function(X[:1000]), got[-2][:1000])
    for scores, rebuilt in zip(got[2::2], got[3::2], strict=True):
        assert np.array_equal(scores, got[0])
        assert np.array_equal(rebuilt, got[1])


@BOTH
def test_labels_are_the_predictions_on_the_training_rows(quick, Detector, data):
    detector = quick(Detector).fit(data[0])
    assert np.array_equal(detector.predict(data[0]), detector.labels_)


def test_threads_that_score_one_detector_get_the_same_bits(quick, X):
    detector = quick(AutoEncoder).fit(X)
    expected = detector.decision_function(X)
    got = [None] * 8

    def score(i):
        got[i] = detector.decision_function(X)

    threads = [threading.Thread(target=score, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(scores, expected) for scores in got)


@pytest.mark.slow
def test_threads_that_fit_at_once_get_the_same_bits_as_alone(quick, X):
    alone = [quick(VAE, random_state=s, dropout_rate=0.2).fit(X).decision_scores_ for s in range(4)]
    together = joblib.Parallel(n_jobs=4, backend="threading")(
        joblib.delayed(
            lambda s: quick(VAE, random_state=s, dropout_rate=0.2).fit(X).decision_scores_
        )(s)
        for s in range(4)
    )
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


# ------------------------------------------------------------------------------- errors

BAD_ROWS = {
    "nan": (lambda X: np.where(X[3, 2] == X, np.nan, X), ValueError, "NaN"),
    "inf": (lambda X: np.where(X[3, 2] == X, np.inf, X), ValueError, "infinity"),
    "strings": (lambda X: X.astype(str).astype(object) + "x", ValueError, "could not convert"),
    "sparse": (sparse.csr_matrix, TypeError, "[Ss]parse"),
    "complex": (lambda X: X + 1j, ValueError, "[Cc]omplex"),
    "one-dimensional": (lambda X: X[0], ValueError, "2D array"),
    "three-dimensional": (lambda X: X[None], ValueError, "dim"),
    "no rows": (lambda X: X[:0], ValueError, "0 sample"),
    "none in a list": (lambda X: [[None, *row[1:]] for row in X.tolist()], ValueError, "NaN"),
    "huge in a list": (
        lambda X: [[10**400, *row[1:]] for row in X.tolist()],
        ValueError,
        "too large for float64",
    ),
    "dates": (lambda X: X.astype("M8[s]"), TypeError, "must hold numbers"),
    "no features": (lambda X: X[:, :0], ValueError, "0 feature"),
}


@BOTH
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_are_refused_and_change_nothing(quick, Detector, kind, X):
    spoil, error, message = BAD_ROWS[kind]
    detector = quick(Detector).fit(X)
    before = copy.deepcopy(detector)
    for method in ("fit", "decision_function", "predict", "transform", "reconstruct"):
        with pytest.raises(error, match=message):
            getattr(detector, method)(spoil(X))
    assert vars(detector).keys() == vars(before).keys()
    assert np.array_equal(detector.decision_function(X), before.decision_function(X))
    assert detector.history_ == before.history_


def test_wrong_width_is_refused(quick, X):
    detector = quick(AutoEncoder).fit(X)
    with pytest.raises(ValueError, match="X has 5 features, but AutoEncoder is expecting 6"):
        detector.decision_function(X[:, :5])


def test_feature_names_are_kept_and_checked(quick, X):
    pd = pytest.importorskip("pandas", reason="needs pandas")
    frame = pd.DataFrame(X, columns=list("abcdef"))
    detector = quick(AutoEncoder).fit(frame)
    assert list(detector.feature_names_in_) == list("abcdef")
    detector.decision_function(frame)
    with pytest.raises(ValueError, match="feature names"):
        detector.decision_function(frame.rename(columns={"a": "z"}))
    with pytest.warns(UserWarning, match="valid feature names"):
        detector.decision_function(X)


BAD_PARAMS = [
    ({"lr": 0}, "lr"),
    ({"lr": "fast"}, "lr"),
    ({"epoch_num": 0}, "epoch_num"),
    ({"epoch_num": 1.5}, "epoch_num"),
    ({"batch_size": 0}, "batch_size"),
    ({"optimizer_name": "lbfgs"}, "optimizer_name"),
    ({"optimizer_params": {"momentum": 0.9}}, "momentum"),
    ({"optimizer_params": {"weight_decay": -1}}, "weight_decay"),
    ({"optimizer_params": {"sgd_nesterov": True}}, "needs a sgd_momentum"),
    ({"use_compile": True, "compile_mode": "fastest"}, "compile_mode"),
    ({"device": "meta"}, "device='meta' cannot be used here"),
    ({"random_state": "x"}, "random_state"),
    ({"verbose": 3}, "verbose"),
    ({"hidden_activation_name": "swish"}, "hidden_activation_name"),
    ({"dropout_rate": 1.0}, "dropout_rate"),
    ({"network": "transformer"}, "Unknown network 'transformer'. Known are: conv, mlp"),
    ({"score_head": "cosine"}, "Unknown score head 'cosine'. Known are: elbo, euclidean"),
    ({"trim": 1.0}, "trim"),
    ({"device": "tpu9"}, "device='tpu9' cannot be used here"),
    ({"device": "cuda:99"}, "device='cuda:99' cannot be used here"),
    ({"held_out_threshold": 1.5}, "held_out_threshold"),
    ({"early_stopping": EarlyStopping(patience=0)}, "patience"),
    ({"early_stopping": {"epochs": 3}}, "early_stopping has no 'epochs'"),
    ({"corruption": {"mask": 1.0}}, "mask"),
]


@BOTH
@pytest.mark.parametrize(("params", "message"), BAD_PARAMS)
def test_bad_parameters_are_refused_and_change_nothing(quick, Detector, params, message, X):
    detector = quick(Detector).fit(X)
    scores = detector.decision_scores_
    with pytest.raises((ValueError, TypeError), match=message):
        detector.set_params(**params).fit(X)
    assert detector.decision_scores_ is scores


@pytest.mark.parametrize("widths", [[], [0], [4, -1], [2.5], "ab", 3, {4, 2}])
def test_bad_layer_widths_are_refused(quick, widths, X):
    with pytest.raises((ValueError, TypeError), match="hidden_neuron_list"):
        quick(AutoEncoder, hidden_neuron_list=widths).fit(X)
    with pytest.raises((ValueError, TypeError), match="decoder_neuron_list"):
        quick(VAE, decoder_neuron_list=widths).fit(X)


@pytest.mark.parametrize("contamination", [0, -0.1, 0.51, 1])
def test_bad_contamination_is_refused_at_once_as_by_pyod(contamination):
    with pytest.raises(ValueError, match="contamination must be in"):
        AutoEncoder(contamination=contamination)


@pytest.mark.parametrize("contamination", ["auto", None, np.float32(0.1)])
def test_contamination_of_another_type_is_refused_in_fit(quick, contamination, X):
    with pytest.raises((ValueError, TypeError), match="contamination"):
        quick(AutoEncoder, contamination=contamination).fit(X)


@pytest.mark.parametrize("clip", [(1, 1), (3, -3), (1,), "ab", 5, ("-3", "3")])
def test_bad_logvar_clip_is_refused_at_once_as_by_pyod(clip):
    with pytest.raises(ValueError, match="logvar_clip"):
        VAE(logvar_clip=clip)


def test_unfitted_detectors_say_so(X):
    for method in ("decision_function", "predict", "transform", "reconstruct"):
        with pytest.raises(ValueError, match="not fitted"):
            getattr(AutoEncoder(), method)(X)
    assert not hasattr(AutoEncoder(), "model")


@pytest.mark.parametrize("lr", [1e18, 1e30])
def test_weights_that_end_up_useless_are_no_success(quick, lr, X):
    with pytest.raises(FloatingPointError, match="diverged"):
        quick(AutoEncoder, lr=lr, epoch_num=1).fit(X[:32])


def test_lists_are_rows_for_every_method(quick, X):
    detector = quick(AutoEncoder).fit(X.tolist())
    for method in ("decision_function", "predict", "predict_proba", "predict_confidence"):
        assert len(getattr(detector, method)(X.tolist())) == 300


def test_a_batch_larger_than_the_table_is_the_table(quick, X):
    all_rows, more = (quick(AutoEncoder, batch_size=n).fit(X) for n in (300, 10**9))
    assert np.array_equal(all_rows.decision_scores_, more.decision_scores_)


def test_a_diverging_fit_leaves_the_detector_as_it_was(quick, X):
    detector = quick(AutoEncoder).fit(X)
    scores = detector.decision_function(X)
    with pytest.raises(FloatingPointError, match="epoch"):
        detector.set_params(optimizer_name="sgd", lr=1e12, epoch_num=20).fit(X)
    assert np.array_equal(detector.decision_function(X), scores)


# ---------------------------------------------------------------- small and odd tables


@BOTH
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 1), (5, 3), (33, 2)])
def test_small_tables_work(quick, Detector, shape, batch_norm):
    X = np.random.default_rng(0).normal(size=shape)
    detector = quick(Detector, batch_norm=batch_norm, batch_size=32).fit(X)
    assert np.isfinite(detector.decision_scores_).all()
    assert np.array_equal(detector.predict(X), detector.labels_)


@BOTH
@pytest.mark.parametrize("value", [0.0, 1.0, 1e30, 1e-30, -1e300])
def test_constant_and_extreme_features_work(quick, Detector, value, X):
    X = np.column_stack([X, np.full(300, value), X[:, 0] * (value or 1)])
    detector = quick(Detector).fit(X)
    assert np.isfinite(detector.decision_function(X)).all()


def test_an_outlier_beyond_float32_gets_the_highest_score(quick, X):
    detector = quick(AutoEncoder).fit(X)
    far = np.vstack([X[:3], np.full((1, 6), 1e300)])
    scores = detector.decision_function(far)
    assert np.isfinite(scores).all()
    assert scores.argmax() == 3


def variants():
    X = np.random.default_rng(0).integers(-5, 5, size=(120, 4)).astype(np.float64)
    read_only = X.copy()
    read_only.flags.writeable = False
    return {
        "float32": X.astype(np.float32),
        "float16": X.astype(np.float16),
        "int64": X.astype(np.int64),
        "int8": X.astype(np.int8),
        "big-endian": X.astype(">f8"),
        "longdouble": X.astype(np.longdouble),
        "uint16": (X + 5).astype(np.uint16),
        "by columns": np.asfortranarray(X),
        "reversed": X[::-1].copy()[::-1],
        "every other": np.repeat(X, 2, axis=0)[::2],
        "read-only": read_only,
        "list": X.tolist(),
        "object": X.astype(object),
    }


@pytest.mark.parametrize("kind", variants())
def test_the_same_numbers_in_another_array_give_the_same_bits(quick, kind):
    other = variants()[kind]
    X = np.asarray(other, dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = quick(AutoEncoder).fit(other)
        scores = detector.decision_function(other)
    assert np.array_equal(scores, quick(AutoEncoder).fit(X).decision_function(X))


def test_training_rows_are_neither_copied_nor_changed(quick, tmp_path):
    X = np.random.default_rng(0).normal(size=(200, 3))
    path = tmp_path / "rows.npy"
    np.save(path, X)
    mapped = np.load(path, mmap_mode="r")
    quick(AutoEncoder).fit(mapped).decision_function(mapped)
    assert np.array_equal(np.load(path), X)


def test_timestamps_keep_their_precision(quick):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    far = X * 30 + 1.7e9
    near, shifted = (quick(AutoEncoder).fit(rows).decision_scores_ for rows in (X, far))
    assert np.allclose(near, shifted, rtol=1e-2)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.integers(1, 4)),
        elements=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_any_finite_table_gives_finite_scores(quick, X):
    detector = quick(AutoEncoder, epoch_num=1, hidden_neuron_list=(4, 2)).fit(X)
    assert np.isfinite(detector.decision_scores_).all()
    assert np.isfinite(detector.decision_function(X * 0)).all()


# ------------------------------------------------------------------ custom networks


class Narrow(nn.Module):
    """A network that knows nothing of this package."""

    def __init__(self, n_features):
        super().__init__()
        self.down, self.up = nn.Linear(n_features, 2), nn.Linear(2, n_features)
        self.drop = nn.Dropout(0.1)

    def encode(self, x):
        return torch.tanh(self.down(self.drop(x)))

    def decode(self, z):
        return self.up(z)


def test_network_may_be_any_factory(quick, X):
    before = torch.get_rng_state()
    first, second = (quick(AutoEncoder, network=Narrow).fit(X) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first.decision_scores_, second.decision_scores_)
    assert isinstance(first.model, Narrow)
    assert first.transform(X).shape == (300, 2)


def test_a_factory_gets_the_parameters_that_it_names(quick, X):
    seen = {}

    def factory(n_features, hidden_neuron_list, generator):
        seen.update(widths=hidden_neuron_list, generator=generator)
        return AutoEncoderNetwork(nn.Linear(n_features, 3), nn.Linear(3, n_features))

    quick(AutoEncoder, network=factory, hidden_neuron_list=[9]).fit(X)
    assert seen["widths"] == [9]
    assert isinstance(seen["generator"], torch.Generator)


def test_a_vae_s_network_may_be_any_factory_of_a_posterior(quick, X):
    def factory(n_features):
        parts = (
            nn.Identity(),
            nn.Linear(n_features, 2),
            nn.Linear(n_features, 2),
            nn.Linear(2, n_features),
        )
        return VariationalNetwork(*parts)

    assert quick(VAE, network=factory).fit(X).transform(X).shape == (300, 2)
    with pytest.raises(TypeError, match="posterior"):
        quick(VAE, network=Narrow).fit(X)


class MinusMean(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


BAD_NETWORKS = {
    "not a module": (lambda n: None, "must return a torch.nn.Module"),
    "no decode": (lambda n: nn.Linear(n, n), "lacks encode and decode"),
    "wrong width": (
        lambda n: AutoEncoderNetwork(nn.Linear(n, 2), nn.Linear(2, n + 1)),
        r"back to \[3, 7\]",
    ),
    "in place": (
        lambda n: AutoEncoderNetwork(
            nn.Sequential(nn.ReLU(inplace=True), nn.Linear(n, 2)), nn.Linear(2, n)
        ),
        "in place",
    ),
    "mixes rows": (
        lambda n: AutoEncoderNetwork(nn.Sequential(MinusMean(), nn.Linear(n, 2)), nn.Linear(2, n)),
        "beside other rows",
    ),
    "float64": (
        lambda n: AutoEncoderNetwork(nn.Linear(n, 2), nn.Linear(2, n)).double(),
        "cannot encode and decode",
    ),
    "frozen": (
        lambda n: AutoEncoderNetwork(nn.Linear(n, 2), nn.Linear(2, n)).requires_grad_(False),
        "no parameters to train",
    ),
    "needs more": (lambda n, depth: None, "needs 'depth'"),
    "a module": (nn.Linear(3, 3), "takes a factory"),
    "nothing to train": (lambda n: AutoEncoderNetwork(nn.Tanh(), nn.Tanh()), "no parameters"),
}


@pytest.mark.parametrize("kind", BAD_NETWORKS)
def test_unusable_networks_are_refused(quick, kind, X):
    factory, message = BAD_NETWORKS[kind]
    with pytest.raises((ValueError, TypeError), match=message):
        quick(AutoEncoder, network=factory).fit(X)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Squeezing(AutoEncoderNetwork):
    def encode(self, x):
        return super().encode(torch.tanh(x))


class Listing(Narrow):
    def __init__(self, n_features):
        super().__init__(n_features)
        self.layers = nn.ModuleList([self.down, self.up])


CUSTOM = {
    "a layer of one's own": lambda n: AutoEncoderNetwork(Doubling(n, 2), nn.Linear(2, n)),
    "no bias": lambda n: AutoEncoderNetwork(
        nn.Linear(n, 2, bias=False), nn.Linear(2, n, bias=False)
    ),
    "a network of one's own": lambda n: Squeezing(nn.Linear(n, 2), nn.Linear(2, n)),
    "an attribute layers": Listing,
}


@pytest.mark.parametrize("kind", CUSTOM)
def test_custom_networks_score_as_they_are(quick, kind, X):
    detector = quick(AutoEncoder, network=CUSTOM[kind], score_head="euclidean").fit(X)
    z = torch.from_numpy((X - X.mean(0)) / X.std(0)).float()
    with torch.no_grad():
        residual = detector.model.decode(detector.model.encode(z)) - z
    assert np.allclose(detector.decision_scores_, residual.norm(dim=1), rtol=1e-4)
    made = CUSTOM[kind](6)
    assert type(detector.model) is type(made)


def test_hooks_on_the_network_are_obeyed(quick, X):
    detector = quick(AutoEncoder).fit(X)
    before = detector.decision_function(X)
    hook = detector.model.decoder[-1].register_forward_hook(lambda m, i, output: output + 1)
    assert not np.allclose(detector.decision_function(X), before)
    hook.remove()
    assert np.array_equal(detector.decision_function(X), before)


def test_threads_that_fit_a_custom_network_get_the_same_bits_as_alone(quick, X):
    alone = quick(AutoEncoder, network=Narrow).fit(X).decision_scores_
    together = joblib.Parallel(n_jobs=4, backend="threading")(
        joblib.delayed(quick(AutoEncoder, network=Narrow).fit)(X) for _ in range(4)
    )
    assert all(np.array_equal(d.decision_scores_, alone) for d in together)


# ------------------------------------------------------------------------ scikit-learn


def test_codes_have_names(quick, X):
    pd = pytest.importorskip("pandas", reason="needs pandas")
    detector = quick(AutoEncoder, hidden_neuron_list=[4, 2]).set_output(transform="pandas")
    frame = detector.fit_transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["autoencoder0", "autoencoder1"]


@BOTH
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_score_alike(quick, Detector, copied, X):
    detector = quick(Detector).fit(X)
    twin = copied(detector)
    assert np.array_equal(twin.decision_function(X), detector.decision_function(X))
    assert twin.get_params() == detector.get_params()


def test_pickling_leaves_the_detector_as_it_is(quick, X):
    detector = quick(AutoEncoder).fit(X)
    module = detector.scoring_module_
    pickle.dumps(detector)
    assert detector.scoring_module_ is module


# ------------------------------------------------------------------------------ on a GPU


@pytest.mark.gpu
@BOTH
def test_a_model_fitted_on_a_gpu_scores_on_a_cpu(quick, Detector, data):
    detector = quick(Detector, device="cuda").fit(data[0])
    assert next(detector.model.parameters()).is_cuda
    on_gpu = detector.decision_function(data[1])
    state = detector.__getstate__()
    assert not next(state["scoring_module_"].parameters()).is_cuda
    detector.scoring_module_.cpu()
    assert np.allclose(detector.decision_function(data[1]), on_gpu, rtol=1e-3)


@pytest.mark.gpu
@BOTH
def test_a_row_s_score_is_its_own_on_a_gpu(quick, Detector, data):
    detector = quick(Detector, device="cuda", dropout_rate=0.1, batch_norm=True).fit(data[0])
    scores = detector.decision_function(data[1])
    assert np.array_equal(detector.decision_function(data[1][:3]), scores[:3])
    assert np.array_equal(detector.predict(data[0]), detector.labels_)


@pytest.mark.gpu
@BOTH
def test_a_pickled_detector_gives_the_same_bits_on_a_gpu(quick, Detector, data):
    detector = quick(Detector, device="cuda").fit(data[0])
    again = pickle.loads(pickle.dumps(detector))
    assert next(again.model.parameters()).is_cuda
    assert np.array_equal(again.decision_function(data[1]), detector.decision_function(data[1]))
