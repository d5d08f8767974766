"""Score heads: from the residual of a row to its anomaly score, also of an ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import Network

Tiles = Callable[[], Iterable[Tensor]]
"""Returns an iterable over tiles [m, n_features] of standardised training rows, at each call."""


class ScoreHead(nn.Module):
    """Base class of modules that turn residuals into scores; larger is more abnormal.

    A subclass implements ``forward``, and :meth:`fit` if it learns from the residuals of the
    training rows. What it learns are parameters or buffers, created with their final shapes in
    ``__init__``, so that a saved head can be loaded. A head that needs more than residuals
    overrides :meth:`fit_to` and :meth:`score`.

    Residuals ``(*, n, n_features)``, the reconstructions less the standardised rows, become scores
    ``(*, n)``. With ``uses_code``, ``forward`` also takes codes ``(*, n, n_latent)``, and with
    ``uses_row`` the standardised rows ``(n, n_features)``. The leading dimension, if any, is that
    of the members of an ensemble.

    Parameters
    ----------
    n_features : int
        Width of a residual.

    Attributes
    ----------
    propagates_nan : bool, default=False
        Whether a NaN or infinity anywhere in a residual always makes the score NaN or infinite.
        If so, bad input is detected from the scores, without another pass over the rows.
    uses_code : bool, default=False
        Whether ``forward`` takes the latent code behind the residual.
    uses_row : bool, default=False
        Whether ``forward`` takes the standardised row as its last argument.
    combines_members : bool, default=False
        Whether the scores are those of an ensemble, ``(n,)``, and not of each of its members.
    needs_float32 : bool, default=False
        Whether a GPU must not compute matrix products in a lower precision.
    max_width : int, default=0
        The largest number of values that ``forward`` holds for one row, if it is more than the
        network holds. Tiles are made low enough for these values to fit the cache.
    leaves_one_out : bool, default=False
        Whether a row that the head was fitted to has the score that it would have as a new row. If
        so, the head is fitted to the rows held out for the threshold, too.
    required_methods : tuple of str, default=()
        Methods that the network must have besides ``encode`` and ``decode``.

    Examples
    --------
    >>> class LargestResidual(ScoreHead):
    ...     def forward(self, residual):
    ...         return residual.abs().amax(-1)
    >>> LargestResidual(2)(torch.tensor([[3.0, -4.0], [0.0, 1.0]]))
    tensor([4., 1.])
    """

    propagates_nan: bool = False
    uses_code: bool = False
    uses_row: bool = False
    combines_members: bool = False
    needs_float32: bool = False
    leaves_one_out: bool = False
    max_width: int = 0
    required_methods: tuple[str, ...] = ()

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    def fit(self, residuals: Iterable[Tensor]) -> None:
        """Learn from the residuals of the training rows, as tiles [m, n_features]."""

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        """Learn from a trained network and tiles of standardised training rows.

        ``trim`` is the share of rows that training left out as outliers. All random numbers come
        from ``generator``.
        """
        self.fit(network.decode(network.encode(z)) - z for z in tiles())

    def score(self, network: Network, z: Tensor) -> Tensor:
        """Scores ``[*, n]`` of standardised rows ``[n, n_features]``."""
        code = network.encode(z)
        scores: Tensor = self(network.decode(code) - z, *self.other_inputs(code, z))
        return scores

    def other_inputs(self, code: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        """Further arguments of ``forward``."""
        return (code,) * self.uses_code + (z,) * self.uses_row

    def feature_terms(self, network: Network, z: Tensor) -> Tensor | None:
        """Terms [n, n_features], one for each feature, that sum to the scores of standardised rows.

        None, as here, if the score is not such a sum.
        """
        return None


def check_residuals(residual: Tensor) -> None:
    """Raise unless all residuals of training rows are finite."""
    if not bool(torch.isfinite(residual).all()):
        raise FloatingPointError(
            "Training diverged: the network reconstructs training rows as infinite. Lower the "
            "learning rate lr, and keep preprocessing=True so that the features are standardised."
        )


class Euclidean(ScoreHead):
    """Length of the residual, PyOD's reconstruction error.

    Residuals ``(*, n, n_features)`` become scores ``(*, n)``.

    Parameters
    ----------
    n_features : int
        Width of a residual.
    members : tuple of int, default=()
        Leading dimension of residuals, for an ensemble. It makes no difference to a length.

    Examples
    --------
    >>> Euclidean(2)(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([5., 1.])
    """

    propagates_nan = True

    def __init__(self, n_features: int, members: tuple[int, ...] = ()) -> None:
        super().__init__(n_features)

    def forward(self, residual: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(residual, dim=-1)
        return length

    def feature_terms(self, network: Network, z: Tensor) -> Tensor | None:
        residual = network.decode(network.encode(z)) - z
        length = self(residual).clamp_min(torch.finfo(torch.float32).tiny)
        terms: Tensor = residual.square() / length.unsqueeze(-1)
        return terms


# ------------------------------------------------------------------- ensembles

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
    >>> network = stacked_mlp(2, [3, 1], [1, 1], None, "tanh", torch.Generator().manual_seed(0))
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
        scores = torch.cat([_log(self.head.score(network, z)) for z in tiles()], dim=1).double()
        self.location = scores.median(dim=1, keepdim=True).values.float()
        spread = self._from_location(scores).std(dim=1, correction=0, keepdim=True)
        self.scale = torch.where(spread > 1e-6, spread, 1.0).float()

    def score(self, network: Network, z: Tensor) -> Tensor:
        return self.combined(self.head.score(network, z))

    def combined(self, scores: Tensor) -> Tensor:
        """Scores [n] of an ensemble from those of its members, [n_members, n]."""
        combine = COMBINATIONS[self.combination]
        return combine(self._from_location(_log(scores)) / self.scale)

    def _from_location(self, log_scores: Tensor) -> Tensor:
        # Copies of training rows may score 0, whose logarithm would dominate the scale.
        return (log_scores - self.location).clamp_min(LOWEST_LOG_SCORE)


def _log(scores: Tensor) -> Tensor:
    smallest = torch.finfo(torch.float32).tiny  # a row that is reconstructed exactly scores 0
    return scores.clamp_min(smallest).log()


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
