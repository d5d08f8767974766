"""What this package provides, through the same hooks as anybody else."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pyod_ae_plugin.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from pyod.models.base import BaseDetector

    from pyod_ae_plugin.scoring import ScoreHead


@hookimpl
def pyod_ae_detectors() -> dict[str, Callable[..., BaseDetector]]:
    """Return our detectors, and as ``pyod.<Class>`` PyOD's own for tabular data."""
    from pyod_ae_plugin.detectors import VAE, AutoEncoder, AutoEncoderEnsemble

    ours = (AutoEncoder, AutoEncoderEnsemble, VAE)
    return {**{detector.__name__: detector for detector in ours}, **_pyod_detectors()}


@hookimpl
def pyod_ae_networks() -> dict[str, Callable[..., Any]]:
    """Return the fully connected networks."""
    from pyod_ae_plugin.networks import mlp, variational_mlp

    return {"mlp": mlp, "variational_mlp": variational_mlp}


@hookimpl
def pyod_ae_score_heads() -> dict[str, Callable[..., ScoreHead]]:
    """Return the score heads."""
    from pyod_ae_plugin import scoring

    return {
        "euclidean": scoring.Euclidean,
        "mahalanobis": scoring.Mahalanobis,
        "joint_mahalanobis": scoring.JointMahalanobis,
        "nearest_neighbor": scoring.NearestNeighbor,
        "nll": scoring.NegativeLogLikelihood,
        "reconstruction_probability": scoring.ReconstructionProbability,
        "elbo": scoring.Elbo,
    }


@cache
def _pyod_detectors() -> dict[str, Callable[..., BaseDetector]]:
    """PyOD's shipped tabular detectors, by its own list of them; imported when created."""
    from pyod.utils.knowledge import KnowledgeBase

    return {
        f"pyod.{name}": partial(_create, facts["class_path"])
        for name, facts in KnowledgeBase().algorithms.items()
        if "tabular" in facts["data_types"] and facts["status"] == "shipped"
    }


def _create(class_path: str, **params: Any) -> BaseDetector:
    module, _, name = class_path.rpartition(".")
    if name == "LSCP" and "detector_list" not in params:
        params["detector_list"] = _lscp_members()
    try:
        detector: BaseDetector = getattr(importlib.import_module(module), name)(**params)
    except ImportError as error:
        raise ImportError(
            f"pyod.{name} needs a package that is not installed ({error}): "
            "pip install 'pyod-ae-plugin[ensembles]'."
        ) from error
    return detector


def _lscp_members() -> list[BaseDetector]:
    """Detectors for LSCP to select from: it has no default, and these are PyOD's comparison's."""
    from pyod.models.lof import LOF

    return [LOF(n_neighbors=n_neighbors) for n_neighbors in range(5, 55, 5)]
