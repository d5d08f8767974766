"""Trimmed losses: outliers among the training rows do not teach the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class TrimmedMean:
    """The mean of all but the highest losses of a batch.

    Parameters
    ----------
    like : Tensor of shape (*members, n)
        Losses, of which shape, dtype and device are taken.
    trim : sequence of float
        Share of the highest losses left out, for each member; one figure for all is enough.

    Attributes
    ----------
    n_kept : int
        Losses that have a part in the mean, by the member that keeps most.
    leaves_out : bool
        Whether any loss of any member is left out.
    weights : Tensor of shape (*members, n_kept)
        The weights of what :meth:`lowest` returns, the sum of which is the mean.

    Notes
    -----
    Shapes:

    - Input: ``(*members, n)``
    - Output: ``(*members)``

    Examples
    --------
    >>> losses = torch.tensor([9.0, 1.0, 2.0, 3.0])
    >>> TrimmedMean(losses, [0.25])(losses)
    tensor(2.)
    """

    def __init__(self, like: Tensor, trim: Sequence[float]) -> None:
        n = like.shape[-1]
        kept = torch.tensor([[n - int(share * n)] for share in trim])
        self.n_kept = int(kept.max())
        self.leaves_out = int(kept.min()) < n
        self._in_order = int(kept.min()) < self.n_kept
        weights = (torch.arange(self.n_kept) < kept).to(like) / kept.to(like)
        of_members = weights if like.ndim == 2 else weights[0]
        self.weights = of_members.expand(*like.shape[:-1], -1).contiguous()

    def lowest(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest ``n_kept`` losses of each member, and their indices."""
        values, indices = losses.topk(self.n_kept, largest=False, sorted=self._in_order)
        return values, indices

    def __call__(self, losses: Tensor) -> Tensor:
        if self.leaves_out:
            losses, _ = self.lowest(losses)
        return (losses * self.weights).sum(-1)
