"""Scoring and training on a Ray cluster; Ray is imported by the functions that need it."""

from pyod_ae_plugin.integrations.ray.scoring import score_dataset
from pyod_ae_plugin.integrations.ray.training import fit_dataset
from pyod_ae_plugin.integrations.ray.writing import write_parquet

__all__ = ["fit_dataset", "score_dataset", "write_parquet"]
