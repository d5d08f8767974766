"""Builds the scoring module of a fitted detector: standardise, train, fit the head."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pyod_ae_plugin.engine.objectives import Objective
from pyod_ae_plugin.engine.rows import training_rows, training_tile_rows
from pyod_ae_plugin.engine.training import Epoch, TrainingOptions, train
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring import ScoreHead, ScoringModule, Standardize


def fit_module(
    rows: Tensor,
    network: Network,
    head: ScoreHead,
    objective: Objective,
    options: TrainingOptions,
    generator: torch.Generator,
    *,
    preprocessing: bool,
    follow: Callable[[Iterable[Epoch]], None],
) -> ScoringModule:
    """Fit a scoring module to rows.

    Parameters
    ----------
    rows : Tensor of shape (n, n_features)
        Raw training rows on the CPU.
    network : torch.nn.Module
        The untrained network, on the generator's device; trained in place.
    head : ScoreHead
        The unfitted score head; fitted in place.
    objective, options
        What training minimises, and how.
    generator : torch.Generator
        Source of all that is drawn; its device is where the module is fitted.
    preprocessing : bool
        Whether to standardise the features.
    follow : callable
        Is given the epochs of training and must go through them to the end.

    Returns
    -------
    ScoringModule
        In evaluation mode, without gradients.
    """
    device = generator.device
    n_features = rows.shape[1]
    n_tile = training_tile_rows(n_features, device)
    standardize = Standardize(n_features)
    if preprocessing:
        standardize.fit(rows, n_tile)
    resident, prepare = training_rows(rows, standardize, n_tile, device)
    follow(train(network, objective, resident, prepare, options, generator))

    module = scoring_module(standardize, network, head).to(device)
    with torch.inference_mode():
        head.fit(module.residual(tile.to(device)) for tile in rows.split(n_tile))
    return module


def scoring_module(standardize: Standardize, network: Network, head: ScoreHead) -> ScoringModule:
    """Assemble the parts, the network in the form in which it is evaluated."""
    network.eval()
    for_inference = getattr(network, "for_inference", None)
    if callable(for_inference):
        network = for_inference()
    for parameter in network.parameters():
        # Training left views of one vector. Matrix kernels are chosen by how memory is aligned,
        # so a module that is loaded again would else round otherwise.
        parameter.data = parameter.data.clone()
    return ScoringModule(standardize, network, head).eval().requires_grad_(False)
