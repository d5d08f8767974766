"""Reports of what a detector makes of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyod_ae_plugin.detectors.base import NeuralDetector

if TYPE_CHECKING:
    from pyod_ae_plugin.report import Report


class ReportingDetector(NeuralDetector):
    """Base class of detectors that report on rows."""

    def report(self, X: Any, y: Any = None) -> Report:
        """A page on rows: scores, threshold, the rows to look at first and why.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows or others. Rows of a DataFrame are named by its index, others by their
            numbers, from 0.
        y : array-like of shape (n_samples,) or None, default=None
            True labels, 0 for inliers and 1 for outliers. With them the page shows how well the
            detector finds them.

        Returns
        -------
        pyod_ae_plugin.report.Report
            ``save(path)`` writes it as one HTML file. Notebooks show it as it is.

        Raises
        ------
        ImportError
            If Bokeh is not installed.
        ValueError
            If X does not fit the training data, or the labels are others than 0 and 1 or not one
            for each row.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pyod.utils.data import generate_data
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X, _, y, _ = generate_data(n_train=300, n_test=1, n_features=5, random_state=0)
        >>> detector = AutoEncoder(device="cpu", verbose=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "report.html")
        ...     detector.report(X, y).save(path)
        ...     path.stat().st_size < 5e6
        True
        """
        # The one import upwards: a page is made of a detector, and asked of the detector.
        from pyod_ae_plugin.report import report_rows

        return report_rows(self, X, y)
