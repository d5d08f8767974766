"""Shared by all that runs on Ray: Ray itself, columns of datasets, detectors as bytes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from pyod_ae_plugin import load_detector
from pyod_ae_plugin.detectors.base import adopt, fitted_of
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.sources import some_of

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

MODEL_FILE = "detector.safetensors"


def ray_module(name: str = "ray") -> Any:
    """Return a module of Ray, or say which extra installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError("Ray is needed: pip install 'pyod-ae-plugin[ray]'.") from error


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or to one on this machine, unless there is a connection already."""
    ray = ray_module()
    if ray.is_initialized():
        yield
        return
    ray.init(address=address)
    try:
        yield
    finally:
        ray.shutdown()


def feature_columns(
    detector: NeuralDetector | None, columns: Sequence[str], asked: Sequence[str] | None
) -> list[str]:
    """The columns asked for, else those that the detector was fitted to, else all.

    A column that the dataset lacks raises ValueError.
    """
    fitted_to = getattr(detector, "feature_names_in_", None)
    names = list(columns if fitted_to is None else fitted_to) if asked is None else list(asked)
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(
            f"The dataset has no column {missing[0]!r}; there are {some_of(columns)}. Name the "
            "columns of the features by features=[...], in the order of fit."
        )
    return names


def as_array(batch: Mapping[str, Array], names: Sequence[str]) -> Array:
    """Join columns of numbers, or of arrays of numbers; any other column raises TypeError."""
    for name in names:
        if batch[name].dtype.kind not in "biuf":
            raise TypeError(
                f"Column {name!r} holds {batch[name].dtype}, not numbers. Name the columns of the "
                "features by features=[...]."
            )
    return np.column_stack([batch[name] for name in names])


def to_bytes(detector: NeuralDetector) -> bytes:
    """Contents of a ``.safetensors`` file that scores rows and holds nothing of training rows."""
    fitted = fitted_of(detector)
    lean = copy.copy(detector)
    adopt(
        lean,
        replace(
            fitted,
            decision_scores=fitted.decision_scores[:1],
            labels=fitted.labels[:1],
            drift_reference=fitted.drift_reference[:1] * 0,
            feature_names_in=None,
            held_out_scores=None,
        ),
    )
    with TemporaryDirectory() as folder:
        lean.save(Path(folder) / MODEL_FILE)
        return (Path(folder) / MODEL_FILE).read_bytes()


def from_bytes(content: bytes, device: str | None = None) -> NeuralDetector:
    """The detector in the contents of a ``.safetensors`` file."""
    with TemporaryDirectory() as folder:
        (Path(folder) / MODEL_FILE).write_bytes(content)
        return load_detector(Path(folder) / MODEL_FILE, device)
