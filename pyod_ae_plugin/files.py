"""Files that are whole or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


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


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors, contiguous and on the CPU, to a safetensors file that is whole or not there.

    Raises
    ------
    OSError
        If it cannot be written, as on a full disk.
    """
    with replacing(path) as new:
        try:
            save_file(dict(tensors), new, metadata)
        except SafetensorError as error:  # of a full disk, too
            raise OSError(f"{path} could not be written: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file, as views of it, and its metadata."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}
