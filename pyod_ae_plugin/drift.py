"""Whether new rows come from where the training rows came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import comb
from scipy.stats import ks_2samp, kstwo

from pyod_ae_plugin.fitted import Fitted, spread_sample

Array = np.ndarray[Any, Any]

# Beyond, asymptotic p-values are close to the exact ones, and much cheaper.
_MOST_EXACT = 1_000
_MOST_NAMED = 5


class Comparison(NamedTuple):
    """One Kolmogorov-Smirnov test of new values against those of training.

    Parameters
    ----------
    name : str
        Of the feature, or 'score'.
    statistic : float in [0, 1]
        Largest distance between the two empirical distribution functions: how large the difference
        is, whatever the number of rows.
    p_value : float
        NaN if the statistic was not tested.
    adjusted_p_value : float
        By Holm's procedure, over all tests of the report.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin import AutoEncoder
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> report = AutoEncoder(device="cpu", verbose=0).fit(X).check_drift(X + [0, 3])
    >>> report.features[1].statistic > 0.8
    True
    """

    name: str
    statistic: float
    p_value: float
    adjusted_p_value: float


@dataclass(frozen=True)
class DriftReport:
    """How new rows differ from those of training; see ``check_drift`` of the detectors.

    Parameters
    ----------
    features : tuple of Comparison
        One for each feature, in their order.
    score : Comparison
        Of the anomaly scores; tested only where scores of rows that were held out are there.
    alpha : float
        If nothing drifted, the probability that anything is called drifted is at most this.
    n_rows : int
        New rows.
    n_reference : int
        Rows of training that they were compared with.
    critical_value : float
        Where a feature's KS statistic is above about this, it has drifted, whatever the others are.
        The fewer rows, the higher it is: what lies below may have drifted unseen.
    outlier_share : float
        Of the new rows.
    expected_outlier_share : float
        Of the rows held out, or else of the training rows.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin import AutoEncoder
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> report = AutoEncoder(device="cpu", verbose=0).fit(X).check_drift(X + [0, 3])
    >>> report.drifted, report.drifted_features
    (True, ['x1'])
    """

    features: tuple[Comparison, ...]
    score: Comparison
    alpha: float
    n_rows: int
    n_reference: int
    critical_value: float
    outlier_share: float
    expected_outlier_share: float

    @property
    def drifted_features(self) -> list[str]:
        """Names of the features that drifted, the most different first."""
        found = [f for f in self.features if f.adjusted_p_value <= self.alpha]
        return [f.name for f in sorted(found, key=lambda f: -f.statistic)]

    @property
    def score_drifted(self) -> bool:
        """Whether the scores did; False if they were not tested."""
        return self.score.adjusted_p_value <= self.alpha

    @property
    def drifted(self) -> bool:
        """Whether anything did."""
        return self.score_drifted or bool(self.drifted_features)

    def __str__(self) -> str:
        """Two lines: the features; the score and the outliers."""
        return f"{self._about_features()}\n{self._about_score()}; {self._about_outliers()}."

    def _about_features(self) -> str:
        names, k = self.drifted_features, len(self.features)
        statistics = {f.name: f.statistic for f in self.features}
        if not names:
            return (
                f"No drift in {k} features: largest KS statistic {max(statistics.values()):.2f}, "
                f"significant from {self.critical_value:.2f}."
            )
        named = ", ".join(f"{name} (KS {statistics[name]:.2f})" for name in names[:_MOST_NAMED])
        others = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        return f"Drift in {len(names)} of {k} features: {named}{others}."

    def _about_score(self) -> str:
        if np.isnan(self.score.p_value):
            return "Scores not tested, which needs held_out_threshold=True"
        found = "Drift" if self.score_drifted else "No drift"
        return f"{found} in the scores (KS {self.score.statistic:.2f})"

    def _about_outliers(self) -> str:
        expected = "training" if np.isnan(self.score.p_value) else "the rows held out"
        return (
            f"{self.outlier_share:.1%} of {self.n_rows} rows are outliers, "
            f"{self.expected_outlier_share:.1%} in {expected}"
        )


def compare(fitted: Fitted, rows: Array, scores: Array, alpha: float) -> DriftReport:
    """Compare new rows and their scores with those of training.

    Each feature, and the score, is compared by the two-sample Kolmogorov-Smirnov test. Holm's
    procedure [1]_ adjusts the p-values: it needs nothing of how features depend on each other, and
    keeps the probability of any false alarm, where Benjamini and Hochberg's would keep the share
    of false alarms among many.

    Parameters
    ----------
    fitted : Fitted
        What was learned. Scores are tested where rows were kept from training: those of rows that
        the network was trained on are lower.
    rows : ndarray of shape (n, n_features)
    scores : ndarray of shape (n,)
        Of the new rows.
    alpha : float

    Raises
    ------
    ValueError
        If the rows are so few that no test could find anything, whatever their values.

    References
    ----------
    .. [1] Holm, S. (1979). A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian
           Journal of Statistics 6(2).
    """
    test_scores = fitted.held_out_scores is not None
    expected = fitted.decision_scores if fitted.held_out_scores is None else fitted.held_out_scores
    names = fitted.feature_names_in
    names = [f"x{i}" for i in range(fitted.n_features)] if names is None else names
    reference, n_tests = fitted.drift_reference, len(names) + test_scores
    _check_enough(len(rows), len(reference), n_tests, alpha)
    rows, reference = _of_one_precision(rows, reference)
    pairs = [
        *zip(rows.T, reference.T, strict=True),
        (scores, expected[spread_sample(len(expected))]),
    ]
    statistics, p_values = map(np.array, zip(*(_ks(*pair) for pair in pairs), strict=True))
    if not test_scores:
        p_values[-1] = np.nan
    adjusted = np.full_like(p_values, np.nan)
    adjusted[:n_tests] = holm(p_values[:n_tests])
    columns = ([*names, "score"], statistics.tolist(), p_values.tolist(), adjusted.tolist())
    *features, score = map(Comparison, *columns)
    return DriftReport(
        features=tuple(features),
        score=score,
        alpha=alpha,
        n_rows=len(rows),
        n_reference=len(reference),
        critical_value=_critical_value(len(rows), len(reference), alpha / n_tests),
        outlier_share=float(fitted.labels_of(scores).mean()),
        expected_outlier_share=float(fitted.labels_of(expected).mean()),
    )


def holm(p_values: Array) -> Array:
    """P-values [k], adjusted by Holm's procedure.

    Examples
    --------
    >>> holm(np.array([0.5, 0.01, 0.02]))
    array([0.5 , 0.03, 0.04])
    """
    order, k = p_values.argsort(), len(p_values)
    adjusted = np.empty(k)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(k, 0, -1)).clip(max=1)
    return adjusted


def _ks(a: Array, b: Array) -> tuple[float, float]:
    statistic, p_value = ks_2samp(a, b, method="asymp")
    # where p-values are large scipy warns that rounding spoils the exact ones
    if max(len(a), len(b)) <= _MOST_EXACT and p_value < 0.5:
        p_value = ks_2samp(a, b, method="exact").pvalue
    return float(statistic), float(p_value)


def _critical_value(n: int, m: int, level: float) -> float:
    return float(kstwo.isf(level, max(round(n * m / (n + m)), 1)))


def _check_enough(n: int, m: int, n_tests: int, alpha: float) -> None:
    """Raise if even samples that do not overlap would not differ significantly."""
    smallest_p_value = 2 / comb(n + m, n)
    if n_tests * smallest_p_value > alpha:
        raise ValueError(
            f"{n} rows against {m} of training are too few to find drift at alpha={alpha:g} in "
            f"{n_tests} tests, whatever their values. Pass more rows, or raise alpha."
        )


def _of_one_precision(*arrays: Array) -> list[Array]:
    """Arrays in the coarsest of their floating-point types: 0.1 in two of these is no drift."""
    types = [array.dtype for array in arrays if array.dtype.kind == "f"]
    coarsest = min(types, key=lambda dtype: dtype.itemsize, default=np.dtype(np.float64))
    return [array.astype(coarsest, copy=False) for array in arrays]
