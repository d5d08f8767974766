"""Files that are read: regular ones, whole, and in the end as they were in the beginning."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MOST_NAMED = 10

_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@dataclass(frozen=True)
class Source:
    """A file, or the files of one kind in a folder, as they were when they were opened."""

    path: Path
    ending: str  # of the files in a folder that are read
    states: dict[Path, tuple[int, ...]]  # device, inode, size and time of modification of each file

    @classmethod
    def open(cls, path: Path, ending: str) -> Source:
        """Look at a file, or at the files in a folder whose names have this ending.

        What is neither a regular file nor a folder raises ValueError before it is opened, since
        reading it might never end; so does a folder that holds such a thing. Raises
        FileNotFoundError if there is no file.
        """
        if not path.is_dir():
            return cls(path, ending, {path: _state(path)})
        entries = [entry for entry in sorted(path.rglob("*")) if not entry.is_dir()]
        states = {entry: _state(entry) for entry in entries}
        kept = {entry: states[entry] for entry in entries if entry.name.endswith(ending)}
        return cls(path, ending, kept)

    @property
    def files(self) -> list[Path]:
        """The files, ordered by name."""
        return list(self.states)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise whatever reading raises as an error that names the file.

        That is ValueError for a damaged file, and, also where reading raised nothing, for files
        that are not as they were when they were opened. Errors of the operating system and
        ImportError stay as they are.
        """
        try:
            yield
        except Exception as error:  # which ones is up to numpy, zipfile and pyarrow
            self._check_unchanged()
            raise _naming(self.path, error) from error
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        try:
            now = Source.open(self.path, self.ending).states
        except (OSError, ValueError):  # something else is there, or nothing
            now = {}
        changed = sorted({path for path, _ in self.states.items() ^ now.items()})
        if changed:
            raise ValueError(
                f"{changed[0]}: the file changed while it was read. Run again when nothing else "
                "writes to it."
            )


def some_of(names: Sequence[object]) -> str:
    """The first few of many names, for a message."""
    named = ", ".join(map(repr, names[:_MOST_NAMED]))
    others = len(names) - _MOST_NAMED
    return f"[{named}] and {others:,} more" if others > 0 else f"[{named}]"


def _state(path: Path) -> tuple[int, ...]:
    """What tells a regular file from another one or from an older state of it."""
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        lacking = "the link leads to no file" if path.is_symlink() else "there is no such file"
        raise FileNotFoundError(f"{path}: {lacking}.") from error
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise ValueError(
            f"{path}: expected a regular file, got {kind}. Write the data to a file first."
        )
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _naming(path: Path, error: Exception) -> Exception:
    """An error that names the file in one line."""
    of_system = isinstance(error, OSError) and error.filename is not None
    ours = isinstance(error, ValueError) and str(error).startswith(str(path))
    if of_system or ours or isinstance(error, ImportError):
        return error
    reason = " ".join(str(error).split())
    if isinstance(error, ValueError) and reason:
        return ValueError(f"{path}: {reason}")
    return ValueError(f"{path}: the file cannot be read ({type(error).__name__}: {reason}).")
