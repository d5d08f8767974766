"""Rules that set the threshold from scores, for the parameter ``contamination``.

They follow the protocol of PyThresh: ``fit`` to scores, ``predict`` labels of scores.
"""

from __future__ import annotations

import abc
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from typing_extensions import Self

Array = np.ndarray[Any, Any]


class ThresholdRule(BaseEstimator, abc.ABC):  # type: ignore[misc]
    """Base class of rules that label scores above a threshold as outliers.

    A subclass provides ``_threshold``, which maps scores [n] to the threshold.

    Attributes
    ----------
    thresh_ : float
        Rows with larger scores are outliers.
    labels_ : ndarray of shape (n,)
        Labels of the scores that the rule was fitted to: 0 for inliers, 1 for outliers.

    Examples
    --------
    >>> class Highest(ThresholdRule):
    ...     _parameter_constraints = {}
    ...     def _threshold(self, scores):
    ...         return scores.max()
    >>> Highest().fit([1.0, 4.0, 2.0]).predict([3.0, 5.0])
    array([0, 1])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]]

    def fit(self, X: Any, y: Any = None) -> Self:
        """Set the threshold.

        Parameters
        ----------
        X : array-like of shape (n,)
            Scores; the larger, the more abnormal.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : object
            The rule, with ``thresh_`` and ``labels_``.

        Raises
        ------
        ValueError
            If a parameter of the rule is not usable.

        Examples
        --------
        >>> MeanStd(k=1).fit([1.0, 1.0, 1.0, 5.0]).labels_
        array([0, 0, 0, 1])
        """
        self._validate_params()
        scores = np.asarray(X, dtype=np.float64)
        self.thresh_ = float(self._threshold(scores))
        self.labels_ = self.predict(scores)
        return self

    def predict(self, X: Any) -> Array:
        """Labels of scores: 1 above the threshold, else 0.

        Parameters
        ----------
        X : array-like of shape (n,)
            Scores; the larger, the more abnormal.

        Returns
        -------
        ndarray of shape (n,)
            Integers, 0 or 1.

        Examples
        --------
        >>> MeanStd(k=1).fit([1.0, 1.0, 1.0, 5.0]).predict([3.0, 4.0])
        array([0, 1])
        """
        check_is_fitted(self, "thresh_")
        return (np.asarray(X) > self.thresh_).astype(int)

    @abc.abstractmethod
    def _threshold(self, scores: Array) -> float:
        """The threshold for scores [n]."""


class MeanStd(ThresholdRule):
    """Mean plus some standard deviations of the scores.

    Parameters
    ----------
    k : float, default=2.0
        Number of standard deviations.

    Examples
    --------
    >>> MeanStd(k=1).fit([1.0, 1.0, 1.0, 5.0]).thresh_.__round__(2)
    3.73
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "k": [Interval(Real, None, None, closed="neither")]
    }

    def __init__(self, k: float = 2.0) -> None:
        self.k = k

    def _threshold(self, scores: Array) -> float:
        return float(scores.mean() + self.k * scores.std())


class TopN(ThresholdRule):
    """The n highest scores, as many as a reviewer has time for; fewer where scores are equal.

    Parameters
    ----------
    n : int, default=10
        Number of outliers among the scores that the rule is fitted to.

    Examples
    --------
    >>> TopN(2).fit([3.0, 1.0, 5.0, 4.0]).labels_
    array([0, 0, 1, 1])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n": [Interval(Integral, 1, None, closed="left")]
    }

    def __init__(self, n: int = 10) -> None:
        self.n = n

    def _threshold(self, scores: Array) -> float:
        if self.n >= len(scores):
            return float(np.nextafter(scores.min(), -np.inf))
        below, lowest = np.sort(scores)[-self.n - 1 :][:2]
        # in the middle, so that another device, which rounds otherwise, gives the same labels
        middle = below + (lowest - below) / 2
        return float(middle if middle < lowest else below)


class Quantile(ThresholdRule):
    """A quantile of the scores.

    ``Quantile(0.9)`` is the rule of ``contamination=0.1``, which has to be at most 0.5.

    Parameters
    ----------
    q : float in [0, 1], default=0.9
        Share of the scores at or below the threshold.

    Examples
    --------
    >>> Quantile(0.5).fit([1.0, 2.0, 4.0]).thresh_
    2.0
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "q": [Interval(Real, 0, 1, closed="both")]
    }

    def __init__(self, q: float = 0.9) -> None:
        self.q = q

    def _threshold(self, scores: Array) -> float:
        return float(np.quantile(scores, self.q))


RULES = {rule.__name__: rule for rule in (MeanStd, TopN, Quantile)}
