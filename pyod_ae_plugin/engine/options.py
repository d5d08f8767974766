"""Options of a training, their defaults, and the schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

_RISING = 0.3
_FIRST_LR = 1 / 25


@dataclass(frozen=True)
class Corruption:
    """Corruption of the rows that the encoder is given while training (denoising autoencoder).

    Parameters
    ----------
    mask : float in [0, 1), default=0.0
        Share of the features of each row that are hidden, at random.
    noise : float, default=0.0
        Standard deviation of the normal noise that is added, in standard deviations of a feature.

    Examples
    --------
    >>> Corruption(mask=0.3)
    Corruption(mask=0.3, noise=0.0)
    """

    mask: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the loss of held-out rows no longer falls, and return to the best epoch.

    Parameters
    ----------
    patience : int, default=5
        Epochs without improvement after which training stops.
    tol : float, default=1e-4
        The loss improves if it falls by more than this.
    validation_fraction : float in (0, 1), default=0.1
        Share of the rows held out.

    Examples
    --------
    >>> EarlyStopping(patience=10)
    EarlyStopping(patience=10, tol=0.0001, validation_fraction=0.1)
    """

    patience: int = 5
    tol: float = 1e-4
    validation_fraction: float = 0.1


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training."""

    # None takes the default of resolve().
    epochs: int | None
    # Share of these epochs that is trained, but at least one; for continued training.
    epoch_fraction: float = 1.0
    # Share of the highest-loss rows of a batch left out of the gradient, in [0, 1), so that the
    # network does not learn to reconstruct outliers; one for each member of an ensemble.
    trim: Sequence[float] = (0.0,)
    batch_size: int | None = None  # None takes the default of resolve()
    lr: float | None = None  # the highest of one_cycle(); None takes the default of resolve()
    optimizer: str = "adam"  # a name in optimizers.OPTIMIZERS
    optimizer_params: Mapping[str, float] = field(default_factory=dict)
    early_stopping: EarlyStopping | None = None
    compile_mode: str | None = None  # of torch.compile; None does not compile
    # Members of an ensemble, each trained on batches of its own; None for a single network.
    n_members: int | None = None
    # Maximal number of rows that each member is trained on, drawn at random; None is all rows.
    rows_per_member: int | None = None
    # Replaces a tensor in place by its mean over the processes that train copies of the network on
    # other rows. All must take the same number of steps. None trains one network.
    average: Callable[[Tensor], object] | None = None


def n_held_out(options: TrainingOptions, n_rows: int) -> int:
    """Number of rows that early stopping holds out, at most all but one."""
    if options.early_stopping is None:
        return 0
    return min(max(round(n_rows * options.early_stopping.validation_fraction), 1), n_rows - 1)


def n_trained(options: TrainingOptions, n_rows: int) -> int:
    """Number of rows that the network, or each member, is trained on."""
    n = n_rows - n_held_out(options, n_rows)
    return min(options.rows_per_member or n, n)


def resolve(options: TrainingOptions, n_rows: int) -> tuple[int, int, float]:
    """Batch size, epochs and highest learning rate, with defaults for those that are None.

    ``n_rows`` is the number of rows that the network, or each member, is trained on.
    """
    batch_size = options.batch_size or default_batch_size(n_rows)
    # By default as many epochs as make 500 steps, but at least 5.
    epochs = options.epochs or max(math.ceil(500 / math.ceil(n_rows / batch_size)), 5)
    rows_in_batch = min(batch_size, max(n_rows, 32))
    lr = default_lr(rows_in_batch) if options.lr is None else options.lr
    return batch_size, epochs, float(lr)


def default_batch_size(n: int) -> int:
    """Batch size for n rows: the power of two nearest to n / 32, between 32 and 1,024."""
    return int(min(max(2 ** round(math.log2(max(n, 1) / 32)), 32), 1024))


def default_lr(batch_size: int) -> float:
    """Learning rate for a batch size: 2e-3 at 32, growing with the square root.

    Under the square-root rule the scale of Adam's noise does not depend on the batch size (Malladi
    et al. 2022, On the SDEs and Scaling Rules for Adaptive Gradient Algorithms).
    """
    return 2e-3 * math.sqrt(batch_size / 32)


def one_cycle(progress: float) -> float:
    """Factor of the highest learning rate, from 0 to 1, at a progress of training from 0 to 1.

    It rises from 1/25 to 1 in the first 30% of the steps and then falls to 0, each time along half
    a cosine (Smith & Topin 2018, Super-Convergence).

    Examples
    --------
    >>> [round(one_cycle(progress), 2) for progress in (0.0, 0.15, 0.3, 0.65, 1.0)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    rising = progress < _RISING
    since_start = progress / _RISING if rising else (1 - progress) / (1 - _RISING)
    lowest = _FIRST_LR if rising else 0.0
    return lowest + (1 - lowest) * (1 - math.cos(math.pi * since_start)) / 2
