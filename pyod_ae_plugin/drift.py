"""Tests whether new rows are distributed as the training rows were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import comb
from scipy.stats import ks_2samp, kstwo

from pyod_ae_plugin.fitted import Array, Fitted, spread_sample

# With more rows asymptotic p-values are close to the exact ones, and much cheaper.
_MOST_EXACT = 1_000
_MOST_NAMED = 5


class Comparison(NamedTuple):
    """One Kolmogorov-Smirnov test of new values against those of training.

    Parameters
    ----------
    name : str
        Name of the feature, or 'score'.
    statistic : float in [0, 1]
        Largest distance between the two empirical distribution functions: the size of the
        difference, whatever the number of rows.
    p_value : float
        NaN if the statistic was not tested.
    adjusted_p_value : float
        Adjusted by Holm's procedure, over all tests of the report.

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
        The anomaly scores. They are tested only if rows were held out from training.
    alpha : float
        Bound of the probability of any alarm if nothing drifted.
    n_rows, n_reference : int
        Numbers of new rows and of training rows that were compared.
    critical_value : float
        KS statistic above about which a feature counts as drifted on its own. With fewer rows it
        is higher, and smaller drift may not be found.
    outlier_share, expected_outlier_share : float
        Share of outliers among the new rows, and among the rows held out (or else those of
        training).

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
        """Whether the scores drifted; False if they were not tested."""
        return self.score.adjusted_p_value <= self.alpha

    @property
    def drifted(self) -> bool:
        """Whether any feature or the scores drifted."""
        return self.score_drifted or bool(self.drifted_features)

    def __str__(self) -> str:
        """Two lines: the features; the score and the outliers."""
        return f"{self._about_features()}\n{self._about_rows()}"

    def _about_features(self) -> str:
        names, k = self.drifted_features, len(self.features)
        statistics = {f.name: f.statistic for f in self.features}
        if not names:
            largest, critical = max(statistics.values()), self.critical_value
            return (
                f"No drift in {k} features: the largest difference from the training rows is KS "
                f"{largest:.2f}, and {critical:.2f} would be significant."
            )
        named = ", ".join(f"{name} (KS {statistics[name]:.2f})" for name in names[:_MOST_NAMED])
        others = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        differ = "Its values differ" if len(names) == 1 else "Their values differ"
        return (
            f"Drift in {len(names)} of {k} features: {named}{others}. {differ} from those of the "
            "training rows."
        )

    def _about_rows(self) -> str:
        if np.isnan(self.score.p_value):
            score = "Their distribution is tested only after a fit with held_out_threshold=True"
            expected = "training rows"
        else:
            found = "Drift" if self.score_drifted else "No drift"
            score = f"{found} in the scores (KS {self.score.statistic:.2f})"
            expected = "rows held out from training"
        return (
            f"{self.outlier_share:.1%} of {self.n_rows:,} rows score above the threshold; of the "
            f"{expected} it was {self.expected_outlier_share:.1%}. {score}."
        )


def compare(fitted: Fitted, rows: Array, scores: Array, alpha: float) -> DriftReport:
    """Compare new rows [n, n_features] and their scores [n] with those of training.

    Each feature, and the score, is compared by the two-sample Kolmogorov-Smirnov test. If rows are
    encoded, the columns that a feature is encoded to are tested as one. Holm's procedure [1]_
    adjusts the p-values: it makes no assumption on how features depend on each other, and
    bounds the probability of any false alarm. Benjamini and Hochberg's would bound the share of
    false alarms among all alarms. Scores are tested only if rows were kept from training: those of
    training rows are lower. Raises ValueError if the rows are so few that no test could find
    anything.

    References
    ----------
    .. [1] Holm, S. (1979). A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian
           Journal of Statistics 6(2).
    """
    test_scores = fitted.held_out_scores is not None
    expected = fitted.decision_scores if fitted.held_out_scores is None else fitted.held_out_scores
    names = [f"x{i}" for i in range(fitted.n_features)]
    if fitted.feature_names_in is not None:
        names = list(fitted.feature_names_in)
    groups = np.arange(len(names)) if fitted.columns is None else fitted.columns.groups
    n, m, n_tests = len(rows), len(fitted.drift_reference), len(names) + test_scores
    _check_enough(n, m, n_tests, alpha)
    rows, reference = _in_coarser_type(rows, fitted.drift_reference)
    compared = [
        *(_ks_of_group(rows[:, own].T, reference[:, own].T) for own in _members(groups)),
        _ks(scores, expected[spread_sample(len(expected))]),
    ]
    statistics, p_values = map(np.array, zip(*compared, strict=True))
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
        n_rows=n,
        n_reference=m,
        critical_value=float(kstwo.isf(alpha / n_tests, max(round(n * m / (n + m)), 1))),
        outlier_share=float(fitted.labels_of(scores).mean()),
        expected_outlier_share=float(fitted.labels_of(expected).mean()),
    )


def holm(p_values: Array) -> Array:
    """P-values [k], adjusted by Holm's procedure."""
    order, k = p_values.argsort(), len(p_values)
    adjusted = np.empty(k)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(k, 0, -1)).clip(max=1)
    return adjusted


def _members(groups: Array) -> list[Array]:
    """The columns of each group."""
    return [np.flatnonzero(groups == i) for i in range(int(groups.max()) + 1)]


def _ks_of_group(rows: Array, reference: Array) -> tuple[float, float]:
    """The test of a feature that is encoded to k columns [k, n], with Bonferroni's correction."""
    statistics, p_values = zip(*map(_ks, rows, reference), strict=True)
    return max(statistics), min(1.0, len(p_values) * min(p_values))


def _ks(a: Array, b: Array) -> tuple[float, float]:
    a, b = (np.where(np.isnan(x), np.inf, x) for x in (a, b))  # more gaps are drift, too
    statistic, p_value = ks_2samp(a, b, method="asymp")
    # where p-values are large scipy warns that rounding spoils the exact ones
    if max(len(a), len(b)) <= _MOST_EXACT and p_value < 0.5:
        p_value = ks_2samp(a, b, method="exact").pvalue
    return float(statistic), float(p_value)


def _check_enough(n: int, m: int, n_tests: int, alpha: float) -> None:
    """Raise if even samples that do not overlap would not differ significantly."""
    smallest_p_value = 2 / comb(n + m, n)
    if n_tests * smallest_p_value > alpha:
        raise ValueError(
            f"{n} rows against {m} of training are too few to find drift at alpha={alpha:g} in "
            f"{n_tests} tests, whatever their values. Pass more rows, or raise alpha."
        )


def _in_coarser_type(*arrays: Array) -> list[Array]:
    """Convert to the less precise floating-point type, so that 0.1 in both is not drift."""
    types = [array.dtype for array in arrays if array.dtype.kind == "f"]
    coarsest = min(types, key=lambda dtype: dtype.itemsize, default=np.dtype(np.float64))
    return [array.astype(coarsest, copy=False) for array in arrays]
