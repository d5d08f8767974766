"""The training loop: index permutations, trimmed losses, one record an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyod_ae_plugin.engine.devices import enough_threads
from pyod_ae_plugin.engine.divergence import check_finite, relative_error
from pyod_ae_plugin.engine.gradients import batch_gradient
from pyod_ae_plugin.engine.graphs import RecordedStep, can_be_recorded
from pyod_ae_plugin.engine.objectives import Objective
from pyod_ae_plugin.engine.optimizers import flatten_parameters, make_optimizer
from pyod_ae_plugin.engine.options import TrainingOptions, chosen, n_held_out, n_trained
from pyod_ae_plugin.engine.schedule import one_cycle
from pyod_ae_plugin.engine.states import above, below, copied
from pyod_ae_plugin.engine.stopping import Best
from pyod_ae_plugin.engine.trimming import TrimmedMean
from pyod_ae_plugin.networks import Network

# No buffer of a network has such a name: the dots in names of modules are single ones.
_WEIGHTS = "..weights"
_GATHERED_INDICES = 2**11
_ROWS_REBUILT = 2**10


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
    lr : float
        Highest learning rate; may be changed before the first epoch.
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
        n_training = n_trained(options, n_rows)
        self._batch_size, n_epochs, self.lr = chosen(options, n_training)
        self._n_batches = math.ceil(n_training / self._batch_size)
        self._n_epochs = max(round(options.share * n_epochs), 1)
        self._vector = flatten_parameters(network)
        self._optimizer = make_optimizer(options.optimizer, self._vector, options.optimizer_params)
        self._best = Best(options.early_stopping)
        self._gradient = batch_gradient(
            network,
            objective,
            options.trim,
            self._vector,
            generator,
            stacked=options.n_members is not None,
            compile_mode=options.compile_mode,
        )
        # In tensors on a GPU, where a recorded step reads them.
        self._now: Any = [0.0, 0.0] if self.device.type == "cpu" else self._vector.new_zeros(2)
        self._recorded = None
        alone = options.average is None  # what passes between processes is not recorded
        if alone and options.compile_mode is None and can_be_recorded(network, batches):
            changed = [*self._weights().values(), *self._optimizer.state().values()]
            self._recorded = RecordedStep(
                lambda indices: self._step(self._batches(indices)), changed, generator
            )
        self._finished = copied(self._weights())

    def epochs(self) -> Generator[Epoch, None, None]:
        """Train to the end, yielding a record after each epoch.

        Raises
        ------
        DivergenceError
            If the loss of an epoch, or a weight after it, is not finite.
        """
        with enough_threads(6 * len(self._vector) * self._batch_size):
            while len(self.history) < self._n_epochs and self._best.keeps_going:
                epoch = self._epoch()
                if epoch.validation_loss is not None:
                    self._best.judge(epoch.validation_loss, self._weights())
                self._finished = copied(self._weights())
                self.history.append(epoch)
                yield epoch
        if self._best.weights:
            self._load_weights(self._best.weights)

    def rewind(self) -> None:
        """Undo what was done since the last finished epoch."""
        self._load_weights(self._finished)

    def error(self) -> float:
        """How badly training rows are rebuilt; see :func:`relative_error`."""
        indices = self._training.reshape(-1)
        self._network.eval()
        x = self._batches(indices[:: math.ceil(len(indices) / _ROWS_REBUILT)])
        with enough_threads(2 * len(self._vector) * len(x)):
            return self._averaged(relative_error(self._network, x))

    def state(self) -> dict[str, Tensor]:
        """Return all that the epochs to come hang on; to be asked for between two epochs."""
        numbers = [[e.loss, _or_nan(e.validation_loss), e.seconds] for e in self.history]
        return {
            "generator": self._generator.get_state(),
            "history": torch.tensor(numbers, dtype=torch.float64).view(len(numbers), 3),
            "lr": torch.tensor(self.lr, dtype=torch.float64),
            **above("weights.", self._weights()),
            **above("optimizer.", self._optimizer.state()),
            **above("best.", self._best.state()),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from where another training with the same arguments was."""
        self._generator.set_state(state["generator"].cpu())
        self.lr = state["lr"].item()
        self.history = [
            Epoch(loss, None if math.isnan(validation) else validation, seconds, self._n_epochs)
            for loss, validation, seconds in state["history"].tolist()
        ]
        self._load_weights(below("weights.", state))
        self._finished = copied(self._weights())
        steps = below("optimizer.", state)
        for name, tensor in self._optimizer.state().items():
            tensor.copy_(steps[name])
        self._best.load_state(below("best.", state))

    def _epoch(self) -> Epoch:
        began = time.perf_counter()
        self._network.train()
        total = torch.zeros((), device=self.device)
        batches = _shuffled(self._training, self._generator).tensor_split(self._n_batches, dim=-1)
        given: Iterable[Tensor] = batches if self._recorded else self._gathered(batches)
        make_step = self._recorded or self._step
        for i, batch in enumerate(given, len(self.history) * self._n_batches):
            self._set_point(i)
            total += make_step(batch)
        mean_loss = self._averaged(
            total.item() / (self._n_batches * (self._options.n_members or 1))
        )
        self._average_buffers()
        epoch = f"{len(self.history) + 1} of {self._n_epochs}"
        check_finite(mean_loss, self._vector, epoch, self.lr)
        validation_loss = None if self._held_out is None else self._validation_loss()
        return Epoch(mean_loss, validation_loss, time.perf_counter() - began, self._n_epochs)

    def _set_point(self, step: int) -> None:
        """Say how far training will be at the end of a step, and its learning rate."""
        n_steps = self._n_epochs * self._n_batches
        self._now[0] = (step + 1) / n_steps
        self._now[1] = self.lr * one_cycle((step + 0.5) / n_steps)

    def _step(self, x: Tensor) -> Tensor:
        """Change the weights by a batch of standardised rows and return its loss."""
        progress, lr = self._now
        loss = self._gradient(x, progress)
        if self._options.average is not None:
            assert self._vector.grad is not None
            self._options.average(self._vector.grad)
        self._optimizer.step(lr)
        return loss

    def _gathered(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Standardised rows of each batch of indices.

        Small batches are gathered many at a time: that costs hardly more than gathering one.
        """
        at_once = max(_GATHERED_INDICES // batches[0].numel(), 1)
        for start in range(0, len(batches), at_once):
            group = batches[start : start + at_once]
            gathered = self._batches(torch.cat([batch.reshape(-1) for batch in group]))
            for batch, x in zip(group, gathered.split([b.numel() for b in group]), strict=True):
                yield x.view(*batch.shape, -1)

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
        of_rows = torch.cat(losses, dim=-1)
        return self._averaged(TrimmedMean(of_rows, self._options.trim)(of_rows).mean().item())

    def _averaged(self, value: float) -> float:
        """The mean over all processes, which are to decide alike."""
        if self._options.average is None:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        self._options.average(tensor)
        return tensor.item()

    def _average_buffers(self) -> None:
        """Make what layers have seen of rows, as batch norm does, that of all processes."""
        if self._options.average is not None:
            for buffer in self._network.buffers():
                if buffer.is_floating_point():
                    self._options.average(buffer)

    def _weights(self) -> dict[str, Tensor]:
        """What training changes in the network: all trained parameters as one, and buffers."""
        return {_WEIGHTS: self._vector, **dict(self._network.named_buffers())}

    def _load_weights(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._weights().items():
                tensor.copy_(weights[name])


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
        shuffled, first = _permutation(n, generator), n_held_out(options, n)
        training, held_out = shuffled[first:], shuffled[:first]
    if options.n_members is not None:
        m = n_trained(options, n)
        drawn = [_shuffled(training, generator)[:m] for _ in range(options.n_members)]
        training = torch.stack(drawn)
    return training, held_out


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x
