"""Rows that come piece by piece: moments, samples, fit_batches, partial_fit, score_batches."""

import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from each import EACH
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from pyod_ae_plugin import VAE, AutoEncoder, load_detector
from pyod_ae_plugin.detectors import fit, streams
from pyod_ae_plugin.engine.rows import RowSample
from pyod_ae_plugin.networks.layers import Dropout
from pyod_ae_plugin.scoring import Moments


@pytest.fixture
def few_kept(monkeypatch):
    """Keep 1,024 rows of a stream, the least there is."""
    monkeypatch.setattr(streams, "_CELLS_KEPT", 1)


class Once:
    """Batches that count how often they are iterated over."""

    def __init__(self, batches):
        self.batches = batches
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


@pytest.mark.slow
@settings(deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 40), st.integers(1, 3)),
        elements=st.floats(-1e150, 1e150, allow_subnormal=False),
    ),
    st.lists(st.integers(1, 39), max_size=5),
)
def test_moments_are_those_of_all_rows_however_they_are_split(X, cuts):
    moments, merged = Moments(X.shape[1]), Moments(X.shape[1])
    for piece in np.split(X, sorted({c for c in cuts if c < len(X)})):
        moments.update(torch.from_numpy(piece))
        of_piece = Moments(X.shape[1])
        of_piece.update(torch.from_numpy(piece))
        merged.merge(of_piece)
    magnitude = np.abs(X).max(0)
    magnitude[magnitude == 0] = 1
    scaled = X / magnitude  # squares of 1e-174 would be zero
    for found in (moments, merged):
        assert (found.n == len(X)).all()
        assert np.allclose(found.mean.numpy() / magnitude, scaled.mean(0), rtol=0, atol=1e-12)
        assert np.allclose(found.std.numpy() / magnitude, scaled.std(0), rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["<f8", ">f8", ">i4", "<f4"])
def test_a_memory_map_is_never_copied_whole(quick, dtype, tmp_path):
    shape = (100_000, 32)
    X = np.lib.format.open_memmap(tmp_path / "rows.npy", mode="w+", dtype=dtype, shape=shape)
    X[:] = np.random.default_rng(0).normal(size=shape) * 100
    X.flush()
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    detector = quick(AutoEncoder, epoch_num=1, score_head="euclidean")
    detector.fit(mapped[:2000]).decision_function(mapped[:2000])
    tracemalloc.start()
    detector.fit(mapped).decision_function(mapped)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 2
    assert np.allclose(detector.decision_function(X[:100]), detector.decision_scores_[:100])


def test_moments_keep_small_variances_beside_large_means():
    X = np.random.default_rng(0).normal([1e8, -1e12], 1.0, size=(10_000, 2))
    moments, merged = Moments(2), Moments(2)
    for piece in np.array_split(X, 37):
        moments.update(torch.from_numpy(piece))
        of_piece = Moments(2)
        of_piece.update(torch.from_numpy(piece))
        merged.merge(of_piece)
    assert np.allclose(moments.std, X.std(0), rtol=1e-6)
    assert np.allclose(merged.std, X.std(0), rtol=1e-6)


def test_a_sample_is_all_rows_in_order_until_it_is_full():
    rows, generator = torch.arange(50.0).view(-1, 1), torch.Generator().manual_seed(0)
    sample = RowSample(50)
    for piece in rows.split(7):
        sample = sample.added(piece, generator)
    assert sample.is_complete
    assert torch.equal(sample.rows(), rows)


@pytest.mark.slow
def test_a_sample_is_uniform_over_all_rows():
    counts = np.zeros(200)
    for seed in range(300):
        generator, sample = torch.Generator().manual_seed(seed), RowSample(20)
        for piece in torch.arange(200.0).view(-1, 1).split(15):
            sample = sample.added(piece, generator)
        assert not sample.is_complete
        drawn = sample.rows()[:, 0].long()
        assert len(drawn.unique()) == 20
        counts[drawn] += 1
    # each row is drawn Binomial(300, 0.1) times; 5.5 standard deviations leave 1 in 10^5
    assert np.abs(counts - 30).max() < 5.5 * np.sqrt(300 * 0.1 * 0.9)
    assert abs(counts[:100].sum() - 3000) < 5.5 * np.sqrt(300 * 20 * 0.25)


@EACH
def test_batches_that_can_be_kept_are_fitted_as_their_rows_are(quick, Detector, X):
    whole = quick(Detector).fit(X)
    batches = Once([X[:7], X[7:200], X[200:]])
    got = quick(Detector).fit_batches(batches)
    assert batches.passes == 1
    assert np.allclose(got.decision_scores_, whole.decision_scores_, rtol=1e-3)
    assert (got.labels_ == whole.labels_).mean() > 0.98
    assert np.allclose(got.decision_function(X), got.decision_scores_)


@EACH
def test_two_passes_give_the_scores_of_all_rows(quick, Detector, few_kept):
    X = np.random.default_rng(0).normal(size=(3000, 4)) * [1, 10, 100, 1000] + 7
    batches = Once(np.array_split(X, 11))
    detector = quick(Detector).fit_batches(batches)
    assert batches.passes == 2
    assert np.array_equal(detector.decision_scores_, detector.decision_function(X))
    assert np.array_equal(detector.labels_, detector.predict(X))
    assert detector.labels_.sum() == 300
    standardize = detector.scoring_module_.standardize
    assert np.allclose(1 / standardize.scale, X.std(0), rtol=0.1)


@pytest.mark.parametrize("change", [-1, 1])
def test_batches_that_change_between_the_passes_are_refused(quick, change, few_kept):
    class Changing(Once):
        def __iter__(self):
            self.passes += 1
            return iter(self.batches[: 10 if self.passes == 1 else 10 + change])

    batches = Changing(np.random.default_rng(0).normal(size=(11, 200, 4)))
    with pytest.raises(ValueError, match=r"2000 rows in the first pass and (1800|2200)"):
        quick(AutoEncoder).fit_batches(batches)


def test_a_generator_of_batches_is_judged_by_its_sample(quick, few_kept):
    X = np.random.default_rng(0).normal(size=(3000, 4))
    detector = quick(AutoEncoder).fit_batches(iter(np.array_split(X, 11)))
    assert detector.decision_scores_.shape == detector.labels_.shape == (1024,)
    assert abs(detector.predict(X).mean() - 0.1) < 0.04


@pytest.mark.slow
def test_a_sample_trains_a_detector_as_good_as_all_rows(few_kept):
    rng = np.random.default_rng(0)
    inliers, outliers = rng.normal(size=(5700, 8)), rng.uniform(-6, 6, size=(300, 8))
    inliers[:, 4:] = inliers[:, :4] + 0.1 * inliers[:, 4:]
    X = rng.permutation(np.concatenate([inliers, outliers]))
    y = np.abs(X[:, 4:] - X[:, :4]).max(1) > 1
    detector = AutoEncoder(verbose=0, device="cpu").fit_batches(np.array_split(X, 10))
    assert roc_auc_score(y, detector.decision_scores_) > 0.98


def test_a_bad_batch_leaves_the_detector_as_it_was(quick, X):
    detector = quick(AutoEncoder).fit(X)
    before = detector.decision_function(X)
    wrong = [(X, X[:, :3]), (X, np.full_like(X, np.nan)), ()]
    for batches in wrong:
        with pytest.raises(ValueError, match=r"features|NaN|no batches"):
            detector.fit_batches(batches)
    assert np.array_equal(detector.decision_function(X), before)


@EACH
def test_the_first_partial_fit_is_a_fit(quick, Detector, X):
    whole, first = quick(Detector).fit(X), quick(Detector).partial_fit(X)
    assert np.array_equal(whole.decision_scores_, first.decision_scores_)
    assert whole.threshold_ == first.threshold_


@EACH
def test_partial_fit_learns_what_comes_later(quick, Detector):
    rng = np.random.default_rng(0)
    first, later = rng.normal(size=(400, 5)), rng.normal(size=(400, 5)) * 0.2 + 8
    detector = quick(Detector, epoch_num=20).partial_fit(first)
    assert detector.predict(later).mean() > 0.9
    for piece in np.array_split(later, 4):
        detector.partial_fit(piece)
    assert detector.decision_scores_.shape == (800,)
    assert np.array_equal(
        detector.decision_scores_, detector.decision_function(np.concatenate([first, later]))
    )
    assert detector.predict(later).mean() < 0.3
    both = np.concatenate([first, later])
    assert np.allclose(1 / detector.scoring_module_.standardize.scale, both.std(0), rtol=1e-5)


def test_partial_fit_is_reproducible(quick, X):
    scores = [
        quick(AutoEncoder).partial_fit(X[:200]).partial_fit(X[200:]).decision_scores_
        for _ in range(2)
    ]
    assert np.array_equal(*scores)


@EACH
@pytest.mark.parametrize("way", ["fit", "pickled", "saved"])
def test_partial_fit_goes_on_from_a_detector_without_its_rows(quick, Detector, way, X, tmp_path):
    detector = quick(Detector).fit(X)
    if way == "pickled":
        detector = pickle.loads(pickle.dumps(detector.partial_fit(X)))
    elif way == "saved":
        detector.save(tmp_path / "model")
        detector = load_detector(tmp_path / "model")
    scale = detector.scoring_module_.standardize.scale.clone()
    weights = next(detector.model.parameters()).clone()
    detector.partial_fit(X[:100] + 1)
    assert torch.equal(detector.scoring_module_.standardize.scale, scale)
    assert detector.decision_scores_.shape == (100,)
    change = (next(detector.model.parameters()) - weights).abs().max()
    assert 0 < change < 0.5


def test_rows_that_are_kept_are_not_pickled(quick, X):
    detector = quick(AutoEncoder).partial_fit(X)
    fitted = quick(AutoEncoder).fit(X)
    assert abs(len(pickle.dumps(detector)) - len(pickle.dumps(fitted))) < 1000


def test_kept_rows_are_copies(quick, X):
    rows = X.copy()
    detector = quick(AutoEncoder).partial_fit(rows[:150])
    rows[:150] = 1e6
    detector.partial_fit(X[150:])
    again = quick(AutoEncoder).partial_fit(X[:150]).partial_fit(X[150:])
    assert np.array_equal(detector.decision_scores_, again.decision_scores_)


def test_a_failed_partial_fit_changes_nothing(quick, X):
    detector = quick(AutoEncoder).partial_fit(X)
    before = detector.decision_function(X)
    with pytest.raises(ValueError, match="features"):
        detector.partial_fit(X[:, :2])
    with pytest.raises(FloatingPointError):
        detector.set_params(lr=1e30, optimizer_name="sgd").partial_fit(X)
    assert np.array_equal(detector.decision_function(X), before)
    detector.set_params(lr=None, optimizer_name="adam").partial_fit(X[:10])
    assert detector.decision_scores_.shape == (310,)


def test_fit_forgets_what_partial_fit_saw(quick, X):
    detector = quick(AutoEncoder).partial_fit(X + 100).fit(X).partial_fit(X[:50])
    assert detector.decision_scores_.shape == (50,)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_networks_go_on_as_they_were_trained(quick, batch_norm, X):
    detector = quick(AutoEncoder, batch_norm=batch_norm, dropout_rate=0.2).partial_fit(X)
    detector.partial_fit(X[:100])
    kinds = [type(module).__name__ for module in detector._stream.network.modules()]
    assert ("BatchNorm" in kinds) == batch_norm
    assert "Dropout" in kinds


def test_batches_are_scored_as_they_come(quick, X):
    detector = quick(VAE).fit(X)
    asked = []

    def batches():
        for piece in np.array_split(X, 3):
            asked.append(len(piece))
            yield piece

    scores = detector.score_batches(batches())
    assert asked == []
    first = next(scores)
    assert asked == [100]
    got = np.concatenate([first, *scores])
    assert np.array_equal(got, detector.decision_function(X))


def test_a_network_that_is_trained_further_draws_from_the_generator_of_this_training(
    X, monkeypatch
):
    """A recorded step on a GPU knows no other generator."""
    seen = []

    class Seen(fit.Training):
        def __init__(self, network, *arguments):
            super().__init__(network, *arguments)
            drawn = [layer.generator for layer in network.modules() if isinstance(layer, Dropout)]
            seen.append((drawn, arguments[-1]))

    monkeypatch.setattr(fit, "Training", Seen)
    detector = AutoEncoder(epoch_num=2, verbose=0, device="cpu", dropout_rate=0.2)
    for rows in (X[:100], X[100:]):
        detector.partial_fit(rows)
    assert len(seen) == 2
    for drawn, generator in seen:
        assert drawn
        assert all(own is generator for own in drawn)
