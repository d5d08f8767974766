"""Runs a training to its end: shows it, keeps checkpoints of it, and ends it well on Ctrl-C."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor
from tqdm import tqdm

from pyod_ae_plugin.checkpoints import Checkpoint
from pyod_ae_plugin.engine.devices import global_rng_state, set_global_rng_state
from pyod_ae_plugin.engine.states import above, below
from pyod_ae_plugin.engine.training import Training

_GLOBAL = "global_rng."


def run(
    training: Training, verbose: int, checkpoint: Checkpoint | None, draws_globally: bool
) -> bool:
    """Run a training, from its checkpoint if there is one.

    Parameters
    ----------
    training : Training
    verbose : {0, 1, 2}
        Silent, a progress bar, or a line for each epoch.
    checkpoint : Checkpoint or None
        Where the state is written after each epoch.
    draws_globally : bool
        Whether torch's global generators are part of that state.

    Returns
    -------
    bool
        Whether it came to its end. If not, it was interrupted, and the network is as the last
        finished epoch left it.

    Raises
    ------
    KeyboardInterrupt
        If it was interrupted before an epoch was finished.
    """
    state = None if checkpoint is None else checkpoint.load()
    if state is not None:
        training.load_state(state)
        if draws_globally:
            set_global_rng_state(below(_GLOBAL, state), training.device)
    try:
        with tqdm(desc="Training: ", disable=verbose != 1, initial=len(training.history)) as bar:
            for epoch in training.epochs():
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


def _state(training: Training, draws_globally: bool) -> dict[str, Tensor]:
    state = training.state()
    if draws_globally:
        state |= above(_GLOBAL, global_rng_state(training.device))
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
