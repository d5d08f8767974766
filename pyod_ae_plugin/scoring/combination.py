"""The score head of an ensemble: one score from the scores of its members."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.heads import ScoreHead, Tiles

_N_BUCKETS = 5
LOWEST_LOG_SCORE = -math.log(1000)


class CombinedHead(ScoreHead):
    """Scores by each member, puts the scores on one scale and combines them.

    A member's log scores are scaled such that those of training rows have median 0 and standard
    deviation 1. Scores below a thousandth of the median count as a thousandth of it. Rows
    ``(n, n_features)`` get scores ``(n,)``.

    Parameters
    ----------
    head : ScoreHead
        Gives the scores [n_members, n] of the members, all of them 0 or more.
    n_members : int
        Number of members.
    combination : {'average', 'maximization', 'median', 'aom', 'moa'}
        As in :mod:`pyod.models.combination`.

    Examples
    --------
    >>> from pyod_ae_plugin.networks import stacked_mlp
    >>> from pyod_ae_plugin.scoring import Euclidean
    >>> network = stacked_mlp(2, [[3, 1], [2, 1]], "tanh", torch.Generator().manual_seed(0))
    >>> rows = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> head = CombinedHead(Euclidean(2), 2, "average")
    >>> with torch.no_grad():
    ...     head.fit_to(network, lambda: [rows], 0.0, torch.Generator())
    ...     head.score(network, torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    location: Tensor
    scale: Tensor

    def __init__(self, head: ScoreHead, n_members: int, combination: str) -> None:
        super().__init__(head.n_features)
        self.head = head
        self.combination = combination
        self.propagates_nan = head.propagates_nan
        self.max_width = head.max_width
        self.register_buffer("location", torch.zeros(n_members, 1))
        self.register_buffer("scale", torch.ones(n_members, 1))

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        self.head.fit_to(network, tiles, trim, generator)
        scores = torch.cat([self._log_scores(network, z) for z in tiles()], dim=1).double()
        self.location = scores.median(dim=1, keepdim=True).values.float()
        spread = self._from_location(scores).std(dim=1, correction=0, keepdim=True)
        self.scale = torch.where(spread > 1e-6, spread, 1.0).float()

    def score(self, network: Network, z: Tensor) -> Tensor:
        combine = COMBINATIONS[self.combination]
        return combine(self._from_location(self._log_scores(network, z)) / self.scale)

    def _from_location(self, log_scores: Tensor) -> Tensor:
        # Copies of training rows may score 0, whose logarithm would dominate the scale.
        return (log_scores - self.location).clamp_min(LOWEST_LOG_SCORE)

    def _log_scores(self, network: Network, z: Tensor) -> Tensor:
        smallest = torch.finfo(torch.float32).tiny  # a row that is reconstructed exactly scores 0
        return self.head.score(network, z).clamp_min(smallest).log()


def _median(scores: Tensor) -> Tensor:
    # torch.median returns the lower of the two middle values
    ordered = scores.sort(dim=0).values
    return 0.5 * (ordered[(len(scores) - 1) // 2] + ordered[len(scores) // 2])


def _aom(scores: Tensor) -> Tensor:
    """Average of the maxima of buckets of members (Aggarwal & Sathe 2015)."""
    return torch.stack([bucket.amax(0) for bucket in _buckets(scores)]).mean(0)


def _moa(scores: Tensor) -> Tensor:
    """Maximum of the averages of buckets of members (Aggarwal & Sathe 2015)."""
    return torch.stack([bucket.mean(0) for bucket in _buckets(scores)]).amax(0)


def _buckets(scores: Tensor) -> tuple[Tensor, ...]:
    return scores.tensor_split(min(_N_BUCKETS, len(scores)))


COMBINATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "average": lambda scores: scores.mean(0),
    "maximization": lambda scores: scores.amax(0),
    "median": _median,
    "aom": _aom,
    "moa": _moa,
}
