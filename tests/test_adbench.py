"""Detectors in ADBench's pipeline: by the calls that it makes, and where it is installed by it."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pyod_ae_plugin import create_detector
from pyod_ae_plugin.benchmarking.datasets import Dataset
from pyod_ae_plugin.benchmarking.evaluation import AdBenchProtocol, run
from pyod_ae_plugin.integrations.adbench import adbench_model

PAGE = Path(__file__).parents[1] / "docs" / "adbench.md"
QUICK = {"epoch_num": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def toy():
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(180, 4)), rng.normal(size=(20, 4)) * 4])
    return Dataset("toy", X, np.repeat([0, 1], [180, 20]))


def called_as_adbench_does(model_class, X, y, seed):
    """What ``RunPipeline.model_fit`` of ADBench 0.1.11 calls."""
    model = model_class(seed=seed, model_name="Customized")
    model = model.fit(X_train=X, y_train=y)
    return model, model.predict_score(X)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("AutoEncoder", QUICK),
        ("VAE", QUICK),
        ("AutoEncoderEnsemble", {**QUICK, "n_estimators": 2}),
        ("pyod.IForest", {"n_estimators": 10}),
        ("pyod.DeepSVDD", {"epochs": 2}),  # must know the number of features
        ("pyod.KNN", {}),  # has no random_state
    ],
)
def test_models_score_as_their_detectors_do(toy, name, params):
    Model = adbench_model(name, **params)
    model, scores = called_as_adbench_does(Model, toy.X, np.zeros(200, int), np.int64(2))
    assert scores.shape == (200,)
    assert np.allclose(scores, model.detector_.decision_function(toy.X))
    again = called_as_adbench_does(Model, toy.X, np.zeros(200, int), np.int64(2))[1]
    assert np.allclose(scores, again)


def test_the_seed_becomes_random_state_unless_another_is_given(toy):
    y = np.zeros(200)
    first, second = (
        called_as_adbench_does(adbench_model("VAE", **QUICK), toy.X, y, seed)[1]
        for seed in (np.int64(1), np.int64(2))
    )
    assert not np.array_equal(first, second)
    direct = create_detector("VAE", random_state=2, verbose=0, **QUICK).fit(toy.X)
    assert np.array_equal(second, direct.decision_function(toy.X))
    Fixed = adbench_model("VAE", random_state=2, **QUICK)
    assert np.array_equal(called_as_adbench_does(Fixed, toy.X, y, np.int64(7))[1], second)


@pytest.mark.slow
def test_labels_go_to_those_who_cannot_do_without(toy, recwarn):
    pytest.importorskip("xgboost", reason="needs xgboost, of the extra ensembles")
    Model = adbench_model("pyod.XGBOD", estimator_list=[create_detector("pyod.HBOS")])
    scores = called_as_adbench_does(Model, toy.X, toy.y, np.int64(1))[1]
    assert scores[toy.y == 1].min() > scores[toy.y == 0].max()
    recwarn.clear()
    called_as_adbench_does(adbench_model("pyod.KNN"), toy.X, toy.y, np.int64(1))
    assert not [w for w in recwarn if "y should not be presented" in str(w.message)]


def test_unknown_names_and_keywords_are_refused_at_once():
    with pytest.raises(
        ValueError, match=r"Unknown detector 'AutoEncode'\. Did you mean 'AutoEncoder'"
    ):
        adbench_model("AutoEncode")
    for name in ("AutoEncoder", "pyod.IForest", "pyod.DeepSVDD"):
        with pytest.raises(TypeError, match="epochs_num"):
            adbench_model(name, epochs_num=3)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("adbench") is None, reason="needs ADBench; see docs/adbench.md")
def test_adbench_s_pipeline_gives_the_figures_of_its_protocol(tmp_path, toy):
    np.savez(tmp_path / "toy.npz", X=toy.X, y=toy.y)
    script = re.search(r"^```py\n(.*?)^```", PAGE.read_text(), re.M | re.S)[1]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "toy.npz")],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = re.findall(r"^([123]) (\S+) (\S+) \S+ \S+$", done.stdout, re.M)
    ours = run([toy], ["VAE"], create_detector, AdBenchProtocol(duplicates=True), 3)
    assert [tuple(map(float, figures)) for figures in theirs] == [
        (r.seed, r.roc_auc, r.average_precision) for r in ours
    ]
