"""From raw rows to anomaly scores: standardisation, residual, score head, in pure torch."""

from pyod_ae_plugin.scoring.distances import JointMahalanobis, Mahalanobis, NearestNeighbor
from pyod_ae_plugin.scoring.explain import contributions
from pyod_ae_plugin.scoring.heads import CombinedHead, Euclidean, ScoreHead
from pyod_ae_plugin.scoring.kernel import Kernel
from pyod_ae_plugin.scoring.likelihood import Elbo, NegativeLogLikelihood, ReconstructionProbability
from pyod_ae_plugin.scoring.module import ScoringModule
from pyod_ae_plugin.scoring.standardize import Moments, Standardize

__all__ = [
    "CombinedHead",
    "Elbo",
    "Euclidean",
    "JointMahalanobis",
    "Kernel",
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
