"""How a model is fitted: hold out, standardise, train, fit the head, score, set the threshold.

Also what happens on the way: checkpoints, Ctrl-C, and new starts after training diverged.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from tqdm import tqdm

from pyod_ae_plugin.columns.matrix import Columns
from pyod_ae_plugin.detectors.recipe import Recipe
from pyod_ae_plugin.engine.devices import (
    check_rng_state,
    default_settings,
    enough_threads,
    global_rng_state,
    resolve_device,
    seeded_global_rng,
    set_global_rng_state,
)
from pyod_ae_plugin.engine.options import TrainingOptions
from pyod_ae_plugin.engine.rows import (
    Rows,
    SelectedRows,
    row_tiles,
    training_batches,
    training_tile_rows,
)
from pyod_ae_plugin.engine.training import (
    DivergenceError,
    Training,
    add_prefix,
    check_names,
    copied,
    divergence,
    strip_prefix,
)
from pyod_ae_plugin.fitted import (
    Array,
    Fitted,
    Threshold,
    check_scores,
    drift_reference,
    score_rows,
)
from pyod_ae_plugin.networks import Network, joined
from pyod_ae_plugin.networks.layers import draw_from
from pyod_ae_plugin.scoring import Moments, ScoreHead, ScoringModule, Standardize
from pyod_ae_plugin.scoring.heads import Tiles
from pyod_ae_plugin.scoring.likelihood import latent_usage
from pyod_ae_plugin.scoring.standardize import MAX_STANDARDIZED, Spread, spread_of
from pyod_ae_plugin.storage import Checkpoint

T = TypeVar("T")

# Rows of which the head holds residuals and codes in memory, for each member.
_SAMPLE_CELLS = 2**20
_FEWEST_SAMPLE_ROWS, _MOST_SAMPLE_ROWS = 2**11, 2**14

# Of the sample by which features are scaled: as it is, sorted, with places and gaps in float64.
_SORTED_COPIES = 8

_FINGERPRINT_ROWS = 1024
# These change what is shown or where states are kept, and nothing that is trained.
_WITHOUT_EFFECT = ("checkpoint", "verbose")
_GLOBAL = "global_rng."
# Good learning rates of Adam span about a decade: a step down by less would often be one too few.
_STEP_DOWN, _MOST_RESTARTS = 10, 3
# Measured: 0.0 to 1.1 where something was learned, mostly below 0.7; from 2.2 up after a loss that
# went through the roof and came back.
_HIGHEST_ERROR = 2
# Squares of smaller values are no longer normal numbers of float32.
_SMALLEST_STD = 1e-19


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C ended training; ``fitted`` is what the last finished epoch left."""

    def __init__(self, fitted: Fitted) -> None:
        super().__init__(
            f"Training was interrupted after {len(fitted.history['loss'])} epochs. The detector "
            "is that of the last of them."
        )
        self.fitted = fitted


@dataclass(frozen=True)
class Start:
    """What a fit continues from."""

    # of all rows seen, or of an earlier fit; None learns it from the rows to fit to
    standardize: Standardize | None = None
    # a network to train further; None starts with a new one
    network: Network | None = None
    # members of an ensemble, which the trained ones join
    members: Network | None = None
    # share of the usual epochs to train
    epoch_fraction: float = 1.0
    # added to the seed of what training draws
    seed_offset: int = 0
    # whether training may continue once more, from Fitted.network
    keeps_network: bool = False


class Trained(NamedTuple):
    """What training left."""

    network: Network
    options: TrainingOptions
    generator: torch.Generator  # for what is drawn after training
    lr: float
    history: dict[str, list[float]]
    completed: bool  # False if Ctrl-C ended it


class Group:
    """The processes that fit a model together, seen from one of them; here a single process."""

    rank = 0  # number of this process
    size = 1

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, in the first process; the others get their own."""
        return [value]

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        return [value]

    def broadcast(self, value: T) -> T:
        """The value of the first process."""
        return value

    def all_or_raise(self, do: Callable[[], T]) -> T:
        """Return what a function returns here, or raise in all processes if it raises in one."""
        return do()

    def from_first(self, do: Callable[[], T]) -> T:
        """Return what a function returns in the first process, or raise what it raises there."""
        mine: Any = self.all_or_raise(lambda: do() if self.rank == 0 else None)
        result: T = self.broadcast(mine)
        return result

    def share_training(
        self, options: TrainingOptions, n_rows: int, generator: torch.Generator, seed: int
    ) -> tuple[TrainingOptions, int]:
        """Options and number of rows of the training in this process; may seed the generator."""
        return options, n_rows

    def merge(self, trained: Trained) -> Trained:
        """What the processes trained, as one."""
        return trained

    def checkpoint(self, recipe: Recipe, fingerprint: Callable[[], str]) -> Checkpoint | None:
        """Where the state of training is kept, with what tells this fit from others."""
        return None if recipe.checkpoint is None else Checkpoint(recipe.checkpoint, fingerprint())


LOCAL = Group()


def fit_model(
    rows: Rows,
    recipe: Recipe,
    *,
    start: Start | None = None,
    group: Group = LOCAL,
    scored: Iterable[Rows] | None = None,
    feature_names_in: Array | None = None,
    columns: Columns | None = None,
) -> Fitted:
    """Fit a model to rows.

    Parameters
    ----------
    rows : Rows
        Raw training rows, checked; in a group those of this process.
    recipe : Recipe
    start : Start or None, default=None
        The state to continue from; None starts anew.
    group : Group, default=LOCAL
        The processes that fit the model together.
    scored : iterable of Rows or None, default=None
        Rows whose scores set the threshold; None is the training rows.
    feature_names_in : ndarray of str or None, default=None
    columns : Columns or None, default=None
        The encoding of the rows.

    Returns
    -------
    Fitted
        The scores are those of all rows in the first process of a group, and of its own in the
        others.

    Raises
    ------
    ValueError, TypeError
        If the rows cannot be trained on, or the network or score head is not usable.
    FloatingPointError
        If training diverges.
    FitInterrupted
        On Ctrl-C after the first epoch.
    """
    start = Start() if start is None else start
    with default_settings(), _global_randomness(recipe):
        training_rows, calibration_rows = group.all_or_raise(lambda: _hold_out(rows, recipe))
        standardize = _standardize(training_rows, recipe, start, group)
        trained = group.merge(
            group.all_or_raise(lambda: _train(training_rows, standardize, recipe, start, group))
        )
        network = copy.deepcopy(trained.network) if start.keeps_network else None
        head = group.all_or_raise(lambda: recipe.build_head(trained.network))
        learned_from = rows if head.leaves_one_out else training_rows
        sample = _sample(learned_from, trained.options.n_members or 1, group)
        module = group.from_first(
            lambda: _fitted_module(sample, standardize, head, trained, recipe)
        )
        kl, active_units = _latent_usage(module, sample, trained, recipe)

    fitted = Fitted(
        scoring_module=module,
        history=trained.history,
        lr=trained.lr,
        kl=kl,
        active_units=active_units,
        feature_names_in=feature_names_in,
        columns=columns,
        network=network,
        drift_reference=drift_reference(rows if group.size == 1 else sample),
        **_judged(module, [rows] if scored is None else scored, calibration_rows, recipe, group),
    )
    if not trained.completed:
        raise FitInterrupted(fitted)
    if recipe.checkpoint is not None and start.network is None:  # else there is none of this fit
        recipe.checkpoint.unlink(missing_ok=True)
    return fitted


@default_settings()
def rescored(fitted: Fitted, rows: Rows, recipe: Recipe, **described: Any) -> Fitted:
    """The same model with the scores, labels and threshold of these rows."""
    _, calibration_rows = _hold_out(rows, recipe)
    return replace(
        fitted,
        **described,
        drift_reference=drift_reference(rows),
        **_judged(fitted.scoring_module, [rows], calibration_rows, recipe, LOCAL),
    )


def assemble(
    standardize: Standardize, network: Network, head: ScoreHead, *, fills_gaps: bool
) -> ScoringModule:
    """Make a scoring module of its parts, the network in the form in which it is evaluated."""
    network.eval()
    for_inference = getattr(network, "for_inference", None)
    if callable(for_inference):
        network = for_inference()
    module = ScoringModule(standardize, network, head, fills_gaps=fills_gaps)
    return module.eval().requires_grad_(False)


@contextlib.contextmanager
def _global_randomness(recipe: Recipe) -> Iterator[None]:
    """Restore torch's global generators afterwards, even if a network draws from them."""
    if recipe.draws_privately:
        yield
    else:
        with seeded_global_rng(recipe.seed, resolve_device(recipe.device)):
            yield


# -------------------------------------------------------------------------------------- rows


def _hold_out(rows: Rows, recipe: Recipe) -> tuple[Rows, Rows | None]:
    """The rows to train on, and those that are kept from training for the threshold."""
    if not recipe.calibration.fraction:
        return rows, None
    n = len(rows)
    if n < 2:
        raise ValueError(
            "Some rows are kept from training to set the threshold. That needs at least 2 rows, "
            f"got {n}. Pass more rows, or set held_out_threshold=False."
        )
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(recipe.seed))
    n_held_out = recipe.calibration.n_rows(n)
    held_out, trained_on = (
        SelectedRows(rows, indices.sort().values)
        for indices in (shuffled[:n_held_out], shuffled[n_held_out:])
    )
    return trained_on, held_out


def _standardize(rows: Rows, recipe: Recipe, start: Start, group: Group) -> Standardize:
    """Return the standardisation, learned from all rows or taken from the start."""
    standardize = start.standardize
    if standardize is None:
        standardize = Standardize(rows.shape[1])
        if recipe.preprocessing:
            sample = _sample(rows, _SORTED_COPIES, group)
            spread = group.from_first(lambda: spread_of(sample))
            moments, *others = group.all_gather(moments_of(rows, spread))
            for other in others:
                moments.merge(other)
            _check_has_values(moments)
            standardize.fit(moments, spread, robust=recipe.preprocessing == "robust")
            return standardize
    group.all_or_raise(lambda: _check_range(rows, standardize))
    return standardize


def moments_of(rows: Rows, spread: Spread | None = None) -> Moments:
    """Mean and variance of each feature; values beyond the bounds of a spread count as these."""
    moments = Moments(rows.shape[1])
    for tile in row_tiles(rows):
        if spread is not None:
            tile = tile.double().clamp(spread.lowest, spread.highest)
        moments.update(tile)
    return moments


def _check_has_values(moments: Moments) -> None:
    """Raise if a feature has gaps only."""
    empty = (moments.n == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"Of {len(moments.n)} features {len(empty)} have no value in the rows to train on, the "
            f"first of them at index {empty[0]}. Leave them out."
        )


def _check_range(rows: Rows, standardize: Standardize) -> None:
    """Raise if rows that their own moments do not scale would overflow float32 in training."""
    farthest = max(standardize(tile).nan_to_num(0.0).abs().max().item() for tile in row_tiles(rows))
    if farthest > MAX_STANDARDIZED:
        raise ValueError(
            f"X has a value of {farthest:g} in the units in which the network is trained, where "
            f"at most {MAX_STANDARDIZED:g} is possible in float32. Rows are not scaled to unit "
            "variance with preprocessing=False, nor where an earlier fit is continued: scale X, or "
            "fit anew with preprocessing=True."
        )
    _warn_where_rounded(moments_of(rows), standardize)


def _warn_where_rounded(moments: Moments, standardize: Standardize) -> None:
    """Warn of features whose variation float32 rounds away."""
    scale, shift = standardize.scale.double(), standardize.shift.double()
    mean, std = (moments.mean * scale + shift).abs(), moments.std * scale
    step = mean * torch.finfo(torch.float32).eps
    rounded = ~moments.constant & (std < torch.maximum(2 * step, step.new_tensor(_SMALLEST_STD)))
    if not bool(rounded.any()):
        return
    i = int(rounded.nonzero()[0])
    warnings.warn(
        f"Rows can hardly be told apart by {int(rounded.sum())} of {len(std)} features in float32, "
        f"in which the network is trained. The first of them, at index {i}, has a standard "
        f"deviation of {std[i].item():g} at a mean of {mean[i].item():g}. Fit anew with "
        "preprocessing=True, or centre and scale the rows yourself: "
        "(X - X.mean(axis=0)) / X.std(axis=0).",
        stacklevel=2,
    )


def _sample(rows: Rows, copies: int, group: Group) -> Tensor:
    """Sample rows evenly over all processes, few enough to keep ``copies`` of each in memory."""
    counts = group.all_gather(len(rows))
    n_features = rows.shape[1]
    most = max(_SAMPLE_CELLS // (n_features * copies), _FEWEST_SAMPLE_ROWS)
    stride = -(-sum(counts) // min(most, _MOST_SAMPLE_ROWS))
    own = rows[-sum(counts[: group.rank]) % stride :: stride]
    if group.size == 1:
        return own
    return torch.cat(group.gather(own.clone()))  # a view would be sent with all rows


def _tiles(sample: Tensor, module: ScoringModule, recipe: Recipe) -> Tiles:
    """Return a function that iterates over the rows as the network was trained on them."""
    device = module.standardize.scale.device
    height = training_tile_rows(sample.shape[1], device)
    farthest = recipe.max_trained

    def tiles() -> Iterator[Tensor]:
        for tile in sample.split(height):
            yield module.filled(module.standardize(tile.to(device)).clamp(-farthest, farthest))

    return tiles


# ---------------------------------------------------------------------------------- training


def _train(
    rows: Rows, standardize: Standardize, recipe: Recipe, start: Start, group: Group
) -> Trained:
    """Train the network of a recipe, or continue with that of the start."""
    device = resolve_device(recipe.device)
    seed = recipe.seed + start.seed_offset
    generator = torch.Generator(device).manual_seed(seed)
    network = recipe.build_network(generator, device)
    if start.network is not None:
        generator.manual_seed(seed)
        network = copy.deepcopy(start.network).to(device)
        draw_from(network.modules(), generator)
    options = replace(recipe.options, epoch_fraction=start.epoch_fraction)
    options, n_rows = group.share_training(options, len(rows), generator, seed)
    training = Training(
        network,
        recipe.objective,
        training_batches(rows, standardize, device, recipe.max_trained),
        n_rows,
        options,
        generator,
    )
    checkpoint = None
    if start.network is None:
        checkpoint = group.checkpoint(recipe, lambda: fit_fingerprint(recipe, rows, device))
    completed = _run(training, recipe, checkpoint)
    history = {"loss": [epoch.loss for epoch in training.history]}
    validation = [e.validation_loss for e in training.history if e.validation_loss is not None]
    if validation:
        history["validation_loss"] = validation
    if start.members is not None:
        network = joined(copy.deepcopy(start.members).to(device), network)
    return Trained(network, options, generator, training.lr, history, completed)


def fit_fingerprint(recipe: Recipe, rows: Rows, device: torch.device) -> str:
    """Return a digest of parameters, device and training rows (a sample of them)."""
    digest = hashlib.sha256()
    # The name of a class or function is the same in another process.
    params = {
        name: str(getattr(value, "__qualname__", None) or repr(value))
        for name, value in recipe.params.items()
        if name not in _WITHOUT_EFFECT
    }
    sample = rows[:: -(-len(rows) // _FINGERPRINT_ROWS)].contiguous()
    for part in (params, device.type, tuple(rows.shape), sample.dtype):
        digest.update(repr(part).encode())
    digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def _run(training: Training, recipe: Recipe, checkpoint: Checkpoint | None) -> bool:
    """Run a training, from its checkpoint if there is one; restart it where it diverges.

    Return whether it finished. If not, Ctrl-C ended it, and the network is that of the last
    finished epoch. If no restart is left, divergence raises a DivergenceError, and a network that
    reconstructs rows worse than their mean does causes a ConvergenceWarning.
    """
    draws_globally = not recipe.draws_privately
    untrained = training.error()
    beginning = copied(_state(training, draws_globally)) if recipe.restarts else {}
    n_restarts = _MOST_RESTARTS if recipe.restarts else 0
    rates = [training.lr / _STEP_DOWN**i for i in range(1, n_restarts + 1)]
    state = None if checkpoint is None else checkpoint.load()
    if checkpoint is not None and state is not None:
        try:
            _load_state(training, state, draws_globally)
        except ValueError as error:
            raise checkpoint.damaged(error) from error
    while True:
        lower = [lr for lr in rates if lr < training.lr]
        try:
            if not _run_once(training, recipe.verbose, checkpoint, draws_globally):
                return False
            fault = _fault(training, untrained)
        except DivergenceError as error:
            if checkpoint is not None:
                checkpoint.remove()
            if not lower:
                raise
            fault = error
        if fault is None:
            return True
        happened, remedy = fault.args
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


def _run_once(
    training: Training, verbose: int, checkpoint: Checkpoint | None, draws_globally: bool
) -> bool:
    """Continue a training; return whether it finished."""
    try:
        bar = tqdm(
            desc="Training",
            total=training.n_epochs,
            initial=len(training.history),
            unit="epoch",
            disable=verbose != 1,
        )
        with bar, contextlib.closing(training.epochs()) as epochs:
            for epoch in epochs:
                if checkpoint is not None:
                    checkpoint.save(_state(training, draws_globally))
                bar.set_postfix_str(f"loss={epoch.loss:.4f}", refresh=False)
                bar.update()
                if verbose == 2:
                    place = f"Epoch {len(training.history)}/{training.n_epochs}"
                    print(f"{place}, loss={epoch.loss:.4f}, time={epoch.seconds:.2f}s")
    except KeyboardInterrupt:
        if not training.history:
            raise
        training.rewind()
        return False
    return True


def _fault(training: Training, untrained: float) -> DivergenceError | None:
    """Return what is wrong with a trained network whose numbers are all finite, or None.

    After a few steps a network may be as bad as it was untrained; only divergence makes it worse.
    """
    error = training.error()
    if not math.isfinite(error):
        raise divergence("rows are reconstructed as infinite after the last epoch", training.lr)
    if error <= max(_HIGHEST_ERROR, 2 * untrained):
        return None
    return divergence(
        f"rows are reconstructed with {error:.3g} times the squared error that their mean would "
        f"have, after {len(training.history)} epochs with a loss of {training.history[-1].loss:.3g}"
        " in the last",
        training.lr,
    )


def _warn(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=2)


def _load_state(training: Training, state: Mapping[str, Tensor], draws_globally: bool) -> None:
    """Continue from a state; raise a ValueError, before any change, if it is not valid."""
    drawn = strip_prefix(_GLOBAL, state)
    check_names(global_rng_state(training.device) if draws_globally else {}, drawn)
    for name, value in drawn.items():
        check_rng_state(f"{_GLOBAL}{name}", value, torch.device(name))
    training.load_state({k: v for k, v in state.items() if not k.startswith(_GLOBAL)})
    if draws_globally:
        set_global_rng_state(drawn, training.device)


def _state(training: Training, draws_globally: bool) -> dict[str, Tensor]:
    state = training.state()
    if draws_globally:
        state |= add_prefix(_GLOBAL, global_rng_state(training.device))
    return state


# ------------------------------------------------------------------------------ after training


def _fitted_module(
    sample: Tensor, standardize: Standardize, head: ScoreHead, trained: Trained, recipe: Recipe
) -> ScoringModule:
    """Assemble the scoring module and fit its head to a sample of rows."""
    device = trained.generator.device
    module = assemble(
        copy.deepcopy(standardize), trained.network, head, fills_gaps=recipe.has_gaps
    ).to(device)
    for parameter in module.network.parameters():
        # Training left views of one vector. Matrix kernels are chosen by how memory is aligned,
        # so a module that is loaded again would round differently.
        parameter.data = parameter.data.clone()
        parameter.grad = None
    with torch.no_grad(), enough_threads(len(sample)):  # many small operations
        tiles = _tiles(sample, module, recipe)
        head.fit_to(module.network, tiles, max(trained.options.trim), trained.generator)
    return module


def _latent_usage(
    module: ScoringModule, sample: Tensor, trained: Trained, recipe: Recipe
) -> tuple[Array, Array] | tuple[None, None]:
    """KL divergence of each latent dimension and whether it is used; a warning if none is."""
    if not recipe.variational:
        return None, None
    with torch.inference_mode():
        usage = latent_usage(
            module.network, _tiles(sample, module, recipe), max(trained.options.trim)
        )
    kl, active = (per_dimension.cpu().numpy() for per_dimension in usage)
    if not active.any():
        warnings.warn(
            "Posterior collapse: no latent dimension is active, so that every row is "
            "reconstructed as about the same row. If the features depend on each other, a lower "
            "beta or a kl_warmup lets the network use its code; if not, there is nothing to code.",
            ConvergenceWarning,
            stacklevel=5,  # the line that calls fit, fit_batches or partial_fit
        )
    elif recipe.verbose == 2:
        print(f"Active latent dimensions: {active.sum()} of {len(kl)}, KL={kl.sum():.2f} nats")
    return kl, active


def _judged(
    module: ScoringModule,
    pieces: Iterable[Rows],
    calibration_rows: Rows | None,
    recipe: Recipe,
    group: Group,
) -> dict[str, Any]:
    """Scores of rows read in pieces, threshold and labels, as fields of :class:`Fitted`."""

    def scored(pieces: Iterable[Rows]) -> Array:
        own = np.concatenate([score_rows(module, rows, recipe.precision) for rows in pieces])
        return np.concatenate(group.gather(own))

    scores = scored(pieces)
    calibration = None if calibration_rows is None else np.sort(scored([calibration_rows]))

    def choose() -> Threshold:
        check_scores(scores)
        deciding, held_out = (scores, False) if calibration is None else (calibration, True)
        return Threshold.chosen_by(recipe.contamination, deciding, held_out=held_out)

    threshold = group.from_first(choose)
    if threshold.is_on_scores or calibration is not None or group.rank > 0:
        labels = threshold.labels(scores)
    else:  # a thresholder has labelled the scores that it was fitted to
        labels = threshold.thresholder.labels_
    return {
        "decision_scores": scores,
        "held_out_scores": calibration,
        "threshold": threshold.value,
        "thresholder": threshold.thresholder,
        "labels": labels,
    }
