"""The training loop: index permutations, trimmed losses, one record an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyod_ae_plugin.engine.objectives import Objective
from pyod_ae_plugin.engine.optimizers import flatten_parameters, make_optimizer
from pyod_ae_plugin.engine.options import EarlyStopping, TrainingOptions
from pyod_ae_plugin.engine.schedule import (
    default_batch_size,
    default_epochs,
    default_lr,
    one_cycle,
)
from pyod_ae_plugin.networks import Network

# No buffer of a network has such names: those in names of modules are single dots.
_WEIGHTS, _NUMBERS = "..weights", "..numbers"


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


class Training:
    """A training under way, epoch by epoch, of a network in place.

    What the next epochs do hangs on nothing but the arguments and :meth:`state`.

    Parameters
    ----------
    network : torch.nn.Module
        On the device of ``generator``.
    objective : Objective
        Loss of each row.
    batches : callable
        Maps indices of rows to standardised float32 rows, see
        :func:`~pyod_ae_plugin.engine.rows.training_batches`.
    n_rows : int
        How many rows there are, at least 1; at least 2 with early stopping.
    options : TrainingOptions
    generator : torch.Generator
        Feeds the shuffles and whatever the objective draws.

    Attributes
    ----------
    history : list of Epoch
        The finished epochs.
    device : torch.device
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        batches: Callable[[Tensor], Tensor],
        n_rows: int,
        options: TrainingOptions,
        generator: torch.Generator,
    ) -> None:
        self.history: list[Epoch] = []
        self._network, self._objective, self._batches = network, objective, batches
        self._options, self._generator = options, generator
        self.device = generator.device
        self._training, self._held_out = _split(n_rows, options, generator)
        n_training = self._training.shape[-1]
        self._batch_size = options.batch_size or default_batch_size(n_training)
        self._n_batches = math.ceil(n_training / self._batch_size)
        n_epochs = options.epochs or default_epochs(self._n_batches)
        self._n_epochs = max(round(options.share * n_epochs), 1)
        rows_in_batch = min(self._batch_size, max(n_training, 32))
        self._lr = default_lr(rows_in_batch) if options.lr is None else options.lr
        self._vector = flatten_parameters(network)
        self._optimizer = make_optimizer(options.optimizer, self._vector, options.optimizer_params)
        self._best = _Best(options.early_stopping)
        self._row_losses = objective
        if options.compile_mode is not None:
            self._row_losses = torch.compile(objective, mode=options.compile_mode)
        self._finished = _copied(self._weights())

    def epochs(self) -> Iterator[Epoch]:
        """Train to the end, yielding a record after each epoch.

        Raises
        ------
        FloatingPointError
            If the loss of an epoch, or a weight after it, is not finite.
        """
        while len(self.history) < self._n_epochs and self._best.keeps_going:
            epoch = self._epoch()
            if epoch.validation_loss is not None:
                self._best.judge(epoch.validation_loss, self._weights())
            self._finished = _copied(self._weights())
            self.history.append(epoch)
            yield epoch
        if self._best.weights:
            self._load_weights(self._best.weights)

    def rewind(self) -> None:
        """Undo what was done since the last finished epoch."""
        self._load_weights(self._finished)

    def state(self) -> dict[str, Tensor]:
        """Return all that the epochs to come hang on; to be asked for between two epochs."""
        numbers = [[e.loss, _or_nan(e.validation_loss), e.seconds] for e in self.history]
        return {
            "generator": self._generator.get_state(),
            "history": torch.tensor(numbers, dtype=torch.float64).view(-1, 3),
            **above("weights.", self._weights()),
            **above("optimizer.", self._optimizer.state()),
            **above("best.", self._best.state()),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from where another training with the same arguments was."""
        self._generator.set_state(state["generator"].cpu())
        self.history = [
            Epoch(loss, None if math.isnan(validation) else validation, seconds, self._n_epochs)
            for loss, validation, seconds in state["history"].tolist()
        ]
        self._load_weights(below("weights.", state))
        self._finished = _copied(self._weights())
        steps = below("optimizer.", state)
        for name, tensor in self._optimizer.state().items():
            tensor.copy_(steps[name])
        self._best.load_state(below("best.", state))

    def _epoch(self) -> Epoch:
        began = time.perf_counter()
        self._network.train()
        number, n_steps = len(self.history), self._n_epochs * self._n_batches
        total = torch.zeros((), device=self.device)
        shuffled = _shuffled(self._training, self._generator)
        for i, batch in enumerate(shuffled.tensor_split(self._n_batches, dim=-1)):
            total += self._step(batch, number * self._n_batches + i, n_steps)
        mean_loss = total.item() / (self._n_batches * (self._options.n_members or 1))
        self._check_finite(mean_loss)
        validation_loss = None if self._held_out is None else self._validation_loss()
        return Epoch(mean_loss, validation_loss, time.perf_counter() - began, self._n_epochs)

    def _step(self, batch: Tensor, step: int, n_steps: int) -> Tensor:
        """Change the weights by one batch of indices and return its loss."""
        assert self._vector.grad is not None
        x = self._batches(batch)
        losses = self._row_losses(self._network, x, (step + 1) / n_steps, self._generator)
        loss = _trimmed_mean(losses, self._options.trim).sum()
        self._vector.grad.zero_()
        loss.backward()
        self._optimizer.step(self._lr * one_cycle((step + 0.5) / n_steps))
        return loss.detach()

    def _check_finite(self, mean_loss: float) -> None:
        if math.isfinite(mean_loss) and bool(torch.isfinite(self._vector).all()):
            return
        what = "weights are" if math.isfinite(mean_loss) else "loss is"
        raise FloatingPointError(
            f"Training diverged: the {what} no longer finite in epoch {len(self.history) + 1} of "
            f"{self._n_epochs}, at a learning rate of {self._lr:g}. Lower it "
            f"(lr={self._lr / 10:g}), and keep preprocessing=True so that the features are "
            "standardised."
        )

    def _validation_loss(self) -> float:
        """Loss of the rows held out; what the objective draws is the same at every call."""
        assert self._held_out is not None
        self._network.eval()
        generator = torch.Generator(self.device).manual_seed(0)
        with torch.no_grad():
            losses = [
                self._objective(self._network, self._batches(batch), 1.0, generator)
                for batch in self._held_out.split(self._batch_size)
            ]
        return _trimmed_mean(torch.cat(losses, dim=-1), self._options.trim).mean().item()

    def _weights(self) -> dict[str, Tensor]:
        """What training changes in the network: all trained parameters as one, and buffers."""
        return {_WEIGHTS: self._vector, **dict(self._network.named_buffers())}

    def _load_weights(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._weights().items():
                tensor.copy_(weights[name])


def _trimmed_mean(losses: Tensor, trim: Sequence[float]) -> Tensor:
    """Mean [*members] of the losses [*members, n] without the highest ``trim`` share of them."""
    n = losses.shape[-1]
    n_kept = [n - int(share * n) for share in trim]
    most = max(n_kept)
    if min(n_kept) == n:
        return losses.mean(-1)
    alike = min(n_kept) == most
    kept: Tensor = losses.topk(most, largest=False, sorted=not alike).values
    if alike:
        return kept.mean(-1)
    n_of_member = torch.tensor(n_kept, device=losses.device).unsqueeze(1)
    counts = torch.arange(most, device=losses.device) < n_of_member
    return (kept * counts).sum(-1) / n_of_member.squeeze(1)


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


class _Best:
    """The weights of the best epoch so far, and whether to go on looking for better ones."""

    def __init__(self, stopping: EarlyStopping | None) -> None:
        self._stopping = stopping
        self._loss = math.inf
        self._epochs_since = 0
        self.weights: dict[str, Tensor] = {}

    @property
    def keeps_going(self) -> bool:
        return self._stopping is None or self._epochs_since < self._stopping.patience

    def judge(self, validation_loss: float, weights: Mapping[str, Tensor]) -> None:
        assert self._stopping is not None
        if validation_loss < self._loss - self._stopping.min_improvement:
            self._loss = validation_loss
            self._epochs_since = 0
            self.weights = _copied(weights)
        else:
            self._epochs_since += 1

    def state(self) -> dict[str, Tensor]:
        numbers = torch.tensor([self._loss, self._epochs_since], dtype=torch.float64)
        return {_NUMBERS: numbers, **self.weights}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        loss, epochs_since = state[_NUMBERS].tolist()
        self._loss, self._epochs_since = loss, int(epochs_since)
        self.weights = {name: value for name, value in state.items() if name != _NUMBERS}


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x


def above(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with a prefix before each name."""
    return {prefix + name: value for name, value in state.items()}


def below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What lies below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weights.items()}
