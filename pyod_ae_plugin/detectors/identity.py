"""What tells one fit from another."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from sklearn.base import BaseEstimator

from pyod_ae_plugin.engine.rows import Rows

_N_ROWS = 1024
# These change what is shown or where states are kept, and nothing that is trained.
_WITHOUT_EFFECT = ("checkpoint", "verbose")


def identity_of_fit(detector: BaseEstimator, rows: Rows, device: torch.device) -> str:
    """Return a digest of parameters, device and training rows; of many rows, a sample of them."""
    digest = hashlib.sha256()
    params = {k: v for k, v in detector.get_params(deep=False).items() if k not in _WITHOUT_EFFECT}
    described = {name: _described(value) for name, value in params.items()}
    sample = rows[:: -(-len(rows) // _N_ROWS)].contiguous()
    for part in (type(detector).__qualname__, described, device.type, tuple(rows.shape)):
        digest.update(repr(part).encode())
    digest.update(repr(sample.dtype).encode())
    digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def _described(value: Any) -> str:
    """A value by what is the same in another process: of a function, its name."""
    return str(getattr(value, "__qualname__", None) or repr(value))
