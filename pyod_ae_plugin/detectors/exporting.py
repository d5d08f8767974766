"""Fitted detectors for where this package is not: torch.export and ONNX."""

from __future__ import annotations

import json
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils.validation import check_is_fitted

from pyod_ae_plugin.detectors.thresholding import ThresholdingDetector
from pyod_ae_plugin.export import export_program, write_onnx
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE
from pyod_ae_plugin.thresholds import ThresholdRule

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class ExportingDetector(ThresholdingDetector):
    """Base class of detectors whose way from raw row to score and label can be exported."""

    def to_torch_export(self) -> ExportedProgram:
        """Return the detector as a program of :mod:`torch.export`.

        It needs torch alone to run, also after :func:`torch.export.save` and
        :func:`torch.export.load`.

        Returns
        -------
        torch.export.ExportedProgram
            On the CPU. Its ``module()`` takes X of shape (n, n_features), float64, n >= 1, and
            returns scores of shape (n,), float32, and labels of shape (n,), int64. Values that are
            not finite raise nothing: such a row gets the largest float32.

        Raises
        ------
        ValueError
            If torch cannot export the network or the score head of a plugin, or ``contamination``
            is a thresholder whose labels depend on the rows beside a row.
        ImportError
            If torch is older than 2.6.

        See Also
        --------
        to_onnx : As an ONNX file.

        Examples
        --------
        >>> import numpy as np
        >>> import torch
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> scores, labels = detector.to_torch_export().module()(torch.from_numpy(X))
        >>> np.allclose(scores, detector.decision_scores_, rtol=1e-4)
        True
        >>> int(labels.sum())
        30
        """
        check_is_fitted(self, "scoring_module_")
        return export_program(self.scoring_module_, self._highest_inlier())

    def to_onnx(self, path: str | Path) -> None:
        """Write the detector to an ONNX file of opset 18.

        Parameters
        ----------
        path : str or Path
            The file; an older one there is replaced. Input ``X`` of shape (n, n_features), float64;
            outputs ``scores`` of shape (n,), float32, and ``labels`` of shape (n,), int64.

        Raises
        ------
        ImportError
            If onnxscript is not installed, or torch is older than 2.11.
        ValueError
            As there, or if the weights are larger than 2 GiB.

        See Also
        --------
        to_torch_export : As a program of :mod:`torch.export`.

        Examples
        --------
        >>> import numpy as np, onnxruntime, tempfile
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     detector.to_onnx(f"{folder}/detector.onnx")
        ...     session = onnxruntime.InferenceSession(f"{folder}/detector.onnx")
        >>> scores, labels = session.run(["scores", "labels"], {"X": X})
        >>> np.allclose(scores, detector.decision_scores_, rtol=1e-4)
        True
        """
        check_is_fitted(self, "scoring_module_")
        threshold = self._highest_inlier()
        properties = {"detector": type(self).__name__, "threshold": repr(threshold)}
        if hasattr(self, "feature_names_in_"):
            properties["feature_names"] = json.dumps(list(self.feature_names_in_))
        write_onnx(self.scoring_module_, threshold, Path(path), properties)

    def _highest_inlier(self) -> float:
        """The score above which rows are outliers, also of thresholders with a scale of their own.

        Scores are float32, so that it can be searched for by halves in the 32 bits of one.
        """
        if isinstance(self.contamination, (float, ThresholdRule)):
            return float(self.threshold_)
        if self.thresholder_.thresh_ is None:
            raise ValueError(
                f"{type(self.thresholder_).__name__} labels a row by the rows beside it, so there "
                "is no threshold to export. Fit with a share of outliers, or with a rule of "
                "pyod_ae_plugin.thresholds, as contamination."
            )

        def is_outlier(rank: int) -> bool:
            # PyThresh takes no single score
            return bool(self._labels(np.full(2, _score_of_rank(rank)))[0])

        highest = int(np.float32(HIGHEST_SCORE).view(np.int32))
        n_inliers = bisect_left(range(-highest, highest + 1), True, key=is_outlier)
        return _score_of_rank(n_inliers - 1 - highest)


def _score_of_rank(rank: int) -> float:
    """Float32 numbers by integers in the same order; 0 is that of 0."""
    return float(np.copysign(np.int32(abs(rank)).view(np.float32), rank))
