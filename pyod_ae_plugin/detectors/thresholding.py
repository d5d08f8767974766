"""From scores to labels, probabilities, and p-values by rows that were kept from training."""

from __future__ import annotations

import copy
from numbers import Real
from typing import Any

import numpy as np
from pyod.models.base import BaseDetector
from scipy.stats import false_discovery_control
from sklearn.utils.validation import check_is_fitted

from pyod_ae_plugin.detectors.scoring import Array, ScoringDetector
from pyod_ae_plugin.engine.rows import Rows
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE


class ThresholdingDetector(ScoringDetector):
    """Base class of detectors that label rows by a threshold on their scores."""

    contamination: Any

    def predict(
        self, X: Any, return_confidence: bool = False, *, fdr: float | None = None
    ) -> Array | tuple[Array, Array]:
        """Labels of rows: 0 for inliers, 1 for outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of as many features as in fit, or a Tensor on a GPU.
        return_confidence : bool, default=False
            Whether to return PyOD's confidence in each label, too.
        fdr : float in (0, 1) or None, default=None
            If given, rows are outliers not by the threshold, but so that among all rows of X that
            are called outliers no more than this share are inliers, on average: Benjamini and
            Hochberg's procedure [1]_ on :meth:`predict_p_value`. It holds where the rows that were
            held out are inliers, as with ``novelty=True`` [2]_.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Integers, 0 or 1.
        confidence : ndarray of shape (n_samples,)
            Only with ``return_confidence``.

        Raises
        ------
        ValueError
            If ``fdr`` is not between 0 and 1, or given without ``held_out_threshold=True``.

        References
        ----------
        .. [1] Benjamini, Y., & Hochberg, Y. (1995). Controlling the False Discovery Rate. Journal
               of the Royal Statistical Society B 57(1).
        .. [2] Bates, S., Candes, E., Lei, L., Romano, Y., & Sesia, M. (2023). Testing for
               Outliers with Conformal p-values. Annals of Statistics 51(1).

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> bool((detector.predict(X) == detector.labels_).all())
        True
        >>> detector.predict([[9.0] * 5])
        array([1])
        """
        check_is_fitted(self, "scoring_module_")
        if fdr is None:
            labels = self._labels(self.decision_function(X))
        elif isinstance(fdr, Real) and 0 < fdr < 1:
            adjusted = false_discovery_control(self.predict_p_value(X), method="bh")
            labels = (adjusted <= fdr).astype(int)
        else:
            raise ValueError(f"fdr must be between 0 and 1, got {fdr!r}.")
        return (labels, self.predict_confidence(X)) if return_confidence else labels

    def predict_p_value(self, X: Any) -> Array:
        """Conformal p-values of rows [1]_: how unusual a score is among inliers' scores.

        ``(1 + number of held-out scores >= score) / (1 + number of held-out scores)``. For a row
        that comes from where the held-out rows do, it is at most p with a probability of at most
        p. Needs ``held_out_threshold=True``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of as many features as in fit, or a Tensor on a GPU.

        Returns
        -------
        ndarray of shape (n_samples,)
            In (0, 1]; small for outliers.

        Raises
        ------
        ValueError
            If no rows were kept from training.

        References
        ----------
        .. [1] Vovk, V., Gammerman, A., & Shafer, G. (2005). Algorithmic Learning in a Random
               World. Springer.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(1000, 5))
        >>> detector = AutoEncoder(
        ...     novelty=True, held_out_threshold=True, validation_fraction=0.5, verbose=0)
        >>> p = detector.fit(X).predict_p_value([[0.0] * 5, [9.0] * 5])
        >>> bool(p[0] > 0.3), bool(p[1] < 0.01)
        (True, True)
        """
        check_is_fitted(self, "scoring_module_")
        if not hasattr(self, "held_out_scores_"):
            raise ValueError(
                "p-values need rows that were kept from training; fit with held_out_threshold=True."
            )
        n = len(self.held_out_scores_)
        n_below = np.searchsorted(self.held_out_scores_, self.decision_function(X), side="left")
        p_values: Array = (1 + n - n_below) / (1 + n)
        return p_values

    def predict_proba(
        self, X: Any, method: str = "linear", return_confidence: bool = False
    ) -> Array | tuple[Array, Array]:
        """Outlier probabilities, as :meth:`pyod.models.base.BaseDetector.predict_proba` has them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of as many features as in fit.
        method : {'linear', 'unify'}, default='linear'
            How scores become probabilities: by the range of the training scores, or by a normal
            distribution of these [1]_.
        return_confidence : bool, default=False
            Whether to return PyOD's confidence in each label, too.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, 2)
            Of an inlier and of an outlier. They are scores on the scale from 0 to 1, and no share
            of such rows is an outlier by them.
        confidence : ndarray of shape (n_samples,)
            Only with ``return_confidence``.

        References
        ----------
        .. [1] Kriegel, H.-P., Kroger, P., Schubert, E., & Zimek, A. (2011). Interpreting and
               Unifying Outlier Scores. SDM.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> detector.predict_proba(X).sum(axis=1)[:3]
        array([1., 1., 1.])
        """
        if not hasattr(X, "shape"):
            X = np.asarray(X)  # PyOD asks for the shape of X
        probabilities: Array | tuple[Array, Array] = super().predict_proba(
            X, method=method, return_confidence=return_confidence
        )
        return probabilities

    def predict_confidence(self, X: Any) -> Array:
        """PyOD's confidence in the labels: how often a row would get the same from other rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of as many features as in fit.

        Returns
        -------
        ndarray of shape (n_samples,)
            In [0, 1]: the probability that the label is the same after a fit to another sample of
            as many rows [1]_.

        References
        ----------
        .. [1] Perini, L., Vercruyssen, V., & Davis, J. (2020). Quantifying the Confidence of
               Anomaly Detectors in Their Example-Wise Predictions. ECML PKDD.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> confidence = detector.predict_confidence(X)
        >>> bool(((confidence >= 0) & (confidence <= 1)).all())
        True
        """
        check_is_fitted(self, "scoring_module_")
        if isinstance(self.contamination, float):
            confidence: Array = BaseDetector.predict_confidence(self, X)
            return confidence
        # PyOD would ask the parameter, which is not fitted. It is asked how sure it is that all
        # rows are inliers, at the share of outliers that the thresholder found.
        asked = object.__new__(type(self))
        share = float(np.mean(self.labels_))
        asked.__dict__.update(self.__dict__, contamination=share, threshold_=np.inf)
        inlier: Array = BaseDetector.predict_confidence(asked, X)
        return np.where(self._labels(self.decision_function(X)) == 1, 1 - inlier, inlier)

    def _set_scores(self, scores: Array, held_out: Rows | None = None) -> None:
        """Set threshold and labels by the scores of the training rows, or of rows held out."""
        self._set_threshold(scores, None if held_out is None else self._scores_of(held_out))

    def _set_threshold(self, scores: Array, of_held_out: Array | None) -> None:
        if scores.min() >= HIGHEST_SCORE:
            raise FloatingPointError(
                "Training diverged: every score overflows. Lower the learning rate lr, and "
                "keep preprocessing=True so that the features are standardised."
            )
        self._set_n_classes(None)  # y says nothing about the columns of predict_proba
        self.__dict__.pop("held_out_scores_", None)
        self.__dict__.pop("thresholder_", None)
        deciding = scores
        if of_held_out is not None:
            deciding = of_held_out
            self.held_out_scores_ = np.sort(deciding)
        self.decision_scores_ = scores
        self._mu, self._sigma = _mean_and_std(scores)
        if isinstance(self.contamination, float):
            self.threshold_ = np.percentile(deciding, 100 * (1 - self.contamination))
            self.labels_ = self._labels(scores)
            return
        # A parameter is left as it was passed, and may be shared with other detectors.
        thresholder = copy.deepcopy(self.contamination)
        thresholder.fit(deciding)
        self.labels_ = thresholder.labels_ if of_held_out is None else thresholder.predict(scores)
        # as PyOD has it for thresholders that have no threshold
        self.threshold_ = thresholder.thresh_ or self.labels_.mean()
        self.thresholder_ = thresholder

    def _labels(self, scores: Array) -> Array:
        if isinstance(self.contamination, float):
            return (scores > self.threshold_).astype(int)
        labels: Array = self.thresholder_.predict(scores)
        return labels


def _mean_and_std(scores: Array) -> tuple[float, float]:
    """What PyOD turns scores into probabilities by: it divides by the second."""
    if scores.min() < scores.max():
        return scores.mean(), scores.std()
    score = float(scores[0])
    return score, float(np.finfo(np.float32).eps) * max(abs(score), 1.0)
