"""What comes before and after training: standardisation, and the scoring module with its head."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from pyod_ae_plugin.engine.options import TrainingOptions
from pyod_ae_plugin.engine.rows import Rows, row_tiles, training_tile_rows
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring import Moments, ScoreHead, ScoringModule, Standardize
from pyod_ae_plugin.scoring.heads import Tiles
from pyod_ae_plugin.scoring.standardize import MAX_STANDARDIZED

_CELLS_KEPT = 2**20
_LEAST_ROWS_KEPT, _MOST_ROWS_KEPT = 2**11, 2**14


def fitted_standardize(rows: Rows, preprocessing: bool) -> Standardize:
    """What standardises raw rows as they ask for; or leaves them be, without ``preprocessing``.

    Raises
    ------
    ValueError
        If rows that are left be are too large to be trained on.
    """
    n_features = rows.shape[1]
    standardize = Standardize(n_features)
    if preprocessing:
        standardize.fit(moments_of(rows))
    else:
        check_range(rows, standardize)
    return standardize


def moments_of(rows: Rows) -> Moments:
    """Mean and variance of each feature."""
    moments = Moments(rows.shape[1])
    for tile in row_tiles(rows):
        moments.update(tile)
    return moments


def check_range(rows: Rows, standardize: Standardize) -> None:
    """Raise if float32 would overflow in training on rows whose own moments do not scale them."""
    farthest = max(standardize(tile).abs().max().item() for tile in row_tiles(rows))
    if farthest > MAX_STANDARDIZED:
        raise ValueError(
            f"X has a value of {farthest:g} in the units in which the network is trained, where "
            f"at most {MAX_STANDARDIZED:g} is possible in float32. Rows are not scaled to unit "
            "variance with preprocessing=False, nor where an earlier fit is continued: scale X, or "
            "fit anew with preprocessing=True."
        )


def fitted_module(
    rows: Rows,
    standardize: Standardize,
    network: Network,
    head: ScoreHead,
    options: TrainingOptions,
    generator: torch.Generator,
) -> ScoringModule:
    """Assemble a scoring module of a trained network and fit its head.

    Parameters
    ----------
    rows : Rows
        The raw training rows.
    standardize : Standardize
    network : torch.nn.Module
        Trained; on the generator's device.
    head : ScoreHead
        Unfitted.
    options : TrainingOptions
        How the network was trained.
    generator : torch.Generator
        Source of all that is drawn; its device is where the module is fitted.

    Returns
    -------
    ScoringModule
        In evaluation mode, without gradients.
    """
    device = generator.device
    module = scoring_module(copy.deepcopy(standardize), network, head).to(device)
    for parameter in module.network.parameters():
        # Training left views of one vector. Matrix kernels are chosen by how memory is aligned,
        # so a module that is loaded again would else round otherwise.
        parameter.data = parameter.data.clone()
        parameter.grad = None
    tiles = sample_tiles(rows, module, options.n_members or 1)
    with torch.no_grad():
        head.fit_to(module.network, tiles, max(options.trim), generator)
    return module


def sample_tiles(rows: Rows, module: ScoringModule, n_members: int = 1) -> Tiles:
    """Rows, spread evenly, of which residuals and codes may be held in memory; standardised."""
    sample = rows[:: sample_step(len(rows), rows.shape[1], n_members)]
    device = module.standardize.scale.device
    height = training_tile_rows(rows.shape[1], device)

    def tiles() -> Iterator[Tensor]:
        for tile in sample.split(height):
            yield module.standardize(tile.to(device))

    return tiles


def sample_step(n: int, n_features: int, n_members: int = 1) -> int:
    """Of n rows every so many-th is all that may be held."""
    most = min(max(_CELLS_KEPT // (n_features * n_members), _LEAST_ROWS_KEPT), _MOST_ROWS_KEPT)
    return -(-n // most)


def scoring_module(standardize: Standardize, network: Network, head: ScoreHead) -> ScoringModule:
    """Assemble the parts, the network in the form in which it is evaluated."""
    network.eval()
    for_inference = getattr(network, "for_inference", None)
    if callable(for_inference):
        network = for_inference()
    return ScoringModule(standardize, network, head).eval().requires_grad_(False)
