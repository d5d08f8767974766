"""New rows against those of training."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from pyod_ae_plugin.detectors.rows import device_rows, validate_rows
from pyod_ae_plugin.detectors.scoring import Array
from pyod_ae_plugin.detectors.thresholding import ThresholdingDetector
from pyod_ae_plugin.drift import DriftReport, compare
from pyod_ae_plugin.engine.rows import Rows

# With so many, differences of the distribution functions below 0.05 stay unfound however many
# rows come: what is found is worth finding.
_N_REFERENCE = 1_000


class MonitoringDetector(ThresholdingDetector):
    """Base class of detectors that tell whether new rows are still like those of training.

    Attributes
    ----------
    drift_reference_ : ndarray of shape (n_kept, n_features)
        Each feature's values in at most 1,000 training rows, ascending. As each column is sorted
        by itself, rows cannot be read from it.
    """

    drift_reference_: Array

    def check_drift(self, X: Any, alpha: float = 0.05) -> DriftReport:
        """Compare features and scores of new rows with those of training.

        A threshold holds for rows like those that it was set by. Each feature, and the score, is
        compared by the Kolmogorov-Smirnov test with a sample of 1,000 training rows; p-values are
        adjusted by Holm's procedure. Differences that only rows together show, such as another
        correlation, show in the score if at all.

        A detector scores rows that it was trained on lower than others, so the score is tested
        only against rows that were held out: with ``held_out_threshold=True``. Without, the
        features are tested, and the score's statistic has no p-value.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            A few hundred rows or more find what matters.
        alpha : float in (0, 1), default=0.05
            Highest probability of an alarm if nothing has changed.

        Returns
        -------
        DriftReport
            ``drifted``, ``drifted_features``, ``features``, ``score``; ``print`` shows it.

        Raises
        ------
        ValueError
            If X is not as it is for ``decision_function``, if it has so few rows that no
            difference could be found, or if the detector was fitted by a version that did not keep
            a sample.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> rng = np.random.default_rng(0)
        >>> detector = AutoEncoder(held_out_threshold=True, verbose=0)
        >>> detector = detector.fit(rng.normal(size=(2000, 4)))
        >>> detector.check_drift(rng.normal(size=(500, 4))).drifted
        False
        >>> autumn = rng.normal([0, 0, 0.5, 0], size=(500, 4))
        >>> detector.check_drift(autumn).drifted_features
        ['x2']
        """
        check_is_fitted(self, "scoring_module_")
        if not (isinstance(alpha, Real) and 0 < alpha < 1):
            raise ValueError(f"alpha must be between 0 and 1, got {alpha!r}.")
        if not hasattr(self, "drift_reference_"):
            raise ValueError(
                "This detector was fitted by a version of pyod-ae-plugin that kept no training "
                "values to compare with. Fit it anew."
            )
        scores = self.decision_function(X)
        held_out = hasattr(self, "held_out_scores_")
        expected = self.held_out_scores_ if held_out else self.decision_scores_
        return compare(
            self._on_host(X),
            self.drift_reference_,
            self._feature_names(),
            scores,
            expected[_sample(len(expected))],
            test_scores=held_out,
            alpha=alpha,
            outlier_shares=(self._outlier_share(scores), self._outlier_share(expected)),
        )

    def _set_drift_reference(self, rows: Rows) -> None:
        sample = rows.index_select(0, torch.from_numpy(_sample(len(rows)))).numpy()
        dtype = sample.dtype if sample.dtype.kind == "f" else np.float64
        self.drift_reference_ = np.sort(sample.astype(dtype), axis=0)

    def _outlier_share(self, scores: Array) -> float:
        return float(self._labels(scores).mean())

    def _on_host(self, X: Any) -> Array:
        resident = device_rows(self, X)
        if resident is None:
            return validate_rows(self, X, reset=False)
        # NumPy has no bfloat16
        known = resident.float() if resident.dtype == torch.bfloat16 else resident
        copied: Array = known.cpu().numpy()
        return copied

    def _feature_names(self) -> list[str]:
        names = getattr(self, "feature_names_in_", None)
        return [f"x{i}" for i in range(self.n_features_in_)] if names is None else list(names)


def _sample(n: int) -> Array:
    """Indices of at most so many of n, ascending; of a generator of its own, as nothing else is."""
    if n <= _N_REFERENCE:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, _N_REFERENCE, replace=False))
