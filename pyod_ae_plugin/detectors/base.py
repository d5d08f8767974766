"""The life cycle that all detectors of this package share."""

from __future__ import annotations

import abc
import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from pyod.models.base import BaseDetector
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from tqdm import tqdm

from pyod_ae_plugin.detectors.building import build_head
from pyod_ae_plugin.detectors.parameters import (
    COMMON_CONSTRAINTS,
    DEFAULT_OPTIMIZER_PARAMS,
    DEFAULT_TRIM,
    check_contamination,
    check_optimizer_params,
    seed_of,
)
from pyod_ae_plugin.detectors.rows import as_tensor, validate_rows
from pyod_ae_plugin.engine.devices import available_device, resolve_device, seeded_global_rng
from pyod_ae_plugin.engine.fitting import fit_module, scoring_module
from pyod_ae_plugin.engine.kernels import score_function
from pyod_ae_plugin.engine.objectives import Objective
from pyod_ae_plugin.engine.rows import map_rows
from pyod_ae_plugin.engine.training import Epoch, TrainingOptions
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.persistence import load_detector, save_detector
from pyod_ae_plugin.scoring import ScoreHead, ScoringModule, Standardize
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

if TYPE_CHECKING:
    from typing_extensions import Self

Array = np.ndarray[Any, Any]


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


class NeuralDetector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseDetector):  # type: ignore[misc]
    """Base class of the detectors: validate, fit, score, threshold.

    A subclass states its parameters in ``__init__`` and ``_parameter_constraints`` and provides
    :meth:`_plan` and :meth:`_build_network`; everything else is here.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = COMMON_CONSTRAINTS

    _estimator_type = "outlier_detector"  # what scikit-learn 1.5 reads instead of tags

    scoring_module_: ScoringModule
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

        Raises
        ------
        ValueError, TypeError
            If a parameter or X is not usable; the detector stays as it was.
        FloatingPointError
            If the training loss stops being finite; the detector stays as it was.
        """
        with _unchanged_on_error(self):
            self._check_params()
            X = validate_rows(self, X, reset=True)
            self._set_n_classes(None)  # y says nothing about the columns of predict_proba
            self.scoring_module_ = self._fit_module(as_tensor(X))
            self.decision_scores_ = self._score(X)
            if self.decision_scores_.min() >= HIGHEST_SCORE:
                raise FloatingPointError(
                    "Training diverged: every score overflows. Lower the learning rate lr, and "
                    "keep preprocessing=True so that the features are standardised."
                )
            self._process_decision_scores()
        return self

    def decision_function(self, X: Any, batch_size: int | None = None) -> Array:
        """Anomaly scores of rows; the larger, the more abnormal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        batch_size : Ignored
            PyOD's deep detectors take it. Here rows stream through the network in tiles that
            fit the cache, and no score depends on them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Finite. A row so far from the training rows that its score overflows float32 gets
            the largest float32.
        """
        if not hasattr(self, "scoring_module_"):  # the full check costs as much as scoring a row
            check_is_fitted(self, "scoring_module_")
        blind = not self.scoring_module_.head.shows_nonfinite
        return self._score(validate_rows(self, X, reset=False, ensure_all_finite=blind))

    def transform(self, X: Any) -> Array:
        """Latent codes of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_latent)
        """
        check_is_fitted(self, "scoring_module_")
        return self._map(self.scoring_module_.encode, validate_rows(self, X, reset=False))

    def reconstruct(self, X: Any) -> Array:
        """Rows as the network rebuilds them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the units of X. A row so far out that float32 overflows is not rebuilt finitely.
        """
        check_is_fitted(self, "scoring_module_")
        return self._map(self.scoring_module_.reconstruct, validate_rows(self, X, reset=False))

    def predict_proba(
        self, X: Any, method: str = "linear", return_confidence: bool = False
    ) -> Array | tuple[Array, Array]:
        """Outlier probabilities; see :meth:`pyod.models.base.BaseDetector.predict_proba`."""
        if not hasattr(X, "shape"):
            X = np.asarray(X)  # PyOD asks for the shape of X
        probabilities: Array | tuple[Array, Array] = super().predict_proba(
            X, method=method, return_confidence=return_confidence
        )
        return probabilities

    @property
    def _n_features_out(self) -> int:
        """Width of the latent code, for scikit-learn's names of features."""
        module = self.scoring_module_
        x = torch.zeros(1, self.n_features_in_, device=module.standardize.scale.device)
        return module.encode(x).shape[1]

    @property
    def model(self) -> Network:
        """The trained network; standardised rows in, reconstructions out."""
        check_is_fitted(self, "scoring_module_")
        return self.scoring_module_.network

    def save(self, path: str | Path) -> None:
        """Save the fitted detector to a folder, without pickle.

        Parameters
        ----------
        path : str or Path
            The folder; an older detector there is replaced.

        See Also
        --------
        pyod_ae_plugin.load_detector : Loads it again.
        """
        check_is_fitted(self, "scoring_module_")
        save_detector(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a detector of this class; see :func:`pyod_ae_plugin.load_detector`."""
        detector = load_detector(path)
        if not isinstance(detector, cls):
            raise ValueError(
                f"{path} holds a {type(detector).__name__}, not a {cls.__name__}. "
                f"Use {type(detector).__name__}.load or pyod_ae_plugin.load_detector."
            )
        return detector

    def fitted_attributes(self) -> dict[str, Any]:
        """What fit learned, except the scoring module, by attribute name."""
        apart = {*self.get_params(deep=False), "scoring_module_"}
        return {name: value for name, value in vars(self).items() if name not in apart}

    def restore(
        self,
        attributes: Mapping[str, Any],
        module_state: Mapping[str, Tensor],
        device: str | torch.device | None = None,
    ) -> None:
        """Make this a fitted detector again, of what :func:`load_detector` read.

        Parameters
        ----------
        attributes : mapping of str to object
            As :meth:`fitted_attributes` gave them.
        module_state : mapping of str to Tensor
            The state of the scoring module.
        device : str, torch.device or None, default=None
            Where it shall score; None is the parameter ``device`` if that is here, else the CPU.
        """
        target = available_device(self.device) if device is None else resolve_device(device)
        self._check_params()
        n_features = attributes["n_features_in_"]
        with seeded_global_rng(0, torch.device("cpu")):
            network = self._build_network(n_features, torch.Generator())
            head = self._build_head(network, n_features)
        module = scoring_module(Standardize(n_features), network, head)
        # assign keeps the dtypes of the file, those of the scaling among them
        module.load_state_dict(module_state, assign=True)
        self.scoring_module_ = module.requires_grad_(False).to(target)
        self.__dict__.update(attributes)

    def _check_params(self) -> None:
        """Raise unless every parameter is usable, before anything else is done."""
        self._validate_params()
        check_contamination(self.contamination)
        check_optimizer_params(self.optimizer_params or {})

    def _fit_module(self, rows: Tensor) -> ScoringModule:
        device = resolve_device(self.device)
        seed = seed_of(self.random_state)
        generator = torch.Generator(device).manual_seed(seed)
        with contextlib.ExitStack() as stack:
            if not self._draws_privately():
                stack.enter_context(seeded_global_rng(seed, device))
            plan = self._plan(rows.shape[1], seed, generator)
            return fit_module(
                rows,
                plan.network,
                lambda trained: self._build_head(trained, rows.shape[1]),
                plan.objective,
                plan.options,
                generator,
                preprocessing=self.preprocessing,
                follow=self._follow,
                earlier=self._earlier(),
            )

    @abc.abstractmethod
    def _plan(self, n_features: int, seed: int, generator: torch.Generator) -> Plan:
        """What is trained, towards what, and how."""

    @abc.abstractmethod
    def _build_network(self, n_features: int, generator: torch.Generator) -> Network:
        """A network as was fitted, to load weights into."""

    def _draws_privately(self) -> bool:
        """Whether building and training leave torch's global generators alone."""
        return True

    def _build_head(self, network: Network, n_features: int) -> ScoreHead:
        return build_head(self.score_head, network, n_features)

    def _earlier(self) -> ScoringModule | None:
        """What was fitted before and is added to."""
        return None

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

    def _follow(self, epochs: Iterable[Epoch]) -> None:
        """Go through the epochs, keep their losses and show them as ``verbose`` asks."""
        history: dict[str, list[float]] = {"loss": []}
        with tqdm(desc="Training: ", disable=self.verbose != 1) as bar:
            for number, epoch in enumerate(epochs, 1):
                history["loss"].append(epoch.loss)
                if epoch.validation_loss is not None:
                    history.setdefault("validation_loss", []).append(epoch.validation_loss)
                bar.total = epoch.total
                bar.update()
                if self.verbose == 2:
                    print(
                        f"Epoch {number}/{epoch.total}, loss={epoch.loss:.4f}, "
                        f"time={epoch.seconds:.2f}s"
                    )
        self.history_ = history

    def _score(self, X: Array) -> Array:
        scores = self._map(score_function(self.scoring_module_), X)
        if scores.max() >= HIGHEST_SCORE:
            assert_all_finite(X, estimator_name=type(self).__name__, input_name="X")
        return scores

    def _map(self, function: Callable[[Tensor], Tensor], X: Array) -> Array:
        mapped: Array = map_rows(function, as_tensor(X), self.scoring_module_).numpy()
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # a copy: Python hands out the dict of the object
        if "scoring_module_" in state:
            # Where it is unpickled there may be no such device.
            state["scoring_module_"] = copy.deepcopy(state["scoring_module_"]).cpu()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "scoring_module_" in state:
            self.scoring_module_.to(available_device(self.device))


@contextlib.contextmanager
def _unchanged_on_error(detector: NeuralDetector) -> Iterator[None]:
    before = dict(vars(detector))
    try:
        yield
    except BaseException:
        detector.__dict__.clear()
        detector.__dict__.update(before)
        raise
