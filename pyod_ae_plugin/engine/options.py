"""How to train."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from pyod_ae_plugin.engine.schedule import default_batch_size, default_epochs, default_lr


@dataclass(frozen=True)
class Corruption:
    """What is done to rows before they are encoded, while training (denoising autoencoder).

    Attributes
    ----------
    mask : float in [0, 1), default=0.0
        Share of the features of each row that are hidden from the encoder, at random.
    noise : float, default=0.0
        Standard deviation of the normal noise that is added, in those of the features.
    """

    mask: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the loss of held-out rows no longer falls, and go back to the best epoch.

    Attributes
    ----------
    validation_fraction : float
        Share of the rows held out, in (0, 1).
    patience : int
        Epochs without improvement after which training stops.
    min_improvement : float
        What counts as improvement of the held-out loss.
    """

    patience: int = 5
    tol: float = 1e-4
    validation_fraction: float = 0.1


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes
    ----------
    epochs : int or None
        Passes over the rows; None is :func:`~pyod_ae_plugin.engine.schedule.default_epochs`.
    share : float
        Share of these passes that are made, but no fewer than one; for training that goes on.
    trim : sequence of float
        Share of the highest-loss rows of a batch left out of the gradient, in [0, 1), so that
        outliers among the training rows do not teach the network to rebuild outliers; one for
        each member of an ensemble.
    batch_size : int or None
        Rows in a step; None is
        :func:`~pyod_ae_plugin.engine.schedule.default_batch_size`.
    lr : float or None
        Highest learning rate, see :func:`~pyod_ae_plugin.engine.schedule.one_cycle`; None is
        :func:`~pyod_ae_plugin.engine.schedule.default_lr`.
    optimizer : str
        A name in :data:`~pyod_ae_plugin.engine.optimizers.OPTIMIZERS`.
    optimizer_params : mapping of str to float
        Options of the optimizer.
    early_stopping : EarlyStopping or None
    compile_mode : str or None
        Mode of :func:`torch.compile`; None does not compile.
    n_members : int or None
        Members of an ensemble: each is given batches of its own. None for a plain network.
    rows_per_member : int or None
        Most rows that a member is trained on, drawn for each; None is all.
    average : callable or None
        Takes a tensor to its mean over the processes that train copies of the network on other
        rows, in place. All must take as many steps. None trains one network.
    """

    epochs: int | None
    share: float = 1.0
    trim: Sequence[float] = (0.0,)
    batch_size: int | None = None
    lr: float | None = None
    optimizer: str = "adam"
    optimizer_params: Mapping[str, float] = field(default_factory=dict)
    early_stopping: EarlyStopping | None = None
    compile_mode: str | None = None
    n_members: int | None = None
    rows_per_member: int | None = None
    average: Callable[[Tensor], object] | None = None


def n_held_out(options: TrainingOptions, n_rows: int) -> int:
    """How many rows early stopping holds out, all but one of them at most."""
    if options.early_stopping is None:
        return 0
    return min(max(round(n_rows * options.early_stopping.validation_fraction), 1), n_rows - 1)


def n_trained(options: TrainingOptions, n_rows: int) -> int:
    """How many rows the network, or a member, is trained on.

    Examples
    --------
    >>> n_trained(TrainingOptions(epochs=None, n_members=8, rows_per_member=1024), 5_000)
    1024
    """
    n = n_rows - n_held_out(options, n_rows)
    return min(options.rows_per_member or n, n)


def chosen(options: TrainingOptions, n_rows: int) -> tuple[int, int, float]:
    """Batch size, passes and highest learning rate, as they are asked for or by default.

    Parameters
    ----------
    options : TrainingOptions
    n_rows : int
        How many the network, or a member, is trained on.

    Examples
    --------
    >>> chosen(TrainingOptions(epochs=None, lr=0.1), 5_000)
    (128, 13, 0.1)
    """
    batch_size = options.batch_size or default_batch_size(n_rows)
    epochs = options.epochs or default_epochs(math.ceil(n_rows / batch_size))
    rows_in_batch = min(batch_size, max(n_rows, 32))
    return (
        batch_size,
        epochs,
        float(default_lr(rows_in_batch) if options.lr is None else options.lr),
    )
