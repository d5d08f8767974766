"""The detectors' life cycle: every public method, on one page."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pyod.models.base import BaseDetector
from scipy.stats import false_discovery_control
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyod_ae_plugin.columns.frames import Frame, as_given
from pyod_ae_plugin.columns.profiles import check_roles
from pyod_ae_plugin.detectors import saved
from pyod_ae_plugin.detectors.fit import FitInterrupted, fit_model
from pyod_ae_plugin.detectors.inputs import (
    TrainingRows,
    as_rows,
    check_finite,
    check_finite_on_device,
    check_tensor,
    device_rows,
    frame_given,
    validate_rows,
    warn_about_labels,
)
from pyod_ae_plugin.detectors.parameters import (
    COMMON_CONSTRAINTS,
    check_checkpoint,
    check_contamination,
    check_optimizer_params,
    check_share,
    check_value,
    seed_of,
)
from pyod_ae_plugin.detectors.recipe import Recipe
from pyod_ae_plugin.detectors.streams import Stream
from pyod_ae_plugin.drift import DriftReport, compare
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.devices import available_device, default_settings
from pyod_ae_plugin.engine.folded import score_function
from pyod_ae_plugin.engine.options import Corruption, EarlyStopping
from pyod_ae_plugin.engine.rows import Rows
from pyod_ae_plugin.engine.tiles import map_resident, map_rows
from pyod_ae_plugin.export import export_program, write_onnx
from pyod_ae_plugin.fitted import Array, Fitted, score_rows
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.plugins.manager import check_keywords
from pyod_ae_plugin.scoring import ScoringModule, contributions
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from typing_extensions import Self

    from pyod_ae_plugin.report import Report


class NeuralDetector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseDetector, abc.ABC):  # type: ignore[misc]
    """Base class of the detectors of this package, with all fitted attributes and methods.

    A subclass stores its parameters in ``__init__``, gives their constraints in
    ``_parameter_constraints`` and turns them into a recipe in ``_recipe``.

    Attributes
    ----------
    decision_scores_ : ndarray of shape (n_samples,)
        Scores of the training rows; the larger, the more abnormal.
    threshold_ : float
        Rows with larger scores are outliers. You may set it, on the scale of the scores, whatever
        rule set it before. Thresholders of PyThresh have a scale of their own.
    labels_ : ndarray of shape (n_samples,)
        Labels of the training rows: 0 for inliers, 1 for outliers.
    held_out_scores_ : ndarray of shape (n_held_out,)
        Calibration scores, ascending, of the rows kept from training by ``held_out_threshold``.
    scoring_module_ : pyod_ae_plugin.scoring.ScoringModule
        The fitted model: one module that maps raw rows to scores.
    lr_ : float
        Highest learning rate of training; after restarts less than ``lr``.
    history_ : dict of str to list of float
        ``'loss'`` of each epoch, in an ensemble the mean over its members; with early stopping also
        ``'validation_loss'``.
    drift_reference_ : ndarray of shape (n_kept, n_features)
        Values of each feature in at most 1,000 training rows, ascending. Each column is sorted by
        itself, so that no row can be read from it.
    n_features_in_ : int
        Number of features in fit; with ``columns`` that of the columns that are learned from.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training data had names.
    columns_ : pyod_ae_plugin.columns.Columns
        With ``columns``, the roles and encodings of the table's columns, and ``notes`` on them.

    Examples
    --------
    >>> from pyod_ae_plugin import VAE
    >>> from pyod_ae_plugin.detectors import NeuralDetector
    >>> isinstance(VAE(), NeuralDetector)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = COMMON_CONSTRAINTS

    missing: str | None = None
    columns: str | Mapping[str, str] | None = None

    _estimator_type = "outlier_detector"  # what scikit-learn 1.5 reads instead of tags

    contamination: Any
    device: str | torch.device | None
    precision: Precision
    scoring_module_: ScoringModule
    n_features_in_: int
    rejection_threshold_: float

    def __new__(cls, *args: Any, **params: Any) -> Self:
        """Name the known parameters if one of the given ones is unknown."""
        check_keywords(cls.__name__, cls, params)
        made: Self = super().__new__(cls)
        return made

    def __init__(self, contamination: Any = 0.1) -> None:
        check_share(contamination)  # here, as PyOD does
        super().__init__(contamination=contamination)

    @abc.abstractmethod
    def _recipe(self, n_features: int) -> Recipe:
        """Make the recipe of a fit to rows with ``n_features`` features."""

    def _check_params(self) -> None:
        """Raise unless every parameter is usable, before anything else is done."""
        check_contamination(self.contamination)
        self._validate_params()
        check_optimizer_params(self.optimizer_params or {})
        check_checkpoint(self.checkpoint, self.random_state)
        if isinstance(self.columns, Mapping):
            check_roles(self.columns)
        for name, kind in _VALUES.items():
            check_value(name, kind, getattr(self, name, None))

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Raise if the parameters ask for a far larger module than the saved one."""

    # ----------------------------------------------------------------------------------- fit

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the detector to training rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers, which are neither copied nor changed; with ``columns``, a table of
            pandas, polars or Arrow.
        y : Ignored
            Present for API consistency; a UserWarning says so if it holds anything.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError, TypeError
            If a parameter or X is not usable. The detector stays as it was.
        FloatingPointError
            If training diverges. The detector stays as it was.
        KeyboardInterrupt
            On Ctrl-C. The detector is that of the last finished epoch; before the end of the
            first epoch it stays as it was.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> detector.decision_scores_.shape, int(detector.labels_.sum())
        ((300,), 30)
        """
        self._check_params()
        warn_about_labels(self, y)
        training = TrainingRows(self)
        return self._adopt_result(self._fit_function(as_rows(training.check(X)), training))

    def fit_batches(self, batches: Iterable[Any]) -> Self:
        """Fit the detector to rows that come in batches.

        Mean and standard deviation are those of all rows. The network is trained on a uniform
        sample of 2**23 values, or on all rows if they are fewer; the detector is then the one that
        ``fit`` gives. If they are more, a second pass over the batches scores them all.

        Parameters
        ----------
        batches : iterable of array-likes of shape (n, n_features)
            Iterated over at most twice. An iterator, such as a generator, can be used only once:
            if it has more rows than the sample, ``decision_scores_``, ``threshold_`` and
            ``labels_`` are those of the sample.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError, TypeError
            If a parameter or a batch is not usable, or the two passes differ. The detector stays
            as it was.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> batches = np.random.default_rng(0).normal(size=(10, 100, 5))
        >>> AutoEncoder(verbose=0).fit_batches(batches).decision_scores_.shape
        (1000,)
        """
        self._check_params()
        training, stream = TrainingRows(self), None
        training.learn_columns(batches)
        for batch in batches:
            X = training.check(batch)
            stream = (stream or self._new_stream(X.shape[1])).added(X)
        if stream is None:
            raise ValueError("fit_batches was given no batches.")
        scored = None
        if not (stream.sample.is_complete or isinstance(batches, Iterator)):
            scored = _second_pass(batches, training, stream.sample.n_seen)
        rows, start = stream.sample.rows(), stream.start()
        recipe = recipe_of(self, training.n_features)
        return self._adopt_result(
            partial(fit_model, rows, recipe, start=start, scored=scored, **training.described)
        )

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Continue training with more rows.

        The first call fits the detector to X. A later call updates a uniform sample of all rows
        seen so far (2**23 values). It standardises by the sample, trains the network on it for the
        share of the usual epochs that is the share of new rows, and fits score head and threshold
        to it. ``decision_scores_`` and ``labels_`` are those of the sample.

        After ``fit`` and after loading, earlier rows are not available. The network then continues
        from its weights, the standardisation stays as it is, and score head and threshold are
        fitted to the rows of ``partial_fit`` alone: pass enough rows to describe the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows that were not seen before.
        y : Ignored
            Present for API consistency; a UserWarning says so if it holds anything.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError, TypeError
            If a parameter or X is not usable. The detector stays as it was.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> rng, detector = np.random.default_rng(0), AutoEncoder(verbose=0)
        >>> for day in range(2):
        ...     detector = detector.partial_fit(rng.normal(size=(200, 5)))
        >>> detector.decision_scores_.shape
        (400,)
        """
        self._check_params()
        warn_about_labels(self, y)
        is_first = not hasattr(self, "scoring_module_")
        training = TrainingRows(self, reset=is_first)
        X = training.check(X)
        stream: Stream | None = getattr(self, "_stream", None)
        if stream is None:
            stream = self._new_stream(X.shape[1])
            if not is_first:
                stream = stream.after(self.scoring_module_, self.preprocessing)
        stream = stream.added(X)
        start = stream.start(len(X) / stream.sample.n_seen, keeps_network=True)
        rows, recipe = stream.sample.rows(), recipe_of(self, training.n_features)
        return self._adopt_result(
            partial(fit_model, rows, recipe, start=start, **training.described), stream
        )

    def _fit_function(self, rows: Rows, training: TrainingRows) -> Callable[[], Fitted]:
        """What ``fit`` computes."""
        recipe = recipe_of(self, training.n_features)
        return partial(fit_model, rows, recipe, **training.described)

    def _adopt_result(self, fit: Callable[[], Fitted], stream: Stream | None = None) -> Self:
        """Call a function that fits, and adopt what it learned; nothing is set before that."""
        interrupted = None
        try:
            fitted = fit()
        except FitInterrupted as interrupt:
            fitted, interrupted = interrupt.fitted, interrupt
        self._adopt(fitted)
        if stream is not None:
            self._stream = stream._replace(network=fitted.network)
        if interrupted is not None:
            raise interrupted
        return self

    def _new_stream(self, n_features: int) -> Stream:
        return Stream.new(n_features, seed_of(self.random_state))

    def _adopt(self, fitted: Fitted) -> None:
        """Set what a fit learned, and forget what an earlier fit did."""
        self.__dict__.pop("_stream", None)
        self._set_n_classes(None)  # y says nothing about the columns of predict_proba
        self._mu, self._sigma = _mean_and_std(fitted.decision_scores)
        self.n_features_in_ = fitted.n_features_in
        for name, value in fitted.attributes().items():
            if value is None:
                self.__dict__.pop(name, None)
            else:
                setattr(self, name, value)

    # --------------------------------------------------------------------------------- scores

    def decision_function(self, X: Any, batch_size: int | None = None) -> Array:
        """Anomaly scores of rows; the larger, the more abnormal.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Rows on a GPU (torch, CuPy, or anything with ``__dlpack__`` or
            ``__cuda_array_interface__``) are scored there; :meth:`score_tensor` also leaves the
            scores there.
        batch_size : Ignored
            PyOD's deep detectors take it. Here no score depends on a batch size.

        Returns
        -------
        ndarray of shape (n_samples,)
            Finite. A score that overflows float32 becomes the largest float32.

        Raises
        ------
        ValueError, TypeError
            If X does not hold finite numbers, or has other features than in fit.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> bool((detector.decision_function(X[:3]) == detector.decision_scores_[:3]).all())
        True
        """
        propagates_nan = self._fitted_module().head.propagates_nan
        resident = device_rows(self, X)
        if resident is not None:
            scores: Array = self.score_tensor(self._moved(resident)).double().cpu().numpy()
            if scores.max() >= HIGHEST_SCORE or not propagates_nan:
                check_finite_on_device(self, resident)
            return scores
        X = validate_rows(self, X, reset=False, ensure_all_finite=not propagates_nan)
        scores = score_rows(self.scoring_module_, as_rows(X), self.precision)
        if scores.max() >= HIGHEST_SCORE:
            check_finite(self, X)
        return scores

    def score_batches(self, batches: Iterable[Any]) -> Iterator[Array]:
        """Anomaly scores of rows that come in batches, batch by batch.

        Parameters
        ----------
        batches : iterable of array-likes of shape (n, n_features)
            Read one at a time.

        Returns
        -------
        iterator of ndarray of shape (n,)
            The scores of each batch, computed when they are asked for.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> [len(scores) for scores in detector.score_batches([X[:100], X[100:]])]
        [100, 200]
        """
        check_is_fitted(self, "scoring_module_")
        return map(self.decision_function, batches)

    @default_settings()
    def score_tensor(self, x: Tensor) -> Tensor:
        """Anomaly scores of a tensor of rows, on its device.

        Nothing is copied to the host and nothing waits for the device.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            On the device of the detector. Its values are not checked: a row that is not finite
            gets the largest float32.

        Returns
        -------
        Tensor of shape (n_samples,)
            Scores in float32.

        Raises
        ------
        ValueError, TypeError
            If x is not a tensor of numbers, is on another device than the detector, or has other
            features than in fit.

        Examples
        --------
        >>> import torch
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X.numpy())
        >>> detector.score_tensor(X).shape
        torch.Size([100])
        """
        module = self._fitted_module()
        check_tensor(self, x)
        if x.device != module.standardize.scale.device:
            raise ValueError(
                f"x is on {x.device}, and the detector on {module.standardize.scale.device}. "
                "Move one to the other: x.to(...), or load_detector(path, device=...)."
            )
        return map_resident(score_function(module, self.precision), x.detach(), module)

    def explain(self, X: Any) -> Array:
        """Contribution of each feature of a row to its score.

        Contributions are integrated gradients from the mean training row to the row (Sundararajan,
        Taly & Yan 2017, Axiomatic Attribution for Deep Networks, ICML). With the score heads
        'euclidean' and 'nll', which are sums over features, they sum to the score of the row. With
        other heads they sum to the score less that of the mean training row. A feature that makes
        the row more normal contributes less than 0.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Rows with the features of fit, on the host or on a GPU.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            On the scale of the scores, and finite. With ``preprocessing=False`` gradients start
            at the row of zeros.

        Raises
        ------
        TypeError
            If the scores of a plugin's score head have no gradient.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> row = X[:1].copy()
        >>> row[0, 3] = 8
        >>> int(detector.explain(row).argmax())
        3
        """
        found = self._map(partial(contributions, self._fitted_module()), X)
        columns = getattr(self, "columns_", None)
        return found if columns is None else columns.totals(found)

    # --------------------------------------------------------------------------------- labels

    def predict(
        self, X: Any, return_confidence: bool = False, *, fdr: float | None = None
    ) -> Array | tuple[Array, Array]:
        """Labels of rows: 0 for inliers, 1 for outliers.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Rows with the features of fit, on the host or on a GPU.
        return_confidence : bool, default=False
            Whether to return :meth:`predict_confidence`, too.
        fdr : float in (0, 1) or None, default=None
            False discovery rate, in place of the threshold: of the rows called outliers, at most
            this share are inliers on average, if the rows kept from training are inliers, as with
            ``novelty=True``. By Benjamini and Hochberg's procedure (1995, J. R. Stat. Soc. B 57)
            on :meth:`predict_p_value` (Bates et al. 2023, Annals of Statistics 51).

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Integers, 0 or 1.
        confidence : ndarray of shape (n_samples,)
            Only with ``return_confidence``.

        Raises
        ------
        ValueError
            If ``fdr`` is not between 0 and 1, or given without ``held_out_threshold``.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> bool((detector.predict(X) == detector.labels_).all()), detector.predict([[9.0] * 5])
        (True, array([1]))
        """
        fitted = fitted_of(self)
        if fdr is None:
            labels = fitted.labels_of(self.decision_function(X))
        elif isinstance(fdr, Real) and 0 < fdr < 1:
            adjusted = false_discovery_control(self.predict_p_value(X), method="bh")
            labels = (adjusted <= fdr).astype(int)
        else:
            raise ValueError(f"fdr must be between 0 and 1, got {fdr!r}.")
        return (labels, self.predict_confidence(X)) if return_confidence else labels

    def predict_p_value(self, X: Any) -> Array:
        """Conformal p-values of rows: how unusual their scores are among inliers.

        ``(1 + number of calibration scores >= score) / (1 + number of calibration scores)``, where
        calibration scores are those of the rows kept from training by ``held_out_threshold``. The
        p-value of a row from the same distribution is at most p with a probability of at most p
        (Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World).

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Rows with the features of fit, on the host or on a GPU.

        Returns
        -------
        ndarray of shape (n_samples,)
            In (0, 1]; small for outliers.

        Raises
        ------
        ValueError
            If no rows were kept from training.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(1000, 5))
        >>> detector = AutoEncoder(novelty=True, held_out_threshold=0.5, verbose=0).fit(X)
        >>> p = detector.predict_p_value([[0.0] * 5, [9.0] * 5])
        >>> bool(p[0] > 0.3), bool(p[1] < 0.01)
        (True, True)
        """
        return fitted_of(self).p_values_of(self.decision_function(X))

    def predict_proba(
        self, X: Any, method: str = "linear", return_confidence: bool = False
    ) -> Array | tuple[Array, Array]:
        """Outlier probabilities, as :meth:`pyod.models.base.BaseDetector.predict_proba` has them.

        They are scores on a scale from 0 to 1, neither calibrated nor related to the threshold. The
        most abnormal training row has 1. If it is far more abnormal than all others, these have
        hardly more than 0, even those that :meth:`predict` calls outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows with the features of fit.
        method : {'linear', 'unify'}, default='linear'
            Scale the scores by the range of the training scores, or by a normal distribution of
            these (Kriegel et al. 2011, Interpreting and Unifying Outlier Scores, SDM), which one
            extreme row changes less.
        return_confidence : bool, default=False
            Whether to return :meth:`predict_confidence`, too.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, 2)
            Of an inlier and of an outlier.
        confidence : ndarray of shape (n_samples,)
            Only with ``return_confidence``.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(500, 8))
        >>> X[0] = 20
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> called = detector.labels_ == 1  # 50 rows, with the extreme one
        >>> for method in ("linear", "unify"):
        ...     print(np.median(detector.predict_proba(X, method=method)[called, 1]).round(2))
        0.05
        0.44
        """
        check_is_fitted(self, "scoring_module_")
        if not hasattr(X, "shape"):  # PyOD asks for it
            X = validate_rows(self, X, reset=False)
        probabilities: Array | tuple[Array, Array] = super().predict_proba(
            X, method=method, return_confidence=return_confidence
        )
        return probabilities

    def predict_confidence(self, X: Any) -> Array:
        """Confidence in the labels: the probability that another training sample gives the same.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows with the features of fit.

        Returns
        -------
        ndarray of shape (n_samples,)
            In [0, 1]; PyOD's confidence (Perini, Vercruyssen & Davis 2020, ECML PKDD).

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> confidence = detector.predict_confidence(X)
        >>> bool(((confidence >= 0) & (confidence <= 1)).all())
        True
        """
        fitted, asked = fitted_of(self), self._with_share()
        if fitted.is_labelled_by_score:
            confidence: Array = BaseDetector.predict_confidence(asked, X)
            return confidence
        # PyOD compares scores with the threshold, which is not on their scale, so it computes the
        # confidence that all rows are inliers.
        asked.threshold_ = np.inf
        inlier: Array = BaseDetector.predict_confidence(asked, X)
        is_outlier = fitted.labels_of(self.decision_function(X)) == 1
        return np.where(is_outlier, 1 - inlier, inlier)

    def predict_with_rejection(
        self,
        X: Any,
        T: float = 32,
        return_stats: bool = False,
        delta: float = 0.1,
        c_fp: float = 1,
        c_fn: float = 1,
        c_r: float = -1,
    ) -> Array | tuple[Array, list[float]]:
        """Labels of rows, or -2 where :meth:`predict_confidence` is low.

        As :meth:`pyod.models.base.BaseDetector.predict_with_rejection` has it (Perini & Davis 2023,
        Unsupervised Anomaly Detection with Rejection, NeurIPS).

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Rows with the features of fit, on the host or on a GPU.
        T : float, default=32
            Rows are rejected whose confidence, on a scale from 0 to 1, is at most
            ``1 - 2 * exp(-T)``.
        return_stats : bool, default=False
            Whether to return :meth:`compute_rejection_stats`, too.
        delta, c_fp, c_fn, c_r : float
            As in :meth:`compute_rejection_stats`.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Integers: 0, 1 or -2.
        stats : list of three floats
            Only with ``return_stats``.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> labels = detector.predict_with_rejection([[0.0] * 5, [9.0] * 5], T=5, c_r=0.1)
        >>> labels.tolist()
        [0, 1]
        """
        asked = self._with_share()
        found: Array | tuple[Array, list[float]] = BaseDetector.predict_with_rejection(
            asked, X, T, return_stats, delta, c_fp, c_fn, c_r
        )
        self.rejection_threshold_ = asked.rejection_threshold_
        return found

    def compute_rejection_stats(
        self,
        T: float = 32,
        delta: float = 0.1,
        c_fp: float = 1,
        c_fn: float = 1,
        c_r: float = -1,
        verbose: bool = False,
    ) -> tuple[float, float, float]:
        """What :meth:`predict_with_rejection` will reject, and what that will cost.

        Parameters
        ----------
        T : float, default=32
            As in :meth:`predict_with_rejection`.
        delta : float in (0, 1), default=0.1
            Probability that the rejection rate exceeds its bound.
        c_fp, c_fn : float, default=1
            Costs of a false positive and of a false negative.
        c_r : float, default=-1
            Cost of a rejection; -1 takes the share of outliers.
        verbose : bool, default=False
            Whether to print them.

        Returns
        -------
        rejection_rate : float
            Expected share of rows that are rejected.
        rejection_bound : float
            The share exceeds this with a probability of at most ``delta``.
        cost_bound : float
            The expected cost of a row is not above this.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> rate, bound, cost = AutoEncoder(verbose=0).fit(X).compute_rejection_stats(T=5)
        >>> bool(0 < rate < bound <= 1)
        True
        """
        stats: tuple[float, float, float] = BaseDetector.compute_rejection_stats(
            self._with_share(), T, delta, c_fp, c_fn, c_r, verbose
        )
        return stats

    def _with_share(self) -> Self:
        """A copy for PyOD's methods, which take the share of outliers from the parameter.

        The parameter may be a rule, may have changed since fit, and does not reflect a threshold
        that was set by hand.
        """
        asked = object.__new__(type(self))
        share = fitted_of(self).share_for(self.contamination)
        asked.__dict__.update(self.__dict__, contamination=share)
        return asked

    # ---------------------------------------------------------------- codes and reconstructions

    def transform(self, X: Any) -> Array:
        """Latent codes of rows.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Rows with the features of fit, on the host or on a GPU.

        Returns
        -------
        ndarray of shape (n_samples, n_latent)
            Codes of standardised rows: for a VAE the posterior means, for an ensemble the codes of
            all members side by side. They are finite: a value more than 1e15 standard deviations
            from the mean counts as that far.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> detector.transform(X).shape
        (300, 8)
        """
        return self._map(self._fitted_module().encode, X)

    def reconstruct(self, X: Any) -> Any:
        """Reconstructions of rows by the network.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Rows with the features of fit, on the host or on a GPU.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the units of X, and finite; for values far out see :meth:`transform`. With
            ``columns``, a table as X is, in which a category is its most likely value.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> residual = (detector.reconstruct(X) - X) / X.std(axis=0)  # in standard deviations
        >>> residual.shape
        (300, 5)
        """
        reconstructed = reconstructed_matrix(self, X)
        columns = getattr(self, "columns_", None)
        if columns is None:
            return reconstructed
        return as_given(columns.decoded(reconstructed), X)

    @property
    def model(self) -> Network:
        """The trained network; it maps standardised rows to reconstructions.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> type(detector.model).__name__
        'AutoEncoderNetwork'
        """
        return self._fitted_module().network

    @property
    @default_settings()
    def _n_features_out(self) -> int:
        """Width of the latent code, for scikit-learn's names of features."""
        module = self.scoring_module_
        x = torch.zeros_like(module.standardize.scale).unsqueeze(0)
        return module.encode(x).shape[1]

    @default_settings()
    def _map(self, function: Callable[[Tensor], Tensor], X: Any) -> Array:
        """Results of a function of the scoring module for rows on the host or on a GPU."""
        resident = device_rows(self, X)
        if resident is None:
            rows = as_rows(validate_rows(self, X, reset=False))
            mapped: Array = map_rows(function, rows, self.scoring_module_).numpy()
            return mapped
        check_finite_on_device(self, resident)
        values = map_resident(function, self._moved(resident), self.scoring_module_)
        on_host: Array = values.double().cpu().numpy()
        return on_host

    def _fitted_module(self) -> ScoringModule:
        if not hasattr(self, "scoring_module_"):  # the full check takes as long as scoring a row
            check_is_fitted(self, "scoring_module_")
        return self.scoring_module_

    def _moved(self, rows: Tensor) -> Tensor:
        return rows.to(self.scoring_module_.standardize.scale.device)

    # ---------------------------------------------------------------------- drift and reports

    def check_drift(self, X: Any, alpha: float = 0.05) -> DriftReport:
        """Compare features and scores of new rows with those of training.

        A threshold is valid for rows like those that set it. Each feature, and the score, is
        compared with a sample of 1,000 training rows by the Kolmogorov-Smirnov test. Holm's
        procedure adjusts the p-values. Changes that only several features show together, such as
        another correlation, can show in the score alone.

        The score is tested only with ``held_out_threshold``, since the rows that the network was
        trained on score lower than others.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            A few hundred rows or more, to find differences that matter.
        alpha : float in (0, 1), default=0.05
            Highest probability of an alarm if nothing has changed.

        Returns
        -------
        DriftReport
            ``drifted``, ``drifted_features``, ``features`` and ``score``; ``print`` shows it.

        Raises
        ------
        ValueError
            If X is not usable, or has so few rows that no difference could be found.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> rng = np.random.default_rng(0)
        >>> detector = AutoEncoder(held_out_threshold=True, verbose=0)
        >>> detector = detector.fit(rng.normal(size=(2000, 4)))
        >>> detector.check_drift(rng.normal(size=(500, 4))).drifted
        False
        >>> detector.check_drift(rng.normal([0, 0, 0.5, 0], size=(500, 4))).drifted_features
        ['x2']
        """
        fitted = fitted_of(self)
        if not (isinstance(alpha, Real) and 0 < alpha < 1):
            raise ValueError(f"alpha must be between 0 and 1, got {alpha!r}.")
        resident = device_rows(self, X)
        if resident is None:
            rows = validate_rows(self, X, reset=False)
        else:  # NumPy has no bfloat16
            is_coarse = resident.dtype == torch.bfloat16
            rows = (resident.float() if is_coarse else resident).cpu().numpy()
        return compare(fitted, rows, self.decision_function(X), alpha)

    def report(self, X: Any, y: Any = None) -> Report:
        """Report on rows: scores, threshold, the most abnormal rows and the reasons.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of a DataFrame are named by its index, others by their numbers, from 0.
        y : array-like of shape (n_samples,) or None, default=None
            True labels, 0 for inliers and 1 for outliers. With them the report shows how well the
            detector finds outliers.

        Returns
        -------
        pyod_ae_plugin.report.Report
            ``save(path)`` writes it as one HTML file. Notebooks show it.

        Raises
        ------
        ImportError
            If Bokeh is not installed.
        ValueError
            If X or y is not usable.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> report = detector.report(X)
        >>> report
        <Report on 300 rows; save(path) writes it as HTML>
        """
        # The one import upwards: users ask the detector for its report.
        from pyod_ae_plugin.report import report_rows

        return report_rows(self, X, y)

    # ---------------------------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Save the fitted detector, without pickle.

        Parameters
        ----------
        path : str or Path
            One file if it ends in ``.safetensors``, else a folder. An older detector there is
            replaced.

        Raises
        ------
        FileExistsError
            If something other than a saved detector is there, or in the folder.
        ValueError
            If a parameter cannot be saved: a network factory without a name, a thresholder of
            PyThresh, or a ``RandomState``; or if the path ends as files of another format do, such
            as ``.pkl``.
        OSError
            If nothing can be written there, or another process locks the folder for over a minute.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     detector.save(f"{folder}/model")
        ...     loaded = AutoEncoder.load(f"{folder}/model")
        >>> bool((loaded.decision_function(X) == detector.decision_scores_).all())
        True
        """
        saved.save_detector(self, fitted_of(self), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a detector of this class; see :func:`pyod_ae_plugin.load_detector`.

        Parameters
        ----------
        path : str or Path
            The folder or file.

        Returns
        -------
        detector : object
            As it was saved, except that ``checkpoint`` is None.

        Raises
        ------
        FileNotFoundError
            If there is no saved detector.
        ValueError
            If it is of another class, damaged, or of an unknown format.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     detector.save(f"{folder}/model")
        ...     type(AutoEncoder.load(f"{folder}/model")).__name__
        'AutoEncoder'
        """
        detector = saved.load_detector(path)
        if not isinstance(detector, cls):
            raise ValueError(
                f"{path} holds a {type(detector).__name__}, not a {cls.__name__}. "
                f"Use {type(detector).__name__}.load or pyod_ae_plugin.load_detector."
            )
        return detector

    def to_onnx(self, path: str | Path) -> None:
        """Write the detector to an ONNX file of opset 18.

        Parameters
        ----------
        path : str or Path
            The file; an older one is replaced. Input ``X`` of shape (n, n_features), float64;
            outputs ``scores`` of shape (n,), float32, and ``labels`` of shape (n,), int64.

        Raises
        ------
        ImportError
            If onnxscript is not installed, or torch is older than 2.11.
        ValueError
            As :meth:`to_torch_export`, and if the weights are larger than 2 GiB.

        Examples
        --------
        >>> import onnxruntime, tempfile
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     detector.to_onnx(f"{folder}/detector.onnx")
        ...     session = onnxruntime.InferenceSession(f"{folder}/detector.onnx")
        >>> scores, labels = session.run(["scores", "labels"], {"X": X})
        >>> np.allclose(scores, detector.decision_scores_, rtol=1e-4)
        True
        """
        write_onnx(fitted_of(self), Path(path), type(self).__name__)

    def to_torch_export(self) -> ExportedProgram:
        """Export the detector to a program of :mod:`torch.export`, which needs torch alone to run.

        Returns
        -------
        torch.export.ExportedProgram
            On the CPU. Its ``module()`` maps X of shape (n, n_features), float64, n >= 1, to
            scores of shape (n,), float32, and labels of shape (n,), int64. A row that is not finite
            gets the largest float32.

        Raises
        ------
        ImportError
            If torch is older than 2.6.
        ValueError
            If torch cannot export the network or the score head of a plugin, or the labels are
            those of a thresholder of PyThresh, which are not set by a threshold on the score.

        Examples
        --------
        >>> import torch
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(verbose=0).fit(X)
        >>> scores, labels = detector.to_torch_export().module()(torch.from_numpy(X))
        >>> np.allclose(scores, detector.decision_scores_, rtol=1e-4), int(labels.sum())
        (True, 30)
        """
        return export_program(fitted_of(self))

    @default_settings()
    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # a copy: Python hands out the dict of the object
        state.pop("_stream", None)
        if "scoring_module_" in state:
            # The machine that unpickles it may lack the device.
            state["scoring_module_"] = copy.deepcopy(state["scoring_module_"]).cpu()
        return state

    @default_settings()
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "scoring_module_" in state:
            module = self.scoring_module_
            if any(tensor.is_inference() for tensor in module.state_dict().values()):
                # As they were read in inference mode, no gradient could pass through them.
                module = copy.deepcopy(module)
            self.scoring_module_ = module.to(available_device(self.device))


# Parameters that take values of several fields.
_VALUES = {"corruption": Corruption, "early_stopping": EarlyStopping}


# The interface of a detector to other rooms.


def fitted_of(detector: NeuralDetector) -> Fitted:
    """What a fitted detector has learned, with the threshold of its attributes.

    Raises
    ------
    NotFittedError
        Before fit.
    """
    check_is_fitted(detector, "scoring_module_")
    return Fitted.of(vars(detector))


def rows_of(detector: NeuralDetector, X: Any) -> Array | Frame:
    """Rows in the user's form: a table if the detector learned columns, else numbers."""
    if hasattr(detector, "columns_"):
        return frame_given(X, detector.columns_)
    return validate_rows(detector, X, reset=False)


def matrix_of(detector: NeuralDetector, X: Any) -> Array:
    """The numbers [n, width] that the scoring module takes for rows; gaps are NaN."""
    return validate_rows(detector, X, reset=False).astype(np.float64, copy=False)


def reconstructed_matrix(detector: NeuralDetector, X: Any) -> Array:
    """Reconstructions [n, width] of what :func:`matrix_of` returns."""
    return detector._map(detector._fitted_module().reconstruct, X)


def check_params(detector: NeuralDetector) -> None:
    """Raise ValueError or TypeError unless every parameter of a detector is usable."""
    detector._check_params()


@default_settings()
def recipe_of(detector: Any, n_features: int, members: range | None = None) -> Recipe:
    """The recipe of a detector, or of some members of an ensemble."""
    recipe: Recipe
    recipe = detector._recipe(n_features, *([] if members is None else [members]))
    return recipe


def adopt(detector: NeuralDetector, fitted: Fitted) -> None:
    """Set what a detector learned."""
    detector._adopt(fitted)


def _second_pass(batches: Iterable[Any], training: TrainingRows, n: int) -> Iterator[Rows]:
    """The rows of batches in a second pass; the first found n rows."""
    n_again = 0
    for batch in batches:
        X = training.check(batch)
        n_again += len(X)
        yield as_rows(X)
    if n_again != n:
        raise ValueError(
            f"The batches held {n} rows in the first pass and {n_again} in the second. Pass an "
            "iterable that gives the same batches each time, such as a list."
        )


def _mean_and_std(scores: Array) -> tuple[float, float]:
    """Mean and standard deviation by which PyOD turns scores into probabilities."""
    if scores.min() < scores.max():
        return scores.mean(), scores.std()
    score = float(scores[0])
    return score, float(np.finfo(np.float32).eps) * max(abs(score), 1.0)
