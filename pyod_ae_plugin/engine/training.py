"""The training loop: index permutations, trimmed losses, one record an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyod_ae_plugin.engine.gradients import batch_gradient
from pyod_ae_plugin.engine.objectives import Objective
from pyod_ae_plugin.engine.optimizers import flatten_parameters, make_optimizer
from pyod_ae_plugin.engine.trimming import TrimmedMean
from pyod_ae_plugin.networks import Network

_RISING = 0.3
_FIRST_LR = 1 / 25
_GATHERED_CELLS = 2**16


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

    validation_fraction: float
    patience: int
    min_improvement: float


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes
    ----------
    epochs : int or None
        Passes over the rows; None is :func:`default_epochs`.
    trim : sequence of float
        Share of the highest-loss rows of a batch left out of the gradient, in [0, 1), so that
        outliers among the training rows do not teach the network to rebuild outliers; one for
        each member of an ensemble.
    batch_size : int or None
        Rows in a step; None is :func:`default_batch_size`.
    lr : float or None
        Highest learning rate, see :func:`one_cycle`; None is :func:`default_lr`.
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
    """

    epochs: int | None
    trim: Sequence[float] = (0.0,)
    batch_size: int | None = None
    lr: float | None = None
    optimizer: str = "adam"
    optimizer_params: Mapping[str, float] = field(default_factory=dict)
    early_stopping: EarlyStopping | None = None
    compile_mode: str | None = None
    n_members: int | None = None
    rows_per_member: int | None = None


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training showed.

    Attributes
    ----------
    loss : float
        Mean loss of the rows that were not trimmed.
    validation_loss : float or None
        The same of the held-out rows, after the epoch; None without early stopping.
    seconds : float
        Time the epoch took.
    total : int
        Epochs that training may take.
    """

    loss: float
    validation_loss: float | None
    seconds: float
    total: int


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


def train(
    network: Network,
    objective: Objective,
    rows: Tensor,
    prepare: Callable[[Tensor], Tensor],
    options: TrainingOptions,
    generator: torch.Generator,
) -> Iterator[Epoch]:
    """Train the network in place, yielding a record after each epoch.

    Parameters
    ----------
    network : torch.nn.Module
        Already on the device of ``rows``.
    objective : Objective
        Loss of each row.
    rows : Tensor of shape (n, n_features)
        Rows, n >= 1; at least 2 with early stopping.
    prepare : callable
        Maps gathered rows to standardised float32 rows.
    options : TrainingOptions
    generator : torch.Generator
        On the device of ``rows``; feeds the shuffles and whatever the objective draws.

    Raises
    ------
    FloatingPointError
        If the loss of an epoch, or a weight after it, is not finite.
    """
    training, held_out = _split(len(rows), options, generator)
    n_training = training.shape[-1]
    batch_size = options.batch_size or default_batch_size(n_training)
    n_batches = math.ceil(n_training / batch_size)
    epochs = options.epochs or default_epochs(n_batches)
    rows_in_batch = min(batch_size, max(n_training, 32))
    lr = default_lr(rows_in_batch) if options.lr is None else options.lr
    vector = flatten_parameters(network)
    optimizer = make_optimizer(options.optimizer, vector, options.optimizer_params)
    best = _Best(options.early_stopping, network)
    gradient = batch_gradient(
        network,
        objective,
        options.trim,
        vector,
        generator,
        stacked=options.n_members is not None,
        compile_mode=options.compile_mode,
    )

    for epoch in range(epochs):
        began = time.perf_counter()
        network.train()
        total = torch.zeros((), device=rows.device)
        batches = _shuffled(training, generator).tensor_split(n_batches, dim=-1)
        for i, x in enumerate(_prepared(rows, batches, prepare)):
            step, n_steps = epoch * n_batches + i, epochs * n_batches
            total += gradient(x, (step + 1) / n_steps)
            optimizer.step(lr * one_cycle((step + 0.5) / n_steps))
        mean_loss = total.item() / (n_batches * (options.n_members or 1))
        if not (math.isfinite(mean_loss) and bool(torch.isfinite(vector).all())):
            what = "weights are" if math.isfinite(mean_loss) else "loss is"
            raise FloatingPointError(
                f"Training diverged: the {what} no longer finite in epoch {epoch + 1} of "
                f"{epochs}, at a learning rate of {lr:g}. Lower it (lr={lr / 10:g}), and "
                "keep preprocessing=True so that the features are standardised."
            )
        validation_loss = None
        if held_out is not None:
            losses = _held_out_losses(network, objective, rows, held_out, prepare, batch_size)
            validation_loss = TrimmedMean(losses, options.trim)(losses).mean().item()
        yield Epoch(mean_loss, validation_loss, time.perf_counter() - began, epochs)
        if validation_loss is not None and not best.keep_going(validation_loss):
            break
    best.restore()


def _prepared(
    rows: Tensor, batches: Sequence[Tensor], prepare: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """Standardised rows [*indices.shape, n_features] of each batch of indices.

    Small batches are gathered many at a time: that costs hardly more than gathering one.
    """
    at_once = max(_GATHERED_CELLS // (batches[0].numel() * rows.shape[1]), 1)
    for start in range(0, len(batches), at_once):
        group = batches[start : start + at_once]
        indices = torch.cat([batch.reshape(-1) for batch in group])
        gathered = prepare(rows.index_select(0, indices))
        for batch, x in zip(group, gathered.split([b.numel() for b in group]), strict=True):
            yield x.view(*batch.shape, -1)


def _permutation(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device, dtype=torch.int32)


def _shuffled(indices: Tensor, generator: torch.Generator) -> Tensor:
    """Indices [n], or [n_members, n], each row of them in an order of its own."""
    if indices.ndim == 1:
        return indices[_permutation(len(indices), generator)]
    return torch.stack([_shuffled(of_member, generator) for of_member in indices])


def _split(
    n: int, options: TrainingOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Indices of the rows to train on, [n] or [n_members, n], and of those held out."""
    training = torch.arange(n, device=generator.device, dtype=torch.int32)
    held_out = None
    if options.early_stopping is not None:
        if n < 2:
            raise ValueError(f"Early stopping holds rows out and needs at least 2 rows, got {n}.")
        shuffled = _permutation(n, generator)
        n_held_out = min(max(round(n * options.early_stopping.validation_fraction), 1), n - 1)
        training, held_out = shuffled[n_held_out:], shuffled[:n_held_out]
    if options.n_members is not None:
        m = min(options.rows_per_member or len(training), len(training))
        drawn = [_shuffled(training, generator)[:m] for _ in range(options.n_members)]
        training = torch.stack(drawn)
    return training, held_out


def _held_out_losses(
    network: Network,
    objective: Objective,
    rows: Tensor,
    indices: Tensor,
    prepare: Callable[[Tensor], Tensor],
    batch_size: int,
) -> Tensor:
    """Losses of some rows; what the objective draws is the same at every call."""
    network.eval()
    generator = torch.Generator(rows.device).manual_seed(0)
    with torch.no_grad():
        return torch.cat(
            [
                objective(network, prepare(rows.index_select(0, batch)), 1.0, generator)
                for batch in indices.split(batch_size)
            ],
            dim=-1,
        )


class _Best:
    """The weights of the best epoch so far; says whether to go on."""

    def __init__(self, stopping: EarlyStopping | None, network: Network) -> None:
        self._stopping = stopping
        self._network = network
        self._loss = math.inf
        self._weights: dict[str, Tensor] | None = None
        self._epochs_since = 0

    def keep_going(self, validation_loss: float) -> bool:
        assert self._stopping is not None
        if validation_loss < self._loss - self._stopping.min_improvement:
            self._loss = validation_loss
            self._epochs_since = 0
            weights = self._network.state_dict()
            self._weights = {name: value.clone() for name, value in weights.items()}
        else:
            self._epochs_since += 1
        return self._epochs_since < self._stopping.patience

    def restore(self) -> None:
        if self._weights is not None:
            self._network.load_state_dict(self._weights)
