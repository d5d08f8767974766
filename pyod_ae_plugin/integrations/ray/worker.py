"""One of the workers that fit a detector together: its share of the rows, and its scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyod_ae_plugin.detectors.rows import as_rows, validate_rows
from pyod_ae_plugin.engine.fitting import check_range, moments_of, sample_step
from pyod_ae_plugin.engine.rows import Rows
from pyod_ae_plugin.integrations.ray.columns import as_array
from pyod_ae_plugin.integrations.ray.errors import RefusedError, save_error
from pyod_ae_plugin.integrations.ray.extra import ray_module
from pyod_ae_plugin.integrations.ray.group import Group
from pyod_ae_plugin.integrations.ray.members import train_members
from pyod_ae_plugin.integrations.ray.steps import report, train_copies
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
        ``spread``, what is shared out besides rows; ``checkpoint_every`` so many epochs.
    """
    group = Group()
    detector: NeuralDetector = config["detector"]
    with TemporaryDirectory() as folder:
        try:
            _fit_together(detector, group, config)
            if group.rank == 0:
                save_to(Path(folder), detector)
        except RefusedError as error:  # if it were raised, Ray would start the workers again
            if group.rank == 0:
                save_error(Path(folder), error)
        report(folder if group.rank == 0 else None)


def _fit_together(detector: NeuralDetector, group: Group, config: Mapping[str, Any]) -> None:
    """Fit the detector of the first worker to the rows of all."""
    names = config["names"]
    X = group.agreed(lambda: validate_rows(detector, _read_shard(group.rank, names), reset=True))
    with detector._private_randomness():
        held_out = _fit(detector, X, group, config)
    scores = group.gathered(detector._score(X))
    of_held_out = None if held_out is None else detector._scores_of(held_out)
    gathered = group.gathered(of_held_out)

    def set_threshold() -> None:
        if group.rank == 0:
            apart = None if held_out is None else np.concatenate(gathered)
            detector._set_threshold(np.concatenate(scores), apart)

    group.agreed(set_threshold)
    if config["has_names"]:
        detector.feature_names_in_ = np.array(names, dtype=object)


def _read_shard(rank: int, names: list[str]) -> Array:
    shard = ray_module("ray.train").get_dataset_shard(f"shard-{rank}")
    batches = shard.iter_batches(batch_size=_READ_ROWS, batch_format="numpy", prefetch_batches=0)
    return np.concatenate([as_array(batch, names) for batch in batches])


def _fit(
    detector: NeuralDetector, X: Array, group: Group, config: Mapping[str, Any]
) -> Rows | None:
    """Fit the scoring module, the same for all workers; return the rows that are held out here."""
    rows, held_out = group.agreed(lambda: detector._split(as_rows(X)))
    counts = group.all(len(rows))
    standardize = _standardize(detector, rows, group)
    train = train_members if config["spread"] == "members" else train_copies
    trained = train(detector, rows, standardize, counts, group, config["checkpoint_every"])
    sample = group.gathered(_spread(rows, counts, group.rank, trained.options.n_members or 1))
    if group.rank == 0:
        together = torch.cat(sample)
        detector._set_drift_reference(together)
        detector._set_module(together if group.size > 1 else rows, trained)
    detector.scoring_module_ = group.of_first(getattr(detector, "scoring_module_", None))
    return held_out


def _standardize(detector: NeuralDetector, rows: Rows, group: Group) -> Standardize:
    """What standardises the rows of all workers, by Chan's update."""
    standardize = Standardize(rows.shape[1])
    if not detector.preprocessing:
        group.agreed(lambda: check_range(rows, standardize))
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
