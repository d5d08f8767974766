"""What a fitted detector makes of rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyod_ae_plugin.detectors.persistent import PersistentDetector
from pyod_ae_plugin.detectors.rows import as_rows, check_tensor, device_rows, validate_rows
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.folded import score_function
from pyod_ae_plugin.engine.rows import Rows
from pyod_ae_plugin.engine.tiles import map_resident, map_rows
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring import contributions
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

Array = np.ndarray[Any, Any]


class ScoringDetector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, PersistentDetector):  # type: ignore[misc]
    """Base class of detectors that score, encode and rebuild rows by their scoring module."""

    precision: Precision

    def decision_function(self, X: Any, batch_size: int | None = None) -> Array:
        """Anomaly scores of rows; the larger, the more abnormal.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Arrays on a GPU, of torch, CuPy or whoever else offers ``__dlpack__`` or
            ``__cuda_array_interface__``, are scored where they are. So are they by ``predict``,
            ``transform`` and ``reconstruct``. Results are NumPy arrays; :meth:`score_tensor` leaves
            them on the GPU.
        batch_size : Ignored
            PyOD's deep detectors take it. Here rows stream through the network in tiles that
            fit the cache, and no score depends on them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Finite. A row so far from the training rows that its score overflows float32 gets
            the largest float32.

        Raises
        ------
        ValueError, TypeError
            If X is not of finite numbers, or has other features than in fit.
        NotFittedError
            Before fit.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> detector.decision_function(X[:3]).shape
        (3,)
        >>> bool((detector.decision_function(X[:3]) == detector.decision_scores_[:3]).all())
        True
        """
        if not hasattr(self, "scoring_module_"):  # the full check costs as much as scoring a row
            check_is_fitted(self, "scoring_module_")
        resident = device_rows(self, X)
        if resident is not None:
            return self._score_resident(resident)
        blind = not self.scoring_module_.head.propagates_nan
        return self._score(validate_rows(self, X, reset=False, ensure_all_finite=blind))

    def score_tensor(self, x: Tensor) -> Tensor:
        """Anomaly scores of rows in a tensor, which stay on its device.

        Nothing is copied to the host and nothing waits for the device.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            On the device of the detector. Whether its values are finite is not looked at: a row
            with others gets the largest float32.

        Returns
        -------
        Tensor of shape (n_samples,)
            Scores in float32.

        Raises
        ------
        TypeError
            If x is no tensor of numbers.
        ValueError
            If x is on another device than the detector, or has other features than in fit.

        Examples
        --------
        >>> import torch
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X.numpy())
        >>> detector.score_tensor(X).shape
        torch.Size([100])
        """
        check_is_fitted(self, "scoring_module_")
        module = self.scoring_module_
        check_tensor(self, x)
        if x.device != module.standardize.scale.device:
            raise ValueError(
                f"x is on {x.device}, and the detector on {module.standardize.scale.device}. "
                "Move one to the other: x.to(...), or load_detector(path, device=...)."
            )
        return map_resident(score_function(module, self.precision), x.detach(), module)

    def transform(self, X: Any) -> Array:
        """Latent codes of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of as many features as in fit, or a Tensor on a GPU.

        Returns
        -------
        ndarray of shape (n_samples, n_latent)
            What the encoder makes of standardised rows: for a VAE the posterior means, for an
            ensemble the codes of all members, one beside the other. Finite: a value farther than
            1e15 standard deviations from the mean counts as that far.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> detector.transform(X).shape
        (300, 1)
        """
        check_is_fitted(self, "scoring_module_")
        return self._map(self.scoring_module_.encode, X)

    def reconstruct(self, X: Any) -> Array:
        """Rows as the network rebuilds them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of as many features as in fit, or a Tensor on a GPU.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the units of X, and finite. Of values far out as in :meth:`transform`.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> residual = (detector.reconstruct(X) - X) / X.std(axis=0)  # in standard units
        >>> residual.shape
        (300, 5)
        """
        check_is_fitted(self, "scoring_module_")
        return self._map(self.scoring_module_.reconstruct, X)

    def explain(self, X: Any) -> Array:
        """What each feature of a row adds to its score.

        Contributions are integrated gradients [1]_ from the mean training row to the row. By the
        score heads 'euclidean' and 'nll', which are sums over features, those of a row sum to its
        score: what each feature adds to the score of the mean row is included. By others they sum
        to the score less that of the mean row, which may be above that of a row. Features that make
        a row more normal contribute less than 0. Of an ensemble the combined score is explained.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of as many features as in fit, or a Tensor on a GPU.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            On the scale of the scores, and finite. A row's contributions do not depend on the rows
            beside it. With ``preprocessing=False`` they are from the row of zeros.

        Raises
        ------
        TypeError
            If scores of a score head from a plugin have no gradient.

        See Also
        --------
        pyod_ae_plugin.plots.plot_explanation : Draws the largest of a row.

        References
        ----------
        .. [1] Sundararajan, M., Taly, A., & Yan, Q. (2017). Axiomatic Attribution for Deep
               Networks. ICML.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> row = X[:1].copy()
        >>> row[0, 3] = 8
        >>> int(detector.explain(row).argmax())
        3
        """
        check_is_fitted(self, "scoring_module_")
        return self._map(partial(contributions, self.scoring_module_), X)

    @property
    def _n_features_out(self) -> int:
        """Width of the latent code, for scikit-learn's names of features."""
        module = self.scoring_module_
        x = torch.zeros(1, self.n_features_in_, device=module.standardize.scale.device)
        return module.encode(x).shape[1]

    @property
    def model(self) -> Network:
        """The trained network; standardised rows in, reconstructions out.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> type(detector.model).__name__
        'AutoEncoderNetwork'
        """
        check_is_fitted(self, "scoring_module_")
        return self.scoring_module_.network

    def _score(self, X: Array) -> Array:
        scores = self._scores_of(as_rows(X))
        if scores.max() >= HIGHEST_SCORE:
            assert_all_finite(X, estimator_name=type(self).__name__, input_name="X")
        return scores

    def _scores_of(self, rows: Rows) -> Array:
        """Scores of rows that have been checked."""
        module = self.scoring_module_
        scores: Array = map_rows(score_function(module, self.precision), rows, module).numpy()
        return scores

    def _score_resident(self, rows: Tensor) -> Array:
        scores: Array = self.score_tensor(self._moved(rows)).double().cpu().numpy()
        suspect = scores.max() >= HIGHEST_SCORE or not self.scoring_module_.head.propagates_nan
        if suspect:
            _assert_finite(rows)
        return scores

    def _map(self, function: Callable[[Tensor], Tensor], X: Any) -> Array:
        """What a function of the scoring module gives for rows on the host or on a GPU."""
        resident = device_rows(self, X)
        if resident is None:
            rows = as_rows(validate_rows(self, X, reset=False))
            mapped: Array = map_rows(function, rows, self.scoring_module_).numpy()
            return mapped
        _assert_finite(resident)
        values = map_resident(function, self._moved(resident), self.scoring_module_)
        of_host: Array = values.double().cpu().numpy()
        return of_host

    def _moved(self, rows: Tensor) -> Tensor:
        return rows.to(self.scoring_module_.standardize.scale.device)


def _assert_finite(rows: Tensor) -> None:
    """Raise on NaN and infinity in rows on a GPU."""
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("X holds NaN or infinity. Fill or drop such rows.")
