"""One of the workers that fit a detector together: what it shares with the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pyod_ae_plugin.detectors.base import adopt, recipe_of
from pyod_ae_plugin.detectors.fit import Group, Trained, fit_model
from pyod_ae_plugin.detectors.inputs import TrainingRows, as_rows
from pyod_ae_plugin.detectors.recipe import Recipe
from pyod_ae_plugin.engine.options import TrainingOptions, n_trained, resolve
from pyod_ae_plugin.fitted import Array, Fitted
from pyod_ae_plugin.integrations.ray.cluster import MODEL_FILE, as_array, ray_module
from pyod_ae_plugin.networks import joined
from pyod_ae_plugin.storage import Checkpoint

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

T = TypeVar("T")

_ERROR_FILE = "error.json"
_READ_ROWS = 2**16
# Distance between the seeds of two workers, so that seeds of members never coincide.
_BETWEEN_WORKERS = 2**32

# Steps of a worker above which it trains on whole batches: twice what a fit makes by default.
_ENOUGH_STEPS = 1_000

# ------------------------------------------------------------------------------------- errors

# Errors that would occur again if the workers were started again.
USER_ERRORS = (ValueError, TypeError, FloatingPointError)


class RefusedError(Exception):
    """An error of one worker, the only argument, that all workers know of."""


def _save_error(folder: Path, refused: RefusedError) -> None:
    """Write kind and text of an error to a folder that goes to the caller."""
    (error,) = refused.args
    name = next(kind.__name__ for kind in USER_ERRORS if isinstance(error, kind))
    (folder / _ERROR_FILE).write_text(json.dumps([name, str(error)]))


def raise_error(folder: Path) -> None:
    """Raise the error of such a folder, if there is one."""
    if (folder / _ERROR_FILE).exists():
        name, text = json.loads((folder / _ERROR_FILE).read_text())
        raise {kind.__name__: kind for kind in USER_ERRORS}[name](text)


# ------------------------------------------------------------------------------------- groups


class RowsGroup(Group):
    """The workers of a trainer, each with a copy of the network and a share of the rows.

    Weights are averaged over all of them, every few steps. ``device`` is where this worker trains.
    """

    def __init__(self, checkpoint_every: int) -> None:
        context = ray_module("ray.train").get_context()
        self.rank: int = context.get_world_rank()
        self.size: int = context.get_world_size()
        self.device: torch.device = ray_module("ray.train.torch").get_device()
        self._checkpoint_every = checkpoint_every
        # Objects are sent by gloo, since nccl knows nothing of the CPU.
        self._on_cpu = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def all_gather(self, value: T) -> list[T]:
        """The values of all workers, by rank."""
        values: list[T] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self._on_cpu)
        return values

    def gather(self, value: T) -> list[T]:
        """The values of all workers, by rank, at the first; its own value at any other."""
        values: list[T] | None = [value] * self.size if self.rank == 0 else None
        if self.size > 1:
            dist.gather_object(value, values, dst=0, group=self._on_cpu)
        return values or [value]

    def broadcast(self, value: T) -> T:
        """The value of the first worker."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, group=self._on_cpu)
        return values[0]

    def all_or_raise(self, do: Callable[[], T]) -> T:
        """Return what a function returns; if it fails in one worker, all raise RefusedError."""
        result, error = None, None
        try:
            result = do()
        except USER_ERRORS as raised:
            error = raised
        for first in filter(None, self.all_gather(error)):
            raise RefusedError(first)
        return cast("T", result)

    def share_training(
        self, options: TrainingOptions, n_rows: int, generator: torch.Generator, seed: int
    ) -> tuple[TrainingOptions, int]:
        """Options of the training of this worker's rows, which it shuffles by itself.

        If there are enough steps, the worker takes whole batches and a share of the steps. If not,
        it takes a share of each batch and as many steps as a fit to all rows.
        """
        counts = self.all_gather(n_rows)
        if self.rank > 0:
            generator.manual_seed(seed + _BETWEEN_WORKERS * self.rank)
        batch_size, epochs, lr = resolve(options, n_trained(options, sum(counts)))
        drawn = options.rows_per_member
        n_steps = epochs * n_trained(options, sum(counts)) // (batch_size * self.size)
        options = replace(
            options,
            batch_size=batch_size if n_steps >= _ENOUGH_STEPS else -(-batch_size // self.size),
            epochs=epochs,
            lr=lr,
            rows_per_member=None if drawn is None else -(-drawn // self.size),
            average=self._average if self.size > 1 else None,
        )
        # All take as many steps: of shares that differ by a row, one row has no part in training.
        return options, min(counts)

    def checkpoint(self, recipe: Recipe, fingerprint: Callable[[], str]) -> Checkpoint:
        """A checkpoint that Ray Train keeps."""
        return ReportedCheckpoint(fingerprint(), self.rank, self._checkpoint_every)

    def _average(self, tensor: Tensor) -> None:
        """Take a tensor to its mean over all workers, in place."""
        dist.all_reduce(tensor)
        tensor /= self.size


class MembersGroup(RowsGroup):
    """The workers of a trainer, each of which trains members of an ensemble on its own rows."""

    def share_training(
        self, options: TrainingOptions, n_rows: int, generator: torch.Generator, seed: int
    ) -> tuple[TrainingOptions, int]:
        """Training as it is; all take as many steps."""
        return options, min(self.all_gather(n_rows))

    def merge(self, trained: Trained) -> Trained:
        """All members as one network, at the first worker."""
        counts = self.all_gather(trained.options.n_members or 0)
        networks, histories = self.gather(trained.network), self.gather(trained.history)
        n_members = sum(counts)
        trim = [trained.options.trim[0]] * n_members
        options = replace(trained.options, n_members=n_members, trim=trim)
        if self.rank > 0:
            return trained._replace(options=options)
        losses = zip(*(history["loss"] for history in histories), strict=True)
        means = [
            sum(n * loss for n, loss in zip(counts, epoch, strict=True)) / n_members
            for epoch in losses
        ]
        network = reduce(joined, (network.to(self.device) for network in networks))
        return trained._replace(network=network, options=options, history={"loss": means})


GROUPS: dict[str, type[RowsGroup]] = {"rows": RowsGroup, "members": MembersGroup}


class ReportedCheckpoint(Checkpoint):
    """The state of a worker's training in the checkpoints that Ray Train keeps."""

    def __init__(self, fingerprint: str, rank: int, every: int) -> None:
        super().__init__(Path(f"training-{rank}.safetensors"), fingerprint)
        self._name, self._every = self.path.name, every

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Hand the state to Ray every few epochs, which all workers do at the same time."""
        if len(state["history"]) % self._every:
            return
        with TemporaryDirectory() as folder:
            self.path = Path(folder) / self._name
            super().save(state)
            _report(folder)

    def load(self) -> dict[str, Tensor] | None:
        """Return the state that was handed to Ray last, or None at the first start."""
        last = ray_module("ray.train").get_checkpoint()
        if last is None:
            return None
        with last.as_directory() as folder:
            self.path = Path(folder) / self._name
            return super().load()

    def remove(self) -> None:
        """Do nothing: Ray deletes old checkpoints itself."""


def _report(folder: str | None) -> None:
    """Hand the files of a folder to Ray, or nothing; all workers must do so equally often."""
    train = ray_module("ray.train")
    train.report({}, checkpoint=None if folder is None else train.Checkpoint(folder))


# ---------------------------------------------------------------------------------------- fit


def fit_shard(config: Mapping[str, Any]) -> None:
    """Fit a detector together with the other workers of a trainer; the first reports it.

    ``config`` holds ``detector``, not fitted; ``names`` of the columns, and ``has_names`` if they
    name features; ``spread``, a key of :data:`GROUPS`; ``checkpoint_every``, in epochs.
    """
    detector: NeuralDetector = config["detector"]
    group = GROUPS[config["spread"]](config["checkpoint_every"])
    with TemporaryDirectory() as folder:
        try:
            fitted = _fit_together(detector, group, config)
            if group.rank == 0:
                adopt(detector, fitted)
                detector.save(Path(folder) / MODEL_FILE)
        except RefusedError as error:  # if it were raised, Ray would start the workers again
            if group.rank == 0:
                _save_error(Path(folder), error)
        _report(folder if group.rank == 0 else None)


def _fit_together(detector: NeuralDetector, group: RowsGroup, config: Mapping[str, Any]) -> Fitted:
    names = config["names"]
    X = group.all_or_raise(lambda: TrainingRows(detector).check(_read_shard(group.rank, names)))
    members, restarts = None, detector.on_divergence == "restart"
    if config["spread"] == "members":
        n = detector.n_estimators
        members = range(n * group.rank // group.size, n * (group.rank + 1) // group.size)
        # Each worker trains for itself: one that starts anew would leave the others behind.
        restarts = restarts and group.size == 1
    recipe = replace(
        recipe_of(detector, X.shape[1], members),
        device=group.device,
        restarts=restarts,
        verbose=2 if detector.verbose == 2 and group.rank == 0 else 0,
    )
    feature_names = np.array(names, dtype=object) if config["has_names"] else None
    return fit_model(as_rows(X), recipe, group=group, feature_names_in=feature_names)


def _read_shard(rank: int, names: list[str]) -> Array:
    shard = ray_module("ray.train").get_dataset_shard(f"shard-{rank}")
    batches = shard.iter_batches(batch_size=_READ_ROWS, batch_format="numpy", prefetch_batches=0)
    return np.concatenate([as_array(batch, names) for batch in batches])
