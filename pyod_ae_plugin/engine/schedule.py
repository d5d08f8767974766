"""How long training goes on, in batches of how many rows, and at which learning rates."""

from __future__ import annotations

import math

_RISING = 0.3
_FIRST_LR = 1 / 25


def default_batch_size(n: int) -> int:
    """Batch size for n rows: the power of two nearest to n / 32, between 32 and 1,024.

    Examples
    --------
    >>> [default_batch_size(n) for n in (10, 5_000, 20_000, 10**6)]
    [32, 128, 512, 1024]
    """
    return int(min(max(2 ** round(math.log2(max(n, 1) / 32)), 32), 1024))


def default_epochs(n_batches: int) -> int:
    """Passes over the rows that make 500 steps of so many a pass, but no fewer than 5.

    Examples
    --------
    >>> [default_epochs(n_batches) for n_batches in (1, 20, 1000)]
    [500, 25, 5]
    """
    return max(math.ceil(500 / n_batches), 5)


def default_lr(batch_size: int) -> float:
    """Learning rate for a batch size: 2e-3 at 32, growing with the square root.

    Adam's noise scale stays the same under the square-root rule (Malladi et al. 2022, On the
    SDEs and Scaling Rules for Adaptive Gradient Algorithms).

    Examples
    --------
    >>> default_lr(32), default_lr(512)
    (0.002, 0.008)
    """
    return 2e-3 * math.sqrt(batch_size / 32)


def one_cycle(progress: float) -> float:
    """Share of the highest learning rate at a point of training, in (0, 1].

    It rises from 1/25 to 1 in the first 30% of the steps and falls to 0 in the others, each along
    half a cosine (Smith & Topin 2018, Super-Convergence).

    Examples
    --------
    >>> [round(one_cycle(progress), 2) for progress in (0.0, 0.15, 0.3, 0.65, 1.0)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    rising = progress < _RISING
    since_start = progress / _RISING if rising else (1 - progress) / (1 - _RISING)
    lowest = _FIRST_LR if rising else 0.0
    return lowest + (1 - lowest) * (1 - math.cos(math.pi * since_start)) / 2
