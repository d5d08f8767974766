"""What is installed is pinned and its licence listed; nothing here touches the network."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]
# They come with the virtual environment; torch pins its CUDA libraries itself.
NOT_PINNED = {"pip", "pyod-ae-plugin"}


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def installed_by(project):
    return runpy.run_path(str(ROOT / ".ci" / "licences.py"))["installed_by"]


def test_whatever_is_installed_for_development_is_pinned(project, installed_by):
    groups = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(text for group in groups for text in group)]
    installed = installed_by(text for text in wanted if not text.startswith("pyod-ae-plugin"))
    assert {"torch", "jinja2"} <= installed
    if "ruff" not in installed:
        pytest.skip("The extra dev is not installed, so versions need not be those of CI.")
    pinned = {canonicalize_name(pin.name) for pin in PINS}
    cuda = {name for name in installed_by(["torch"]) if name.startswith(("nvidia", "cuda"))}
    assert installed - pinned - cuda == NOT_PINNED & installed


def test_pins_are_exact():
    assert all([spec.operator for spec in pin.specifier] == ["=="] for pin in PINS)


def test_each_dependency_of_users_has_its_licence_listed(project):
    page = (ROOT / "docs" / "licences.md").read_text()
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    listed = {canonicalize_name(name[2:]): licence for name, licence, _ in lines}
    extras = project["optional-dependencies"]
    for group in ("plots", "arrow", "ensembles", "mcp"):
        assert group in extras
    wanted = [*project["dependencies"]]
    for name, group in extras.items():
        if name not in ("test", "dev", "docs", "all"):
            wanted += group
    for text in wanted:
        name = canonicalize_name(Requirement(text).name)
        assert listed.get(name, "UNKNOWN") != "UNKNOWN", (
            f"The licence of {name} is not in docs/licences.md: python .ci/licences.py"
        )


NO_NETWORK = """
import socket, sys

# getaddrinfo before whatever has a name; sendto where nothing is connected
NETWORK = {
    "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
    "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request", "http.client.connect",
}
tried = []

def refuse(event, arguments):
    if event in NETWORK:
        tried.append((event, arguments[1:]))
        raise PermissionError(f"{event} is refused")

sys.addaudithook(refuse)

def refused(attempt):
    try:
        attempt()
    except PermissionError:
        return True
    raise AssertionError("the hook refuses nothing")

# What a socket is asked is refused before it is done.
with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
    assert refused(lambda: tcp.connect(("127.0.0.1", 9)))
    assert refused(lambda: tcp.bind(("127.0.0.1", 0)))
    assert refused(lambda: udp.sendto(b"x", ("127.0.0.1", 9)))
assert refused(lambda: socket.getaddrinfo("localhost", 80))
tried.clear()
"""

WORK = """
import pickle
import numpy as np
import pyod_ae_plugin
from pyod_ae_plugin import AutoEncoder, VAE, AutoEncoderEnsemble, load_detector

X = np.random.default_rng(0).normal(size=(200, 4))
for Detector in (AutoEncoder, VAE, AutoEncoderEnsemble):
    few = {"n_estimators": 2} if Detector is AutoEncoderEnsemble else {}
    detector = Detector(epoch_num=1, verbose=0, device="cpu", held_out_threshold=True, **few)
    detector.fit(X).partial_fit(X)
    detector.fit_batches([X[:90], X[90:]])
    for method in ("decision_function", "predict", "predict_proba", "predict_p_value",
                   "transform", "reconstruct", "explain", "check_drift"):
        getattr(detector, method)(X)
    detector.save("model")
    load_detector("model").decision_function(X)
    pickle.loads(pickle.dumps(detector)).decision_function(X)

np.save("rows.npy", X)
from pyod_ae_plugin.cli import app
for command in (
    ["list"],
    ["fit", "rows.npy", "-o", "model2", "-p", "verbose=0", "-p", "epoch_num=1"],
    ["score", "rows.npy", "--model", "model2", "-o", "scores.csv"],
    ["bench", "--detectors", "pyod.HBOS"],
):
    app(command, standalone_mode=False)
assert not tried, tried
print("nothing was tried")
"""


@pytest.mark.slow
def test_the_network_is_left_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK + WORK], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "nothing was tried"
