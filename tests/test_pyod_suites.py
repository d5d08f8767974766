"""PyOD's detectors in our benchmark, and ours in the loops of PyOD's benchmarks."""

import sys
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from pyod.models.base import BaseDetector
from pyod.models.hbos import HBOS
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.lof import LOF
from pyod.models.lscp import LSCP
from pyod.utils.utility import precision_n_scores, standardizer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, create_detector, detector_names
from pyod_ae_plugin.benchmarking.datasets import Dataset
from pyod_ae_plugin.benchmarking.evaluation import OutlierProtocol, run
from pyod_ae_plugin.plugins.manager import create_supported

PYODS = [name for name in detector_names() if name.startswith("pyod.")]
NEEDS = {"FeatureBagging": "combo", "SUOD": "suod", "XGBOD": "xgboost"}  # extra ensembles
QUICK = ("CBLOF", "COPOD", "ECOD", "GMM", "IForest", "KDE", "KNN", "LODA", "LOF", "LSCP", "MCD")
FRACTION = 0.1


@pytest.fixture(scope="module")
def labelled():
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(180, 2)), rng.uniform(-6, 6, size=(20, 2))])
    return X, np.repeat([0, 1], [180, 20])


def test_the_list_is_pyods():
    assert len(PYODS) > 40
    assert {f"pyod.{name}" for name in (*QUICK, *NEEDS, "DeepSVDD", "SO_GAAL")} <= set(PYODS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PYODS)
def test_every_tabular_detector_of_pyod_is_created_by_name(name):
    needed = NEEDS.get(name.removeprefix("pyod."))
    if needed and find_spec(needed) is None:
        pytest.skip(f"needs {needed}, of the extra ensembles")
    detector = create_supported(partial(create_detector, name), 5, random_state=3, verbose=0)
    assert isinstance(detector, BaseDetector)
    assert type(detector).__name__ == name.removeprefix("pyod.")
    seed = getattr(detector, "random_state", 3)
    # PyOD 3.6.0 makes a RandomState of it in some detectors
    assert seed == 3 or seed.get_state()[1][0] == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_detectors_of_pyod_are_benchmarked_by_name(labelled):
    names = [f"pyod.{name}" for name in QUICK]
    results = list(run([Dataset("s", *labelled)], names, create_detector, OutlierProtocol(), 1))
    assert [r.detector for r in results] == names
    assert [r.error for r in results] == [""] * len(names)
    assert all(r.roc_auc > 0.7 for r in results)


def test_lscp_selects_among_detectors_of_one_s_own():
    own = [LOF(n_neighbors=3), LOF(n_neighbors=4)]
    assert create_detector("pyod.LSCP", detector_list=own).detector_list is own


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "pyod.models.xgbod", raising=False)
    for module in ("xgboost", "xgboost.sklearn"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pyod\.XGBOD needs .*pyod-ae-plugin\[ensembles\]"):
        create_detector("pyod.XGBOD")


def classifiers(random_state):
    """Such a dict as PyOD's comparisons loop over, ours and its own side by side."""
    short = {"epoch_num": 5, "verbose": 0, "device": "cpu"}
    return {
        "Isolation Forest": IForest(contamination=FRACTION, random_state=random_state),
        "K Nearest Neighbors (KNN)": KNN(contamination=FRACTION),
        "Histogram-base Outlier Detection (HBOS)": HBOS(contamination=FRACTION),
        "Locally Selective Combination (LSCP)": LSCP(
            [LOF(n_neighbors=15), AutoEncoder(**short)],
            contamination=FRACTION,
            random_state=random_state,
        ),
        "AutoEncoder": AutoEncoder(contamination=FRACTION, random_state=random_state, **short),
        "AutoEncoderEnsemble": AutoEncoderEnsemble(
            contamination=FRACTION, random_state=random_state, n_estimators=2, **short
        ),
        "VAE": VAE(contamination=FRACTION, random_state=random_state, **short),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_loop_of_pyod_s_benchmark_script(labelled):
    X, y = labelled
    random_state = np.random.RandomState(0)
    X_train, X_test, _, y_test = train_test_split(X, y, test_size=0.4, random_state=random_state)
    X_train, X_test = standardizer(X_train, X_test)
    for name, clf in classifiers(random_state).items():
        clf.fit(X_train)
        scores = clf.decision_function(X_test)
        assert roc_auc_score(y_test, scores) > 0.7, name
        assert 0 < precision_n_scores(y_test, scores) <= 1, name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_loop_of_pyod_s_comparison_of_all_models(labelled):
    X, truth = labelled
    xx, yy = np.meshgrid(np.linspace(-7, 7, 20), np.linspace(-7, 7, 20))
    for name, clf in classifiers(np.random.RandomState(42)).items():
        clf.fit(X)
        predicted = clf.predict(X)
        assert abs(clf.labels_.sum() - FRACTION * len(X)) <= 1, name  # HBOS has ties
        assert (predicted != truth).sum() < 0.15 * len(X), name
        threshold = np.percentile(-clf.decision_function(X), 100 * FRACTION)
        levels = -clf.decision_function(np.c_[xx.ravel(), yy.ravel()]).reshape(xx.shape)
        assert levels.min() < threshold < levels.max(), name  # what its contours are drawn from
