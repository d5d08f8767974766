"""The life cycle that all detectors of this package share."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from pyod_ae_plugin.checkpoints import Checkpoint
from pyod_ae_plugin.detectors.building import build_head
from pyod_ae_plugin.detectors.exporting import ExportingDetector
from pyod_ae_plugin.detectors.identity import identity_of_fit
from pyod_ae_plugin.detectors.monitoring import MonitoringDetector
from pyod_ae_plugin.detectors.parameters import (
    COMMON_CONSTRAINTS,
    DEFAULT_OPTIMIZER_PARAMS,
    DEFAULT_TRIM,
    check_checkpoint,
    check_contamination,
    check_optimizer_params,
    seed_of,
)
from pyod_ae_plugin.detectors.rows import as_rows, validate_rows
from pyod_ae_plugin.detectors.running import losses, run, unchanged_on_error
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.devices import resolve_device, seeded_global_rng
from pyod_ae_plugin.engine.fitting import fitted_module, fitted_standardize
from pyod_ae_plugin.engine.objectives import Objective
from pyod_ae_plugin.engine.options import TrainingOptions
from pyod_ae_plugin.engine.rows import Rows, SelectedRows, training_batches
from pyod_ae_plugin.engine.training import Training
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring import ScoreHead, ScoringModule, Standardize

if TYPE_CHECKING:
    from typing_extensions import Self


class Plan(NamedTuple):
    """What a detector trains.

    Attributes
    ----------
    network : torch.nn.Module
        Untrained.
    objective : Objective
    options : TrainingOptions
    """

    network: Network
    objective: Objective
    options: TrainingOptions


class Trained(NamedTuple):
    """What training made.

    Attributes
    ----------
    network : torch.nn.Module
        As it was trained.
    standardize : Standardize
        What it was given rows by.
    options : TrainingOptions
    generator : torch.Generator
        Where what else is drawn shall come from.
    lr, history
        As the detector's ``lr_`` and ``history_``.
    completed : bool
        Whether training came to its end and was not interrupted.
    """

    network: Network
    standardize: Standardize
    options: TrainingOptions
    generator: torch.Generator
    lr: float
    history: dict[str, list[float]]
    completed: bool


class NeuralDetector(ExportingDetector, MonitoringDetector):
    """Base class of the detectors: validate, fit, score, threshold.

    A subclass states its parameters in ``__init__`` and ``_parameter_constraints`` and provides
    ``_plan`` and ``_build_network``; everything else is here.

    Examples
    --------
    >>> from pyod_ae_plugin import VAE
    >>> from pyod_ae_plugin.detectors import NeuralDetector
    >>> isinstance(VAE(), NeuralDetector)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = COMMON_CONSTRAINTS

    _estimator_type = "outlier_detector"  # what scikit-learn 1.5 reads instead of tags

    scoring_module_: ScoringModule
    lr_: float
    history_: dict[str, list[float]]
    n_features_in_: int

    def __init__(
        self,
        contamination: Any,
        preprocessing: bool,
        lr: float | None,
        epoch_num: int | None,
        batch_size: int | None,
        optimizer_name: str,
        device: str | torch.device | None,
        random_state: Any,
        verbose: int,
        optimizer_params: Mapping[str, Any] | None,
        novelty: bool,
        trim: float | None,
        mask: float | None,
        noise: float | None,
        score_head: str,
        validation_fraction: float,
        checkpoint: str | PathLike[str] | None,
        precision: Precision,
        held_out_threshold: bool,
        on_divergence: str,
    ) -> None:
        super().__init__(contamination=contamination)
        self.preprocessing = preprocessing
        self.lr = lr
        self.epoch_num = epoch_num
        self.batch_size = batch_size
        self.optimizer_name = optimizer_name
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.optimizer_params = optimizer_params
        self.novelty = novelty
        self.trim = trim
        self.mask = mask
        self.noise = noise
        self.score_head = score_head
        self.validation_fraction = validation_fraction
        self.checkpoint = checkpoint
        self.precision = precision
        self.held_out_threshold = held_out_threshold
        self.on_divergence = on_divergence

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the detector to training rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers. Neither copied nor changed.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : object
            The detector, with the attributes that end in an underscore.

        Raises
        ------
        ValueError, TypeError
            If a parameter or X is not usable; the detector stays as it was.
        FloatingPointError
            If training diverges; the detector stays as it was.
        KeyboardInterrupt
            On Ctrl-C. The detector is as the last finished epoch made it, or as it was if there
            was none.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(contamination=0.1, verbose=0).fit(X)
        >>> detector.decision_scores_.shape, int(detector.labels_.sum())
        ((300,), 30)
        """
        with unchanged_on_error(self):
            self._check_params()
            X = validate_rows(self, X, reset=True)
            self._set_drift_reference(as_rows(X))
            rows, held_out = self._split(as_rows(X))
            self.__dict__.pop("_stream", None)  # what partial_fit saw is forgotten
            with self._private_randomness():
                completed = self._fit_rows(rows)
            self._set_scores(self._score(X), held_out)
        self._end_fit(completed)
        return self

    def _check_params(self) -> None:
        """Raise unless every parameter is usable, before anything else is done."""
        self._validate_params()
        check_contamination(self.contamination)
        check_optimizer_params(self.optimizer_params or {})
        check_checkpoint(self.checkpoint, self.random_state)

    def _fit_rows(self, rows: Rows) -> bool:
        """Fit the scoring module to rows; return whether training came to its end."""
        standardize = fitted_standardize(rows, self.preprocessing)
        trained = self._train(rows, standardize, self._plan)
        self._set_module(rows, trained)
        return trained.completed

    def _train(
        self,
        rows: Rows,
        standardize: Standardize,
        plan: Callable[..., Plan],
        resumable: bool = True,
    ) -> Trained:
        """Train what a function of the number of features, a seed and a generator plans."""
        device = resolve_device(self.device)
        seed = seed_of(self.random_state)
        generator = torch.Generator(device).manual_seed(seed)
        if not self._draws_privately():
            torch.manual_seed(seed)
        network, objective, options = plan(rows.shape[1], seed, generator)
        batches = training_batches(rows, standardize, device)
        training = Training(network, objective, batches, len(rows), options, generator)
        checkpoint = None
        if self.checkpoint is not None and resumable:
            checkpoint = Checkpoint(Path(self.checkpoint), identity_of_fit(self, rows, device))
        restarts = self.on_divergence == "restart"
        completed = run(training, self.verbose, checkpoint, not self._draws_privately(), restarts)
        lr, history = training.lr, losses(training)
        return Trained(network, standardize, options, generator, lr, history, completed)

    def _set_module(self, rows: Rows, trained: Trained) -> None:
        head = self._build_head(trained.network, rows.shape[1]).to(trained.generator.device)
        self.scoring_module_ = fitted_module(
            rows, trained.standardize, trained.network, head, trained.options, trained.generator
        )
        self.lr_, self.history_ = trained.lr, trained.history

    def _split(self, rows: Rows) -> tuple[Rows, Rows | None]:
        """The rows to train on, and those that are held out for the threshold."""
        if not self.held_out_threshold:
            return rows, None
        n = len(rows)
        if n < 2:
            raise ValueError(f"held_out_threshold=True needs at least 2 rows, got {n}.")
        generator = torch.Generator().manual_seed(seed_of(self.random_state))
        shuffled = torch.randperm(n, generator=generator)
        n_held_out = min(max(round(n * self.validation_fraction), 1), n - 1)
        held_out, trained_on = (
            SelectedRows(rows, indices.sort().values)
            for indices in (shuffled[:n_held_out], shuffled[n_held_out:])
        )
        return trained_on, held_out

    def _end_fit(self, completed: bool) -> None:
        if not completed:
            raise KeyboardInterrupt(
                f"Training was interrupted after {len(self.history_['loss'])} epochs; the detector "
                "is as the last of them made it."
            )
        if self.checkpoint is not None:
            Path(self.checkpoint).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _private_randomness(self) -> Iterator[None]:
        """Leave torch's global generators as they are, also where a network draws from them."""
        if self._draws_privately():
            yield
        else:
            with seeded_global_rng(0, resolve_device(self.device)):
                yield

    @abc.abstractmethod
    def _plan(self, n_features: int, seed: int, generator: torch.Generator) -> Plan:
        """What is trained, towards what, and how."""

    def _draws_privately(self) -> bool:
        """Whether building and training leave torch's global generators alone."""
        return True

    def _build_head(self, network: Network, n_features: int) -> ScoreHead:
        return build_head(self.score_head, network, n_features)

    def _trim(self) -> float:
        trim_by_default = 0.0 if self.novelty else DEFAULT_TRIM
        return trim_by_default if self.trim is None else self.trim

    def _corruption_shares(self, mask: float = 0.0, noise: float = 0.0) -> tuple[float, float]:
        """Mask and noise, and what they are by default."""
        return mask if self.mask is None else self.mask, noise if self.noise is None else self.noise

    def _training_options(self, **others: Any) -> TrainingOptions:
        params = self.optimizer_params
        return TrainingOptions(
            epochs=self.epoch_num,
            batch_size=self.batch_size,
            lr=self.lr,
            optimizer=self.optimizer_name,
            optimizer_params=DEFAULT_OPTIMIZER_PARAMS if params is None else params,
            **others,
        )
