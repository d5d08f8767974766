"""Scores of the rows of a Ray dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted

from pyod_ae_plugin.integrations.ray.columns import as_array, feature_columns
from pyod_ae_plugin.integrations.ray.extra import ray_module
from pyod_ae_plugin.integrations.ray.transport import for_scoring, from_bytes

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

Array = np.ndarray[Any, Any]

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
    are those of ``detector.decision_function`` on the same kind of device, to the last bit. Like
    all that is done to Ray's datasets it is done when the rows are asked for: by
    :func:`~pyod_ae_plugin.integrations.ray.write_parquet`, ``iter_batches`` and the like. A worker
    that dies is replaced, and what it had not delivered is scored again.

    Parameters
    ----------
    detector : NeuralDetector
        Fitted, and of a class that an installed plugin registers, there as here.
    dataset : ray.data.Dataset
        Its rows, from Parquet, CSV, NumPy or wherever Ray reads from.
    features : sequence of str or None, default=None
        Columns of numbers, or of arrays of them, in the order of the features in fit. None is the
        names that the detector was fitted to, or all columns if it was fitted to none.
    workers : int or None, default=None
        None is as many as the cluster has room for.
    device : {'cpu', 'cuda'}, default='cpu'
        Each worker takes one CPU, or one GPU.
    batch_size : int, default=65536
        Rows that a worker takes at a time. No score depends on it.

    Returns
    -------
    ray.data.Dataset
        The columns that are no features, such as keys, and besides them ``score`` and ``label``
        (1 for outliers). The order is that of the rows.

    Raises
    ------
    ImportError
        Without Ray: ``pip install 'pyod-ae-plugin[ray]'``.
    NotFittedError
        Before fit.
    ValueError
        If the dataset lacks a column, or has one called ``score`` or ``label`` that is no
        feature. When the rows are asked for, if a cell is not a finite number.

    See Also
    --------
    pyod_ae_plugin.integrations.ray.fit_dataset : Fits a detector to such a dataset.
    pyod_ae_plugin.integrations.ray.write_parquet : Writes the scores, in their order.

    Examples
    --------
    >>> import numpy as np, ray.data  # doctest: +SKIP
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
        fn_constructor_args=(for_scoring(detector), names, kept, device),
        compute=data.ActorPoolStrategy(min_size=1, max_size=workers),
        batch_size=batch_size,
        batch_format="numpy",
        num_cpus=0 if on_gpu else 1,
        num_gpus=1 if on_gpu else 0,
    )
    scored.context.execution_options.preserve_order = True
    return scored


class Scorer:
    """A detector on a worker; scores and labels batches of columns."""

    def __init__(
        self, content: bytes, names: Sequence[str], kept: Sequence[str], device: str
    ) -> None:
        self._detector = from_bytes(content, device)
        self._names, self._kept = names, kept

    def __call__(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Columns that are kept, scores and labels."""
        rows = as_array(batch, self._names)
        scores = self._detector.decision_function(rows) if len(rows) else np.empty(0)
        labels = self._detector._labels(scores).astype(np.int64)
        return {**{name: batch[name] for name in self._kept}, SCORE: scores, LABEL: labels}
