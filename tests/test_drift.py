"""check_drift: few false alarms, drift found, and what a report says."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from each import EACH
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import ks_2samp

from pyod_ae_plugin import AutoEncoderEnsemble, load_detector
from pyod_ae_plugin.detectors.base import fitted_of
from pyod_ae_plugin.drift import compare, holm

P_VALUES = hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 1))


def rows(seed, n, d=6):
    return np.random.default_rng(seed).normal(size=(n, d))


def mixed_rows(rng, n):
    """Correlated features, the first five of them discrete."""
    mixing = np.random.default_rng(0).normal(size=(4, 20))
    drawn = rng.normal(size=(n, 4)) @ mixing + rng.normal(size=(n, 20))
    drawn[:, :5] = drawn[:, :5].round()
    return drawn


@pytest.mark.slow
@given(P_VALUES, st.floats(0.001, 0.5))
def test_holm_rejects_as_its_step_down_rule_does(p_values, alpha):
    rejected = np.zeros(len(p_values), bool)
    for i, index in enumerate(p_values.argsort(kind="stable")):
        if p_values[index] * (len(p_values) - i) > alpha:
            break
        rejected[index] = True
    assert np.array_equal(holm(p_values) <= alpha, rejected)


def test_tests_are_scipys(quick, X):
    detector = quick(held_out_threshold=True).fit(X)
    new = rows(1, 80)
    report = detector.check_drift(new)
    for feature, ours, theirs in zip(report.features, new.T, X.T, strict=True):
        statistic, p_value = ks_2samp(ours, theirs, method="exact")
        assert feature.statistic == pytest.approx(statistic)
        assert feature.p_value == pytest.approx(p_value, rel=1e-9 if p_value < 0.4 else 0.2)
    of_scores = ks_2samp(detector.decision_function(new), detector.held_out_scores_)
    assert report.score.statistic == pytest.approx(of_scores.statistic)
    assert report.score.p_value == pytest.approx(of_scores.pvalue, rel=0.2)
    p_values = np.array([*(f.p_value for f in report.features), report.score.p_value])
    adjusted = [*(f.adjusted_p_value for f in report.features), report.score.adjusted_p_value]
    assert np.array_equal(adjusted, holm(p_values))


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [False, True])
def test_false_alarms_are_no_more_than_alpha(quick, held_out):
    n_alarms = n_checks = 0
    for seed in range(15):
        rng = np.random.default_rng(seed)
        detector = quick(held_out_threshold=held_out and 0.3)
        detector.fit(mixed_rows(rng, 400))
        for n in (10, 100, 100, 1500):
            n_checks += 1
            n_alarms += detector.check_drift(mixed_rows(rng, n), alpha=0.2).drifted
    # 0.2 of 60; more than 20 has a probability of 0.006 where there are 0.2
    assert n_checks == 60
    assert n_alarms <= 20


@pytest.mark.slow
def test_scores_are_tested_only_where_rows_were_held_out(quick):
    X, new = rows(0, 100, 40), rows(1, 1000, 40)
    params = {"novelty": True, "epoch_num": 100}
    memorised = quick(**params, held_out_threshold=False).fit(X).check_drift(new)
    assert memorised.score.statistic > 0.15  # and nothing has drifted
    assert np.isnan(memorised.score.p_value)
    assert not memorised.drifted
    assert "tested only after a fit with held_out_threshold=True" in str(memorised)
    held_out = quick(**params, held_out_threshold=0.5).fit(X)
    assert held_out.check_drift(new).score.p_value > 0.001
    assert not held_out.check_drift(new).drifted


@EACH
@pytest.mark.parametrize(
    "change",
    [lambda x: x + 0.5, lambda x: 2 * x, lambda x: np.abs(x)],
    ids=["shift", "scale", "|x|"],
)
def test_a_feature_that_changes_is_found(quick, Detector, change):
    detector = quick(Detector).fit(rows(0, 2000))
    new = rows(1, 500)
    new[:, 4] = change(new[:, 4])
    report = detector.check_drift(new)
    assert report.drifted
    assert report.drifted_features == ["x4"]
    assert report.features[4].statistic > report.critical_value
    assert "x4 (KS 0." in str(report)


@pytest.mark.slow
def test_scores_show_what_no_feature_shows_alone(quick):
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(2000, 1)), 4, axis=1) + 0.1 * rng.normal(size=(2000, 4))
    detector = quick(held_out_threshold=True, novelty=True, epoch_num=20).fit(X[:1500])
    uncorrelated = rng.permuted(X[1500:], axis=0)
    report = detector.check_drift(uncorrelated)
    assert report.drifted_features == []
    assert report.score_drifted
    assert report.drifted
    assert report.outlier_share > 0.5
    assert report.expected_outlier_share == pytest.approx(0.1, abs=0.01)


def test_the_most_different_come_first_and_by_their_names(quick):
    pandas = pytest.importorskip("pandas")
    names = ["temperature", "pressure", "flow", "load", "speed", "level"]
    detector = quick().fit(pandas.DataFrame(rows(0, 1000), columns=names))
    new = pandas.DataFrame(rows(1, 1000) + np.array([0, 0.3, 0, 1, 0, 0]), columns=names)
    report = detector.check_drift(new)
    assert report.drifted_features == ["load", "pressure"]
    assert [feature.name for feature in report.features] == names


def test_the_order_of_rows_does_not_count(quick, X):
    detector = quick(held_out_threshold=True).fit(X)
    new = rows(1, 200)
    assert detector.check_drift(new) == detector.check_drift(new[::-1])


@pytest.mark.parametrize("kinds", [("float64", "float32"), ("float32", "float64")])
def test_the_same_figures_in_another_precision_are_no_drift(quick, kinds):
    discrete = np.random.default_rng(0).integers(0, 5, size=(600, 3)) / 10
    fitted, new = (discrete.astype(kind) for kind in kinds)
    report = quick().fit(fitted).check_drift(new)
    assert [feature.statistic for feature in report.features] == [0.0] * 3


def test_integers_constants_tensors_and_lists(quick, X):
    whole = np.random.default_rng(0).integers(0, 9, size=(400, 3))
    whole[:, 2] = 7
    detector = quick().fit(whole)
    expected = detector.check_drift(whole)
    assert not expected.drifted
    assert expected.features[2].p_value == 1
    for same in (torch.from_numpy(whole), whole.tolist(), whole.astype(np.uint16)):
        assert detector.check_drift(same).features == expected.features
    assert detector.check_drift(whole + np.eye(3, dtype=int)[2]).drifted_features == ["x2"]


def test_wrong_rows_raise_as_when_they_are_scored(quick, X):
    detector = quick().fit(X)
    bad = X.copy()
    bad[3, 2] = np.nan
    for wrong, message in ((bad, "NaN"), (X[:, :4], "4 features"), (X[0], "2D array")):
        with pytest.raises(ValueError, match=message):
            detector.check_drift(wrong)
    for alpha in (0, 1, "0.05"):
        with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
            detector.check_drift(X, alpha=alpha)


def test_so_few_rows_that_nothing_could_be_found_raise(quick):
    wide = quick().fit(rows(0, 300, 30))
    with pytest.raises(ValueError, match="1 rows against 300 of training are too few"):
        wide.check_drift(rows(1, 1, 30))
    assert wide.check_drift(rows(1, 3, 30) + 9).drifted
    fitted, reference = fitted_of(quick().fit(rows(0, 300, 1))), np.zeros((1000, 1))
    against = replace(fitted, drift_reference=reference)
    assert compare(against, reference[:2] + 1, np.zeros(2), alpha=0.01).drifted
    against = replace(fitted, drift_reference=reference[:9])
    with pytest.raises(ValueError, match="raise alpha"):
        compare(against, reference[:1], np.zeros(1), alpha=0.01)


@EACH
def test_it_is_saved_and_pickled(quick, Detector, X, tmp_path):
    detector = quick(Detector, held_out_threshold=True).fit(X)
    detector.save(tmp_path / "model")
    expected = detector.check_drift(rows(1, 100))
    assert load_detector(tmp_path / "model").check_drift(rows(1, 100)) == expected
    assert pickle.loads(pickle.dumps(detector)).check_drift(rows(1, 100)) == expected


@pytest.mark.slow
def test_what_is_kept_is_bounded_sorted_and_the_same_each_time(quick):
    X = rows(0, 5000, 3)
    kept = quick().fit(X).drift_reference_
    assert kept.shape == (1000, 3)
    assert (np.diff(kept, axis=0) >= 0).all()
    assert all(np.isin(kept[:, j], X[:, j]).all() for j in range(3))
    again = quick(random_state=np.random.RandomState(5)).fit(X)
    assert np.array_equal(kept, again.drift_reference_)
    batched = quick().fit_batches(np.array_split(X, 7))
    assert np.array_equal(kept, batched.drift_reference_)
    assert quick().fit(X.astype(np.float32)).drift_reference_.dtype == np.float32


def test_rows_that_come_later_count(quick, X):
    detector = quick().partial_fit(X)
    assert detector.check_drift(X + 3).drifted
    detector.partial_fit(X + 3)
    assert detector.drift_reference_.shape == (600, 6)
    both = np.concatenate([X, X + 3])
    assert not detector.check_drift(both).drifted
    ensemble = quick(AutoEncoderEnsemble, warm_start=True).fit(X)
    ensemble.set_params(n_estimators=3).fit(X + 3)
    assert not ensemble.check_drift(X + 3).drifted


def test_a_failed_fit_leaves_what_was_kept(quick, X):
    detector = quick().fit(X)
    kept = detector.drift_reference_
    with pytest.raises(ValueError, match="hidden"):
        detector.set_params(hidden_neuron_list=[0]).fit(X + 1)
    assert detector.drift_reference_ is kept


@pytest.mark.gpu
def test_rows_on_a_gpu(quick, X):
    detector = quick(device="cuda").fit(X)
    new = torch.from_numpy(rows(1, 200))
    of_host, of_gpu = detector.check_drift(new.numpy()), detector.check_drift(new.cuda())
    assert of_gpu.features == of_host.features
    assert of_gpu.score.statistic == pytest.approx(of_host.score.statistic, abs=0.02)


# --------------------------------------------------------------------------- command line


@pytest.fixture
def score(run, tmp_path):
    """Fit to rows by the command line, score others; return what that prints."""

    def score(X, new):
        train, model = tmp_path / "train.npy", tmp_path / "model"
        np.save(train, X)
        np.save(tmp_path / "new.npy", new)
        params = ("-p", "verbose=0", "-p", "epoch_num=3", "-p", "device=cpu")
        assert run("fit", train, "-o", model, *params)[0] == 0
        new, scores = tmp_path / "new.npy", tmp_path / "scores.npy"
        status, printed, _ = run("score", new, "--model", model, "-o", scores)
        assert status == 0
        return printed

    return score


def test_score_prints_it(score):
    out = score(rows(2, 500), rows(3, 400))
    assert "No drift in 6 features" in out
    assert "of 400 rows score above the threshold; of the training rows it was 10.0%" in out
    assert "Drift in 1 of 6 features: x2 (KS " in score(rows(2, 500), rows(3, 400) + np.eye(6)[2])


def test_score_samples_what_it_checks(score):
    out = score(rows(0, 500, 2), rows(1, 70_000, 2))  # read in two batches
    assert "Scored 70,000 rows" in out
    assert "of 10,000 rows score above the threshold" in out


def test_score_of_few_rows_is_written_without_a_check(score, tmp_path):
    out = score(rows(0, 100, 30), rows(1, 1, 30))
    assert "Scored 1 rows" in out
    assert "Drift not checked: 1 rows against 100 of training are too few" in out
    assert np.load(tmp_path / "scores.npy").shape == (1, 2)
