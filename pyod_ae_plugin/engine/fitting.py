"""Builds the scoring module of a fitted detector: standardise, train, fit the head."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from pyod_ae_plugin.engine.objectives import Objective
from pyod_ae_plugin.engine.rows import training_rows, training_tile_rows
from pyod_ae_plugin.engine.training import Epoch, TrainingOptions, train
from pyod_ae_plugin.networks import Network, joined
from pyod_ae_plugin.scoring import ScoreHead, ScoringModule, Standardize

_CELLS_FOR_HEAD = 2**20
_LEAST_ROWS_FOR_HEAD = 2**11


def fit_module(
    rows: Tensor,
    network: Network,
    build_head: Callable[[Network], ScoreHead],
    objective: Objective,
    options: TrainingOptions,
    generator: torch.Generator,
    *,
    preprocessing: bool,
    follow: Callable[[Iterable[Epoch]], None],
    earlier: ScoringModule | None = None,
) -> ScoringModule:
    """Fit a scoring module to rows.

    Parameters
    ----------
    rows : Tensor of shape (n, n_features)
        Raw training rows on the CPU.
    network : torch.nn.Module
        The untrained network, on the generator's device; trained in place.
    build_head : callable
        Makes the unfitted score head of the trained network.
    objective, options
        What training minimises, and how.
    generator : torch.Generator
        Source of all that is drawn; its device is where the module is fitted.
    preprocessing : bool
        Whether to standardise the features.
    follow : callable
        Is given the epochs of training and must go through them to the end.
    earlier : ScoringModule or None, default=None
        A fitted ensemble to which the network's members are added. It is left as it is.

    Returns
    -------
    ScoringModule
        In evaluation mode, without gradients.
    """
    device = generator.device
    n_features = rows.shape[1]
    n_tile = training_tile_rows(n_features, device)
    if earlier is not None:
        standardize = copy.deepcopy(earlier.standardize).cpu()
    else:
        standardize = Standardize(n_features)
        if preprocessing:
            standardize.fit(rows, n_tile)
    resident, prepare = training_rows(rows, standardize, n_tile, device)
    follow(train(network, objective, resident, prepare, options, generator))

    if earlier is not None:
        network = joined(copy.deepcopy(earlier.network).to(device), network)
    head = build_head(network).to(device)
    module = scoring_module(standardize, network, head).to(device)
    for parameter in module.network.parameters():
        # Training left views of one vector. Matrix kernels are chosen by how memory is aligned,
        # so a module that is loaded again would else round otherwise.
        parameter.data = parameter.data.clone()
    sample = _sample_for_head(rows, options.n_members or 1)
    with torch.no_grad():

        def tiles() -> Iterator[Tensor]:
            for tile in sample.split(n_tile):
                yield module.standardize(tile.to(device))

        head.fit_to(module.network, tiles, max(options.trim), generator)
    return module


def _sample_for_head(rows: Tensor, n_members: int) -> Tensor:
    """Rows, spread evenly, of which a head may hold residuals and codes in memory."""
    most = min(max(_CELLS_FOR_HEAD // (rows.shape[1] * n_members), _LEAST_ROWS_FOR_HEAD), 2**14)
    return rows[:: -(-len(rows) // most)]


def scoring_module(standardize: Standardize, network: Network, head: ScoreHead) -> ScoringModule:
    """Assemble the parts, the network in the form in which it is evaluated."""
    network.eval()
    for_inference = getattr(network, "for_inference", None)
    if callable(for_inference):
        network = for_inference()
    return ScoringModule(standardize, network, head).eval().requires_grad_(False)
