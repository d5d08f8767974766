"""What is kept of rows that come piece by piece, and the fit that goes on from it."""

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
from pyod_ae_plugin.scoring import Moments, ScoringModule, Standardize

# Values of the rows that are kept: 64 MiB of float64.
_CELLS_KEPT = 2**23
_LEAST_ROWS_KEPT = 1024


class Stream(NamedTuple):
    """A uniform sample of the rows seen so far, and what a fit to it continues from."""

    sample: RowSample
    moments: Moments | None  # of all rows seen; None where the standardisation stays as it is
    generator: torch.Generator  # draws the sample
    network: Network | None = None  # as it was trained last
    standardize: Standardize | None = None  # of an earlier fit, whose rows are unknown

    @classmethod
    @default_settings()
    def new(cls, n_features: int, seed: int, preprocessing: bool) -> Stream:
        """A stream of no rows yet."""
        capacity = max(_CELLS_KEPT // n_features, _LEAST_ROWS_KEPT)
        moments = Moments(n_features) if preprocessing else None
        return cls(RowSample(capacity), moments, torch.Generator().manual_seed(seed))

    @default_settings()
    def after(self, module: ScoringModule, preprocessing: bool) -> Stream:
        """The stream behind a fit whose rows are unknown: it goes on from the module's network."""
        standardize = copy.deepcopy(module.standardize).cpu() if preprocessing else None
        network = copy.deepcopy(module.network).requires_grad_(True)
        return self._replace(moments=None, network=network, standardize=standardize)

    @default_settings()
    def added(self, X: Array) -> Stream:
        """The stream with these rows as well; they are copied."""
        moments, sample = copy.deepcopy(self.moments), self.sample
        for tile in row_tiles(as_rows(X)):
            if moments is not None:
                moments.update(tile)
            sample = sample.added(tile, self.generator)
        return self._replace(sample=sample, moments=moments)

    @default_settings()
    def start(self, epoch_fraction: float = 1.0, *, keeps_network: bool = False) -> Start:
        """What a fit to the sample goes on from."""
        standardize = self.standardize
        if self.moments is not None:
            standardize = Standardize(self.sample.rows().shape[1])
            standardize.fit(self.moments)
        if self.network is None:
            return Start(standardize, keeps_network=keeps_network)
        return Start(
            standardize,
            network=self.network,
            epoch_fraction=epoch_fraction,
            seed_offset=self.sample.n_seen,
            keeps_network=keeps_network,
        )
