"""Tables of numbers in files, read batch by batch: CSV, NPY, NPZ and Parquet."""

from __future__ import annotations

import csv
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pyod_ae_plugin.integrations import arrow

Array = np.ndarray[Any, Any]

READABLE = (".csv", ".npy", ".npz", ".parquet")
BATCH_ROWS = 2**16


@dataclass(frozen=True)
class Table:
    """A table of finite numbers that is read as it is gone through, as often as that is done.

    Attributes
    ----------
    path : Path
        Where it is.
    names : list of str or None
        Names of the columns, where the file has names.
    n_rows : int or None
        Rows, where the file says so.
    read : callable
        Returns an iterator over arrays of shape (n, n_columns), unchecked.
    """

    path: Path
    names: list[str] | None
    n_rows: int | None
    read: Callable[[], Iterator[Array]]

    def __iter__(self) -> Iterator[Array]:
        """Batches of rows, in order.

        Raises
        ------
        ValueError
            If there are none, or a cell is not a finite number; says which.
        """
        n_before = 0
        try:
            for batch in filter(len, self.read()):
                self._check(batch, n_before)
                n_before += len(batch)
                yield batch
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _located(self.path, error) from error
        if n_before == 0:
            raise ValueError(f"{self.path}: the table is empty.")

    @property
    def values(self) -> Array:
        """All rows [n, n_columns]."""
        return np.concatenate(list(self))

    def _check(self, batch: Array, n_before: int) -> None:
        if batch.dtype.kind == "f" and not np.isfinite(batch.sum()):
            bad = np.argwhere(~np.isfinite(batch))
            if len(bad):
                row, column = bad[0]
                name = column + 1 if self.names is None else repr(self.names[column])
                raise ValueError(
                    f"{self.path}: {batch[row, column]} in row {n_before + row + 1}, column "
                    f"{name}, is not a finite number. Fill or drop such cells."
                )


@dataclass(frozen=True)
class Shown:
    """A table that shows on the terminal how far it has been gone through."""

    table: Table
    what: str

    def __iter__(self) -> Iterator[Array]:
        with tqdm(
            desc=self.what, total=self.table.n_rows, unit="rows", unit_scale=True, disable=None
        ) as bar:
            for batch in self.table:
                yield batch
                bar.update(len(batch))


def read_table(
    path: Path, columns: Sequence[str] | None = None, without: str | None = None
) -> Table:
    """Open a table of numbers.

    CSV may have a line of names on top. NPZ is read at its array X, or at its only array, and
    whole; so is CSV without pyarrow. Everything else comes in batches and may be of any size. A
    folder is read as the Parquet files in it, by the order of their names.

    Parameters
    ----------
    path : Path
    columns : sequence of str or None, default=None
        The columns to read, in this order, where the file has names; None reads all.
    without : str or None, default=None
        A column not to read.

    Raises
    ------
    ValueError
        If the kind of file is unknown, a column is missing, or the file is damaged.
    FileNotFoundError
        If there is no such file.
    ImportError
        If Parquet is asked for without pyarrow.
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
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _located(path, error) from error


def _located(path: Path, error: Exception) -> ValueError:
    return ValueError(str(error) if str(path) in str(error) else f"{path}: {error}")


def _wanted(
    path: Path, columns: Sequence[str] | None, without: str | None, names: list[str]
) -> list[str]:
    """Names of the columns to read of those that the file has."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{path}: there are two columns {twice[0]!r}; rename one.")
    missing = sorted({*(columns or ()), *([] if without is None else [without])} - set(names))
    if missing:
        raise ValueError(f"{path}: there is no column {missing[0]!r}; there are {names}.")
    return [name for name in columns or names if name != without]


def _npy(path: Path) -> Table:
    mapped = _numeric(path, np.load(path, mmap_mode="r", allow_pickle=False))
    n_rows = len(mapped)

    def read() -> Iterator[Array]:
        for start in range(0, n_rows, BATCH_ROWS):
            # mapped anew each time: pages that were read would else count as resident memory
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            yield np.array(rows[start : start + BATCH_ROWS])

    return Table(path, None, n_rows, read)


def _npz(path: Path) -> Table:
    with np.load(path, allow_pickle=False) as arrays:
        names = arrays.files
        name = "X" if "X" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise ValueError(f"{path}: has arrays {names}; expected one, or one called X.")
        values = _numeric(path, arrays[name])
    return Table(path, None, len(values), lambda: iter([values] if len(values) else []))


def _numeric(path: Path, values: Array) -> Array:
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: expected a two-dimensional array of numbers, got shape {values.shape} "
            f"of {values.dtype}."
        )
    return values


def _parquet(path: Path, columns: Sequence[str] | None, without: str | None) -> Table:
    files = arrow.ParquetFiles(path)
    kept = _wanted(path, columns, without, files.names)
    return Table(path, kept, files.n_rows, lambda: files.batches(kept, BATCH_ROWS))


def _csv(path: Path, columns: Sequence[str] | None, without: str | None) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next(csv.reader(file), [])
    if not first:
        raise ValueError(f"{path}: the file is empty.")
    has_names = not all(_is_number(cell) for cell in first)
    names = [cell.strip() for cell in first] if has_names else [f"{i}" for i in range(len(first))]
    if without is not None and not has_names:
        raise ValueError(f"{path}: there is no column {without!r}; the file has no names.")
    kept = _wanted(path, columns if has_names else None, without, names)
    positions = [names.index(name) for name in kept]

    def read() -> Iterator[Array]:
        try:
            if arrow.is_installed():
                yield from arrow.csv_batches(path, names, int(has_names), kept, BATCH_ROWS)
            else:
                yield from _whole_csv(path, len(first), int(has_names), positions)
        except ValueError:
            _check_cells(path, positions)
            raise

    return Table(path, kept if has_names else None, None, read)


def _whole_csv(
    path: Path, n_columns: int, skip_rows: int, positions: Sequence[int]
) -> Iterator[Array]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        values = np.loadtxt(
            path,
            delimiter=",",
            skiprows=skip_rows,
            # told which columns to read, NumPy counts no others
            converters={i: _number_or_zero for i in range(n_columns) if i not in positions},
            ndmin=2,
            quotechar='"',
            comments=None,
            encoding="utf-8-sig",
        )
    if values.size and values.shape[1] != n_columns:
        raise ValueError(f"rows have {values.shape[1]} cells, the first line has {n_columns}.")
    if values.size:
        yield values[:, positions]


def _number_or_zero(cell: str) -> float:
    return float(cell) if _is_number(cell) else 0.0


def _check_cells(path: Path, positions: Sequence[int]) -> None:
    """Name the first line that is too short or too long, or the first cell that is no number."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        first = next(lines)
        for cells in filter(None, lines):
            where = f"{path}: line {lines.line_num}"
            if len(cells) != len(first):
                raise ValueError(f"{where} has {len(cells)} cells, the first has {len(first)}.")
            for i in positions:
                if not _is_number(cells[i]):
                    name = i + 1 if all(map(_is_number, first)) else repr(first[i].strip())
                    raise ValueError(f"{where}, column {name}: {cells[i]!r} is not a number.")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
