"""Files that are whole or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside to write to, which becomes ``path`` if nothing fails.

    Whoever looks at ``path`` finds the old file or the new one, never a part of it. Who may read it
    is as it was, or as for any new file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.txt"
    ...     with replacing(path) as new:
    ...         _ = new.write_text("whole")
    ...     path.read_text(), os.listdir(folder)
    ('whole', ['a.txt'])
    """
    new = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        new.touch()
        mode = (path if path.exists() else new).stat().st_mode
        yield new
        new.chmod(mode)  # some libraries write files that their owner alone may read
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
