"""Fitted detectors for where this package is not: torch.export and ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sklearn.utils.validation import check_is_fitted

from pyod_ae_plugin.detectors.thresholding import ThresholdingDetector
from pyod_ae_plugin.export import export_program, write_onnx

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
            If torch cannot export the network or the score head of a plugin.
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
        return export_program(self.scoring_module_, self.threshold_)

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
            If onnxscript is not installed, or torch is older than 2.6.
        ValueError
            If the network or the score head of a plugin cannot be exported, or the weights are
            larger than 2 GiB.

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
        properties = {"detector": type(self).__name__, "threshold": repr(float(self.threshold_))}
        if hasattr(self, "feature_names_in_"):
            properties["feature_names"] = json.dumps(list(self.feature_names_in_))
        write_onnx(self.scoring_module_, self.threshold_, Path(path), properties)
