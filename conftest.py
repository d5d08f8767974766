"""What has to be settled before any test or doctest is collected."""

import os
from importlib.util import find_spec

import torch

if not torch.cuda.is_available():
    # Triton decides when it is first imported, and torch may be what imports it.
    os.environ.setdefault("TRITON_INTERPRET", "1")

collect_ignore = [] if find_spec("triton") else ["pyod_ae_plugin/engine/cuda/fused_kernel.py"]
