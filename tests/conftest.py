"""Detectors and data that several test files use.

What takes seconds to import is imported where it is used: the process that shares tests out to
others reads this file too.
"""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

# A distribution that cannot be imported on purpose, and a script beside the data that it writes.
collect_ignore = ["broken_plugins", "data"]

# The same examples at each run; to look for new ones: pytest --hypothesis-profile=hunt
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("hunt", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("repeatable")

# A cluster takes a while to start and two processors: such files are run by one process each.
IN_ONE_PROCESS = ("tests/test_ray.py",)

ADBENCH = Path(__file__).parents[2] / "shared" / "data" / "adbench"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Share tests out as by default, but for these files, which the first process gets.

    Marks of groups (``xdist_group``) would say the same, but pytest 9.2 and xdist 3.8 ignore them.
    """
    from xdist.scheduler import LoadScheduling

    class Scheduling(LoadScheduling):
        def _send_tests(self, node, num):
            def is_apart(i):
                return not self.collection[i].startswith(IN_ONE_PROCESS)

            self.pending.sort(key=is_apart)
            n_together = len(self.pending) - sum(map(is_apart, self.pending))
            # A process runs a test when it knows the next one.
            super()._send_tests(node, n_together + 2 if n_together else num)

    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch sees none"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_worker():
    """Tests run in parallel; the workers shall not fight over the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data():
    """Contaminated training rows and test rows: X_train, X_test, y_train, y_test."""
    from pyod.utils.data import generate_data

    return generate_data(n_train=600, n_test=200, n_features=8, contamination=0.1, random_state=0)


@pytest.fixture(scope="session")
def quick(pytestconfig):
    """Make a detector that is quick to fit; further keywords are its parameters."""
    from pyod_ae_plugin import AutoEncoder, AutoEncoderEnsemble

    device = pytestconfig.getoption("--device")

    def quick(Detector=AutoEncoder, **params):
        few = {"n_estimators": 2} if Detector is AutoEncoderEnsemble else {}
        return Detector(**{"epoch_num": 3, "verbose": 0, "device": device, **few, **params})

    return quick


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``pyod-ae`` in this process; return exit status, stdout and stderr."""
    from pyod_ae_plugin import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pyod-ae", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as exit:
            status = exit.code or 0
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def X():
    import numpy as np

    return np.random.default_rng(0).normal(size=(300, 6))


@pytest.fixture
def small_batches(monkeypatch):
    """Read tables in batches of 100 rows."""
    from pyod_ae_plugin.tables import reading

    monkeypatch.setattr(reading, "BATCH_ROWS", 100)


@pytest.fixture
def without_pyarrow(monkeypatch):
    """Read CSV files as where pyarrow is not installed."""
    from pyod_ae_plugin.tables import reading

    monkeypatch.setattr(reading, "find_spec", lambda name: None)


@pytest.fixture(params=["with pyarrow", "without"])
def either_reader(request):
    """Read CSV files by pyarrow, and by Python."""
    if request.param == "without":
        request.getfixturevalue("without_pyarrow")
    else:
        pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra arrow")


@pytest.fixture(scope="session")
def adbench():
    """The folder with ADBench's data sets."""
    if not ADBENCH.is_dir():
        pytest.skip("ADBench's data sets are not beside this checkout")
    return ADBENCH


@pytest.fixture
def set_threads():
    """A function that sets the number of torch's threads until the test ends."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(set_threads):
    set_threads(2)
