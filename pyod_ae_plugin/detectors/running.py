"""Runs a training to its end: shows it, keeps checkpoints of it, and ends it well on Ctrl-C.

Where it goes astray, it may be started anew at a lower learning rate.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping

from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from tqdm import tqdm

from pyod_ae_plugin.checkpoints import Checkpoint
from pyod_ae_plugin.engine.devices import global_rng_state, set_global_rng_state
from pyod_ae_plugin.engine.states import add_prefix, copied, strip_prefix
from pyod_ae_plugin.engine.training import DivergenceError, Training, divergence

_GLOBAL = "global_rng."
# Good learning rates of Adam span about a decade: a step down by less would often be one too few.
_STEP_DOWN, _MOST_RESTARTS = 10, 3
# Measured: 0.0 to 1.1 where something was learned, mostly below 0.7; from 2.2 up after a loss that
# went through the roof and came back.
_HIGHEST_ERROR = 2


def run(
    training: Training,
    verbose: int,
    checkpoint: Checkpoint | None,
    draws_globally: bool,
    restarts: bool,
) -> bool:
    """Run a training, from its checkpoint if there is one.

    Parameters
    ----------
    training : Training
        Not begun.
    verbose : {0, 1, 2}
        Silent, a progress bar, or a line for each epoch.
    checkpoint : Checkpoint or None
        Where the state is written after each epoch. It is deleted where training diverges, since
        it leads nowhere else.
    draws_globally : bool
        Whether torch's global generators are part of that state.
    restarts : bool
        Whether a training that diverges is started anew from the same state, at a tenth of the
        learning rate, three times at most.

    Returns
    -------
    bool
        Whether it came to its end. If not, it was interrupted, and the network is as the last
        finished epoch left it.

    Raises
    ------
    DivergenceError
        If it diverged, and is not started anew.
    KeyboardInterrupt
        If it was interrupted before an epoch was finished.

    Warns
    -----
    ConvergenceWarning
        If it is started anew, or what it ended with rebuilds rows worse than their mean does.
    """
    untrained = training.error()
    beginning = copied(_state(training, draws_globally)) if restarts else {}
    n_restarts = _MOST_RESTARTS if restarts else 0
    rates = [training.lr / _STEP_DOWN**i for i in range(1, n_restarts + 1)]
    state = None if checkpoint is None else checkpoint.load()
    if state is not None:
        _load_state(training, state, draws_globally)
    while True:
        lower = [lr for lr in rates if lr < training.lr]
        try:
            if not _run_once(training, verbose, checkpoint, draws_globally):
                return False
            astray = _astray(training, untrained)
        except DivergenceError as error:
            if checkpoint is not None:
                checkpoint.remove()
            if not lower:
                raise
            astray = error
        if astray is None:
            return True
        happened, remedy = astray.args
        if not lower:
            _warn(f"{happened} {remedy}")
            return True
        n = n_restarts - len(lower) + 1
        _warn(
            f"{happened} Training starts anew from the same weights at {lower[0]:g}, "
            f"restart {n} of {n_restarts}."
        )
        if checkpoint is not None:
            checkpoint.remove()
        _load_state(training, beginning, draws_globally)
        training.lr = lower[0]


def _astray(training: Training, untrained: float) -> DivergenceError | None:
    """What there is to say against the network, although all of it is finite.

    A network of a few steps may be as bad as it was untrained; worse it is by training only.
    """
    error = training.error()
    if not math.isfinite(error):
        raise divergence("rows are rebuilt as infinite after the last epoch", training.lr)
    if error <= max(_HIGHEST_ERROR, 2 * untrained):
        return None
    return divergence(
        f"rows are rebuilt with {error:.3g} times the squared error that their mean would have, "
        f"after {len(training.history)} epochs with a loss of {training.history[-1].loss:.3g} in "
        "the last",
        training.lr,
    )


def _warn(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=2)


def _run_once(
    training: Training, verbose: int, checkpoint: Checkpoint | None, draws_globally: bool
) -> bool:
    """Run a training from where it is; return whether it came to its end."""
    try:
        bar = tqdm(desc="Training: ", disable=verbose != 1, initial=len(training.history))
        with bar, contextlib.closing(training.epochs()) as epochs:
            for epoch in epochs:
                if checkpoint is not None:
                    checkpoint.save(_state(training, draws_globally))
                bar.total = epoch.total
                bar.update()
                if verbose == 2:
                    print(
                        f"Epoch {len(training.history)}/{epoch.total}, loss={epoch.loss:.4f}, "
                        f"time={epoch.seconds:.2f}s"
                    )
    except KeyboardInterrupt:
        if not training.history:
            raise
        training.rewind()
        return False
    return True


def _load_state(training: Training, state: Mapping[str, Tensor], draws_globally: bool) -> None:
    training.load_state(state)
    if draws_globally:
        set_global_rng_state(strip_prefix(_GLOBAL, state), training.device)


def _state(training: Training, draws_globally: bool) -> dict[str, Tensor]:
    state = training.state()
    if draws_globally:
        state |= add_prefix(_GLOBAL, global_rng_state(training.device))
    return state


def losses(training: Training) -> dict[str, list[float]]:
    """The loss of each epoch, and with early stopping that of the rows held out."""
    history = {"loss": [epoch.loss for epoch in training.history]}
    validation = [e.validation_loss for e in training.history if e.validation_loss is not None]
    return {**history, "validation_loss": validation} if validation else history


@contextlib.contextmanager
def unchanged_on_error(detector: object) -> Iterator[None]:
    """Leave the detector's attributes as they were if something is raised."""
    before = dict(vars(detector))
    try:
        yield
    except BaseException:
        detector.__dict__.clear()
        detector.__dict__.update(before)
        raise
