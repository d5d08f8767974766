"""From raw rows to anomaly scores: standardisation, residual, score head, in pure torch."""

from pyod_ae_plugin.scoring.heads import Euclidean, ScoreHead
from pyod_ae_plugin.scoring.module import ScoringModule
from pyod_ae_plugin.scoring.standardize import Standardize

__all__ = ["Euclidean", "ScoreHead", "ScoringModule", "Standardize"]
