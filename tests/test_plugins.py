"""Discovery by entry points, with a real second distribution that pip installs."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyod_ae_plugin import AutoEncoder, create_detector, detector_names, load_detector
from pyod_ae_plugin.plugins.manager import find

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def with_plugin(tmp_path_factory):
    """Run Python code where the example plugin is installed; return what it prints as JSON."""
    site = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    source = tmp_path_factory.mktemp("source") / "plugin_package"
    # a copy, since building leaves files behind
    subprocess.run(["cp", "-r", str(HERE / "plugin_package"), str(source)], check=True)
    subprocess.run(
        [*install, "--no-build-isolation", "--target", str(site), str(source)], check=True
    )

    def run(code):
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-c", PREAMBLE + code],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


PREAMBLE = """
import json, warnings
import numpy as np
from pyod_ae_plugin import AutoEncoder, create_detector, detector_names, load_detector
X = np.random.default_rng(0).normal(size=(100, 5))
def show(value): print(json.dumps(value))
"""


def test_a_second_distribution_adds_detectors_networks_and_score_heads(with_plugin):
    shown = with_plugin("""
detector = create_detector("Tiny", network="linear", score_head="scaled_l1",
                           epoch_num=2, verbose=0, device="cpu").fit(X)
residual = (detector.reconstruct(X) - X) / X.std(0)
expected = (np.abs(residual) / np.abs(residual).mean(0)).mean(1)
show(["Tiny" in detector_names(), detector.transform(X).shape[1],
      bool(np.allclose(detector.decision_scores_, expected, rtol=1e-3))])
""")
    assert shown == [True, 2, True]


def test_what_a_plugin_registers_is_saved_and_loaded_by_name(with_plugin, tmp_path):
    shown = with_plugin(f"""
detector = create_detector("Tiny", network="linear", score_head="scaled_l1",
                           epoch_num=2, verbose=0, device="cpu").fit(X)
detector.save({str(tmp_path / "model")!r})
loaded = load_detector({str(tmp_path / "model")!r})
show([type(loaded).__name__,
      bool((loaded.decision_function(X) == detector.decision_function(X)).all())])
""")
    assert shown == ["Tiny", True]
    with pytest.raises(ValueError, match="Unknown detector 'Tiny'"):
        load_detector(tmp_path / "model")


def test_a_plugin_s_detector_is_benchmarked_by_name(with_plugin):
    shown = with_plugin("""
from pyod_ae_plugin.benchmarking.datasets import Dataset
from pyod_ae_plugin.benchmarking.evaluation import run
from pyod_ae_plugin.benchmarking.protocols import AdBenchProtocol
from pyod_ae_plugin.integrations.adbench import adbench_model
warnings.simplefilter("ignore")
toy = Dataset("toy", X, np.repeat([0, 1], [90, 10]))
results = list(run([toy], ["Tiny", "pyod.KNN"], create_detector, AdBenchProtocol(), 1))
model = adbench_model("Tiny", epoch_num=2)(seed=np.int64(1)).fit(X_train=X, y_train=toy.y)
show([[[r.detector, r.error] for r in results], type(model.detector_).__name__,
      model.predict_score(X).shape])
""")
    assert shown == [[["Tiny", ""], ["pyod.KNN", ""]], "Tiny", [100]]


def test_broken_plugins_are_warned_about_by_name_and_stop_nothing(with_plugin):
    names, messages = with_plugin("""
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    names = detector_names()
show([names, [str(w.message) for w in caught if w.category.__name__ == "PluginWarning"]])
""")
    assert {"AutoEncoder", "VAE", "Tiny", "pyod.IForest"} <= set(names)
    assert any("'broken' cannot be loaded" in m and "broken on purpose" in m for m in messages)
    assert any("'faulty' raises in pyod_ae_detectors" in m for m in messages)
    assert any("'example' provides 'AutoEncoder'" in m and "taken" in m for m in messages)


def test_nobody_takes_a_built_in_name(with_plugin):
    shown = with_plugin("""
warnings.simplefilter("ignore")
show(type(create_detector("AutoEncoder")) is AutoEncoder)
""")
    assert shown is True


def test_a_plugin_s_head_that_hides_nan_does_not_hide_it_from_the_check(with_plugin):
    shown = with_plugin("""
warnings.simplefilter("ignore")
detector = AutoEncoder(score_head="scaled_l1", epoch_num=1, verbose=0, device="cpu").fit(X)
X[3, 1] = np.nan
try:
    detector.decision_function(X)
except ValueError as error:
    show("NaN" in str(error))
""")
    assert shown is True


def test_the_package_s_own_parts_come_through_the_hooks():
    assert create_detector("AutoEncoder", epoch_num=7).epoch_num == 7
    assert find("pyod_ae_networks", "mlp", "network").__name__ == "mlp"
    assert create_detector("pyod.KNN", n_neighbors=3).n_neighbors == 3
    assert detector_names() == sorted(detector_names())


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        ValueError, match=r"Unknown detector 'AutoEncode'.*AutoEncoder, AutoEncoderEnsemble, VAE"
    ):
        create_detector("AutoEncode")


def test_the_metadata_alone_name_the_detector_classes():
    points = importlib.metadata.entry_points(group="pyod.detectors")
    assert points["AutoEncoder"].load() is AutoEncoder
    assert points["VAE"].value == "pyod_ae_plugin.detectors.vae:VAE"


def test_importing_the_package_does_not_import_torch():
    code = "import sys, pyod_ae_plugin; print('torch' in sys.modules, pyod_ae_plugin.__version__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("False")
