"""Training by one of several workers, with checkpoints that Ray Train keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyod_ae_plugin.checkpoints import Checkpoint
from pyod_ae_plugin.detectors.base import Plan, Trained
from pyod_ae_plugin.detectors.identity import identity_of_fit
from pyod_ae_plugin.detectors.parameters import seed_of
from pyod_ae_plugin.detectors.running import losses, run
from pyod_ae_plugin.engine.options import n_trained, resolve
from pyod_ae_plugin.engine.rows import Rows, training_batches
from pyod_ae_plugin.engine.training import DivergenceError, Training
from pyod_ae_plugin.integrations.ray.errors import RefusedError
from pyod_ae_plugin.integrations.ray.extra import ray_module
from pyod_ae_plugin.scoring import Standardize

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector
    from pyod_ae_plugin.integrations.ray.group import Group

# Seeds of workers are so far apart that those of members never meet.
_BETWEEN_WORKERS = 2**32


def train_copies(
    detector: NeuralDetector,
    rows: Rows,
    standardize: Standardize,
    counts: list[int],
    group: Group,
    checkpoint_every: int,
) -> Trained:
    """Train a copy of the network on the rows here, with gradients averaged over all workers."""
    seed = seed_of(detector.random_state)
    generator = torch.Generator(group.device).manual_seed(seed)
    if not detector._draws_privately():
        torch.manual_seed(seed)
    network, objective, options = detector._plan(rows.shape[1], seed, generator)
    if group.rank > 0:  # copies of one network, and other shuffles
        generator.manual_seed(seed + _BETWEEN_WORKERS * group.rank)
    batch_size, epochs, lr = resolve(options, n_trained(options, sum(counts)))
    drawn = options.rows_per_member
    options = replace(
        options,
        batch_size=-(-batch_size // group.size),
        epochs=epochs,
        lr=lr,
        rows_per_member=None if drawn is None else -(-drawn // group.size),
        average=group.average if group.size > 1 else None,
    )
    # All take as many steps: of shares that differ by a row, one row has no part in training.
    plan, n_rows = Plan(network, objective, options), min(counts)
    try:
        return train(detector, rows, standardize, plan, n_rows, generator, group, checkpoint_every)
    except DivergenceError as error:  # of all copies alike
        raise RefusedError(error) from error


def train(
    detector: NeuralDetector,
    rows: Rows,
    standardize: Standardize,
    plan: Plan,
    n_rows: int,
    generator: torch.Generator,
    group: Group,
    checkpoint_every: int,
) -> Trained:
    """Train what is planned on the first so many rows."""
    network, objective, options = plan
    batches = training_batches(rows, standardize, group.device)
    training = Training(network, objective, batches, n_rows, options, generator)
    fit = identity_of_fit(detector, rows, group.device)
    checkpoint = Reported(fit, group.rank, checkpoint_every)
    verbose = 2 if detector.verbose == 2 and group.rank == 0 else 0
    # Where each worker trains for itself, one that starts anew would leave the others behind.
    alike = options.average is not None or group.size == 1
    restarts = detector.on_divergence == "restart" and alike
    completed = run(training, verbose, checkpoint, not detector._draws_privately(), restarts)
    lr, history = training.lr, losses(training)
    return Trained(network, standardize, options, generator, lr, history, completed)


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
            report(folder)

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


def report(folder: str | None) -> None:
    """Hand the files of a folder to Ray, or nothing; all workers are to do so as often."""
    train = ray_module("ray.train")
    train.report({}, checkpoint=None if folder is None else train.Checkpoint(folder))
