"""Tables of numbers in files: CSV, NPY, NPZ and Parquet."""

from __future__ import annotations

import csv
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

READABLE = (".csv", ".npy", ".npz", ".parquet")


class Table(NamedTuple):
    """Numbers in rows and columns.

    Attributes
    ----------
    values : ndarray of shape (n, n_columns)
    names : list of str or None
        Names of the columns, where the file has names.
    """

    values: Array
    names: list[str] | None


def read_table(
    path: Path, columns: Sequence[str] | None = None, without: str | None = None
) -> Table:
    """Read a table of numbers.

    CSV may have a line of names on top. NPZ is read at its array X, or at its only array.

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
        If the kind of file is unknown, a column is missing, or a cell is not a finite number;
        says which.
    FileNotFoundError
        If there is no such file.
    ImportError
        If Parquet is asked for without pyarrow.
    """
    kind = path.suffix.lower()
    if kind not in READABLE:
        raise ValueError(f"{path}: tables are read from {', '.join(READABLE)} files.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if kind in (".npy", ".npz") and without is not None:
        raise ValueError(f"{path}: there is no column {without!r}; the file has no names.")
    wanted = partial(_wanted, path, columns, without)
    try:
        if kind == ".csv":
            table = _csv(path, wanted)
        elif kind == ".parquet":
            table = _parquet(path, wanted)
        else:
            table = Table(_array(path), None)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    _check(path, table)
    return table


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


def write_columns(path: Path, columns: Mapping[str, Array]) -> None:
    """Write columns of equal length to a CSV, NPZ or Parquet file; to NPY side by side.

    Raises
    ------
    ValueError
        If the kind of file is unknown.
    """
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    elif path.suffix == ".npy":
        np.save(path, np.column_stack(list(columns.values())))
    elif path.suffix == ".npz":
        np.savez_compressed(path, **columns)  # type: ignore[arg-type]
    elif path.suffix == ".parquet":
        pyarrow = _pyarrow()
        pyarrow.parquet.write_table(pyarrow.table(dict(columns)), path)
    else:
        raise ValueError(f"{path}: scores are written to {', '.join(READABLE)} files.")


def _csv(path: Path, wanted: Callable[[list[str]], list[str]]) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next(csv.reader(file), [])
    if not first:
        raise ValueError(f"{path}: the file is empty.")
    names = None if all(_is_number(cell) for cell in first) else [cell.strip() for cell in first]
    kept = None if names is None else wanted(names)
    positions = list(range(len(first))) if names is None else [names.index(n) for n in kept or ()]
    select = positions if len(positions) < len(first) else None
    if select is not None:
        _check_cells(path, positions)  # NumPy, told which columns, counts no others
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            values = np.loadtxt(
                path,
                delimiter=",",
                skiprows=int(names is not None),
                usecols=select,
                ndmin=2,
                quotechar='"',
                comments=None,
                encoding="utf-8-sig",
            )
    except ValueError:
        _check_cells(path, positions)
        raise
    if values.size and values.shape[1] != len(positions):
        _check_cells(path, positions)
    if positions != sorted(positions) and select is None and values.size:
        values = values[:, positions]
    return Table(values, kept)


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


def _array(path: Path) -> Array:
    if path.suffix.lower() == ".npy":
        return _numeric(path, np.load(path, allow_pickle=False))
    with np.load(path, allow_pickle=False) as arrays:
        names = arrays.files
        name = "X" if "X" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise ValueError(f"{path}: has arrays {names}; expected one, or one called X.")
        return _numeric(path, arrays[name])


def _parquet(path: Path, wanted: Callable[[list[str]], list[str]]) -> Table:
    parquet = _pyarrow().parquet
    kept = wanted(parquet.read_schema(path).names)
    table = parquet.read_table(path, columns=kept)
    columns = []
    for name in kept:
        values = table[name].to_numpy()
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{path}: column {name!r} holds {table[name].type}, not numbers.")
        columns.append(values.astype(np.float64))
    return Table(np.column_stack(columns), kept)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow: pip install 'pyod-ae-plugin[arrow]'."
        ) from error
    return pyarrow


def _numeric(path: Path, values: Array) -> Array:
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: expected a two-dimensional array of numbers, got shape {values.shape} "
            f"of {values.dtype}."
        )
    return values


def _check(path: Path, table: Table) -> None:
    if table.values.size == 0:
        raise ValueError(f"{path}: the table is empty, shape {table.values.shape}.")
    if table.values.dtype.kind == "f" and not np.isfinite(table.values.sum()):
        bad = np.argwhere(~np.isfinite(table.values))
        if len(bad):
            row, column = bad[0]
            name = column + 1 if table.names is None else repr(table.names[column])
            raise ValueError(
                f"{path}: {table.values[row, column]} in row {row + 1}, column {name}; "
                f"{len(bad)} cells are not finite numbers. Fill or drop them."
            )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
