"""The members of an ensemble shared out among workers."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from sklearn.base import clone

from pyod_ae_plugin.detectors.base import Trained
from pyod_ae_plugin.detectors.parameters import seed_of
from pyod_ae_plugin.engine.rows import Rows
from pyod_ae_plugin.integrations.ray.steps import train
from pyod_ae_plugin.networks import joined
from pyod_ae_plugin.scoring import Standardize

if TYPE_CHECKING:
    from pyod_ae_plugin.integrations.ray.group import Group


def shares(n_members: int, n_workers: int) -> list[int]:
    """How many members each worker trains.

    Examples
    --------
    >>> shares(10, 4)
    [2, 3, 2, 3]
    """
    bounds = [n_members * i // n_workers for i in range(n_workers + 1)]
    return [stop - start for start, stop in pairwise(bounds)]


def train_members(
    detector: Any,
    rows: Rows,
    standardize: Standardize,
    counts: list[int],
    group: Group,
    checkpoint_every: int,
) -> Trained:
    """Train some of the members on the rows here, and put all together at the first worker."""
    of_workers = shares(detector.n_estimators, group.size)
    part = clone(detector).set_params(n_estimators=of_workers[group.rank])
    # as members that warm_start adds
    seed = seed_of(detector.random_state) + sum(of_workers[: group.rank])
    generator = torch.Generator(group.device).manual_seed(seed)
    plan = part._plan(rows.shape[1], seed, generator)
    trained = group.agreed(
        lambda: train(
            part, rows, standardize, plan, min(counts), generator, group, checkpoint_every
        )
    )
    networks, histories = group.gathered(trained.network), group.gathered(trained.history)
    n_members = detector.n_estimators
    options = replace(
        trained.options, n_members=n_members, trim=[trained.options.trim[0]] * n_members
    )
    if group.rank > 0:
        return trained._replace(options=options)
    losses = zip(*(history["loss"] for history in histories), strict=True)
    of_all = [
        sum(n * loss for n, loss in zip(of_workers, epoch, strict=True)) / n_members
        for epoch in losses
    ]
    network = reduce(joined, (network.to(group.device) for network in networks))
    return trained._replace(network=network, options=options, history={"loss": of_all})
