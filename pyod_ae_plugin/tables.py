"""Tables of numbers in files: CSV, NPY, NPZ and Parquet."""

from __future__ import annotations

import csv
import re
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
    if path.suffix not in READABLE:
        raise ValueError(f"{path}: tables are read from {', '.join(READABLE)} files.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if path.suffix in (".npy", ".npz"):
        if without is not None:
            raise ValueError(f"{path}: there is no column {without!r}; the file has no names.")
        table = Table(_array(path), None)
    else:
        read = _csv if path.suffix == ".csv" else _parquet
        table = read(path, partial(_wanted, path, columns, without))
    _check(path, table)
    return table


def _wanted(
    path: Path, columns: Sequence[str] | None, without: str | None, names: list[str]
) -> list[str]:
    """Names of the columns to read of those that the file has."""
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
    has_names = not all(_is_number(cell) for cell in first)
    names = (
        [cell.strip() for cell in first] if has_names else [str(i + 1) for i in range(len(first))]
    )
    kept = wanted(names) if has_names else names
    try:
        values = np.loadtxt(
            path,
            delimiter=",",
            skiprows=int(has_names),
            usecols=[names.index(name) for name in kept],
            ndmin=2,
            quotechar='"',
            comments=None,
            encoding="utf-8-sig",
        )
    except ValueError as error:
        raise ValueError(f"{path}: {_located(str(error), names, has_names)}") from error
    return Table(values, kept if has_names else None)


def _located(message: str, names: list[str], has_names: bool) -> str:
    """NumPy's message, with the line of the file and the name of the column."""
    cell = re.search(r"convert string (.*) to float64 at row (\d+), column (\d+)", message)
    if cell is not None:
        line = int(cell[2]) + 1 + int(has_names)
        return f"{cell[1]} in line {line}, column {names[int(cell[3]) - 1]!r}, is not a number."
    short = re.search(r"at row (\d+) with (\d+) columns", message)
    if short is not None:
        line = int(short[1]) + int(has_names)
        return f"line {line} has {short[2]} columns, expected {len(names)}."
    return message


def _array(path: Path) -> Array:
    if path.suffix == ".npy":
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
