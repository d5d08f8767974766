"""Discovery by entry points, with distributions that pip installs: a template, and a broken one."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pyod_ae_plugin import AutoEncoder, create_detector, detector_names, load_detector
from pyod_ae_plugin.plugins.manager import create_supported, find

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "examples" / "plugin_template"
BROKEN = ROOT / "tests" / "broken_plugins"
TUTORIAL = ROOT / "docs" / "plugins.md"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Run Python where template and broken plugins are installed; return what it prints."""
    site, sources = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("sources")
    built = shutil.ignore_patterns("build", "*.egg-info")
    for source in (TEMPLATE, BROKEN):  # copies, since building leaves files behind
        shutil.copytree(source, sources / source.name, ignore=built)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--target", str(site)]
    subprocess.run([*install, *map(str, sources.iterdir())], check=True)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])

    def python(*arguments, cwd=sources, input=None):
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path},
            cwd=cwd,
            input=input,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return python


@pytest.fixture
def shown(python):
    """Run code behind some imports; return what it shows, by way of JSON."""
    return lambda code: json.loads(python("-c", PREAMBLE + code).splitlines()[-1])


PREAMBLE = """
import json, warnings
import numpy as np
from pyod_ae_plugin import VAE, AutoEncoder, create_detector, detector_names, load_detector
from pyod_ae_plugin.plugins.manager import find
warnings.simplefilter("ignore")
X = np.random.default_rng(0).normal(size=(100, 5))
def show(value): print(json.dumps(value))
"""


# --------------------------------------------------------------------------- the template


@pytest.mark.slow
def test_the_template_s_own_tests_pass(python):
    out = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "plugin_template")
    assert re.search(r"^[5-9] passed", out, re.M), out


@pytest.mark.slow
def test_what_it_registers_works_together_and_with_ours(shown, tmp_path):
    kinds, widths, equal, message = shown(f"""
quick = dict(epoch_num=2, verbose=0, device="cpu")
made = [
    create_detector("TiedAutoEncoder", latent_dim=3, **quick),
    create_detector("AutoEncoder", network="tied", score_head="scaled_l1", **quick),
    create_detector("AutoEncoder", network="tied", score_head="nearest_neighbor", **quick),
    create_detector("VAE", score_head="scaled_l1", latent_dim=2, **quick),
]
kinds, widths, equal = [], [], []
for i, detector in enumerate(made):
    folder = {str(tmp_path)!r} + f"/{{i}}"
    detector.fit(X).save(folder)
    loaded = load_detector(folder)
    kinds.append(type(loaded).__name__)
    widths.append(loaded.transform(X).shape[1])
    equal.append(bool((loaded.decision_function(X) == detector.decision_scores_).all()))
X[3, 1] = np.nan  # such a head might hide it
try:
    made[1].decision_function(X)
except ValueError as error:
    show([kinds, widths, equal, str(error)])
""")
    assert kinds == ["TiedAutoEncoder", "AutoEncoder", "AutoEncoder", "VAE"]
    assert widths == [3, 4, 4, 2]
    assert all(equal)
    assert "contains NaN" in message
    with pytest.raises(ValueError, match="Unknown detector 'TiedAutoEncoder'"):
        load_detector(tmp_path / "0")


def test_the_tutorial_builds_the_template():
    written = re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```', TUTORIAL.read_text(), re.M | re.S)
    files = [*TEMPLATE.glob("*.toml"), *TEMPLATE.glob("*/*.py")]
    assert dict(written) == {str(p.relative_to(TEMPLATE)): p.read_text() for p in files}


@pytest.mark.slow
def test_a_plugin_s_detector_is_benchmarked_by_name(shown):
    results, kind, shape = shown("""
from pyod_ae_plugin.benchmarking.datasets import Dataset
from pyod_ae_plugin.benchmarking.evaluation import AdBenchProtocol, run
from pyod_ae_plugin.integrations.adbench import adbench_model
warnings.simplefilter("ignore")
toy = Dataset("toy", X, np.repeat([0, 1], [90, 10]))
results = list(run([toy], ["TiedAutoEncoder", "pyod.KNN"], create_detector, AdBenchProtocol(), 1))
Model = adbench_model("TiedAutoEncoder", epoch_num=2)
model = Model(seed=np.int64(1)).fit(X_train=X, y_train=toy.y)
show([[[r.detector, r.error] for r in results], type(model.detector_).__name__,
      model.predict_score(X).shape])
""")
    assert results == [["TiedAutoEncoder", ""], ["pyod.KNN", ""]]
    assert (kind, shape) == ("TiedAutoEncoder", [100])


RUN_BLOCKS = """
import re, shlex, sys, warnings
from pyod_ae_plugin.cli import app
warnings.simplefilter("ignore")
namespace = {}
blocks = r"^```(python|console)\\n(.*?)^```"
for kind, block in re.findall(blocks, "".join(sys.stdin), re.M | re.S):
    if kind == "python":
        exec(block, namespace)
    for command in re.findall(r"^\\$ pyod-ae (.*)", block, re.M) if kind == "console" else ():
        print("$", command)
        app(shlex.split(command), standalone_mode=False)
"""


@pytest.mark.slow
def test_examples_run_where_the_template_is_installed(python, tmp_path):
    pages = [TUTORIAL, TEMPLATE / "README.md"]
    text = "\n".join(page.read_text() for page in pages)
    out = python("-c", RUN_BLOCKS, cwd=tmp_path, input=text)
    assert out.count("\nTiedAutoEncoder\n") == len(pages)  # each lists the detectors
    assert "Fitted TiedAutoEncoder to 300 rows of 5 features" in out
    assert "Scored 300 rows" in out


# ------------------------------------------------------------------------- broken plugins


@pytest.mark.slow
def test_broken_plugins_are_warned_about_by_name_and_stop_nothing(shown):
    names, messages, owners = shown("""
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    names = detector_names()
owners = [find("pyod_ae_detectors", "AutoEncoder", "").__module__,
          find("pyod_ae_networks", "conv", "").__module__]
show([names, [str(w.message) for w in caught if w.category.__name__ == "PluginWarning"], owners])
""")
    assert {"AutoEncoder", "VAE", "TiedAutoEncoder", "pyod.IForest"} <= set(names)
    assert any("'broken' cannot be loaded" in m and "broken on purpose" in m for m in messages)
    assert any("'faulty' raises in pyod_ae_detectors" in m for m in messages)
    assert any("'a_greedy_one' provides 'AutoEncoder'" in m and "taken" in m for m in messages)
    assert all(owner.startswith("pyod_ae_plugin.") for owner in owners)


# ------------------------------------------------------------------ the package by itself


def test_the_package_s_own_parts_come_through_the_hooks():
    assert create_detector("AutoEncoder", epoch_num=7).epoch_num == 7
    assert find("pyod_ae_networks", "mlp", "network").__name__ == "mlp"
    assert find("pyod_ae_networks", "conv", "network").__name__ == "conv"
    assert create_detector("pyod.KNN", n_neighbors=3).n_neighbors == 3
    assert detector_names() == sorted(detector_names())


def test_detectors_get_the_parameters_that_they_have():
    forest = create_supported(partial(create_detector, "pyod.IForest"), 3, random_state=7, n_bins=5)
    assert forest.random_state == 7
    assert create_supported(partial(create_detector, "pyod.DeepSVDD"), 3, n_bins=5).n_features == 3


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        ValueError, match=r"Unknown detector 'AutoEncode'.*AutoEncoder, AutoEncoderEnsemble, VAE"
    ):
        create_detector("AutoEncode")


def test_the_metadata_alone_name_the_detector_classes():
    points = importlib.metadata.entry_points(group="pyod.detectors")
    assert points["AutoEncoder"].load() is AutoEncoder
    assert points["VAE"].value == "pyod_ae_plugin.detectors.vae:VAE"


@pytest.mark.slow
def test_importing_the_package_does_not_import_torch():
    code = "import sys, pyod_ae_plugin; print('torch' in sys.modules, pyod_ae_plugin.__version__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("False")
