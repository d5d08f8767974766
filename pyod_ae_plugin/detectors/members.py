"""What sets the members of an ensemble apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Member:
    """One autoencoder of an ensemble.

    Attributes
    ----------
    widths : list of int
        Of its encoder's layers, the last of them the bottleneck.
    mask : float
        Share of the features hidden from its encoder while training.
    noise : float
        Standard deviation of the noise that its encoder is given while training.
    """

    widths: list[int]
    mask: float
    noise: float


def draw_members(
    n_members: int, widths: Sequence[int], mask: float, noise: float, seed: int
) -> list[Member]:
    """Draw members that are spread over what they may be.

    The first has the widths given. The hidden widths of the others are half of these to all, their
    bottlenecks 1 to the one given, evenly in the logarithm; mask and noise run from 0 to those
    given. Each is spread evenly over the members, in an order of its own.

    Examples
    --------
    >>> draw_members(1, [64, 8], 0.5, 0.0, seed=0)
    [Member(widths=[64, 8], mask=0.0, noise=0.0)]
    >>> sorted(member.mask for member in draw_members(3, [64, 8], 0.5, 0.0, seed=0))
    [0.0, 0.25, 0.5]
    """
    generator = torch.Generator().manual_seed(seed)
    *hidden, bottleneck = widths
    narrow, masks, noises = (_spread(n_members, generator).tolist() for _ in range(3))
    shares = (1 - 0.5 * _spread(n_members, generator)).tolist()
    members = []
    for i in range(n_members):
        share, exponent = (1.0, 0.0) if i == 0 else (shares[i], narrow[i])
        code = round(bottleneck ** (1 - exponent))
        own = [*(max(round(share * width), 1) for width in hidden), code]
        members.append(Member(own, mask * masks[i], noise * noises[i]))
    return members


def _spread(n: int, generator: torch.Generator) -> Tensor:
    """Figures spread evenly over [0, 1], in a random order."""
    evenly = torch.linspace(0, 1, n, dtype=torch.float64)
    return evenly[torch.randperm(n, generator=generator)]
