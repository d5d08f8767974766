"""The plugin of this package itself: it uses the same hooks as any other plugin."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pyod_ae_plugin.plugins.hookspecs import hookimpl
from pyod_ae_plugin.plugins.manager import check_keywords

if TYPE_CHECKING:
    from pyod.models.base import BaseDetector

    from pyod_ae_plugin.scoring import ScoreHead


@hookimpl
def pyod_ae_detectors() -> dict[str, Callable[..., BaseDetector]]:
    """Return our detectors, and PyOD's detectors for tabular data as ``pyod.<Class>``."""
    from pyod_ae_plugin.detectors import VAE, AutoEncoder, AutoEncoderEnsemble

    ours = (AutoEncoder, AutoEncoderEnsemble, VAE)
    return {**{detector.__name__: detector for detector in ours}, **_pyod_detectors()}


@hookimpl
def pyod_ae_networks() -> dict[str, Callable[..., Any]]:
    """Return the fully connected and the convolutional networks."""
    from pyod_ae_plugin import networks

    factories = (networks.mlp, networks.variational_mlp, networks.conv, networks.variational_conv)
    return {factory.__name__: factory for factory in factories}


@hookimpl
def pyod_ae_score_heads() -> dict[str, Callable[..., ScoreHead]]:
    """Return the score heads."""
    from pyod_ae_plugin import scoring

    return {
        "euclidean": scoring.Euclidean,
        "mahalanobis": scoring.Mahalanobis,
        "joint_mahalanobis": scoring.JointMahalanobis,
        "nearest_neighbor": scoring.NearestNeighbor,
        "kernel": scoring.Kernel,
        "nll": scoring.NegativeLogLikelihood,
        "reconstruction_probability": scoring.ReconstructionProbability,
        "elbo": scoring.Elbo,
    }


@cache
def _pyod_detectors() -> dict[str, Callable[..., BaseDetector]]:
    """List PyOD's tabular detectors from its knowledge base; each is imported when created."""
    from pyod.utils.knowledge import KnowledgeBase

    return {
        f"pyod.{name}": partial(_create, facts["class_path"])
        for name, facts in KnowledgeBase().algorithms.items()
        if "tabular" in facts["data_types"] and facts["status"] == "shipped"
    }


def _create(class_path: str, **params: Any) -> BaseDetector:
    """Create a detector of PyOD; an ImportError names the extra to install."""
    module, _, name = class_path.rpartition(".")
    if name == "LSCP" and "detector_list" not in params:  # required; those of PyOD's comparison
        from pyod.models.lof import LOF

        params["detector_list"] = [LOF(n_neighbors=n) for n in range(5, 55, 5)]
    try:
        Detector = getattr(importlib.import_module(module), name)
        check_keywords(f"pyod.{name}", Detector, params)
        detector: BaseDetector = Detector(**params)
    except ImportError as error:
        raise ImportError(
            f"pyod.{name} needs a package that is not installed ({error}): "
            "pip install 'pyod-ae-plugin[ensembles]'."
        ) from error
    return detector
