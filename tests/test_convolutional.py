"""The convolutional networks: images in rows."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV

from pyod_ae_plugin import VAE, AutoEncoder, load_detector
from pyod_ae_plugin.detectors.base import recipe_of
from pyod_ae_plugin.engine.closed_form import has_closed_form
from pyod_ae_plugin.engine.cuda import dispatch
from pyod_ae_plugin.engine.cuda.fused import fused_score_function
from pyod_ae_plugin.engine.cuda.graphs import RecordedTiles, can_be_recorded
from pyod_ae_plugin.engine.folded import score_function
from pyod_ae_plugin.engine.pipeline import read_pipeline
from pyod_ae_plugin.engine.rows import ResidentBatches
from pyod_ae_plugin.networks import conv, variational_conv

NETWORKS = {AutoEncoder: "conv", VAE: "variational_conv"}
# AutoEncoder suffices where time counts.
BOTH = pytest.mark.parametrize(
    "Detector",
    [pytest.param(D, marks=[] if D is AutoEncoder else pytest.mark.slow) for D in NETWORKS],
)


@pytest.fixture(scope="session")
def convolutional(quick):
    """Make a convolutional detector that is small and quick to fit."""

    def convolutional(Detector, shape=(5, 6), **params):
        widths = {"hidden_neuron_list": (3, 5, 2)}
        if Detector is VAE:
            widths = {"encoder_neuron_list": (4, 3), "decoder_neuron_list": (3, 4), "latent_dim": 2}
        network = {"network": NETWORKS[Detector], "input_shape": shape, "batch_size": 64}
        return quick(Detector, **{**network, **widths, **params})

    return convolutional


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(200, 30))


# ------------------------------------------------------------------------- the networks


@pytest.mark.parametrize("shape", [(8, 8), (7, 4), (1, 1), (1, 9), (3, 5, 6)])
@pytest.mark.parametrize("n_convolutions", [1, 2, 4])
def test_images_of_any_size_come_back_in_their_size(shape, n_convolutions):
    n_features = int(np.prod(shape))
    channels = [3] * n_convolutions
    x = torch.randn(2, n_features)
    network = conv(n_features, shape, [*channels, 2], "relu", False, 0.0, seeded())
    assert network.encode(x).shape == (2, 2)
    assert network(x).shape == x.shape
    shared = (5, "relu", "sigmoid", False, 0.0, None, seeded())
    network = variational_conv(n_features, shape, channels, [4], *shared, learn_variance=True)
    mean, logvar = network.decode_distribution(network.posterior(x)[0])
    assert mean.shape == logvar.shape == x.shape
    assert torch.equal(mean, network(x))
    assert mean.min() >= 0  # the output activation


def test_pixels_are_convolved_with_those_beside_them():
    network = conv(64, (8, 8), [1, 1], "identity", False, 0.0, seeded())
    unflatten, convolution = network.encoder[:2]
    x = torch.zeros(1, 64)
    x[0, 8 * 3 + 5] = 1.0  # pixel (3, 5), a part of the outputs in rows 1, 2 and column 2, 3
    response = convolution(unflatten(x)) - convolution.bias
    rows, columns = response[0, 0].nonzero().T
    reached = set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert reached == {(1, 2), (1, 3), (2, 2), (2, 3)}


def test_initial_weights_hang_on_the_generator_alone():
    before = torch.get_rng_state()
    first, second = (conv(64, (8, 8), [4, 2], "relu", True, 0.1, seeded()) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_signals_keep_their_variance_up_to_the_edges():
    network = conv(64 * 64, (64, 64), [64, 64, 8], "identity", False, 0.0, seeded())
    h = network.encoder[0](torch.randn(4, 64 * 64))
    for layer in network.encoder[1:4]:
        h = layer(h)
        assert 0.8 < h.var().item() < 1.5
    wide = torch.randn(4, 64, 16, 16)
    *_, transposed, _ = network.decoder[:-1]
    assert 0.8 < transposed(wide).var().item() < 1.5


def test_a_batch_of_one_pixel_can_be_normalised():
    network = conv(1, (1, 1), [2, 1], "silu", True, 0.2, seeded())
    network(torch.ones(1, 1)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_softmax_is_over_the_channels():
    network = conv(16, (4, 4), [3, 2], "softmax", False, 0.0, seeded())
    shares = network.encoder[:3](torch.randn(5, 16))
    torch.testing.assert_close(shares.sum(1), torch.ones(5, 2, 2))


# ------------------------------------------------------------------------ the detectors


@pytest.mark.slow
def test_digits_are_told_apart_as_well_as_by_the_dense_network():
    X, y = load_digits(return_X_y=True)
    normal = np.flatnonzero(y == 8)
    trained, held_out = normal[::2], normal[1::2]
    tested = np.concatenate([held_out, np.flatnonzero(y != 8)])
    areas = {}
    for network in ("conv", "mlp"):
        image = {"input_shape": (8, 8), "hidden_neuron_list": (16, 32, 16)}
        detector = AutoEncoder(
            novelty=True,
            preprocessing=False,  # pixels are on one scale
            network=network,
            verbose=0,
            device="cpu",
            **(image if network == "conv" else {}),
        ).fit(X[trained])
        areas[network] = roc_auc_score(y[tested] != 8, detector.decision_function(X[tested]))
    assert areas["conv"] > 0.97
    assert areas["conv"] > areas["mlp"] - 0.01


@BOTH
@pytest.mark.parametrize(
    "head",
    [
        "nearest_neighbor",
        *(pytest.param(h, marks=pytest.mark.slow) for h in ["euclidean", "mahalanobis", "nll"]),
    ],
)
def test_score_heads_take_its_residuals_and_codes(convolutional, Detector, head, X, tmp_path):
    detector = convolutional(
        Detector, score_head=head, trim=0.3, batch_norm=True, dropout_rate=0.1
    ).fit(X)
    assert np.isfinite(detector.decision_scores_).all()
    assert np.array_equal(detector.predict(X), detector.labels_)
    detector.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert loaded.input_shape == (5, 6)
    for method in ("decision_function", "transform", "reconstruct"):
        assert np.array_equal(getattr(loaded, method)(X), getattr(detector, method)(X))


@pytest.mark.parametrize("head", ["reconstruction_probability", "elbo"])
def test_probabilistic_heads_take_its_posterior(convolutional, head, X):
    scores = convolutional(VAE, score_head=head).fit(X).decision_scores_
    assert np.isfinite(scores).all()
    assert scores.std() > 0


@BOTH
def test_the_scores_are_those_of_the_network(convolutional, Detector, X):
    detector = convolutional(Detector, score_head="euclidean").fit(X)
    z = torch.from_numpy((X - X.mean(0)) / X.std(0)).float()
    with torch.no_grad():
        rebuilt = detector.model(z)
    distances = (rebuilt - z).norm(dim=1)
    assert np.allclose(detector.decision_function(X), distances, rtol=1e-4)
    assert np.allclose(detector.reconstruct(X), rebuilt.numpy() * X.std(0) + X.mean(0), atol=1e-4)


@BOTH
def test_it_takes_the_ways_that_know_nothing_of_layers(quick, convolutional, Detector, X):
    detector = convolutional(Detector, corruption={"mask": 0.1}).fit(X)
    module, batches = detector.scoring_module_, ResidentBatches.__new__(ResidentBatches)
    assert score_function(module) is module
    objective = recipe_of(detector, 30).objective
    assert not has_closed_form(read_pipeline(detector.model), objective, stacked=False)
    assert fused_score_function(module) is None
    assert not isinstance(dispatch._new_function(module, "float32"), RecordedTiles)
    assert not can_be_recorded(read_pipeline(detector.model), batches)
    dense = quick(Detector, batch_size=64)
    assert can_be_recorded(read_pipeline(dense.fit(X).model), batches)


@BOTH
def test_the_same_seed_gives_the_same_bits_and_no_global_state_is_touched(
    convolutional, Detector, X, monkeypatch
):
    monkeypatch.setattr(torch, "manual_seed", None)
    before = torch.get_rng_state()
    first = convolutional(Detector).fit(X)
    again = clone(first).fit(X)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(first.decision_scores_, again.decision_scores_)


@pytest.mark.slow
@BOTH
def test_a_row_s_score_is_its_own_with_any_number_of_threads(convolutional, set_threads, Detector):
    X = np.random.default_rng(0).normal(size=(1500, 27 * 27))
    detector = convolutional(Detector, (27, 27), epoch_num=1).fit(X[:100])
    order = np.random.default_rng(1).permutation(1500)
    for threads in (1, 5):
        set_threads(threads)
        scores = detector.decision_function(X)
        assert np.array_equal(detector.decision_function(X[order]), scores[order])
        for n in (1, 65, 700):
            assert np.array_equal(detector.decision_function(X[:n]), scores[:n])


@BOTH
def test_it_learns_from_batches_and_from_later_rows(convolutional, Detector, X, tmp_path):
    whole = convolutional(Detector).fit(X)
    batches = convolutional(Detector).fit_batches(X.reshape(4, 50, 30))
    assert np.array_equal(batches.decision_scores_, whole.decision_scores_)
    whole.save(tmp_path / "model")
    later = load_detector(tmp_path / "model").partial_fit(X + 1)
    assert later.decision_scores_.mean() < whole.decision_function(X + 1).mean()


def test_numbers_of_numpy_and_lists_are_as_good(convolutional, X):
    whole = convolutional(AutoEncoder).fit(X)
    of_numpy = {"input_shape": np.array([5, 6]), "hidden_neuron_list": np.array([3, 5, 2])}
    for params in (of_numpy, {k: v.tolist() for k, v in of_numpy.items()}):
        scores = convolutional(AutoEncoder, **params).fit(X).decision_scores_
        assert np.array_equal(scores, whole.decision_scores_)
    of_numpy = {"encoder_neuron_list": np.array([3]), "decoder_neuron_list": np.array([3])}
    assert convolutional(VAE, **of_numpy).fit(X).transform(X).shape == (200, 2)


@pytest.mark.slow
@BOTH
def test_it_is_cloned_searched_and_pickled(convolutional, Detector, X):
    search = GridSearchCV(
        convolutional(Detector, epoch_num=1),
        {"input_shape": [(5, 6), (3, 2, 5)]},
        scoring=lambda detector, X, y=None: detector.input_shape == (3, 2, 5),
    ).fit(X)
    best = pickle.loads(pickle.dumps(search.best_estimator_))
    assert best.input_shape == (3, 2, 5)
    assert np.array_equal(best.decision_function(X), search.decision_function(X))


# --------------------------------------------------------------------------- its errors


BAD_SHAPES = {
    "none": (None, "needs input_shape="),
    "wrong product": ((5, 5), r"input_shape=\(5, 5\) is that of 25 features, but rows have 30"),
    "one number": ((30,), r"must be \(height, width\) or"),
    "four numbers": ((1, 1, 5, 6), r"must be \(height, width\) or"),
    "no pixels": ((0, 30), "each an int >= 1"),
    "fractions": ((5.0, 6.0), "each an int >= 1"),
    "text": ("56", "input_shape"),
}


@BOTH
@pytest.mark.parametrize("kind", BAD_SHAPES)
def test_shapes_that_are_not_those_of_the_rows_are_refused(convolutional, Detector, kind, X):
    shape, message = BAD_SHAPES[kind]
    detector = convolutional(Detector).fit(X)
    scores = detector.decision_scores_
    with pytest.raises((ValueError, TypeError), match=message):
        detector.set_params(input_shape=shape).fit(X)
    assert detector.decision_scores_ is scores


def test_a_shape_is_not_passed_over_by_networks_that_know_none(X):
    with pytest.raises(ValueError, match=r"the network factory mlp takes no input_shape.*'conv'"):
        AutoEncoder(input_shape=(5, 6), verbose=0).fit(X)


def test_a_network_of_the_other_detector_is_refused_with_advice(convolutional, X):
    with pytest.raises(TypeError, match=r"conv needs 'hidden_neuron_list'.*made for it"):
        convolutional(VAE, network="conv").fit(X)


def test_a_bottleneck_without_convolutions_is_refused(convolutional, X):
    with pytest.raises(ValueError, match="at least one convolution"):
        convolutional(AutoEncoder, hidden_neuron_list=(3,)).fit(X)
