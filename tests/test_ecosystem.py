"""Our detectors in the hands of PyOD's ensembles, scikit-learn and joblib, the real ones."""

import multiprocessing
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from each import DETECTORS, EACH
from pyod.models import combination
from pyod.models.ecod import ECOD
from pyod.models.feature_bagging import FeatureBagging
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.lscp import LSCP
from pyod.models.suod import SUOD
from pyod.models.xgbod import XGBOD
from pyod.utils.utility import standardizer
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble

FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)

LABELS = "PyOD labels inliers 0 and outliers 1; scikit-learn expects 1 and -1"
EXPECTED_FAILURES = {
    "check_do_not_raise_errors_in_init_or_set_params": (
        "PyOD's BaseDetector refuses a bad contamination in __init__"
    ),
    "check_outliers_fit_predict": LABELS,
    "check_outliers_train": LABELS,
}


def ours(quick):
    return [quick(Detector) for Detector in DETECTORS]


def mixed(quick):
    return [*ours(quick), IForest(random_state=0), KNN(), ECOD()]


@pytest.fixture(scope="module")
def alone(quick, data):
    """Each detector of ``mixed``, fitted by itself."""
    return [detector.fit(data[0]) for detector in mixed(quick)]


def assert_scores_alike(detectors, others, X):
    for detector, other in zip(detectors, others, strict=True):
        assert type(detector) is type(other)
        assert np.array_equal(detector.decision_scores_, other.decision_scores_)
        assert np.array_equal(detector.decision_function(X), other.decision_function(X))


# ------------------------------------------------------------------------ PyOD's ensembles


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_suod(quick, n_jobs, data, alone):
    X_train, X_test, _, y_test = data
    # bps_flag=True would write files into the installed package
    suod = SUOD(mixed(quick), n_jobs=n_jobs, bps_flag=False, rp_flag_global=False, verbose=False)
    suod.fit(X_train)
    assert_scores_alike(suod.model_.base_estimators, alone, X_test)
    assert roc_auc_score(y_test, suod.decision_function(X_test)) > 0.95
    assert suod.predict(X_test).shape == (200,)


@pytest.mark.slow
def test_suod_neither_projects_nor_approximates_detectors_that_it_does_not_know(quick, data, alone):
    X_train, X_test, _, _ = data
    suod = SUOD(mixed(quick), bps_flag=False, verbose=False).fit(X_train)
    assert_scores_alike(suod.model_.base_estimators[:3], alone[:3], X_test)
    assert not np.any(suod.model_.rp_flags_[:3])
    assert not np.any(suod.model_.approx_flags[:3])


@pytest.mark.slow
def test_lscp(quick, data, alone):
    X_train, X_test, _, y_test = data
    lscp = LSCP(mixed(quick), random_state=0, n_bins=3).fit(X_train)
    assert_scores_alike(lscp.detector_list, alone, X_test)
    assert roc_auc_score(y_test, lscp.decision_function(X_test)) > 0.95


@EACH
def test_feature_bagging(quick, Detector, data):
    X_train, X_test, _, y_test = data
    bagging = FeatureBagging(quick(Detector), n_estimators=3, random_state=0).fit(X_train)
    for member, features in zip(bagging.estimators_, bagging.estimators_features_, strict=True):
        assert type(member) is Detector
        by_itself = clone(member).fit(X_train[:, features])
        assert np.array_equal(member.decision_scores_, by_itself.decision_scores_)
    assert len({member.random_state for member in bagging.estimators_}) == 3
    assert roc_auc_score(y_test, bagging.decision_function(X_test)) > 0.9


@pytest.mark.slow
def test_xgbod(quick, data, alone):
    X_train, X_test, y_train, y_test = data
    xgbod = XGBOD(mixed(quick), standardization_flag_list=[False] * 6, random_state=0)
    xgbod.fit(X_train, y_train)
    scores = np.column_stack([detector.decision_scores_ for detector in alone])
    assert np.array_equal(xgbod.X_train_add_, scores)
    assert roc_auc_score(y_test, xgbod.decision_function(X_test)) > 0.9


@pytest.mark.slow
def test_combinations(data, alone):
    _, X_test, _, y_test = data
    train = np.column_stack([detector.decision_scores_ for detector in alone])
    test = np.column_stack([detector.decision_function(X_test) for detector in alone])
    _, scores = standardizer(train, test)
    expected = {
        "average": scores.mean(1),
        "maximization": scores.max(1),
        "median": np.median(scores, 1),
    }
    for name, combined in expected.items():
        assert np.allclose(getattr(combination, name)(scores), combined)
    # buckets of one detector each: the average of their maxima is the average, and so on
    assert np.allclose(combination.aom(scores, n_buckets=6), expected["average"])
    assert np.allclose(combination.moa(scores, n_buckets=6), expected["maximization"])
    for combine in (combination.aom, combination.moa):
        assert roc_auc_score(y_test, combine(scores, n_buckets=3, random_state=0)) > 0.95
    labels = np.column_stack([detector.predict(X_test) for detector in alone[:3]])
    majority = combination.majority_vote(labels).ravel()
    assert np.array_equal(majority, (labels.sum(1) >= 2).astype(int))


def fitted_ensembles(quick, X, y):
    yield SUOD(ours(quick), bps_flag=False, verbose=False).fit(X)
    yield LSCP(ours(quick), random_state=0, n_bins=3).fit(X)
    yield FeatureBagging(quick(AutoEncoder), n_estimators=2, random_state=0).fit(X)
    yield XGBOD(ours(quick), random_state=0).fit(X, y)


@pytest.mark.slow
def test_ensembles_of_ours_can_be_pickled(quick, data):
    X_train, X_test, y_train, _ = data
    for ensemble in fitted_ensembles(quick, X_train, y_train):
        twin = pickle.loads(pickle.dumps(ensemble))
        if isinstance(ensemble, LSCP):  # draws at each call from a generator that was copied
            pairs = zip(ensemble.detector_list, twin.detector_list, strict=True)
        else:
            pairs = [(ensemble, twin)]
        for one, other in pairs:
            assert np.array_equal(one.decision_function(X_test), other.decision_function(X_test))


# ---------------------------------------------------------------------------- scikit-learn


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [
        AutoEncoder(epoch_num=2, verbose=0),
        VAE(epoch_num=2, verbose=0),
        AutoEncoderEnsemble(n_estimators=2, epoch_num=2, verbose=0),
    ],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_estimator_check(estimator, check):
    check(estimator)


@EACH
def test_clone_is_unfitted_and_equal(quick, Detector, X):
    detector = quick(Detector, contamination=0.2, random_state=7).fit(X)
    copy = clone(detector)
    assert copy.get_params() == detector.get_params()
    assert not hasattr(copy, "scoring_module_")
    assert not hasattr(copy, "decision_scores_")


@EACH
def test_pipeline(quick, Detector, data):
    X_train, X_test, _, _ = data
    pipeline = make_pipeline(MinMaxScaler(), quick(Detector)).fit(X_train)
    scaler = MinMaxScaler().fit(X_train)
    detector = quick(Detector).fit(scaler.transform(X_train))
    for method in ("decision_function", "predict", "transform", "predict_proba"):
        expected = getattr(detector, method)(scaler.transform(X_test))
        assert np.array_equal(getattr(pipeline, method)(X_test), expected)


@pytest.mark.slow
@EACH
def test_grid_search_in_worker_processes(quick, Detector, data):
    X_train, _, y_train, _ = data
    name = Detector.__name__.lower()
    grid = {f"{name}__epoch_num": [1, 3], f"{name}__score_head": ["euclidean", "mahalanobis"]}
    pipeline = make_pipeline(MinMaxScaler(), quick(Detector))
    search = GridSearchCV(pipeline, grid, scoring="roc_auc", cv=FOLDS, n_jobs=2)
    search.fit(X_train, y_train)
    best = clone(pipeline).set_params(**search.best_params_).fit(X_train)
    assert np.array_equal(search.decision_function(X_train), best.decision_function(X_train))
    assert search.best_score_ > 0.9


@EACH
def test_cross_val_score_gives_each_fold_what_it_gets_alone(quick, Detector, data):
    X_train, _, y_train, _ = data
    detector = quick(Detector)
    got = cross_val_score(detector, X_train, y_train, scoring="roc_auc", cv=FOLDS)
    expected = []
    for train, test in FOLDS.split(X_train, y_train):
        by_itself = clone(detector).fit(X_train[train])
        expected.append(roc_auc_score(y_train[test], by_itself.decision_function(X_train[test])))
    assert np.array_equal(got, expected)


# ------------------------------------------------------------------------- other processes


@pytest.mark.slow
def test_joblib_workers_fit_and_score(quick, data, alone):
    X_train, X_test, _, _ = data
    with joblib.Parallel(n_jobs=2) as parallel:
        fitted = parallel(joblib.delayed(detector.fit)(X_train) for detector in mixed(quick))
        scores = parallel(joblib.delayed(d.decision_function)(X_test) for d in fitted)
    assert_scores_alike(fitted, alone, X_test)
    for got, detector in zip(scores, alone, strict=True):
        assert np.array_equal(got, detector.decision_function(X_test))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
@EACH
def test_a_forked_process_fits_and_scores(quick, Detector, X):
    detector = quick(Detector).fit(X)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        again = pool.apply(quick(Detector).fit, (X,))
        scores = pool.apply(detector.decision_function, (X,))
    assert np.array_equal(again.decision_scores_, detector.decision_scores_)
    assert np.array_equal(scores, detector.decision_scores_)


@pytest.mark.slow
def test_cuda_is_left_alone_until_fit():
    # Asking for devices is enough to spoil CUDA for forked processes.
    code = """
import pickle
import torch

def forbidden(*args):
    raise AssertionError("asked for CUDA")

for name in ("_lazy_init", "init", "is_available", "device_count", "current_device"):
    setattr(torch.cuda, name, forbidden)
torch._C._cuda_getDeviceCount = forbidden

from sklearn.base import clone
from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, create_detector, detector_names

detector_names()
for Detector in (AutoEncoder, VAE, AutoEncoderEnsemble):
    for device in (None, "cuda", "cpu"):
        detector = pickle.loads(pickle.dumps(clone(Detector(device=device))))
        assert detector.device == device
        repr(detector), create_detector(Detector.__name__, device=device)
assert not torch.cuda.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------------- pickles


def pickled_bytes(detector):
    """Size of a pickle without what is there for each row, or for each of 1,000.

    Scores and labels are 8 bytes for a row each; of the features the columns stay, sorted.
    """
    per_row = 16 * len(detector.decision_scores_) + detector.drift_reference_.nbytes
    return len(pickle.dumps(detector)) - per_row


@EACH
def test_pickles_hold_weights_and_no_rows(quick, Detector, X):
    few, many = (quick(Detector).fit(np.tile(X, (copies, 1))) for copies in (4, 40))
    tensors = many.scoring_module_.state_dict().values()
    assert abs(pickled_bytes(many) - pickled_bytes(few)) < 100
    # 4 bytes for a weight, and less than 20 kB for names, parameters and shapes
    assert pickled_bytes(many) < sum(tensor.nbytes for tensor in tensors) + 20_000
    assert len(pickle.dumps(clone(many))) < 2_000


def test_rows_kept_for_partial_fit_stay_out_of_pickles(quick, X):
    detector = quick(AutoEncoder).partial_fit(np.tile(X, (40, 1)))
    fitted = quick(AutoEncoder).fit(X)
    assert abs(pickled_bytes(detector) - pickled_bytes(fitted)) < 1_000
