"""Threshold rules, thresholds by rows held out, conformal p-values, false discovery rates."""

import copy
import pickle

import numpy as np
import pytest
import torch
from each import DETECTORS, EACH
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyod.models import thresholds as pyod_thresholds
from pyod.models.base import BaseDetector
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer

from pyod_ae_plugin import VAE, AutoEncoder, load_detector
from pyod_ae_plugin.engine.rows import SelectedRows
from pyod_ae_plugin.thresholds import MeanStd, Quantile, TopN

SCORES = hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(-1e6, 1e6))


@given(SCORES, st.floats(-3, 3))
def test_mean_std(scores, k):
    rule = MeanStd(k).fit(scores)
    assert rule.thresh_ == pytest.approx(np.mean(scores) + k * np.std(scores))


@given(SCORES, st.integers(1, 60))
def test_top_n_are_the_highest_and_never_more(scores, n):
    labels = TopN(n).fit(scores).labels_
    if n >= len(scores):
        assert labels.all()
    else:
        assert labels.sum() <= n
        assert (np.sort(scores)[::-1][labels.sum() :] <= np.sort(scores)[::-1][n]).all()
        if len(set(scores)) == len(scores):
            assert labels.sum() == n


@given(SCORES, st.floats(0, 1))
def test_quantile(scores, q):
    assert Quantile(q).fit(scores).thresh_ == np.quantile(scores, q)


@pytest.mark.parametrize(
    ("rule", "wrong"), [(MeanStd, "2"), (TopN, 0), (TopN, 2.5), (Quantile, 1.5), (Quantile, -0.1)]
)
def test_rules_refuse_wrong_parameters(quick, rule, wrong, X):
    with pytest.raises(ValueError, match=rf"of {rule.__name__} must be"):
        quick(AutoEncoder, contamination=rule(wrong)).fit(X)


@pytest.mark.parametrize("rule", [MeanStd(1.5), TopN(7), Quantile(0.2)])
@pytest.mark.parametrize(
    "Detector", [AutoEncoder, *(pytest.param(D, marks=pytest.mark.slow) for D in DETECTORS[1:])]
)
def test_rules_set_the_threshold(quick, Detector, rule, X, tmp_path):
    detector = quick(Detector, contamination=rule).fit(X)
    expected = clone(rule).fit(detector.decision_scores_)
    assert detector.threshold_ == expected.thresh_
    assert np.array_equal(detector.labels_, expected.labels_)
    assert np.array_equal(detector.predict(X), detector.labels_)
    assert detector.contamination is rule
    assert not hasattr(rule, "thresh_")
    labels, confidence = detector.predict(X, return_confidence=True)
    assert np.array_equal(labels, detector.labels_)
    assert ((confidence >= 0) & (confidence <= 1)).all()
    share = labels.mean()
    if 0 < share <= 0.5:  # PyOD's own, at a threshold that gives the same labels
        same = quick(Detector, contamination=float(share)).fit(X)
        same.threshold_ = detector.threshold_
        assert np.allclose(same.predict_confidence(X), confidence)
    detector.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert repr(loaded.contamination) == repr(rule)
    assert np.array_equal(loaded.predict(X), detector.labels_)


@pytest.mark.parametrize("rule", [0.1, MeanStd(2.0)])
def test_a_threshold_that_the_user_sets_counts(quick, rule, X, tmp_path):
    detector = quick(AutoEncoder, contamination=rule).fit(X)
    detector.threshold_ = np.quantile(detector.decision_scores_, 0.7)
    assert detector.predict(X).sum() == 90
    detector.save(tmp_path / "model")
    assert np.array_equal(load_detector(tmp_path / "model").predict(X), detector.predict(X))


PYTHRESH = sorted(name for name in vars(pyod_thresholds) if name.isupper())
NEEDED = {"CLUST": "pyclustering", "CPD": "ruptures", "META": "sklego"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTHRESH)
@pytest.mark.filterwarnings("ignore")
def test_pyods_thresholders_set_the_threshold(quick, name, data):
    pytest.importorskip("pythresh", reason="needs pythresh, of the extra ensembles")
    if name in NEEDED:
        pytest.importorskip(NEEDED[name], reason=f"PyThresh's {name} needs {NEEDED[name]}")
    if name == "GAMGMM":
        pytest.skip("PyThresh's GAMGMM takes minutes")
    thresholder = getattr(pyod_thresholds, name)()
    first, second = quick(AutoEncoder, contamination=thresholder), quick(VAE)
    second.set_params(contamination=thresholder)  # one object for two detectors
    first.fit(data[0])
    labels, predicted = first.labels_, first.predict(data[1])
    reference = copy.deepcopy(thresholder)
    reference.fit(first.decision_scores_)
    # PyThresh's VAE draws anew each time
    assert name == "VAE" or np.array_equal(labels, reference.labels_)
    assert set(np.unique(predicted)) <= {0, 1}
    second.fit(data[0] * 5)
    assert np.array_equal(first.predict(data[1]), predicted)


def pythresh_rules(*names):
    pytest.importorskip("pythresh", reason="needs pythresh, of the extra ensembles")
    return [getattr(pyod_thresholds, name)() for name in names]


# IQR has a threshold; CLF and OCSVM have none, and OCSVM divides each set of scores anew.
@pytest.mark.parametrize("held_out", [False, pytest.param(0.3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        "IQR",
        pytest.param("KARCH", marks=pytest.mark.slow),
        "CLF",
        pytest.param("OCSVM", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_row_has_the_label_that_it_has_alone(quick, name, held_out, data):
    (rule,) = pythresh_rules(name)
    detector = quick(contamination=rule, held_out_threshold=held_out).fit(data[0])
    labels = detector.predict(data[1])
    assert 0 < labels.mean() < 1
    for i in (0, 1, -2, -1):  # inliers come first
        row = data[1][i : i + 1 if i != -1 else None]
        assert detector.predict(row) == detector.predict(np.repeat(row, 5, axis=0))[3] == labels[i]
        assert detector.predict_confidence(row) == detector.predict_confidence(data[1])[i]
    assert np.array_equal(detector.predict(data[0]), detector.labels_)
    assert np.array_equal(np.concatenate(list(map(detector.predict, data[1][:, None]))), labels)


def rules():
    return [0.1, MeanStd(), Quantile(0.6), *pythresh_rules("IQR", "OCSVM")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_threshold_set_by_hand_counts_everywhere_and_under_every_rule(quick, X, tmp_path):
    share = 0.3
    expected = quick(contamination=share).fit(X)
    for rule in rules():
        detector = quick(contamination=rule).fit(X)
        detector.threshold_ = np.float64(expected.threshold_)
        copies = [detector, pickle.loads(pickle.dumps(detector))]
        if isinstance(rule, (float, Quantile, MeanStd)):
            detector.save(tmp_path / "model")
            copies.append(load_detector(tmp_path / "model"))
        for one in copies:
            labels, confidence = one.predict(X, return_confidence=True)
            assert np.array_equal(labels, expected.labels_)
            assert np.array_equal(confidence, expected.predict_confidence(X))
            proba, again = one.predict_proba(X, return_confidence=True)
            assert np.array_equal(proba, expected.predict_proba(X))
            assert np.array_equal(again, confidence)
            rejected, stats = one.predict_with_rejection(X, T=4, return_stats=True)
            wanted = expected.predict_with_rejection(X, T=4, return_stats=True)
            assert np.array_equal(rejected, wanted[0])
            assert stats == wanted[1]
            assert one.rejection_threshold_ == expected.rejection_threshold_


@pytest.mark.slow
def test_contamination_set_after_fit_waits_for_the_next_fit(quick, X, tmp_path):
    for rule, other in ((0.1, 0.01), (0.1, MeanStd()), (MeanStd(), 0.4), (TopN(7), Quantile(0.5))):
        detector = quick(contamination=rule).fit(X)
        before = detector.predict_proba(X, return_confidence=True)
        stats = detector.compute_rejection_stats(T=4)
        detector.set_params(contamination=other)
        detector.save(tmp_path / "model")
        for one in (detector, load_detector(tmp_path / "model")):
            assert np.array_equal(one.predict(X), detector.labels_)
            after = one.predict_proba(X, return_confidence=True)
            assert all(map(np.array_equal, after, before))
            assert one.compute_rejection_stats(T=4) == stats
        changed = detector.fit(X)
        assert np.array_equal(changed.labels_, quick(contamination=other).fit(X).labels_)


@pytest.mark.slow
def test_confidence_is_pyods_where_contamination_set_the_threshold(quick, X):
    for n in (300, 299, 127):  # of which 10% are no whole number of rows
        detector = quick(contamination=0.1).fit(X[:n])
        assert np.array_equal(
            detector.predict_confidence(X), BaseDetector.predict_confidence(detector, X)
        )


def test_labels_of_a_thresholder_are_not_saved_as_those_of_a_share(quick, X, tmp_path):
    (rule,) = pythresh_rules("IQR")
    detector = quick(contamination=rule).fit(X).set_params(contamination=0.1)
    with pytest.raises(ValueError, match=r"labels are those of IQR.*set threshold_"):
        detector.save(tmp_path / "model")
    detector.threshold_ = 2.0
    detector.save(tmp_path / "model")
    assert np.array_equal(load_detector(tmp_path / "model").predict(X), detector.predict(X))


@EACH
def test_rows_held_out_are_not_trained_on(quick, Detector, X):
    detector = quick(Detector, held_out_threshold=0.25, novelty=True)
    detector.fit(X)
    scores, held_out = detector.decision_scores_, detector.held_out_scores_
    assert len(scores) == len(X)
    assert len(held_out) == 75
    assert set(held_out) <= set(scores)
    assert detector.threshold_ == held_out[68]  # the 69th of 75: ceil(76 * 0.9)
    assert np.array_equal(detector.labels_, scores > detector.threshold_)
    # what is held out has no part in scaling and weights
    changed = X.copy()
    changed[np.isin(scores, held_out)] *= 100
    other = clone(detector).fit(changed)
    assert np.array_equal(other.reconstruct(X), detector.reconstruct(X))
    # nor in the head, unless that scores rows that it knows as if they were new
    detector.set_params(score_head="mahalanobis").fit(X)
    other.set_params(score_head="mahalanobis").fit(changed)
    assert np.array_equal(other.decision_function(X), detector.decision_function(X))


@EACH
def test_rows_held_out_are_references_of_the_kernel(quick, Detector, X):
    detector = quick(Detector, held_out_threshold=0.5, novelty=True).fit(X)
    assert detector.scoring_module_.head.copies.count_nonzero() == len(X)


@pytest.mark.slow
def test_the_held_out_threshold_is_less_biased():
    rng = np.random.default_rng(0)
    shares = []
    for held_out in (False, 0.4):
        detector = AutoEncoder(
            novelty=True, held_out_threshold=held_out, verbose=0,
            hidden_neuron_list=(64, 32), score_head="mahalanobis", epoch_num=200, device="cpu",
        )  # fmt: skip
        detector.fit(rng.normal(size=(200, 20)))
        shares.append(detector.predict(rng.normal(size=(2000, 20))).mean())
    assert shares[0] > 0.2  # twice the contamination
    assert 0.04 < shares[1] < 0.17


def test_held_out_scores_survive_saving(quick, X, tmp_path):
    detector = quick(AutoEncoder, held_out_threshold=True, contamination=MeanStd()).fit(X)
    detector.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert np.array_equal(loaded.predict_p_value(X), detector.predict_p_value(X))


def test_batches_may_be_held_out_from_too(quick, X):
    detector = quick(AutoEncoder, held_out_threshold=True).fit_batches([X[:100], X[100:]])
    assert len(detector.held_out_scores_) == 30
    assert len(detector.partial_fit(X[:100]).held_out_scores_) == 10


def test_without_rows_held_out_there_are_no_p_values(quick, X):
    detector = quick(AutoEncoder).fit(X)
    for ask in (detector.predict_p_value, lambda X: detector.predict(X, fdr=0.1)):
        with pytest.raises(ValueError, match="held_out_threshold=True"):
            ask(X)
    with pytest.raises(ValueError, match="at least 2 rows"):
        quick(AutoEncoder, held_out_threshold=True).fit(X[:1])
    held_out = quick(AutoEncoder, held_out_threshold=True).fit(X)
    for fdr in (0, 1, "0.1"):
        with pytest.raises(ValueError, match="fdr must be between 0 and 1"):
            held_out.predict(X, fdr=fdr)
    assert not hasattr(held_out.set_params(held_out_threshold=False).fit(X), "held_out_scores_")


def fitted_to_inliers(rows, seed, **params):
    return AutoEncoder(
        novelty=True, held_out_threshold=0.5, random_state=seed,
        epoch_num=20, verbose=0, device="cpu", **params,
    ).fit(rows)  # fmt: skip


@pytest.mark.slow
def test_p_values_of_inliers_are_uniform():
    rng = np.random.default_rng(0)
    p = np.concatenate(
        [
            fitted_to_inliers(rng.normal(size=(400, 5)), seed).predict_p_value(
                rng.normal(size=(300, 5))
            )
            for seed in range(10)
        ]
    )
    assert ((p > 0) & (p <= 1)).all()
    for level in (0.05, 0.1, 0.3, 0.5):
        # ten sets of 200 held-out rows: their spread adds to that of 3,000 draws
        deviation = np.sqrt(level * (1 - level) * (1 / 3000 + 1 / 2000))
        assert abs((p <= level).mean() - level) < 4 * deviation + 0.005


def false_discoveries(detector, inliers, outliers, fdr):
    """Share of inliers among the discoveries, and share of the outliers discovered."""
    labels = detector.predict(np.concatenate([inliers, outliers]), fdr=fdr)
    false, true = labels[: len(inliers)].sum(), labels[len(inliers) :].sum()
    return false / max(false + true, 1), true / len(outliers)


@pytest.mark.slow
@pytest.mark.parametrize("fdr", [0.1, 0.3])
def test_the_false_discovery_rate_holds_on_simulated_data(fdr):
    rng = np.random.default_rng(1)
    rates = []
    for seed in range(20):
        detector = fitted_to_inliers(rng.normal(size=(800, 5)), seed)
        inliers, outliers = rng.normal(size=(300, 5)), rng.normal(5, 1, size=(100, 5))
        rates.append(false_discoveries(detector, inliers, outliers, fdr))
    realised, power = np.mean(rates, axis=0)
    spread = np.std([r for r, _ in rates]) / np.sqrt(len(rates))
    assert realised < fdr + 2 * spread
    assert power > 0.9


@pytest.mark.slow
def test_the_false_discovery_rate_holds_on_real_data():
    X, benign = load_breast_cancer(return_X_y=True)
    rates = []
    for seed in range(20):
        inliers = np.random.default_rng(seed).permutation(X[benign == 1])
        detector = fitted_to_inliers(inliers[:250], seed)
        rates.append(false_discoveries(detector, inliers[250:], X[benign == 0], 0.1))
    realised, power = np.mean(rates, axis=0)
    spread = np.std([r for r, _ in rates]) / np.sqrt(len(rates))
    assert realised < 0.1 + 2 * spread
    assert power > 0.5


def test_selected_rows_are_rows():
    rows = torch.randn(20, 3)
    indices = torch.tensor([3, 5, 8, 13])
    selected = SelectedRows(rows, indices)
    assert len(selected) == 4
    assert tuple(selected.shape) == (4, 3)
    assert torch.equal(selected[1:3], rows[[5, 8]])
    assert torch.equal(selected.index_select(0, torch.tensor([3, 0], dtype=torch.int32)),
                       rows[[13, 3]])  # fmt: skip
