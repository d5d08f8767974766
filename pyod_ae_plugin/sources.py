"""Files that are read: regular, whole, unchanged at the end; and arrays in NPY and NPZ files."""

from __future__ import annotations

import math
import os
import shutil
import stat
import sys
import tempfile
import warnings
import weakref
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import unquote

import numpy as np

Array = np.ndarray[Any, Any]

STANDARD_INPUT = Path("-")

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
    ending: str | tuple[str, ...]  # of the files in a folder that are read
    states: dict[Path, tuple[int, ...]]  # device, inode, size and time of modification of each file
    copy: _Copy | None = field(default=None, compare=False, repr=False)  # of standard input

    @classmethod
    def open(cls, path: Path, ending: str | tuple[str, ...]) -> Source:
        """Look at a file, or at the files in a folder whose names have one of these endings.

        The path ``-`` is standard input, which is copied to a temporary file. What is neither a
        regular file nor a folder raises ValueError before it is opened, since reading it might
        never end; so does a folder that holds such a thing. Raises FileNotFoundError if there is no
        file.
        """
        if path == STANDARD_INPUT:
            copy = _copy_of(sys.stdin.buffer)
            return cls(path, ending, {copy.path: _state(copy.path)}, copy)
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

    def shown(self, file: Path) -> Path:
        """What one of the files is called in messages."""
        return file if self.copy is None else self.path

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
            again = None if self.copy is None else {file: _state(file) for file in self.files}
            now = again or Source.open(self.path, self.ending).states
        except (OSError, ValueError):  # something else is there, or nothing
            now = {}
        changed = sorted({self.shown(path) for path, _ in self.states.items() ^ now.items()})
        if changed:
            raise ValueError(
                f"{changed[0]}: the file changed while it was read. Run again when nothing else "
                "writes to it."
            )


# The first bytes of what is compressed, and the ending of a file that holds it.
_BEGINNINGS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz"}


class _Copy:
    """A file of what comes from a stream. It is removed when nothing refers to this object."""

    def __init__(self, stream: IO[bytes]) -> None:
        start = stream.read(2**16)
        ending = next((e for b, e in _BEGINNINGS.items() if start.startswith(b)), "")
        handle, name = tempfile.mkstemp(prefix="stdin-", suffix=f".csv{ending}")
        self.path = Path(name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)
        with open(handle, "wb") as file:
            file.write(start)
            shutil.copyfileobj(stream, file)


_copies: weakref.WeakKeyDictionary[IO[bytes], _Copy] = weakref.WeakKeyDictionary()


def _copy_of(stream: IO[bytes]) -> _Copy:
    """A copy of a stream, which gives its bytes once; the same one if it was copied before."""
    if stream not in _copies:
        _copies[stream] = _Copy(stream)
    return _copies[stream]


def some_of(names: Sequence[object]) -> str:
    """The first few of many names, for a message."""
    named = ", ".join(map(repr, names[:_MOST_NAMED]))
    others = len(names) - _MOST_NAMED
    return f"[{named}] and {others:,} more" if others > 0 else f"[{named}]"


def folder_keys(path: Path, file: Path) -> dict[str, str]:
    """The keys and values in the names ``key=value`` of folders from ``path`` to a file in it."""
    folders = file.relative_to(path).parts[:-1] if file != path and path.is_dir() else ()
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return {unquote(key): unquote(value) for key, _, value in pairs}


def check_keys(file: Path, keys: Iterable[str], expected: Sequence[str]) -> None:
    """Raise unless the folders of a file are called by the same keys as those of the first."""
    if list(keys) != list(expected):
        raise ValueError(
            f"{file}: the names of its folders have the keys {some_of([*keys])}; expected "
            f"{some_of(expected)}, as for the first file."
        )


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


# ------------------------------------------------------------- arrays, whose headers are checked

_ENDING = ".npy"  # of the arrays in an NPZ file


class Layout(NamedTuple):
    """What the header of an array says, and where the values begin behind it."""

    shape: tuple[int, ...]
    by_columns: bool  # Fortran's order
    dtype: np.dtype[Any]
    offset: int


def npy_layout(path: Path) -> Layout:
    """Read the header of an NPY file; raise ValueError unless it describes what follows."""
    with path.open("rb") as file:
        return _layout(file, path.stat().st_size, str(path))


def npy_batches(path: Path, layout: Layout, n_rows: int) -> Iterator[Array]:
    """Yield a table in an NPY file as arrays of at most ``n_rows`` rows, in order.

    The file is not mapped into memory: if it is cut off meanwhile, that is an error, where reading
    a mapping would end the process.
    """
    n, n_columns = layout.shape
    size = layout.dtype.itemsize

    def read(file: IO[bytes], first: int, count: int) -> Array:
        file.seek(layout.offset + first * size)
        return np.fromfile(file, layout.dtype, count)

    with path.open("rb") as file:
        for start in range(0, n, n_rows):
            height = min(n_rows, n - start)
            if layout.by_columns:
                columns = [read(file, j * n + start, height) for j in range(n_columns)]
                yield np.column_stack(columns).reshape(height, n_columns)
            else:
                yield read(file, start * n_columns, height * n_columns).reshape(height, n_columns)


def npz_names(path: Path) -> list[str]:
    """Names of the arrays in an NPZ file."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return [name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING)]


def npz_layout(path: Path, name: str) -> Layout:
    """Read the header of an array in an NPZ file, as :func:`npy_layout` does."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(name + _ENDING)
        with archive.open(entry) as file:
            return _layout(file, entry.file_size, f"{path}: array {name!r}")


def npz_array(path: Path, name: str) -> Array:
    """Read an array of an NPZ file; it takes no more memory than its header says."""
    npz_layout(path, name)
    with zipfile.ZipFile(path) as archive, archive.open(name + _ENDING) as file, _unwarned():
        values: Array = np.lib.format.read_array(file, allow_pickle=False)
        return values


def npz_arrays(path: Path, names: Sequence[str]) -> list[Array]:
    """Read arrays of an NPZ file; raise ValueError if one is missing."""
    present = npz_names(path)
    missing = [name for name in names if name not in present]
    if missing:
        raise ValueError(f"{path} has no array {missing[0]!r}, only {some_of(present)}.")
    return [npz_array(path, name) for name in names]


def _layout(file: IO[bytes], n_bytes: int, where: str) -> Layout:
    """Read the header of an array that takes ``n_bytes`` with it, and check it."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"{where}: expected version 1 to 3 of the NPY format, got {version}.")
    # Version 3 is version 2 but for names of fields, which numbers have none of.
    formats = np.lib.format
    read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
    with _unwarned():
        shape, by_columns, dtype = read(file)
    if dtype.kind == "O":
        raise ValueError(
            f"{where}: holds Python objects (dtype {dtype}, shape {shape}), which are only read by "
            "running code that the file may hold. Save numbers: np.save(file, X.astype(float))."
        )
    if dtype.kind not in "biuf" or min(shape, default=0) < 0:
        raise ValueError(f"{where}: expected an array of numbers, got shape {shape} of {dtype}.")
    expected, follow = math.prod(shape) * dtype.itemsize, n_bytes - file.tell()
    if expected != follow:
        raise ValueError(
            f"{where}: shape {shape} of {dtype} takes {expected} bytes, but {follow} follow. The "
            "file is not whole or damaged; take a copy that is whole."
        )
    return Layout(shape, by_columns, dtype, file.tell())


@contextmanager
def _unwarned() -> Iterator[None]:
    """What is odd about a header, as of one that Python 2 wrote, is an error or does not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
