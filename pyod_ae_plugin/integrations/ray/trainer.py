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
from pyod_ae_plugin.integrations.ray.cluster import feature_columns, ray_module
from pyod_ae_plugin.integrations.ray.worker import MODEL_FILE, fit_shard, raise_error

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

    Each worker holds a share of the rows, one behind the other, and a copy of the network. Mean and
    standard deviation are those of all rows [1]_. In each step a worker takes its share of the
    batch, and the gradients are averaged. By one worker the detector is that of ``fit``, to the
    last bit; by more it is another of the same kind, since each worker shuffles and trims its own
    share of a batch: the rows that are left out are the worst of each share, and not of the whole.

    Parameters
    ----------
    detector : NeuralDetector
        With the parameters to fit by; of a class that an installed plugin registers, there as here.
        Of its parameters ``device`` says where it shall score afterwards, and ``checkpoint`` is not
        used.
    dataset : ray.data.Dataset
        Its rows, which are to be in no order that means something. They are brought into Ray's
        object store, and each worker's share into its memory.
    features : sequence of str or None, default=None
        Columns of numbers, or of arrays of them; None is all columns.
    workers : int, default=2
        Each takes a share of the rows and of each batch.
    spread : {'rows', 'members'}, default='rows'
        What is shared out: 'rows', with a copy of the network for each worker; or 'members', those
        of an :class:`~pyod_ae_plugin.AutoEncoderEnsemble`, each of which then learns from the rows
        of its worker alone. The workers talk only before and after training,
        and ``on_divergence='restart'`` has no effect.
    device : {'cpu', 'cuda'}, default='cpu'
        Each worker takes one CPU, and they talk by gloo; or one GPU, and they talk by nccl.
    storage : str or None, default=None
        Folder or URI for checkpoints that all workers reach. None is a temporary folder, which
        serves workers on this machine.
    checkpoint_every : int, default=10
        Epochs between two checkpoints.
    max_failures : int, default=3
        Times that training goes on from the last checkpoint after a worker has died.

    Returns
    -------
    NeuralDetector
        The detector that was passed, fitted. ``decision_scores_`` and ``labels_`` are of all rows,
        in order, and ``threshold_`` is the exact one.

    Raises
    ------
    ImportError
        Without Ray: ``pip install 'pyod-ae-plugin[ray]'``.
    ValueError, TypeError
        If a parameter is not usable, there are fewer rows than two for each worker, or the
        dataset lacks a column. From the workers, if a cell is not a finite number.
    FloatingPointError
        If training diverges.
    ray.train.TrainingFailedError
        If workers fail more often than that.

    See Also
    --------
    pyod_ae_plugin.integrations.ray.score_dataset : Scores such a dataset.

    References
    ----------
    .. [1] Chan, T. F., Golub, G. H., & LeVeque, R. J. (1983). Algorithms for Computing the Sample
           Variance: Analysis and Recommendations. The American Statistician 37(3).

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
    """Rows shared out evenly, in their order, one share behind the other."""
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
