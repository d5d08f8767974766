"""The training loop, early stopping, and the check for divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyod_ae_plugin.engine.closed_form import batch_gradient
from pyod_ae_plugin.engine.cuda.graphs import RecordedStep, can_be_recorded
from pyod_ae_plugin.engine.devices import check_rng_state, enough_threads
from pyod_ae_plugin.engine.objectives import Objective, TrimmedMean
from pyod_ae_plugin.engine.optimizers import flatten_parameters, make_optimizer
from pyod_ae_plugin.engine.options import (
    EarlyStopping,
    TrainingOptions,
    n_held_out,
    n_trained,
    one_cycle,
    resolve,
)
from pyod_ae_plugin.engine.pipeline import read_pipeline
from pyod_ae_plugin.networks import Network

# No buffer of a network has two dots in a row in its name.
_WEIGHTS, _NUMBERS = "..weights", "..numbers"
_BEST = "best."
_GATHERED_INDICES = 2**11
_ROWS_FOR_ERROR = 2**10
# Steps that each of several processes makes between two exchanges, and the most exchanges of a
# training. On one machine an exchange takes as long as two or three steps, and each waits for the
# slowest process.
_LOCAL_STEPS, _MOST_EXCHANGES = 16, 100
_FLOATS = {torch.float32, torch.float64}


@dataclass(frozen=True)
class Epoch:
    """The record of one epoch of training."""

    loss: float  # mean over the rows that were not trimmed
    validation_loss: float | None  # of held-out rows, after the epoch; None without early stopping
    seconds: float


class Training:
    """Trains a network in place, epoch by epoch, on the device of a generator.

    ``batches`` maps indices of rows to standardised float32 rows, see
    :func:`~pyod_ae_plugin.engine.rows.training_batches`. The next epochs depend only on the
    arguments and on :meth:`state`.
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
        n_training = n_trained(options, n_rows)
        # lr, the highest learning rate, may be set before the first epoch.
        self._batch_size, n_epochs, self.lr = resolve(options, n_training)
        self._n_batches = math.ceil(n_training / self._batch_size)
        self.n_epochs = max(round(options.epoch_fraction * n_epochs), 1)
        self._vector = flatten_parameters(network)
        self._optimizer = make_optimizer(options.optimizer, self._vector, options.optimizer_params)
        self._stopper = EarlyStopper(options.early_stopping)
        self._gradient = batch_gradient(
            network,
            objective,
            options.trim,
            self._vector,
            generator,
            stacked=options.n_members is not None,
            compile_mode=options.compile_mode,
        )
        # Progress and learning rate. On a GPU they are a tensor, which a recorded step reads.
        self._now: Any = [0.0, 0.0] if self.device.type == "cpu" else self._vector.new_zeros(2)
        self._recorded = None
        alone = options.average is None  # communication between processes is not recorded
        pipeline = read_pipeline(network)
        if alone and options.compile_mode is None and can_be_recorded(pipeline, batches):
            changed = [*self._weights().values(), *self._optimizer.state().values()]
            self._recorded = RecordedStep(
                lambda indices: self._step(self._batches(indices)), changed, generator
            )
        self._finished = copied(self._weights())

    def epochs(self) -> Generator[Epoch, None, None]:
        """Train to the end, yielding a record after each epoch.

        Raises :class:`DivergenceError` if the loss of an epoch or a weight after it is not finite.
        """
        with enough_threads(6 * len(self._vector) * self._batch_size):
            while len(self.history) < self.n_epochs and self._stopper.keeps_going:
                epoch = self._epoch()
                if epoch.validation_loss is not None:
                    self._stopper.update(epoch.validation_loss, self._weights())
                self._finished = copied(self._weights())
                self.history.append(epoch)
                yield epoch
        if self._stopper.weights:
            self._load_weights(self._stopper.weights)

    def rewind(self) -> None:
        """Return to the weights after the last finished epoch."""
        self._load_weights(self._finished)

    def error(self) -> float:
        """The :func:`relative_error` of a sample of training rows."""
        indices = self._training.reshape(-1)
        self._network.eval()
        x = self._batches(indices[:: math.ceil(len(indices) / _ROWS_FOR_ERROR)])
        with enough_threads(2 * len(self._vector) * len(x)):
            return self._averaged(relative_error(self._network, x))

    def state(self) -> dict[str, Tensor]:
        """Return all that later epochs depend on; to be called between two epochs."""
        numbers = [
            [e.loss, math.nan if e.validation_loss is None else e.validation_loss, e.seconds]
            for e in self.history
        ]
        return {
            "generator": self._generator.get_state(),
            "history": torch.tensor(numbers, dtype=torch.float64).view(len(numbers), 3),
            "lr": torch.tensor(self.lr, dtype=torch.float64),
            **add_prefix("weights.", self._weights()),
            **add_prefix("optimizer.", self._optimizer.state()),
            **add_prefix(_BEST, self._stopper.state()),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the state of a training with the same arguments.

        Raises ValueError, before anything is changed, if it cannot be the state of such a training.
        """
        self._check_state(state)
        self._generator.set_state(state["generator"].cpu())
        self.lr = state["lr"].item()
        self.history = [
            Epoch(loss, None if math.isnan(validation) else validation, seconds)
            for loss, validation, seconds in state["history"].tolist()
        ]
        self._load_weights(strip_prefix("weights.", state))
        self._finished = copied(self._weights())
        steps = strip_prefix("optimizer.", state)
        for name, tensor in self._optimizer.state().items():
            tensor.copy_(steps[name])
        self._stopper.load_state(strip_prefix(_BEST, state))

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless a state, which may come from a file, can be that of a training.

        Names, shapes and types must be those of this training, and values finite.
        """
        best = add_prefix(_BEST, self._weights())  # in a state once there was a best epoch
        like = {k: v for k, v in self.state().items() if k not in best}
        if not best.keys().isdisjoint(state):
            like |= best
        check_names(like, state)
        history, numbers = state["history"], state[_BEST + _NUMBERS]
        n_epochs = min(history.shape[0], self.n_epochs) if history.ndim else 0
        like["history"] = like["history"].new_empty(n_epochs, 3)
        for name, tensor in state.items():
            check_like(name, tensor, like[name])
        # Validation losses may be NaN, and the best of them infinite.
        checked = {**state, "history": history[:, ::2], _BEST + _NUMBERS: numbers[1:]}
        for name, tensor in checked.items():
            check_finite(name, tensor)
        if self._held_out is None and not bool(history[:, 1].isnan().all()):
            raise ValueError("history has validation losses, but no rows are held out")
        if state["lr"] <= 0 or numbers[1] < 0:
            raise ValueError("the learning rate or the number of epochs is negative")
        check_rng_state("generator", state["generator"], self.device)

    def _epoch(self) -> Epoch:
        began = time.perf_counter()
        self._network.train()
        total = torch.zeros((), device=self.device)
        batches = _shuffled(self._training, self._generator).tensor_split(self._n_batches, dim=-1)
        inputs: Iterable[Tensor] = batches if self._recorded else self._gathered(batches)
        make_step = self._recorded or self._step
        local_steps = max(_LOCAL_STEPS, self.n_epochs * self._n_batches // _MOST_EXCHANGES)
        for i, batch in enumerate(inputs, len(self.history) * self._n_batches):
            self._set_progress(i)
            total += make_step(batch)
            is_last = (i + 1) % self._n_batches == 0
            if is_last or (i + 1) % local_steps == 0:
                self._average_state()
        mean_loss = self._averaged(
            total.item() / (self._n_batches * (self._options.n_members or 1))
        )
        self._check_finite(mean_loss)
        validation_loss = None if self._held_out is None else self._validation_loss()
        return Epoch(mean_loss, validation_loss, time.perf_counter() - began)

    def _check_finite(self, loss: float) -> None:
        """Raise :class:`DivergenceError` if the loss of an epoch or a weight is not finite."""
        epoch = f"{len(self.history) + 1} of {self.n_epochs}"
        if not math.isfinite(loss):
            raise divergence(f"the loss is {loss} in epoch {epoch}", self.lr)
        if not math.isfinite(self._vector.sum().item()):  # a sum, which takes one pass
            happened = f"the weights are no longer finite in epoch {epoch}, whose loss is {loss:g}"
            raise divergence(happened, self.lr)

    def _set_progress(self, step: int) -> None:
        """Set the progress at the end of a step, and its learning rate."""
        n_steps = self.n_epochs * self._n_batches
        self._now[0] = (step + 1) / n_steps
        self._now[1] = self.lr * one_cycle((step + 0.5) / n_steps)

    def _step(self, x: Tensor) -> Tensor:
        """Update the weights by a batch of standardised rows, and return its loss."""
        progress, lr = self._now
        loss = self._gradient(x, progress)
        self._optimizer.step(lr)
        return loss

    def _gathered(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Standardised rows of each batch of indices.

        Small batches are gathered together, which costs hardly more than gathering one.
        """
        at_once = max(_GATHERED_INDICES // batches[0].numel(), 1)
        for start in range(0, len(batches), at_once):
            group = batches[start : start + at_once]
            gathered = self._batches(torch.cat([batch.reshape(-1) for batch in group]))
            for batch, x in zip(group, gathered.split([b.numel() for b in group]), strict=True):
                yield x.view(*batch.shape, -1)

    def _validation_loss(self) -> float:
        """Loss of the rows held out, with the same random numbers at every call."""
        assert self._held_out is not None
        self._network.eval()
        generator = torch.Generator(self.device).manual_seed(0)
        with torch.no_grad():
            losses = [
                self._objective(self._network, self._batches(batch), 1.0, generator)
                for batch in self._held_out.split(self._batch_size)
            ]
        row_losses = torch.cat(losses, dim=-1)
        mean = TrimmedMean(row_losses, self._options.trim)
        return self._averaged(mean(row_losses).mean().item())

    def _averaged(self, value: float) -> float:
        """The mean over all processes, so that all take the same decisions."""
        if self._options.average is None:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        self._options.average(tensor)
        return tensor.item()

    def _average_state(self) -> None:
        """Average weights, buffers and the optimizer's means over all processes (Stich 2019)."""
        if self._options.average is None:
            return
        state = (*self._weights().values(), *self._optimizer.state().values())
        tensors = [tensor for tensor in state if tensor.is_floating_point()]
        everything = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._options.average(everything)
        parts = everything.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def _weights(self) -> dict[str, Tensor]:
        """All that training changes in the network: the vector of parameters, and buffers."""
        return {_WEIGHTS: self._vector, **dict(self._network.named_buffers())}

    def _load_weights(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._weights().items():
                tensor.copy_(weights[name])


def _permutation(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device, dtype=torch.int32)


def _shuffled(indices: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle indices [n], or each member's indices [n_members, n]."""
    if indices.ndim == 1:
        return indices[_permutation(len(indices), generator)]
    return torch.stack([_shuffled(member, generator) for member in indices])


def _split(
    n: int, options: TrainingOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Indices of the rows to train on, [n] or [n_members, n], and of those held out."""
    training = torch.arange(n, device=generator.device, dtype=torch.int32)
    held_out = None
    if options.early_stopping is not None:
        if n < 2:
            raise ValueError(f"Early stopping holds rows out and needs at least 2 rows, got {n}.")
        shuffled, first = _permutation(n, generator), n_held_out(options, n)
        training, held_out = shuffled[first:], shuffled[:first]
    if options.n_members is not None:
        m = n_trained(options, n)
        drawn = [_shuffled(training, generator)[:m] for _ in range(options.n_members)]
        training = torch.stack(drawn)
    return training, held_out


class EarlyStopper:
    """Keeps the weights of the best epoch so far, and tells when to stop."""

    def __init__(self, stopping: EarlyStopping | None) -> None:
        self._stopping = stopping
        self._loss = math.inf
        self._epochs_since = 0
        self.weights: dict[str, Tensor] = {}

    @property
    def keeps_going(self) -> bool:
        """Whether to train another epoch."""
        return self._stopping is None or self._epochs_since < self._stopping.patience

    def update(self, validation_loss: float, weights: Mapping[str, Tensor]) -> None:
        """Take note of the held-out loss and the weights after an epoch."""
        assert self._stopping is not None
        if validation_loss < self._loss - self._stopping.tol:
            self._loss = validation_loss
            self._epochs_since = 0
            self.weights = copied(weights)
        else:
            self._epochs_since += 1

    def state(self) -> dict[str, Tensor]:
        """The state on which later updates depend."""
        numbers = torch.tensor([self._loss, self._epochs_since], dtype=torch.float64)
        return {_NUMBERS: numbers, **self.weights}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state."""
        loss, epochs_since = state[_NUMBERS].tolist()
        self._loss, self._epochs_since = loss, int(epochs_since)
        self.weights = {name: value for name, value in state.items() if name != _NUMBERS}


class DivergenceError(FloatingPointError):
    """Training diverged: loss, weights or reconstructions are not finite, or nothing was learned.

    Its two arguments are the fault and the remedy.
    """

    def __str__(self) -> str:
        return " ".join(self.args)


def divergence(happened: str, lr: float) -> DivergenceError:
    """Return the error for a fault at a learning rate."""
    return DivergenceError(
        f"Training diverged: {happened}, at a learning rate of {lr:g}.",
        f"Lower it (lr={lr / 10:g}), and keep preprocessing=True so that the features are "
        "standardised.",
    )


def relative_error(network: Network, x: Tensor) -> float:
    """Median squared error of reconstructions, relative to the mean error of predicting zeros.

    Zero is the mean of standardised rows, so a value far above 1 means that nothing was learned. A
    network that learned something is below 1 for any outliers and any objective.

    ``x`` are standardised rows [n, n_features], with NaN for gaps. The network must be in
    evaluation mode; the worst member of an ensemble counts. The error of zeros is taken to be at
    least that of features with a variance of 1, since constant features would have none.
    """
    with torch.no_grad():
        known = torch.nan_to_num(x)
        errors = (network.decode(network.encode(known)) - x).square().nansum(-1)
        zeros_error = known.square().sum(-1).mean().clamp(min=x.shape[-1])
        worst: float = (errors.median(-1).values.max() / zeros_error).item()
    return worst


# ---------------------------------------------------------------------------------------
# States: tensors by name
# ---------------------------------------------------------------------------------------


def add_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with a prefix added to each name."""
    return {prefix + name: value for name, value in state.items()}


def strip_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a state whose names have a prefix, without the prefix."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with copies of the tensors."""
    return {name: value.clone() for name, value in state.items()}


def load_exactly(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module copies of the tensors of a state; see :func:`check_loadable`."""
    check_loadable(module, state)
    module.load_state_dict(copied(state), assign=True)  # assign keeps the types of the state


def check_loadable(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a state has the names, shapes and types of a module's tensors.

    A buffer may be float32 or float64, since a module chooses between them when it is fitted. All
    values must be finite.
    """
    expected = module.state_dict()
    check_names(expected, state)
    parameters = dict(module.named_parameters())
    for name, tensor in state.items():
        like = expected[name]
        may_differ = name not in parameters and {tensor.dtype, like.dtype} <= _FLOATS
        check_like(name, tensor, like.to(tensor.dtype) if may_differ else like)
        check_finite(name, tensor)


def check_names(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a state has the names that are expected."""
    if expected.keys() != state.keys():
        names = sorted(expected.keys() ^ state.keys())
        raise ValueError(f"{names[0]!r} is missing or unexpected")


def check_like(name: str, tensor: Tensor, like: Tensor) -> None:
    """Raise ValueError unless a tensor has the shape and the type of another one."""
    if tensor.shape != like.shape:
        raise ValueError(
            f"{name} has the shape {tuple(tensor.shape)}, expected {tuple(like.shape)}"
        )
    if tensor.dtype != like.dtype:
        raise ValueError(f"{name} is of {tensor.dtype}, expected {like.dtype}")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError if a tensor holds NaN or infinity."""
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or infinity")
