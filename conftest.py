"""What has to be settled before any test or doctest is collected."""

import os
from importlib.util import find_spec

# On some processors MKL, which computes torch's matrix products, rounds those with few columns by
# the place of a row in memory, unless it is told not to (docs/numbers.md). It reads this once.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

import pytest
import torch

if not torch.cuda.is_available():
    # Triton decides when it is first imported, and torch may be what imports it.
    os.environ.setdefault("TRITON_INTERPRET", "1")

collect_ignore = [] if find_spec("triton") else ["pyod_ae_plugin/engine/cuda/fused_kernel.py"]


def pytest_collection_modifyitems(items):
    """Take the examples of docstrings, like those of the pages, for slow."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.slow)
