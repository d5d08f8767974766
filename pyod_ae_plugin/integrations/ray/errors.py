"""Errors that are the same however often workers start, on their way to the caller of a fit."""

from __future__ import annotations

import json
from pathlib import Path

OURS = (ValueError, TypeError, FloatingPointError)
_FILE = "error.json"


class RefusedError(Exception):
    """An error of one worker that all have heard of, the only argument."""


def save_error(folder: Path, refused: RefusedError) -> None:
    """Write kind and text of an error to a folder that goes to the caller."""
    (error,) = refused.args
    name = next(kind.__name__ for kind in OURS if isinstance(error, kind))
    (folder / _FILE).write_text(json.dumps([name, str(error)]))


def raise_error(folder: Path) -> None:
    """Raise the error of such a folder, if there is one."""
    if (folder / _FILE).exists():
        name, text = json.loads((folder / _FILE).read_text())
        raise {kind.__name__: kind for kind in OURS}[name](text)
