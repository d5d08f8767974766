"""Autoencoder and VAE outlier detectors for PyOD that are right, fast and strong."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors import VAE, AutoEncoder, AutoEncoderEnsemble
    from pyod_ae_plugin.detectors.saved import load_detector
    from pyod_ae_plugin.engine.options import Corruption, EarlyStopping
    from pyod_ae_plugin.plugins import create_detector, detector_names, hookimpl

__all__ = [
    "VAE",
    "AutoEncoder",
    "AutoEncoderEnsemble",
    "Corruption",
    "EarlyStopping",
    "__version__",
    "create_detector",
    "detector_names",
    "hookimpl",
    "load_detector",
]

__version__ = "0.1.0"

# Submodule of each public name. They are imported on first use: importing torch takes seconds.
_HOMES = {
    "VAE": "detectors",
    "AutoEncoder": "detectors",
    "AutoEncoderEnsemble": "detectors",
    "Corruption": "engine.options",
    "EarlyStopping": "engine.options",
    "load_detector": "detectors.saved",
    "create_detector": "plugins",
    "detector_names": "plugins",
    "hookimpl": "plugins",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
