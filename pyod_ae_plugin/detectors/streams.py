"""The sample of rows that come in batches, and the state that a fit continues from."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch

from pyod_ae_plugin.detectors.fit import Start
from pyod_ae_plugin.detectors.inputs import as_rows
from pyod_ae_plugin.engine.devices import default_settings
from pyod_ae_plugin.engine.rows import RowSample, row_tiles
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring import ScoringModule, Standardize

# Values of the rows that are kept: 64 MiB of float64.
_CELLS_KEPT = 2**23
_LEAST_ROWS_KEPT = 1024


class Stream(NamedTuple):
    """A uniform sample of the rows seen so far, and the state that a fit to it continues from."""

    sample: RowSample
    generator: torch.Generator  # draws the sample
    network: Network | None = None  # as it was trained last
    # of an earlier fit, whose rows are unknown; None learns it from the sample
    standardize: Standardize | None = None

    @classmethod
    @default_settings()
    def new(cls, n_features: int, seed: int) -> Stream:
        """A stream of no rows yet."""
        capacity = max(_CELLS_KEPT // n_features, _LEAST_ROWS_KEPT)
        return cls(RowSample(capacity), torch.Generator().manual_seed(seed))

    @default_settings()
    def after(self, module: ScoringModule, preprocessing: bool) -> Stream:
        """The stream after a fit whose rows are unknown: it continues from the module's network."""
        standardize = copy.deepcopy(module.standardize).cpu() if preprocessing else None
        network = copy.deepcopy(module.network).requires_grad_(True)
        return self._replace(network=network, standardize=standardize)

    @default_settings()
    def added(self, X: Array) -> Stream:
        """The stream with these rows as well; they are copied."""
        sample = self.sample
        for tile in row_tiles(as_rows(X)):
            sample = sample.added(tile, self.generator)
        return self._replace(sample=sample)

    @default_settings()
    def start(self, epoch_fraction: float = 1.0, *, keeps_network: bool = False) -> Start:
        """The state that a fit to the sample continues from."""
        if self.network is None:
            return Start(keeps_network=keeps_network)
        return Start(
            self.standardize,
            network=self.network,
            epoch_fraction=epoch_fraction,
            seed_offset=self.sample.n_seen,
            keeps_network=keeps_network,
        )
