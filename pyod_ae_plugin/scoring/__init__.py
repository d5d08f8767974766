"""From raw rows to anomaly scores: standardisation, residual, score head, in pure torch."""

from pyod_ae_plugin.scoring.contributions import contributions
from pyod_ae_plugin.scoring.ensemble import CombinedHead
from pyod_ae_plugin.scoring.heads import Euclidean, ScoreHead
from pyod_ae_plugin.scoring.likelihood import (
    Elbo,
    NegativeLogLikelihood,
    ReconstructionProbability,
)
from pyod_ae_plugin.scoring.mahalanobis import JointMahalanobis, Mahalanobis
from pyod_ae_plugin.scoring.module import ScoringModule
from pyod_ae_plugin.scoring.moments import Moments
from pyod_ae_plugin.scoring.neighbors import NearestNeighbor
from pyod_ae_plugin.scoring.standardize import Standardize

__all__ = [
    "CombinedHead",
    "Elbo",
    "Euclidean",
    "JointMahalanobis",
    "Mahalanobis",
    "Moments",
    "NearestNeighbor",
    "NegativeLogLikelihood",
    "ReconstructionProbability",
    "ScoreHead",
    "ScoringModule",
    "Standardize",
    "contributions",
]
