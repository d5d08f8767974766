"""What is on the pages and not written by hand: figures of benchmarks, help of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import RESULTS, table


class ResultsTable(SphinxDirective):
    """``{results} NAME``: a table of :mod:`tables`, made of the files in ``benchmarks/results``."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Parse the table as if it stood on the page."""
        for file in RESULTS.glob("*.csv"):
            self.env.note_dependency(file)
        return self.parse_text_to_nodes(table(self.arguments[0]))


def write_command_line(app: Sphinx) -> None:
    """Write what ``pyod-ae --help`` and its commands say as a page."""
    page = Path(app.srcdir) / "generated" / "command_line.md"
    page.parent.mkdir(exist_ok=True)
    docs = ["typer", "pyod_ae_plugin.cli", "utils", "docs", "--name", "pyod-ae"]
    subprocess.run(
        [sys.executable, "-m", *docs, "--title", "Options of pyod-ae", "--output", str(page)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def is_foreign(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out what PyOD, scikit-learn and torch document."""
    function = getattr(obj, "fget", obj)
    return skip or not str(getattr(function, "__module__", "")).startswith("pyod_ae_plugin")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of this."""
    app.add_directive("results", ResultsTable)
    app.connect("builder-inited", write_command_line)
    app.connect("autodoc-skip-member", is_foreign)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
