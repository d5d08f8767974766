"""What has to be settled before any test or doctest is collected."""

import os
from importlib.util import find_spec

# On some processors MKL, which computes torch's matrix products, rounds those with few columns by
# the place of a row in memory, unless it is told not to (docs/numbers.md). It reads this once.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

import pytest

collect_ignore = [] if find_spec("triton") else ["pyod_ae_plugin/engine/cuda/fused_kernel.py"]


def pytest_addoption(parser):
    """Take the device that detectors of the fixture ``quick`` fit and score on."""
    parser.addoption("--device", default="cpu", help="of the detectors of most tests: cpu or cuda")


def pytest_collection():
    """Interpret Triton's kernels where there is no GPU.

    Triton decides when it is first imported, and torch may be what imports it. It happens here, and
    not in every process that reads this file: one that only shares tests out needs no torch.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    """Take the examples of docstrings, like those of the pages, for slow."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.slow)
