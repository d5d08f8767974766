"""The training loop: index permutations, a fused optimizer, one record an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pyod_ae_plugin.engine.objectives import Objective

# For each optimizer its class and, by the names that PyOD gives them, its options.
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, str]]] = {
    "adam": (torch.optim.Adam, {"weight_decay": "weight_decay", "adam_eps": "eps"}),
    "adamw": (torch.optim.AdamW, {"weight_decay": "weight_decay", "adam_eps": "eps"}),
    "sgd": (
        torch.optim.SGD,
        {
            "weight_decay": "weight_decay",
            "sgd_momentum": "momentum",
            "sgd_nesterov": "nesterov",
        },
    ),
}


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the loss on held-out rows no longer falls, and go back to the best epoch.

    Parameters
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
    """How to train; None stands for the default that goes with the number of rows."""

    epochs: int
    batch_size: int | None = None
    lr: float | None = None
    optimizer: str = "adam"
    optimizer_params: Mapping[str, float] = field(default_factory=dict)
    early_stopping: EarlyStopping | None = None
    compile_mode: str | None = None


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training showed.

    Attributes
    ----------
    loss : float
        Mean loss of the training rows.
    validation_loss : float or None
        Mean loss of the held-out rows after the epoch; None without early stopping.
    seconds : float
        Time the epoch took.
    """

    loss: float
    validation_loss: float | None
    seconds: float


def default_batch_size(n: int) -> int:
    """Batch size for n rows: the power of two nearest to n / 32, between 32 and 1,024.

    Examples
    --------
    >>> [default_batch_size(n) for n in (10, 5_000, 20_000, 10**6)]
    [32, 128, 512, 1024]
    """
    return int(min(max(2 ** round(math.log2(max(n, 1) / 32)), 32), 1024))


def default_lr(batch_size: int) -> float:
    """Learning rate for a batch size: 1e-3 at 32, growing with the square root.

    Adam's noise scale stays the same under the square-root rule (Malladi et al. 2022, On the
    SDEs and Scaling Rules for Adaptive Gradient Algorithms).

    Examples
    --------
    >>> default_lr(32), default_lr(512)
    (0.001, 0.004)
    """
    return 1e-3 * math.sqrt(batch_size / 32)


def train(
    network: nn.Module,
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
        If the loss of an epoch is not finite.
    """
    training, held_out = _split(len(rows), options.early_stopping, rows.device, generator)
    batch_size = options.batch_size or default_batch_size(len(training))
    n_batches = math.ceil(len(training) / batch_size)
    optimizer = _optimizer(network, options, batch_size)
    stopper = _Stopper(options.early_stopping, network)
    row_losses: Objective = objective
    if options.compile_mode is not None:
        row_losses = torch.compile(objective, mode=options.compile_mode)

    for epoch in range(options.epochs):
        began = time.perf_counter()
        network.train()
        total = torch.zeros((), device=rows.device)
        shuffled = training[_permutation(len(training), rows.device, generator)]
        for i, batch in enumerate(shuffled.tensor_split(n_batches)):
            progress = (epoch * n_batches + i + 1) / (options.epochs * n_batches)
            x = prepare(rows.index_select(0, batch))
            loss = row_losses(network, x, progress, generator).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(x)
        mean_loss = total.item() / len(training)
        _check_finite(mean_loss, epoch, options, batch_size)

        validation_loss = None
        if held_out is not None:
            validation_loss = _mean_loss(network, objective, rows, held_out, prepare, batch_size)
        yield Epoch(mean_loss, validation_loss, time.perf_counter() - began)
        if validation_loss is not None and stopper.should_stop(validation_loss):
            break
    stopper.restore_best()


def _permutation(n: int, device: torch.device, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=device, dtype=torch.int32)


def _split(
    n: int, stopping: EarlyStopping | None, device: torch.device, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Indices of the rows to train on and of those held out."""
    if stopping is None:
        return torch.arange(n, device=device, dtype=torch.int32), None
    if n < 2:
        raise ValueError(f"Early stopping holds rows out and needs at least 2 rows, got {n}.")
    shuffled = _permutation(n, device, generator)
    n_held_out = min(max(round(n * stopping.validation_fraction), 1), n - 1)
    return shuffled[n_held_out:], shuffled[:n_held_out]


def _optimizer(
    network: nn.Module, options: TrainingOptions, batch_size: int
) -> torch.optim.Optimizer:
    make, names = OPTIMIZERS[options.optimizer]
    keywords = {names[name]: value for name, value in options.optimizer_params.items()}
    lr = options.lr if options.lr is not None else default_lr(batch_size)
    parameters = list(network.parameters())
    fused = parameters[0].device.type in ("cpu", "cuda")
    return make(parameters, lr=lr, fused=fused, **keywords)


def _check_finite(loss: float, epoch: int, options: TrainingOptions, batch_size: int) -> None:
    if math.isfinite(loss):
        return
    lr = options.lr if options.lr is not None else default_lr(batch_size)
    raise FloatingPointError(
        f"The training loss became {loss} in epoch {epoch + 1} of {options.epochs} at a learning "
        f"rate of {lr:g}. Lower it (lr={lr / 10:g}), and keep preprocessing=True so that the "
        "features are standardised."
    )


def _mean_loss(
    network: nn.Module,
    objective: Objective,
    rows: Tensor,
    indices: Tensor,
    prepare: Callable[[Tensor], Tensor],
    batch_size: int,
) -> float:
    """Mean loss of some rows; what the objective draws is the same at every call."""
    network.eval()
    generator = torch.Generator(rows.device).manual_seed(0)
    total = 0.0
    with torch.no_grad():
        for batch in indices.split(batch_size):
            x = prepare(rows.index_select(0, batch))
            total += objective(network, x, 1.0, generator).sum().item()
    return total / len(indices)


class _Stopper:
    """Keeps the weights of the best epoch and says when to stop."""

    def __init__(self, stopping: EarlyStopping | None, network: nn.Module) -> None:
        self._stopping = stopping
        self._network = network
        self._best_loss = math.inf
        self._best_weights: dict[str, Tensor] | None = None
        self._epochs_since = 0

    def should_stop(self, validation_loss: float) -> bool:
        assert self._stopping is not None
        if validation_loss < self._best_loss - self._stopping.min_improvement:
            self._best_loss = validation_loss
            self._epochs_since = 0
            weights = self._network.state_dict()
            self._best_weights = {name: value.clone() for name, value in weights.items()}
        else:
            self._epochs_since += 1
        return self._epochs_since >= self._stopping.patience

    def restore_best(self) -> None:
        if self._best_weights is not None:
            self._network.load_state_dict(self._best_weights)
