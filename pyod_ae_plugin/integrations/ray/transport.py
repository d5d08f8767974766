"""Detectors as bytes, on their way to workers."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pyod_ae_plugin.persistence import load_detector, save_detector

if TYPE_CHECKING:
    import torch

    from pyod_ae_plugin.detectors.base import NeuralDetector

_FILE = "detector.safetensors"
# Of the training rows, and of no use where other rows are scored.
_LEFT_BEHIND = ("feature_names_in_", "drift_reference_", "held_out_scores_")


def save_to(folder: Path, detector: NeuralDetector) -> None:
    """Save a detector in a folder of other files."""
    save_detector(detector, folder / _FILE)


def load_from(folder: Path, device: str | torch.device | None = None) -> NeuralDetector:
    """Load the detector of such a folder."""
    return load_detector(folder / _FILE, device)


def from_bytes(content: bytes, device: str | None = None) -> NeuralDetector:
    """The detector of the contents of a ``.safetensors`` file."""
    with TemporaryDirectory() as folder:
        (Path(folder) / _FILE).write_bytes(content)
        return load_from(Path(folder), device)


def for_scoring(detector: NeuralDetector) -> bytes:
    """What scores rows: of so many bytes as the scoring module, however many rows were fitted."""
    lean = copy.copy(detector)
    lean.decision_scores_, lean.labels_ = detector.decision_scores_[:1], detector.labels_[:1]
    for name in _LEFT_BEHIND:
        lean.__dict__.pop(name, None)
    with TemporaryDirectory() as folder:
        save_to(Path(folder), lean)
        return (Path(folder) / _FILE).read_bytes()
