"""Scores of the rows of a Ray dataset, and files of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted

from pyod_ae_plugin.detectors.base import fitted_of
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.integrations.ray.cluster import (
    as_array,
    feature_columns,
    from_bytes,
    ray_module,
    to_bytes,
)

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

SCORE, LABEL = "score", "label"


def score_dataset(
    detector: NeuralDetector,
    dataset: Any,
    features: Sequence[str] | None = None,
    *,
    workers: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    batch_size: int = 2**16,
) -> Any:
    """Score and label each row of a Ray dataset, on the workers of a cluster.

    Each worker loads the detector once, from the contents of a ``.safetensors`` file. The scores
    are those of ``detector.decision_function`` on the same kind of device, to the last bit. As with
    all operations on Ray's datasets, rows are scored when they are asked for: by
    :func:`~pyod_ae_plugin.integrations.ray.write_parquet`, ``iter_batches`` and the like. If a
    worker dies, another takes its place and scores again what was not delivered.

    Parameters
    ----------
    detector : NeuralDetector
        Fitted, and of a class that a plugin registers on the workers, too.
    dataset : ray.data.Dataset
        The rows, from Parquet, CSV, NumPy or wherever Ray reads from.
    features : sequence of str or None, default=None
        Columns of numbers, or of arrays of them, in the order of the features in fit. Default: the
        names that the detector was fitted to, or all columns if it was fitted to none.
    workers : int or None, default=None
        Number of workers. Default: as many as the cluster has room for.
    device : {'cpu', 'cuda'}, default='cpu'
        Each worker takes one CPU, or one GPU.
    batch_size : int, default=65536
        Rows that a worker takes at a time. Scores do not depend on it.

    Returns
    -------
    ray.data.Dataset
        The columns that are not features, such as keys, then ``score`` and ``label`` (1 for
        outliers), in the order of the rows.

    Raises
    ------
    ImportError
        Without Ray: ``pip install 'pyod-ae-plugin[ray]'``.
    NotFittedError
        Before fit.
    ValueError
        If the dataset lacks a column, or has one called ``score`` or ``label`` that is not a
        feature.
        When the rows are asked for, if a cell is not a finite number.

    See Also
    --------
    pyod_ae_plugin.integrations.ray.fit_dataset : Fits a detector to such a dataset.

    Examples
    --------
    >>> import ray.data  # doctest: +SKIP
    >>> from pyod_ae_plugin import load_detector
    >>> from pyod_ae_plugin.integrations.ray import score_dataset, write_parquet
    >>> rows = ray.data.read_parquet("s3://bucket/rows/")  # doctest: +SKIP
    >>> scored = score_dataset(load_detector("model"), rows)  # doctest: +SKIP
    >>> write_parquet(scored, "s3://bucket/scores/")  # doctest: +SKIP
    """
    data = ray_module("ray.data")
    check_is_fitted(detector, "scoring_module_")
    columns = dataset.columns()
    names = feature_columns(detector, columns, features)
    kept = [name for name in columns if name not in names]
    for name in {SCORE, LABEL} & {*kept}:
        raise ValueError(f"The dataset has a column {name!r} already; rename or drop it.")
    on_gpu = device == "cuda"
    scored = dataset.map_batches(
        Scorer,
        fn_constructor_args=(to_bytes(detector), names, kept, device),
        compute=data.ActorPoolStrategy(min_size=1, max_size=workers),
        batch_size=batch_size,
        batch_format="numpy",
        num_cpus=0 if on_gpu else 1,
        num_gpus=1 if on_gpu else 0,
    )
    scored.context.execution_options.preserve_order = True
    return scored


class Scorer:
    """A detector on a worker, which scores and labels batches of columns."""

    def __init__(
        self, content: bytes, names: Sequence[str], kept: Sequence[str], device: str
    ) -> None:
        self._detector = from_bytes(content, device)
        self._names, self._kept = names, kept

    def __call__(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """The columns that are kept, scores and labels."""
        rows = as_array(batch, self._names)
        scores = self._detector.decision_function(rows) if len(rows) else np.empty(0)
        labels = fitted_of(self._detector).labels_of(scores).astype(np.int64)
        return {**{name: batch[name] for name in self._kept}, SCORE: scores, LABEL: labels}


def write_parquet(dataset: Any, folder: str) -> None:
    """Write a Ray dataset to a folder of Parquet files, in the order of its rows.

    The order of the rows is that of the files' names. Ray's own ``Dataset.write_parquet`` writes
    each file by several threads, which may change the order of the blocks in it [1]_.

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
    Datasink: Any = ray_module("ray.data.datasource").BlockBasedFileDatasink
    from pyarrow import parquet  # Ray brings it

    class ParquetInOrder(Datasink):  # type: ignore[misc]
        """A folder of Parquet files, one of each task, their names in the order of the tasks."""

        def write_block_to_file(self, block: Any, file: Any) -> None:
            # By one thread: several, as in Ray's own write_parquet, do not keep the order.
            parquet.write_table(block.to_arrow(), file)

    mode = ray_module("ray.data").SaveMode.ERROR
    dataset.write_datasink(ParquetInOrder(folder, file_format="parquet", mode=mode))
