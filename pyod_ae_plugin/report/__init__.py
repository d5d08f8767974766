"""Reports: one self-contained HTML page on what a detector says about rows.

Bokeh draws the figures (extra ``report``). Tables and text are plain HTML.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyod_ae_plugin.detectors.base import rows_of
from pyod_ae_plugin.report.contents import Contents, compute_contents
from pyod_ae_plugin.report.page import render, require_bokeh
from pyod_ae_plugin.storage import atomic_write

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

__all__ = ["Contents", "Report", "compute_contents", "report_rows", "require_bokeh"]


@dataclass(frozen=True)
class Report:
    """A report on rows. Notebooks display it as a page.

    Parameters
    ----------
    contents : Contents
        What the page shows.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin import AutoEncoder
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> report = AutoEncoder(device="cpu", verbose=0).fit(X).report(X)
    >>> report.to_html().startswith("<!DOCTYPE html>")
    True
    """

    contents: Contents

    def to_html(self) -> str:
        """Return the page as text."""
        return render(self.contents)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the page to a file, completely or not at all.

        Parameters
        ----------
        path : str or PathLike
            Usually ends in ``.html``. An existing file is replaced.
        """
        page = self.to_html()
        with atomic_write(Path(path)) as new:
            new.write_text(page, encoding="utf-8")

    def _repr_html_(self) -> str:
        # An iframe keeps the page's style and script apart from the notebook's.
        page = html.escape(self.to_html(), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:900px;border:0"></iframe>'

    def __repr__(self) -> str:
        return f"<Report on {self.contents.n_rows:,} rows; save(path) writes it as HTML>"


def report_rows(detector: NeuralDetector, X: Any, y: Any = None) -> Report:
    """Report on rows in memory; see :meth:`pyod_ae_plugin.AutoEncoder.report`."""
    require_bokeh()
    rows = rows_of(detector, X)
    index = getattr(X, "index", None)
    # The index of a list is a method.
    name_of = str if index is None or callable(index) else index.__getitem__
    return Report(compute_contents(detector, [rows], y, name_of))
