"""Scoring and training on a Ray cluster; Ray is imported by the functions that need it."""

from pyod_ae_plugin.integrations.ray.scorer import score_dataset, write_parquet
from pyod_ae_plugin.integrations.ray.trainer import fit_dataset

__all__ = ["fit_dataset", "score_dataset", "write_parquet"]
