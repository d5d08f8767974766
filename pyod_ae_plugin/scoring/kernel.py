"""The score head that reconstructs a row from training rows by kernel regression."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.heads import ScoreHead, Tiles, check_residuals

# Measured: 2,048 detect no better, 512 worse.
_N_REFERENCES = 1024
# Rows that references are chosen from, passes of k-means over them, and rows that the bandwidth is
# chosen by. With these a fit takes at most 0.2 s for any number of rows of 30 features.
_ROWS_CLUSTERED, _PASSES, _ROWS_FOR_BANDWIDTH = 4096, 3, 1024
# Candidates for the bandwidth, in units of the median distance to the fifth neighbour.
_BANDWIDTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5, 5.0)
_NEIGHBOR = 5
# Share of the rows that the bandwidth is chosen by: those that are reconstructed best. The others
# may be far from all rows, and would widen it.
_SHARE_FOR_BANDWIDTH = 0.7
# Measured: between 2 and 4 it makes no difference.
RESIDUAL_WEIGHT = 3.0
# Rows nearer than this, in squared lengths, are taken for the same. Rounding in float32 is less.
SAME = 1e-5


class Kernel(ScoreHead):
    """Distance of a row from its kernel regression on training rows.

    A row ``x`` with the residual ``r`` is the point ``u = (x, 3 r)``. It is reconstructed as the
    mean of reference points, weighted by ``softmax(-|u - u_i|^2 / (2 h^2))``, and its score is its
    distance to that mean. This is what the best denoising autoencoder computes for a finite table
    and normal noise of standard deviation ``h`` [1]_; with ``u = x`` alone it is known as kernel
    contraction [2]_. The residual adds what the network learned about how features depend on
    each other.

    References are 1,024 of the training rows that were not trimmed, those nearest to the centers of
    k-means, or all if there are fewer. The bandwidth ``h`` is the candidate by which the 70% of the
    training rows that are reconstructed best are reconstructed best on average. A row that lies on
    a reference may be that reference, which must not be reconstructed from itself, or a copy of it,
    which may. If training rows have copies there, the reference counts fully. Else its weight is
    multiplied by the share of training rows that have copies: it is 0 for continuous features, so
    that training rows have scores like new rows.

    Rows ``(n, n_features)`` and residuals ``(*members, n, n_features)`` become scores ``(n,)``. The
    members of an ensemble are scored together: a point holds the residuals of all of them, each
    divided by the square root of their number.

    Parameters
    ----------
    n_features : int
        Width of a row.
    members : tuple of int, default=()
        Leading dimension of residuals, for an ensemble.

    References
    ----------
    .. [1] Alain, G., & Bengio, Y. (2014). What Regularized Auto-Encoders Learn from the
           Data-Generating Distribution. Journal of Machine Learning Research 15.
    .. [2] Nadaraya, E. A. (1964). On Estimating Regression. Theory of Probability and Its
           Applications 9(1).

    Examples
    --------
    >>> from pyod_ae_plugin.networks import mlp
    >>> network = mlp(2, [1], "tanh", False, 0.0, torch.Generator().manual_seed(0))
    >>> rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> head = Kernel(2)
    >>> with torch.no_grad():
    ...     head.fit_to(network, lambda: [rows], 0.0, torch.Generator().manual_seed(0))
    ...     near, far = head.score(network, torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
    >>> bool(far > 10 * near)
    True
    """

    propagates_nan = True
    uses_row = True
    combines_members = True
    needs_float32 = True
    leaves_one_out = True

    center: Tensor
    references: Tensor
    copies: Tensor
    bandwidth: Tensor
    copied: Tensor

    def __init__(self, n_features: int, members: tuple[int, ...] = ()) -> None:
        super().__init__(n_features)
        width = n_features * (1 + math.prod(members))
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("references", torch.zeros(_N_REFERENCES, width))
        # training rows at each reference; 0 where there is no reference
        self.register_buffer("copies", torch.zeros(_N_REFERENCES))
        self.register_buffer("bandwidth", torch.ones(()))
        self.register_buffer("copied", torch.zeros(()))  # share of training rows that have copies
        self.max_width = 3 * _N_REFERENCES

    def fit_to(
        self, network: Network, tiles: Tiles, trim: float, generator: torch.Generator
    ) -> None:
        points, lengths = [], []
        for z in tiles():
            residual = network.decode(network.encode(z)) - z
            points.append(_points(z, residual))
            lengths.append(_squares(residual).view(-1, len(z)).sum(0))
        point, length = torch.cat(points), torch.cat(lengths)
        check_residuals(length)
        kept = length.topk(max(len(length) - int(trim * len(length)), 1), largest=False).indices
        self._fit(point[kept.sort().values], generator)

    def _fit(self, points: Tensor, generator: torch.Generator) -> None:
        """Learn from points [n, width]."""
        self.center = points.mean(0)
        shuffled = torch.randperm(len(points), generator=generator, device=generator.device)
        points = points[shuffled[:_ROWS_CLUSTERED]] - self.center
        chosen = points[_representatives(points)]
        _, same = _compared(chosen, points)
        self.references[: len(chosen)], self.references[len(chosen) :] = chosen, 0
        copies = same.sum(1).clamp_min(1)
        self.copies[: len(chosen)], self.copies[len(chosen) :] = copies, 0
        self.copied = torch.zeros_like(self.copied)
        self._choose_bandwidth(points[:_ROWS_FOR_BANDWIDTH])  # from other rows alone
        self.copied = torch.where(copies > 1, copies, 0).sum() / copies.sum()

    def _choose_bandwidth(self, points: Tensor) -> None:
        """Take the candidate at which most points are nearest to their reconstructions."""
        distances, weights = self._distances(points)
        usable = distances.masked_fill(weights == 0, torch.inf)
        nearest = usable.topk(_NEIGHBOR, dim=1, largest=False).values
        farthest = nearest.masked_fill(nearest.isinf(), 0).amax(1).clamp_min(0).sqrt().median()
        unit = torch.where(farthest > 0, farthest, 1.0)
        n_counted = max(int(_SHARE_FOR_BANDWIDTH * len(points)), 1)
        means = []
        for multiple in _BANDWIDTHS:
            self.bandwidth = multiple * unit
            scores = self._scores(points, distances, weights)
            means.append(scores.topk(n_counted, largest=False).values.mean())
        self.bandwidth = _BANDWIDTHS[int(torch.stack(means).argmin())] * unit

    def forward(self, residual: Tensor, row: Tensor) -> Tensor:
        points = _points(row, residual) - self.center
        return self._scores(points, *self._distances(points))

    def fast_scores(self) -> Callable[[Tensor], Tensor]:
        """Return a function from centered points [n, width] to scores [n], for a CPU.

        It passes over the references of a row once for each matrix product and once for the
        softmax. Only for rows that lie on a reference it looks at which of them may be the row
        itself; this branch is why it is not for graphs.
        """
        exists = self.copies > 0
        references, copies = self.references[exists], self.copies[exists]
        squares, precision = _squares(references), 1 / self.bandwidth.square()
        factors, bias = precision * references.T, -0.5 * precision * squares
        farthest = squares.max()
        weight_of_itself = torch.where(copies < 2, self.copied, 1.0)

        def from_distances(logits: Tensor, lengths: Tensor) -> Tensor:
            """What :meth:`_distances` makes of its squared distances, which logits tell."""
            distances = lengths - 2 / precision * logits
            same = distances <= SAME * (lengths + squares)
            weights = torch.where(same, weight_of_itself, 1.0)
            is_alone = weights.sum(1, keepdim=True) == 0
            return logits + torch.where(is_alone, 1.0, weights).log()

        def scores(points: Tensor) -> Tensor:
            logits = torch.addmm(bias, points, factors)
            lengths = _squares(points).unsqueeze(1)
            nearest = lengths - 2 / precision * logits.amax(1, keepdim=True)
            near = (nearest <= SAME * (lengths + farthest)).squeeze(1).nonzero().squeeze(1)
            if len(near):
                logits[near] = from_distances(logits[near], lengths[near])
            residual = torch.addmm(points, torch.softmax(logits, dim=1), references, alpha=-1)
            length: Tensor = torch.linalg.vector_norm(residual, dim=1)
            return length

        return scores

    def _scores(self, points: Tensor, distances: Tensor, weights: Tensor) -> Tensor:
        """Distances [n] of centered points [n, width] to their reconstructions."""
        logits = distances / (-2 * self.bandwidth.square()) + weights.log()
        reconstructions = torch.softmax(logits, dim=1) @ self.references
        length: Tensor = torch.linalg.vector_norm(points - reconstructions, dim=-1)
        return length

    def _distances(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances [n, n_references] to references, and the weights of these."""
        distances, same = _compared(points, self.references)
        exists = (self.copies > 0).to(points.dtype)
        may_be_itself = same & (self.copies < 2)
        weights = torch.where(may_be_itself, self.copied * exists, exists)
        # If every reference may be the row itself, the row is reconstructed from all of them.
        is_alone = weights.sum(1, keepdim=True) == 0
        return distances, torch.where(is_alone, exists, weights)


def _points(row: Tensor, residual: Tensor) -> Tensor:
    """Points [n, width] of rows [n, n_features] and residuals [*members, n, n_features]."""
    weight = residual_weight(1 if residual.ndim == 2 else len(residual))
    if residual.ndim == 3:
        residual = residual.movedim(0, 1).flatten(1)
    return torch.cat([row, weight * residual], dim=1)


def residual_weight(n_members: int) -> float:
    """What the residual of each member is multiplied by."""
    return RESIDUAL_WEIGHT / math.sqrt(n_members)


def _compared(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [n, m] of points to others, and which are the same up to rounding."""
    lengths = _squares(points).unsqueeze(1) + _squares(others)
    distances = torch.addmm(lengths, points, others.T, alpha=-2)
    return distances, distances <= SAME * lengths


def _squares(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def _representatives(points: Tensor) -> Tensor:
    """Indices of the points nearest to the centers of k-means [1]_, without repetition.

    References
    ----------
    .. [1] Lloyd, S. P. (1982). Least Squares Quantization in PCM. IEEE Transactions on
           Information Theory 28(2).
    """
    centers = points[:_N_REFERENCES].clone()
    if len(points) > _N_REFERENCES:
        for _ in range(_PASSES):
            nearest = torch.cdist(points, centers).argmin(1)
            # a matrix product, since index_add rounds otherwise at each call on a GPU
            members = torch.nn.functional.one_hot(nearest, len(centers)).to(points).T
            counts = members.sum(1, keepdim=True)
            centers = torch.where(counts > 0, members @ points / counts.clamp_min(1), centers)
    indices: Tensor = torch.cdist(centers, points).argmin(1).unique()
    return indices
