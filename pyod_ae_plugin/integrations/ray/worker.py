"""One of the workers that fit a detector together: its share of the rows, its steps, its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyod_ae_plugin.checkpoints import Checkpoint
from pyod_ae_plugin.detectors.base import Trained
from pyod_ae_plugin.detectors.identity import identity_of_fit
from pyod_ae_plugin.detectors.parameters import seed_of
from pyod_ae_plugin.detectors.rows import as_rows, validate_rows
from pyod_ae_plugin.detectors.running import losses, run
from pyod_ae_plugin.engine.fitting import check_within_reach, moments_of, sample_step
from pyod_ae_plugin.engine.options import chosen
from pyod_ae_plugin.engine.rows import Rows, training_batches
from pyod_ae_plugin.engine.training import Training
from pyod_ae_plugin.integrations.ray.columns import as_array
from pyod_ae_plugin.integrations.ray.extra import ray_module
from pyod_ae_plugin.integrations.ray.group import Group
from pyod_ae_plugin.integrations.ray.transport import save_to
from pyod_ae_plugin.scoring import Standardize

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

Array = np.ndarray[Any, Any]

_READ_ROWS = 2**16


def fit_shard(config: Mapping[str, Any]) -> None:
    """Fit a detector together with the other workers of a trainer; the first reports it.

    Parameters
    ----------
    config : mapping of str to object
        ``detector``, not fitted; ``names`` of the columns, ``has_names`` if they name features;
        ``checkpoint_every`` so many epochs.
    """
    group = Group()
    detector: NeuralDetector = config["detector"]
    X = validate_rows(detector, _read_shard(group.rank, config["names"]), reset=True)
    with detector._private_randomness():
        held_out = _fit(detector, X, group, config["checkpoint_every"])
    scores = group.gathered(detector._score(X))
    of_held_out = None if held_out is None else detector._scores_of(held_out)
    gathered = group.gathered(of_held_out)
    with TemporaryDirectory() as folder:
        if group.rank == 0:
            detector._set_threshold(
                np.concatenate(scores), None if held_out is None else np.concatenate(gathered)
            )
            if config["has_names"]:
                detector.feature_names_in_ = np.array(config["names"], dtype=object)
            save_to(Path(folder), detector)
        _report(folder if group.rank == 0 else None)


def _read_shard(rank: int, names: list[str]) -> Array:
    shard = ray_module("ray.train").get_dataset_shard(f"shard-{rank}")
    batches = shard.iter_batches(batch_size=_READ_ROWS, batch_format="numpy", prefetch_batches=0)
    return np.concatenate([as_array(batch, names) for batch in batches])


def _fit(detector: NeuralDetector, X: Array, group: Group, checkpoint_every: int) -> Rows | None:
    """Fit the scoring module, the same for all workers; return the rows that are held out here."""
    rows, held_out = detector._split(as_rows(X))
    counts = group.all(len(rows))
    standardize = _standardize(detector, rows, group)
    device = group.device
    seed = seed_of(detector.random_state)
    generator = torch.Generator(device).manual_seed(seed)
    if not detector._draws_privately():
        torch.manual_seed(seed)
    network, objective, options = detector._plan(rows.shape[1], seed, generator)
    if group.rank > 0:  # copies of one network, and other shuffles
        generator.manual_seed(seed + 2**32 * group.rank)
    batch_size, epochs, lr = chosen(options, sum(counts))
    options = replace(
        options,
        batch_size=-(-batch_size // group.size),
        epochs=epochs,
        lr=lr,
        rows_per_member=options.rows_per_member and -(-options.rows_per_member // group.size),
        average=group.average if group.size > 1 else None,
    )
    batches = training_batches(rows, standardize, device)
    # All take as many steps: of shards that differ by a row, one row has no part in training.
    training = Training(network, objective, batches, min(counts), options, generator)
    checkpoint = Reported(identity_of_fit(detector, rows, device), group.rank, checkpoint_every)
    verbose = 2 if detector.verbose == 2 and group.rank == 0 else 0
    restarts = detector.on_divergence == "restart"
    completed = run(training, verbose, checkpoint, not detector._draws_privately(), restarts)
    sample = group.gathered(_spread(rows, counts, group.rank, options.n_members or 1))
    if group.rank == 0:
        together = torch.cat(sample)
        detector._set_drift_reference(together)
        lr, history = training.lr, losses(training)
        trained = Trained(network, standardize, options, generator, lr, history, completed)
        detector._set_module(together if group.size > 1 else rows, trained)
    detector.scoring_module_ = group.of_first(getattr(detector, "scoring_module_", None))
    return held_out


def _standardize(detector: NeuralDetector, rows: Rows, group: Group) -> Standardize:
    """What standardises the rows of all workers, by Chan's update."""
    standardize = Standardize(rows.shape[1])
    if not detector.preprocessing:
        check_within_reach(rows, standardize)
        return standardize
    first, *others = group.all(moments_of(rows))
    for moments in others:
        first.merge(moments)
    standardize.fit(first)
    return standardize


def _spread(rows: Rows, counts: list[int], rank: int, n_members: int) -> Tensor:
    """Of the rows here those that a sample takes, spread evenly over the rows of all workers."""
    step = sample_step(sum(counts), rows.shape[1], n_members)
    return rows[-sum(counts[:rank]) % step :: step]


class Reported(Checkpoint):
    """The state of a worker's training in the checkpoints that Ray Train keeps."""

    def __init__(self, fit: str, rank: int, every: int) -> None:
        super().__init__(Path(f"training-{rank}.safetensors"), fit)
        self._name, self._every = self.path.name, every

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Hand the state to Ray, each so many epochs, by all workers at the same time."""
        if len(state["history"]) % self._every:
            return
        with TemporaryDirectory() as folder:
            self.path = Path(folder) / self._name
            super().save(state)
            _report(folder)

    def load(self) -> dict[str, Tensor] | None:
        """Return the state that was handed over last, None at the first start."""
        last = ray_module("ray.train").get_checkpoint()
        if last is None:
            return None
        with last.as_directory() as folder:
            self.path = Path(folder) / self._name
            return super().load()

    def remove(self) -> None:
        """Leave it to Ray, which keeps the last ones."""


def _report(folder: str | None) -> None:
    train = ray_module("ray.train")
    train.report({}, checkpoint=None if folder is None else train.Checkpoint(folder))
