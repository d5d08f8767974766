"""Rows of a Ray dataset to files, in their order."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pyod_ae_plugin.integrations.ray.extra import ray_module


def write_parquet(dataset: Any, folder: str) -> None:
    """Write a Ray dataset to a folder of Parquet files, in the order of its rows.

    The rows stand in the files in the order of the files' names. Ray's own
    ``Dataset.write_parquet`` writes each file by several threads, which may change the order of the
    blocks in it [1]_.

    Parameters
    ----------
    dataset : ray.data.Dataset
        What :func:`~pyod_ae_plugin.integrations.ray.score_dataset` returned, or any that keeps the
        order (``execution_options.preserve_order``).
    folder : str
        Path or URI that all workers reach. If the run fails, it may hold some of the files.

    Raises
    ------
    ImportError
        Without Ray: ``pip install 'pyod-ae-plugin[ray]'``.
    ValueError
        If the folder is there already.

    See Also
    --------
    pyod_ae_plugin.integrations.ray.score_dataset : Scores a dataset.

    References
    ----------
    .. [1] https://github.com/apache/arrow/issues/26818

    Examples
    --------
    >>> import ray.data  # doctest: +SKIP
    >>> from pyod_ae_plugin import load_detector
    >>> from pyod_ae_plugin.integrations.ray import score_dataset, write_parquet
    >>> rows = ray.data.read_parquet("s3://bucket/rows/")  # doctest: +SKIP
    >>> scored = score_dataset(load_detector("model"), rows)  # doctest: +SKIP
    >>> write_parquet(scored, "s3://bucket/scores/")  # doctest: +SKIP
    """
    ray_module("ray.data")
    datasink = import_module("pyod_ae_plugin.integrations.ray.datasink")
    dataset.write_datasink(datasink.ParquetInOrder(folder))
