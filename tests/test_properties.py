"""What holds for any input, over the public API alone."""

import copy
import inspect
import pickle
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from each import DETECTORS, EACH
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.base import clone
from torch import nn

from pyod_ae_plugin import (
    VAE,
    AutoEncoder,
    AutoEncoderEnsemble,
    Corruption,
    EarlyStopping,
    load_detector,
)

# So that other profiles have more of them.
EXAMPLES = settings.default.max_examples
SCORING = settings(max_examples=EXAMPLES // 4, suppress_health_check=list(HealthCheck))
FITTING = settings(max_examples=EXAMPLES // 10, suppress_health_check=list(HealthCheck))

N_FEATURES = 5

HEADS = ["euclidean", "mahalanobis", "joint_mahalanobis", "nearest_neighbor"]
HEADS_OF = {
    AutoEncoder: [*HEADS, "nll"],
    VAE: [*HEADS, "nll", "reconstruction_probability", "elbo"],
    AutoEncoderEnsemble: HEADS,
}


SMALL = {
    AutoEncoder: {"epoch_num": 2, "hidden_neuron_list": (6, 2)},
    VAE: {
        "epoch_num": 2,
        "encoder_neuron_list": (6,),
        "decoder_neuron_list": (6,),
        "latent_dim": 2,
    },
    AutoEncoderEnsemble: {"epoch_num": 2, "hidden_neuron_list": (6, 2), "n_estimators": 3},
}


def training_rows():
    return np.random.default_rng(0).normal(size=(150, N_FEATURES))


# ---------------------------------------------------------------------------- strategies

DTYPES = ["float64", "float32", "float16", ">f8", "int64", "int32", "int8", "uint16", "uint64", "?"]


@st.composite
def tables(draw, n_rows=(1, 40), n_features=(N_FEATURES, N_FEATURES)):
    """Any finite table, of any dtype and memory layout."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.tuples(st.integers(*n_rows), st.integers(*n_features)))
    elements = None
    if dtype.kind == "f":
        width = 8 * dtype.itemsize
        anything = st.floats(allow_nan=False, allow_infinity=False, width=width)
        elements = st.one_of(anything, st.floats(-4, 4, width=width))
    X = draw(hnp.arrays(dtype, shape, elements=elements))
    layout = draw(st.sampled_from(["C", "F", "strided", "reversed", "read-only"]))
    if layout == "F":
        return np.asfortranarray(X)
    if layout == "strided":
        return np.repeat(X, 2, axis=1)[:, ::2]
    if layout == "reversed":
        return X[::-1].copy()[::-1]
    X.flags.writeable = layout != "read-only"
    return X


def bad_tables(X):
    """What no method takes, made of rows that all of them take."""
    nan, inf, with_none = X.copy(), X.copy(), X.astype(object)
    nan[len(X) // 2, 1], inf[-1, 0], with_none[0, 2] = np.nan, -np.inf, None
    return {
        "NaN": nan,
        "infinity": inf,
        "NaN in float32": nan.astype(np.float32),
        "None": with_none,
        "None in a list": with_none.tolist(),
        "words": np.full(X.shape, "word"),
        "words in objects": np.full(X.shape, "word", dtype=object),
        "bytes": np.full(X.shape, b"1"),
        "complex": X + 0j,
        "dates": X.astype("M8[s]"),
        "durations": X.astype("m8[s]"),
        "records": np.zeros(X.shape, dtype=[("a", float)]),
        "one row alone": X[0],
        "three dimensions": X[None],
        "a number": 1.0,
        "nothing": None,
        "a word": "word",
        "a set": {1.0, 2.0},
        "no rows": X[:0],
        "no features": X[:, :0],
        "an empty list": [],
        "ragged": [[1.0] * N_FEATURES, [1.0]],
        "sparse": sparse.csr_matrix(X),
        "sparse array": sparse.coo_array(X),
        "beyond float64": [[10**400] * N_FEATURES],
        "beyond float64 in objects": np.full(X.shape, 10**400, dtype=object),
        "beyond float64 in long double": np.full(X.shape, np.longdouble("1e4000")),
        "an object": object(),
        "a function": len,
        "complex tensor": torch.zeros(3, N_FEATURES, dtype=torch.complex64),
        "one-dimensional tensor": torch.zeros(N_FEATURES),
    }


BAD = list(bad_tables(training_rows()))
MISFITS = {
    "one feature less": lambda X: X[:, 1:],
    "one feature more": lambda X: np.column_stack([X, X[:, 0]]),
    "one feature": lambda X: X[:, :1],
}


class Snapshot:
    """What a detector was, and whether it still is."""

    def __init__(self, detector):
        self._detector, self._attributes = detector, dict(vars(detector))
        self._copies = copy.deepcopy(self._attributes)
        self._scores = detector.decision_function(training_rows())

    def assert_unchanged(self, but=()):
        """No attribute is another object, and none was changed in place."""
        now = vars(self._detector)
        assert now.keys() == self._attributes.keys()
        for name in now.keys() - set(but):
            assert now[name] is self._attributes[name], name
            if isinstance(now[name], np.ndarray):
                assert np.array_equal(now[name], self._copies[name]), name
        assert self._detector.history_ == self._copies["history_"]
        assert np.array_equal(self._detector.decision_function(training_rows()), self._scores)


# -------------------------------------------------------------------------- any scoring

FITTED = {
    "AutoEncoder": (AutoEncoder, {}, 1),
    "euclidean": (AutoEncoder, {"score_head": "euclidean", "held_out_threshold": True}, 1),
    "VAE": (VAE, {}, 1),
    "elbo": (VAE, {"score_head": "elbo"}, 1),
    "AutoEncoderEnsemble": (AutoEncoderEnsemble, {}, 1),
    "in float64": (AutoEncoder, {}, [1e-30, 1, 1e30, 1e300, 0]),
    "unscaled": (AutoEncoder, {"preprocessing": False}, 1),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name == "AutoEncoderEnsemble" else pytest.mark.slow)
        for name in FITTED
    ],
)
def detector(quick, request):
    Detector, params, units = FITTED[request.param]
    return quick(Detector, **{**SMALL[Detector], **params}).fit(training_rows() * units)


@pytest.fixture(scope="module")
def twins(detector, tmp_path_factory):
    """The same detector by all the ways in which one can be kept."""
    path = tmp_path_factory.mktemp("detector") / "saved"
    detector.save(path)
    kept = {"loaded": load_detector(path), "pickled": pickle.loads(pickle.dumps(detector))}
    return {**kept, "copied": copy.deepcopy(detector)}


@SCORING
@given(X=tables())
@example(X=np.full((2, N_FEATURES), np.finfo(np.float64).max))
@example(X=np.full((2, N_FEATURES), -5e-324))
def test_rows_get_finite_answers_of_the_right_shape_and_stay_as_they_are(detector, X):
    before = X.copy()
    n = len(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Posterior collapse")  # of a few steps
        scores = detector.decision_function(X)
        labels = detector.predict(X)
        answers = [
            (scores, (n,)),
            (detector.predict_proba(X), (n, 2)),
            (detector.predict_proba(X, method="unify"), (n, 2)),
            (detector.predict_confidence(X), (n,)),
            (detector.transform(X), (n, detector.transform(X[:1]).shape[1])),
            (detector.reconstruct(X), (n, N_FEATURES)),
            (detector.explain(X[:3]), (min(n, 3), N_FEATURES)),
        ]
        if hasattr(detector, "held_out_scores_"):
            answers.append((detector.predict_p_value(X), (n,)))
    for values, shape in answers:
        assert values.shape == shape
        assert np.isfinite(values).all()
    assert np.array_equal(labels, scores > detector.threshold_)
    assert np.array_equal(X, before)


@SCORING
@given(X=tables(), data=st.data())
def test_a_row_s_answers_are_its_own(detector, X, data):
    """Neither order, nor batches, nor dtype, nor asking twice changes one bit."""
    scores = detector.decision_function(X)
    order = data.draw(st.permutations(range(len(X))))
    assert np.array_equal(detector.decision_function(X[order]), scores[order])
    cuts = sorted(data.draw(st.sets(st.integers(1, len(X)))) - {len(X)})
    batches = np.split(X, cuts)
    assert np.array_equal(np.concatenate([*detector.score_batches(batches)]), scores)
    assert np.array_equal(detector.decision_function(X.astype(np.float64)), scores)
    assert np.array_equal(detector.decision_function(X), scores)
    for method in (detector.transform, detector.reconstruct):
        assert np.array_equal(method(X[order]), method(X)[order])
        assert np.array_equal(np.concatenate([method(batch) for batch in batches]), method(X))


@SCORING
@given(X=tables())
def test_keeping_a_detector_changes_nothing(detector, twins, X):
    scores = detector.decision_function(X)
    for how, twin in twins.items():
        assert np.array_equal(twin.decision_function(X), scores), how
        assert np.array_equal(twin.predict(X), detector.predict(X)), how
        assert np.array_equal(twin.predict_proba(X), detector.predict_proba(X)), how
        assert np.array_equal(twin.transform(X), detector.transform(X)), how
        assert twin.get_params() == detector.get_params(), how
        assert twin.threshold_ == detector.threshold_, how


ASKED = ["decision_function", "predict", "predict_proba", "transform", "reconstruct", "explain"]


@pytest.mark.parametrize("kind", [*BAD, *MISFITS])
def test_what_cannot_be_scored_is_refused_and_changes_nothing(detector, kind):
    X = training_rows()
    bad = MISFITS[kind](X) if kind in MISFITS else bad_tables(X)[kind]
    before = Snapshot(detector)
    for method in [*ASKED, "predict_confidence"]:
        with pytest.raises((ValueError, TypeError)):
            getattr(detector, method)(bad)
    with pytest.raises((ValueError, TypeError)):
        list(detector.score_batches([X, bad]))
    before.assert_unchanged()


@SCORING
@given(X=tables(n_rows=(2, 10)), cell=st.integers(0, 2 * N_FEATURES - 1), data=st.data())
def test_one_bad_cell_anywhere_is_found(detector, X, cell, data):
    X = X.astype(np.float64)
    X.flat[cell] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    for method in ASKED:
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            getattr(detector, method)(X)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d, X: d.predict(X, fdr=0),
        lambda d, X: d.predict(X, fdr=1.0),
        lambda d, X: d.predict(X, fdr="few"),
        lambda d, X: d.predict(X, fdr=float("nan")),
        lambda d, X: d.predict_proba(X, method="guess"),
        lambda d, X: d.score_tensor(torch.zeros(3, N_FEATURES + 1)),
        lambda d, X: d.score_tensor(torch.zeros(0, N_FEATURES)),
        lambda d, X: d.score_tensor(X),
        lambda d, X: d.score_batches(None),
        lambda d, X: d.fit_batches([]),
        lambda d, X: d.fit_batches(3),
        lambda d, X: d.fit_batches([X, X[:, 1:]]),
        lambda d, X: d.fit_batches([X, None]),
    ],
)
def test_wrong_arguments_are_refused_and_change_nothing(detector, wrong):
    before = Snapshot(detector)
    with pytest.raises((ValueError, TypeError)):
        wrong(detector, training_rows())
    before.assert_unchanged()


# ------------------------------------------------------------------------------ any fit


@st.composite
def parameters(draw, Detector):
    """Some of what a user may set, at values that are all allowed."""
    params = {
        "score_head": st.sampled_from(HEADS_OF[Detector]),
        "novelty": st.booleans(),
        "preprocessing": st.sampled_from([True, True, True, False]),
        "contamination": st.sampled_from([0.1, 0.5, 1e-6]),
        "batch_size": st.sampled_from([None, 1, 3, 100]),
        "trim": st.sampled_from([None, 0, 0.99]),
        "corruption": st.sampled_from([None, Corruption(0.5, 0.5), {"mask": 0.5}, {"noise": 0.5}]),
        "optimizer_name": st.sampled_from(["adam", "adamw"]),
        "random_state": st.integers(0, 2**32 - 1),
    }
    if Detector is AutoEncoderEnsemble:
        params["combination"] = st.sampled_from(["average", "maximization", "median", "aom", "moa"])
        params["n_estimators"] = st.integers(1, 4)
        params["max_samples"] = st.sampled_from([None, 1, 5])
    else:
        params["batch_norm"] = st.booleans()
        params["dropout_rate"] = st.sampled_from([0.0, 0.5])
        params["hidden_activation_name"] = st.sampled_from(["silu", "relu", "tanh", "softmax"])
    if Detector is VAE:
        params["capacity"] = st.sampled_from([None, 2.0])
        params["logvar_clip"] = st.sampled_from([(-30.0, 20.0), None])
    return draw(st.fixed_dictionaries({}, optional=params))


def fitted_or_refused(detector, X):
    """The fitted detector; None where values are too large to be left unscaled."""
    if detector.preprocessing:
        return detector.fit(X)
    if np.abs(X.astype(np.float64)).max() <= 1e15:
        return detector.fit(X)
    with pytest.raises(ValueError, match="preprocessing=True"):
        detector.fit(X)
    return None


@pytest.mark.slow
@EACH
@FITTING
@given(data=st.data())
def test_any_table_can_be_fitted_and_the_detector_agrees_with_itself(quick, Detector, data):
    X = data.draw(tables((1, 12), (1, 8)), label="X")
    params = data.draw(parameters(Detector), label="params")
    assert_fit_is_sound(quick, Detector, params, X)


def assert_fit_is_sound(quick, Detector, params, X):
    detector, before = quick(Detector, **{**SMALL[Detector], **params}), X.copy()
    asked = copy.deepcopy(detector.get_params())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Posterior collapse")  # of a few steps
        if fitted_or_refused(detector, X) is None:
            return
    scores = detector.decision_scores_
    assert np.array_equal(X, before)
    assert detector.get_params() == asked
    assert scores.shape == detector.labels_.shape == (len(X),)
    assert np.isfinite(scores).all()
    assert np.isfinite(detector.threshold_)
    assert np.array_equal(detector.decision_function(X), scores)
    assert np.array_equal(detector.predict(X), detector.labels_)
    assert np.array_equal(detector.labels_, scores > detector.threshold_)
    assert np.isfinite(detector.predict_proba(X, method="unify")).all()
    assert np.isfinite(detector.explain(X)).all()
    assert np.isfinite(detector.reconstruct(X)).all()
    assert np.array_equal(clone(detector).fit(X).decision_scores_, scores)
    assert np.array_equal(detector.fit(X).decision_scores_, scores)
    with TemporaryDirectory() as folder:
        detector.save(Path(folder) / "saved")
        loaded = load_detector(Path(folder) / "saved")
    assert np.array_equal(loaded.decision_function(X), scores)
    assert np.array_equal(loaded.decision_scores_, scores)
    assert np.array_equal(pickle.loads(pickle.dumps(detector)).decision_function(X), scores)


@EACH
@FITTING
@given(data=st.data())
def test_rows_that_come_in_batches_can_be_fitted(quick, Detector, data):
    """To the same detector, up to how sums of them round."""
    X = data.draw(tables((2, 12), (1, 4)), label="X")
    cut = data.draw(st.integers(1, len(X) - 1), label="cut")
    whole = quick(Detector, **SMALL[Detector]).fit_batches([X])
    assert np.array_equal(
        whole.decision_scores_, quick(Detector, **SMALL[Detector]).fit(X).decision_scores_
    )
    of_parts = quick(Detector, **SMALL[Detector]).fit_batches([X[:cut], X[cut:].astype(np.float64)])
    assert np.isfinite(of_parts.decision_scores_).all()
    assert np.array_equal(of_parts.predict(X), of_parts.labels_)


@EACH
@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_fitted_is_refused_and_changes_nothing(quick, Detector, kind):
    X = training_rows()
    detector, bad = quick(Detector, **SMALL[Detector]).fit(X), bad_tables(X)[kind]
    before = Snapshot(detector)
    fits = [detector.fit, detector.partial_fit, lambda bad: detector.fit_batches([X, bad])]
    for fit in fits:
        with pytest.raises((ValueError, TypeError)):
            fit(bad)
        before.assert_unchanged()


# ------------------------------------------------------------------------ any parameter

NAN, INF = float("nan"), float("inf")
NO_BOOLEAN = [2, "yes", None, 0.5, []]
NO_POSITIVE = [0, -1.0, NAN, INF, 1e300, "1", 1j, [1.0], object()]
NO_COUNT = [0, -1, 1.5, NAN, "1", [1], object()]
NO_SHARE = [1, -0.1, NAN, "0.1", [0.1], object()]
NOT_NEGATIVE_BUT = [-1.0, NAN, INF, 1e300, "1", [1.0], object()]
NO_NAME = ["nonsense", "", 3, None, b"mlp", ["mlp"], object()]
NO_WIDTHS = [[], [0], [-1, 2], [1.5], ["4"], 4, "4", {4}, [None], np.ones((2, 2), int), [NAN]]

WRONG = {
    "missing": [value for value in NO_NAME if value is not None],
    "columns": ["none", 1, ["a"], {1: "drop"}, {"a": "nothing"}, object()],
    "contamination": [0, 0.0, -0.1, 0.51, 1, NAN, INF, "0.1", None, [0.1], object()],
    "preprocessing": NO_BOOLEAN,
    "lr": NO_POSITIVE,
    "epoch_num": NO_COUNT,
    "batch_size": NO_COUNT,
    "optimizer_name": NO_NAME,
    "device": ["nonsense", "", "cuda:99", "meta", 0, b"cpu", object(), torch.device("meta")],
    "random_state": ["nonsense", -1, 2**32, 1.5, NAN, [1], torch.Generator(), object()],
    "use_compile": NO_BOOLEAN,
    "compile_mode": NO_NAME,
    "verbose": [-1, 3, 0.5, "1", None, []],
    "optimizer_params": [
        {"momentum": 0.9},
        {1: 2, "weight_decay": 0},
        {"weight_decay": -1},
        {"weight_decay": 1e300},
        {"adam_eps": 0},
        {"sgd_momentum": "0.9"},
        {"sgd_nesterov": True},
        [("weight_decay", 0)],
        "weight_decay",
        1e-5,
    ],
    "hidden_neuron_list": NO_WIDTHS,
    "encoder_neuron_list": [*NO_WIDTHS, None],
    "decoder_neuron_list": [*NO_WIDTHS, None],
    "latent_dim": [*NO_COUNT, None],
    "hidden_activation_name": NO_NAME,
    "output_activation_name": NO_NAME,
    "batch_norm": NO_BOOLEAN,
    "dropout_rate": [*NO_SHARE, None],
    "beta": [*NOT_NEGATIVE_BUT, None],
    "capacity": NOT_NEGATIVE_BUT,
    "kl_warmup": [*NO_SHARE, None],
    "logvar_clip": [(1, 1), (3, -3), (1,), (1, 2, 3), "ab", 5, ("-3", "3"), (NAN, 1), (-1j, 1)],
    "novelty": NO_BOOLEAN,
    "trim": NO_SHARE,
    "corruption": [
        *(Corruption(mask=share) for share in NO_SHARE),
        *({"noise": noise} for noise in NOT_NEGATIVE_BUT),
        {"noises": 0.1},
        {1: 2},
        0.3,
        "mask",
        [0.3, 0.2],
    ],
    "network": [*NO_NAME, nn.Linear(5, 5), nn.Linear, lambda: None, lambda n: None, dict, len],
    "input_shape": [(2, 2), (N_FEATURES,), (0, 5), (1, -5), "15", 5, (1.0, 5.0), [[1, 5]]],
    "score_head": [*(name for name in NO_NAME if name is not None), nn.Linear],
    "early_stopping": [
        *NO_BOOLEAN,
        *(EarlyStopping(validation_fraction=f) for f in (0, 1, -0.1, NAN, "0.1", None, object())),
        *({"patience": n} for n in (*NO_COUNT, None)),
        *({"tol": tol} for tol in (-1e-4, NAN, "0", None, object())),
        {"epochs": 3},
    ],
    "checkpoint": [5, 1.5, ["a"], object()],
    "precision": NO_NAME,
    "held_out_threshold": [1, 0, -0.1, 1.5, NAN, "0.1", object()],
    "on_divergence": NO_NAME,
    "n_estimators": [*NO_COUNT, None],
    "max_samples": NO_COUNT,
    "combination": NO_NAME,
    "warm_start": NO_BOOLEAN,
}

OF_DETECTOR = {D: list(inspect.signature(D).parameters) for D in DETECTORS}


def test_wrong_values_are_known_for_every_parameter():
    assert set(WRONG) == {name for names in OF_DETECTOR.values() for name in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("Detector", "name"),
    [(Detector, name) for Detector, names in OF_DETECTOR.items() for name in names],
)
def test_wrong_parameters_are_refused_and_change_nothing(quick, Detector, name):
    X = training_rows()
    detector = quick(Detector, **SMALL[Detector]).fit(X)
    right, before = detector.get_params()[name], Snapshot(detector)
    for value in WRONG[name]:
        for fit in (detector.fit, detector.partial_fit, lambda X: detector.fit_batches([X])):
            detector.set_params(**{name: value})
            with pytest.raises((ValueError, TypeError)):
                fit(X)
            before.assert_unchanged(but=[name])
    detector.set_params(**{name: right})
    before.assert_unchanged()


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.lists(st.one_of(st.integers(-2, 4), st.floats(), st.none()), max_size=3),
    st.tuples(st.floats(), st.floats()),
    st.dictionaries(st.sampled_from(["weight_decay", "adam_eps", "x"]), st.floats(), max_size=2),
    hnp.arrays(np.int64, hnp.array_shapes(max_dims=2, max_side=3), elements=st.integers(0, 4)),
    st.builds(object),
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There are 3 members already")
@EACH
@SCORING
@given(data=st.data())
def test_anything_as_a_parameter_is_fitted_with_or_refused(quick, Detector, data):
    name = data.draw(st.sampled_from([n for n in OF_DETECTOR[Detector] if n != "checkpoint"]))
    value = data.draw(ANYTHING)
    X = training_rows()[:20]
    detector = quick(Detector, **SMALL[Detector]).fit(X)
    before = Snapshot(detector)
    try:
        detector.set_params(**{name: value}).fit(X)
    except (ValueError, TypeError):
        before.assert_unchanged(but=[name])
    except FloatingPointError:  # training diverged
        before.assert_unchanged(but=[name])
    else:
        assert np.isfinite(detector.decision_scores_).all()
