"""Detectors fitted to the rows of a Ray dataset, by several workers together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sklearn.base import clone

from pyod_ae_plugin import load_detector
from pyod_ae_plugin.detectors.base import adopt, check_params, fitted_of
from pyod_ae_plugin.detectors.parameters import seed_of
from pyod_ae_plugin.detectors.saved import described_params
from pyod_ae_plugin.integrations.ray.cluster import MODEL_FILE, feature_columns, ray_module
from pyod_ae_plugin.integrations.ray.worker import fit_shard, raise_error

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

Detector = TypeVar("Detector", bound="NeuralDetector")


def fit_dataset(
    detector: Detector,
    dataset: Any,
    features: Sequence[str] | None = None,
    *,
    workers: int = 2,
    spread: Literal["rows", "members"] = "rows",
    device: Literal["cpu", "cuda"] = "cpu",
    storage: str | None = None,
    checkpoint_every: int = 10,
    max_failures: int = 3,
) -> Detector:
    """Fit a detector to the rows of a Ray dataset, by several workers together.

    Each worker holds a contiguous share of the rows and a copy of the network. Mean and standard
    deviation are those of all rows [1]_. In each step a worker takes its share of the batch, and
    after every 16 steps the weights are averaged [2]_. One worker gives the detector of ``fit``, to
    the last bit. More give another of the same kind: each worker shuffles its own rows, and trims
    the worst rows of its share of a batch, not of the whole batch.

    Parameters
    ----------
    detector : NeuralDetector
        Of a class that a plugin registers on the workers, too. Its ``device`` is where it scores
        afterwards; its ``checkpoint`` is not used.
    dataset : ray.data.Dataset
        The rows, whose order must mean nothing. They are brought into Ray's object store, and each
        worker's share into its memory.
    features : sequence of str or None, default=None
        Columns of numbers, or of arrays of them. Default: all columns.
    workers : int, default=2
        Number of workers.
    spread : {'rows', 'members'}, default='rows'
        What the workers share out: rows, as above, or the members of an
        :class:`~pyod_ae_plugin.AutoEncoderEnsemble`, each of which then learns from the rows of its
        worker alone. With members the workers talk only before and after training, and
        ``on_divergence='restart'`` has no effect.
    device : {'cpu', 'cuda'}, default='cpu'
        Each worker takes one CPU and talks by gloo, or one GPU and talks by nccl.
    storage : str or None, default=None
        Folder or URI for checkpoints that all workers reach. Default: a temporary folder, for
        workers on this machine.
    checkpoint_every : int, default=10
        Epochs between two checkpoints.
    max_failures : int, default=3
        Number of times that training resumes from the last checkpoint after a worker died.

    Returns
    -------
    NeuralDetector
        The detector that was passed, fitted. ``decision_scores_`` and ``labels_`` are those of all
        rows, in order, and ``threshold_`` is exact.

    Raises
    ------
    ImportError
        Without Ray: ``pip install 'pyod-ae-plugin[ray]'``.
    ValueError, TypeError
        If a parameter cannot be used, there are fewer than two rows for each worker, the dataset
        lacks a column, or (from the workers) a cell is not a finite number.
    FloatingPointError
        If training diverges.
    ray.train.TrainingFailedError
        If workers fail more than ``max_failures`` times.

    References
    ----------
    .. [1] Chan, T. F., Golub, G. H., & LeVeque, R. J. (1983). Algorithms for Computing the Sample
           Variance: Analysis and Recommendations. The American Statistician 37(3).
    .. [2] Stich, S. U. (2019). Local SGD Converges Fast and Communicates Little. ICLR.

    Examples
    --------
    >>> import ray.data  # doctest: +SKIP
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.integrations.ray import fit_dataset
    >>> rows = ray.data.read_parquet("s3://bucket/rows/")  # doctest: +SKIP
    >>> detector = fit_dataset(AutoEncoder(), rows, workers=8)  # doctest: +SKIP
    >>> detector.save("model")  # doctest: +SKIP
    """
    train = ray_module("ray.train")
    check_params(detector)
    sent = clone(detector).set_params(checkpoint=None, random_state=seed_of(detector.random_state))
    described_params(sent)  # or say now that what comes back could not be saved
    if spread == "members":
        _check_members(detector, workers)
    names = feature_columns(None, dataset.columns(), features)
    shards = _shards(dataset.select_columns(names), workers)
    schema = shards[0].schema()
    by_name = dict(zip(schema.names, schema.types, strict=True))
    config = {
        "detector": sent,
        "names": names,
        "has_names": not any("Tensor" in str(by_name[name]) for name in names),
        "spread": spread,
        "checkpoint_every": checkpoint_every,
    }
    on_gpu = device == "cuda"
    with ExitStack() as stack:
        if storage is None:
            storage = stack.enter_context(TemporaryDirectory())
        trainer = ray_module("ray.train.torch").TorchTrainer(
            fit_shard,
            train_loop_config=config,
            datasets={f"shard-{i}": shard for i, shard in enumerate(shards)},
            dataset_config=train.DataConfig(datasets_to_split=[]),
            scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=on_gpu),
            torch_config=ray_module("ray.train.torch").TorchConfig("nccl" if on_gpu else "gloo"),
            run_config=train.RunConfig(
                storage_path=storage,
                failure_config=train.FailureConfig(max_failures=max_failures),
                checkpoint_config=train.CheckpointConfig(num_to_keep=1),
            ),
        )
        with trainer.fit().checkpoint.as_directory() as folder:
            raise_error(Path(folder))
            fitted = fitted_of(load_detector(Path(folder) / MODEL_FILE, detector.device))
    adopt(detector, fitted)
    return detector


def _check_members(detector: NeuralDetector, workers: int) -> None:
    n_members = getattr(detector, "n_estimators", None)
    if n_members is None or n_members < workers:
        raise ValueError(
            f"spread='members' needs an AutoEncoderEnsemble of at least {workers} members, one for "
            f"each worker, got {type(detector).__name__} with n_estimators={n_members}."
        )


def _shards(dataset: Any, n_shards: int) -> list[Any]:
    """Split the rows evenly, in their order."""
    dataset.context.execution_options.preserve_order = True
    whole = dataset.materialize()
    n_rows = whole.count()
    if n_rows < 2 * n_shards:
        raise ValueError(
            f"{n_shards} workers need at least {2 * n_shards} rows, got {n_rows}. Take fewer."
        )
    bounds = [n_rows * i // n_shards for i in range(1, n_shards)]
    shards: list[Any] = whole.split_at_indices(bounds) if bounds else [whole]
    return shards
