"""Tables of numbers in CSV, NPY, NPZ and Parquet files, read in batches of rows."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pyod_ae_plugin.integrations import arrow
from pyod_ae_plugin.sources import (
    Array,
    Layout,
    Source,
    npy_batches,
    npy_layout,
    npz_array,
    npz_layout,
    npz_names,
    some_of,
)

READABLE = (".csv", ".npy", ".npz", ".parquet")
BATCH_ROWS = 2**16

_LONGEST_LINE = 2**26  # characters; a million columns take half of it
_LONGEST_SHOWN = 100  # characters of a cell in a message


@dataclass(frozen=True)
class Table:
    """A table of finite numbers in a file. Each iteration over it reads the file."""

    source: Source
    names: list[str] | None  # None if the file has no names
    n_rows: int | None  # None if it is not known before reading
    read: Callable[[], Iterator[Array]]  # batches [n, n_columns], not checked

    def __iter__(self) -> Iterator[Array]:
        """Yield batches of rows, in order.

        An empty or damaged table, a cell that is not a finite number, and a file that changes
        meanwhile raise ValueError.
        """
        n_before = 0
        with self.source.reading():
            for batch in filter(len, self.read()):
                self._check(batch, n_before)
                n_before += len(batch)
                yield batch
            if self.n_rows not in (None, n_before):
                raise ValueError(
                    f"{self.path}: {n_before} rows came of {self.n_rows}. The file changed while "
                    "it was read, or is damaged: run again, or take a copy that is whole."
                )
        if n_before == 0:
            raise ValueError(f"{self.path}: the table is empty.")

    @property
    def path(self) -> Path:
        """The file, or the folder of files."""
        return self.source.path

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
        with np.errstate(over="ignore", invalid="ignore"):
            total = batch.sum()
        if batch.dtype.kind == "f" and not np.isfinite(total):
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

    Raises ValueError if the kind of file is unknown, a column is missing or the file is damaged or
    no regular one, FileNotFoundError if there is no file, and ImportError if it is Parquet and
    pyarrow is missing.
    """
    kind = ".parquet" if path.is_dir() else path.suffix.lower()
    if kind not in READABLE:
        raise ValueError(f"{path}: tables are read from {', '.join(READABLE)} files.")
    source = Source.open(path, ".parquet")
    if kind in (".npy", ".npz") and without is not None:
        raise ValueError(f"{path}: there is no column {without!r}; the file has no names.")
    with source.reading():
        if kind == ".csv":
            return _csv(source, columns, without)
        if kind == ".parquet":
            return _parquet(source, columns, without)
        return _npy(source) if kind == ".npy" else _npz(source)


def _select(
    path: Path, names: list[str], columns: Sequence[str] | None, without: str | None
) -> list[str]:
    """Names of the columns to read from a file that has the columns ``names``."""
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ValueError(f"{path}: there are two columns {repeated[0]!r}; rename one.")
    missing = sorted({*(columns or ()), *([] if without is None else [without])} - set(names))
    if missing:
        raise ValueError(f"{path}: there is no column {missing[0]!r}; there are {some_of(names)}.")
    selected = [name for name in columns or names if name != without]
    if not selected:
        besides = "" if without is None else f" besides {without!r}"
        raise ValueError(f"{path}: there is no column{besides}.")
    return selected


def _npy(source: Source) -> Table:
    layout = npy_layout(source.path)
    n_rows = _height(source.path, layout)
    return Table(source, None, n_rows, lambda: npy_batches(source.path, layout, BATCH_ROWS))


def _npz(source: Source) -> Table:
    path = source.path
    names = npz_names(path)
    name = "X" if "X" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise ValueError(f"{path}: has arrays {some_of(names)}; expected one, or one called X.")
    n_rows = _height(path, npz_layout(path, name))
    return Table(source, None, n_rows, lambda: iter([npz_array(path, name)]))


def _height(path: Path, layout: Layout) -> int:
    """Number of rows of an array; raise unless it is a table."""
    if len(layout.shape) != 2 or layout.shape[1] == 0:
        raise ValueError(
            f"{path}: expected a two-dimensional array of numbers, got shape {layout.shape} of "
            f"{layout.dtype}."
        )
    return layout.shape[0]


def _parquet(source: Source, columns: Sequence[str] | None, without: str | None) -> Table:
    files = arrow.ParquetFiles(source.path, source.files)
    selected = _select(source.path, files.names, columns, without)
    return Table(source, selected, files.n_rows, lambda: files.batches(selected, BATCH_ROWS))


def _csv(source: Source, columns: Sequence[str] | None, without: str | None) -> Table:
    path = source.path
    first_line, first = next(_csv_lines(path), (1, []))
    if not first:
        raise ValueError(f"{path}: the file is empty.")
    has_names = any(_number(cell) is None for cell in first)
    if without is not None and not has_names:
        raise ValueError(f"{path}: there is no column {without!r}; the file has no names.")
    names = [cell.strip() if has_names else f"{i}" for i, cell in enumerate(first, start=1)]
    selected = _select(path, names, columns if has_names else None, without)

    def read_in_python() -> Iterator[Array]:
        rows = _csv_rows(path, names, has_names, selected)
        dtype = np.dtype((np.float64, (len(selected),)))
        while len(batch := np.fromiter(islice(rows, BATCH_ROWS), dtype)):
            yield batch

    def read() -> Iterator[Array]:
        try:
            n_skipped = first_line - (not has_names)
            yield from arrow.csv_batches(path, names, n_skipped, selected, BATCH_ROWS)
        except ValueError:
            for _ in read_in_python():
                pass  # until it raises an error that, unlike pyarrow's, names line and column
            raise

    reader = read if find_spec("pyarrow") else read_in_python
    return Table(source, selected if has_names else None, None, reader)


def _csv_rows(
    path: Path, names: Sequence[str], has_names: bool, selected: Sequence[str]
) -> Iterator[list[float]]:
    """Yield the numbers of each line in the selected columns; an error names line and column."""
    place = {name: i for i, name in enumerate(names)}
    positions = [place[name] for name in selected]
    for line, cells in islice(_csv_lines(path), int(has_names), None):
        where = f"{path}: line {line}"
        if len(cells) != len(names):
            raise ValueError(f"{where} has {len(cells)} cells, the first has {len(names)}.")
        row = []
        for i in positions:
            number = _number(cells[i])
            if number is None:
                name = repr(names[i]) if has_names else names[i]
                raise ValueError(f"{where}, column {name}: {_start(cells[i])} is not a number.")
            row.append(number)
        yield row


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not empty."""
    reader = csv.reader(_text_lines(path))
    try:
        for cells in filter(None, reader):
            yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{path}: {error}, in line {reader.line_num}.") from error


def _text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file; one that is no text in UTF-8 is an error with its number."""
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        for i in count(1):
            line = file.readline(_LONGEST_LINE)
            where = f"{path}: line {i}"
            if not line.isascii():
                _check_utf8(where, line)
            if "\0" in line:
                raise ValueError(f"{where} holds a NUL byte. Save the file as text in UTF-8.")
            if len(line) == _LONGEST_LINE:
                raise ValueError(f"{where} is longer than {_LONGEST_LINE:,} characters.")
            if not line:
                return
            yield line


def _check_utf8(where: str, line: str) -> None:
    """Raise if bytes of the line were no UTF-8; they were read as lone surrogates."""
    try:
        line.encode(errors="surrogateescape").decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {error}. Save the file as UTF-8.") from error


def _start(cell: str) -> str:
    """The beginning of a cell, for a message."""
    return repr(cell) if len(cell) <= _LONGEST_SHOWN else f"{cell[:_LONGEST_SHOWN]!r}..."


def _number(cell: str) -> float | None:
    """The number in a cell, or None if there is none."""
    try:
        return None if "_" in cell else float(cell)  # Python would read "1_000" as a number
    except ValueError:
        return None
