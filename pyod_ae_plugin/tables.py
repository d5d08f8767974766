"""Tables of numbers in CSV, NPY, NPZ and Parquet files, read in batches of rows."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pyod_ae_plugin.integrations import arrow

Array = np.ndarray[Any, Any]

READABLE = (".csv", ".npy", ".npz", ".parquet")
BATCH_ROWS = 2**16

# What a damaged file raises, besides the errors of the operating system.
_DAMAGED = (ValueError, EOFError, zipfile.BadZipFile, csv.Error)


@dataclass(frozen=True)
class Table:
    """A table of finite numbers in a file. Each iteration over it reads the file."""

    path: Path
    names: list[str] | None  # None if the file has no names
    n_rows: int | None  # None if it is not known before reading
    read: Callable[[], Iterator[Array]]  # batches [n, n_columns], not checked

    def __iter__(self) -> Iterator[Array]:
        """Yield batches of rows, in order.

        An empty or damaged table, or a cell that is not a finite number, raises ValueError.
        """
        n_before = 0
        try:
            for batch in filter(len, self.read()):
                self._check(batch, n_before)
                n_before += len(batch)
                yield batch
        except _DAMAGED as error:
            raise _with_path(self.path, error) from error
        if n_before == 0:
            raise ValueError(f"{self.path}: the table is empty.")

    @property
    def values(self) -> Array:
        """All rows [n, n_columns]."""
        return np.concatenate(list(self))

    def with_progress(self, description: str) -> Table:
        """Return the same table with a progress bar on stderr whenever it is read."""

        def read() -> Iterator[Array]:
            with tqdm(
                desc=description, total=self.n_rows, unit="rows", unit_scale=True, disable=None
            ) as bar:
                for batch in self.read():
                    yield batch
                    bar.update(len(batch))

        return replace(self, read=read)

    def _check(self, batch: Array, n_before: int) -> None:
        """Raise if the batch, which follows ``n_before`` rows, has a NaN or an infinity."""
        if batch.dtype.kind == "f" and not np.isfinite(batch.sum()):
            bad = np.argwhere(~np.isfinite(batch))
            if len(bad):
                row, column = bad[0]
                name = column + 1 if self.names is None else repr(self.names[column])
                raise ValueError(
                    f"{self.path}: {batch[row, column]} in row {n_before + row + 1}, column "
                    f"{name}, is not a finite number. Fill or drop such cells."
                )


def read_table(
    path: Path, columns: Sequence[str] | None = None, without: str | None = None
) -> Table:
    """Open a table of numbers, to be read in batches; its values are checked when they are read.

    ``columns`` names the columns to read, in this order (default: all; ignored if the file has no
    names), ``without`` one to leave out. The first line of a CSV file holds names unless all its
    cells are numbers. An NPZ file is read at its array X or at its only array, and as a whole; all
    others can be larger than memory. A folder is read as the Parquet files in it, ordered by name.

    Raises ValueError if the kind of file is unknown, a column is missing or the file is damaged,
    FileNotFoundError if there is no file, and ImportError if it is Parquet and pyarrow is missing.
    """
    kind = ".parquet" if path.is_dir() else path.suffix.lower()
    if kind not in READABLE:
        raise ValueError(f"{path}: tables are read from {', '.join(READABLE)} files.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if kind in (".npy", ".npz") and without is not None:
        raise ValueError(f"{path}: there is no column {without!r}; the file has no names.")
    try:
        if kind == ".csv":
            return _csv(path, columns, without)
        if kind == ".parquet":
            return _parquet(path, columns, without)
        return _npy(path) if kind == ".npy" else _npz(path)
    except _DAMAGED as error:
        raise _with_path(path, error) from error


def _with_path(path: Path, error: Exception) -> ValueError:
    """The error as a ValueError whose message names the file."""
    return ValueError(str(error) if str(path) in str(error) else f"{path}: {error}")


def _select(
    path: Path, names: list[str], columns: Sequence[str] | None, without: str | None
) -> list[str]:
    """Names of the columns to read from a file that has the columns ``names``."""
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{path}: there are two columns {repeated[0]!r}; rename one.")
    missing = sorted({*(columns or ()), *([] if without is None else [without])} - set(names))
    if missing:
        raise ValueError(f"{path}: there is no column {missing[0]!r}; there are {names}.")
    selected = [name for name in columns or names if name != without]
    if not selected:
        raise ValueError(f"{path}: there is no column besides {without!r}.")
    return selected


def _npy(path: Path) -> Table:
    n_rows = len(_check_array(path, np.load(path, mmap_mode="r", allow_pickle=False)))

    def read() -> Iterator[Array]:
        for start in range(0, n_rows, BATCH_ROWS):
            # A new mapping for each batch, since pages that were read count as resident memory.
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            yield np.array(rows[start : start + BATCH_ROWS])

    return Table(path, None, n_rows, read)


def _npz(path: Path) -> Table:
    with np.load(path, allow_pickle=False) as arrays:
        names = arrays.files
        name = "X" if "X" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise ValueError(f"{path}: has arrays {names}; expected one, or one called X.")
        values = _check_array(path, arrays[name])
    return Table(path, None, len(values), lambda: iter([values]))


def _check_array(path: Path, values: Array) -> Array:
    """Return the array if it is a table of numbers, else raise."""
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: expected a two-dimensional array of numbers, got shape {values.shape} "
            f"of {values.dtype}."
        )
    return values


def _parquet(path: Path, columns: Sequence[str] | None, without: str | None) -> Table:
    files = arrow.ParquetFiles(path)
    selected = _select(path, files.names, columns, without)
    return Table(path, selected, files.n_rows, lambda: files.batches(selected, BATCH_ROWS))


def _csv(path: Path, columns: Sequence[str] | None, without: str | None) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next(csv.reader(file), [])
    if not first:
        raise ValueError(f"{path}: the file is empty.")
    has_names = any(_number(cell) is None for cell in first)
    if without is not None and not has_names:
        raise ValueError(f"{path}: there is no column {without!r}; the file has no names.")
    names = [cell.strip() if has_names else f"{i}" for i, cell in enumerate(first, start=1)]
    selected = _select(path, names, columns if has_names else None, without)

    def read_in_python() -> Iterator[Array]:
        rows = _csv_rows(path, names, has_names, [names.index(name) for name in selected])
        dtype = np.dtype((np.float64, (len(selected),)))
        while len(batch := np.fromiter(islice(rows, BATCH_ROWS), dtype)):
            yield batch

    def read() -> Iterator[Array]:
        try:
            yield from arrow.csv_batches(path, names, int(has_names), selected, BATCH_ROWS)
        except ValueError:
            for _ in read_in_python():
                pass  # until it raises an error that, unlike pyarrow's, names line and column
            raise

    reader = read if find_spec("pyarrow") else read_in_python
    return Table(path, selected if has_names else None, None, reader)


def _csv_rows(
    path: Path, names: Sequence[str], has_names: bool, positions: Sequence[int]
) -> Iterator[list[float]]:
    """Yield the numbers of each line at these positions; an error names line and column."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        if has_names:
            next(lines)
        for cells in filter(None, lines):
            where = f"{path}: line {lines.line_num}"
            if len(cells) != len(names):
                raise ValueError(f"{where} has {len(cells)} cells, the first has {len(names)}.")
            row = []
            for i in positions:
                number = _number(cells[i])
                if number is None:
                    name = repr(names[i]) if has_names else names[i]
                    raise ValueError(f"{where}, column {name}: {cells[i]!r} is not a number.")
                row.append(number)
            yield row


def _number(cell: str) -> float | None:
    """The number in a cell, or None if there is none."""
    try:
        return None if "_" in cell else float(cell)  # Python would read "1_000" as a number
    except ValueError:
        return None
