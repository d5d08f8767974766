"""Tables in files, read in batches of rows: CSV, Parquet, Excel, NPY and NPZ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pyod_ae_plugin.columns.frames import Array, Cells, Frame, Texts
from pyod_ae_plugin.columns.matrix import Columns
from pyod_ae_plugin.sources import (
    STANDARD_INPUT,
    Layout,
    Source,
    npy_batches,
    npy_layout,
    npz_array,
    npz_layout,
    npz_names,
    some_of,
)
from pyod_ae_plugin.tables import arrow
from pyod_ae_plugin.tables.cells import is_gap, number, reason
from pyod_ae_plugin.tables.csvfiles import CsvFiles
from pyod_ae_plugin.tables.dialects import ReadOptions
from pyod_ae_plugin.tables.excel import Sheet
from pyod_ae_plugin.tables.textfiles import COMPRESSED

_IN_FOLDERS = (".csv", ".tsv")
_TEXT = (*_IN_FOLDERS, ".txt")
READABLE = (*_TEXT, ".npy", ".npz", ".parquet", ".xlsx")
BATCH_ROWS = 2**16

_MOST_NAMED = 10  # columns in a message
SEE_PAGE = "The page 'Your table' of the documentation says what columns may hold."

Chosen = Sequence[str] | Callable[[list[str]], Sequence[str]] | None


@dataclass(frozen=True)
class Table:
    """A table in a file. Each iteration over it reads the file.

    Iterating gives batches of numbers, float64 if the file is not an array. :meth:`frames` gives
    the columns as they are, of numbers, times and text.
    """

    source: Source
    names: list[str] | None  # None if the file has no names
    n_rows: int | None  # None if it is not known before reading
    read: Callable[[], Iterator[Array | Frame]]  # batches, not checked
    line: Callable[[int], tuple[Path, int]] | None = None  # of a row, and its file
    options: ReadOptions = field(default_factory=ReadOptions)  # as found out from a CSV file
    notes: tuple[str, ...] = ()  # sentences on what was found out, or left out
    allow_gaps: bool = False  # whether iterating gives NaN where there is no value
    is_array: bool = False  # of numbers, without columns of other kinds

    def __iter__(self) -> Iterator[Array]:
        """Yield batches of rows, in order.

        An empty or damaged table, a cell that is not a finite number, and a file that changes
        meanwhile raise ValueError.
        """
        for n_before, batch in self._batches():
            if isinstance(batch, Frame):
                self._check_kinds(batch, n_before)
                batch = np.column_stack([*_numeric(batch).values()])
            self._check_finite(batch, n_before, self.allow_gaps)
            yield batch

    def frames(self) -> Iterator[Frame]:
        """Yield the columns in batches of about ``BATCH_ROWS`` rows, in order.

        A column of numbers is float64, with NaN for gaps. One of times is datetime64[us] as the
        clock in their time zone shows them. Any other one, also of booleans, is text; so are whole
        numbers that float64 would round, since they may be keys. The kind is that of the cells in
        the batch, so a column of numbers and text can be of numbers in one batch. Columns of a file
        without names are called "1", "2" and so on.

        An empty or damaged table, an infinity, and a file that changes meanwhile raise ValueError.
        """
        for n_before, batch in self._batches():
            frame = batch if isinstance(batch, Frame) else _frame(batch)
            numbers = _numeric(frame)
            if any(np.isinf(column).any() for column in numbers.values()):
                values = np.column_stack([*numbers.values()])
                self._check_finite(values, n_before, True, [*numbers])
            yield frame

    @property
    def path(self) -> Path:
        """The file, or the folder of files."""
        return self.source.path

    @property
    def values(self) -> Array:
        """All rows [n, n_columns]."""
        return np.concatenate(list(self))

    def encoded(self, columns: Columns) -> Table:
        """The same table as the numbers that its columns are encoded to, to iterate over."""

        def read() -> Iterator[Array | Frame]:
            n_before = 0
            for frame in self.frames():
                yield columns.encode(frame, n_before + 1)
                n_before += len(frame)

        return replace(self, read=read, names=columns.matrix_names, allow_gaps=True)

    def with_names(self, names: Sequence[str]) -> Table:
        """The same table with these names for its columns."""

        def read() -> Iterator[Array | Frame]:
            for frame in self.frames():
                yield Frame(dict(zip(names, frame.columns.values(), strict=True)))

        return replace(self, read=read, names=list(names))

    def with_progress(self, description: str) -> Table:
        """Return the same table with a progress bar on stderr whenever it is read."""

        def read() -> Iterator[Array | Frame]:
            with tqdm(
                desc=description, total=self.n_rows, unit="rows", unit_scale=True, disable=None
            ) as bar:
                for batch in self.read():
                    yield batch
                    bar.update(len(batch))

        return replace(self, read=read)

    def _batches(self) -> Iterator[tuple[int, Array | Frame]]:
        """Yield the number of rows before, and the batch; raise if the source is not as it was."""
        n_before = 0
        with self.source.reading():
            for batch in filter(len, self.read()):
                yield n_before, batch
                n_before += len(batch)
            if self.n_rows not in (None, n_before):
                raise ValueError(
                    f"{self.path}: {n_before} of {self.n_rows} rows could be read. The file "
                    "changed meanwhile, or is damaged: run again, or take a copy that is whole."
                )
        if n_before == 0:
            raise ValueError(f"{self.path}: the table is empty.")

    def _check_finite(
        self, batch: Array, n_before: int, gaps: bool, names: Sequence[str] | None = None
    ) -> None:
        """Raise if the batch, which follows ``n_before`` rows, has an infinity, or a gap."""
        with np.errstate(over="ignore", invalid="ignore"):
            total = batch.sum()
        if batch.dtype.kind != "f" or np.isfinite(total):
            return
        bad = np.argwhere(np.isinf(batch) if gaps else ~np.isfinite(batch))
        if len(bad):
            row, column = bad[0].tolist()
            names = names or self.names
            name = repr(names[column]) if names and self.names else f"{column + 1}"
            path, line = self._place(n_before + row)
            raise ValueError(
                f"{path}: {batch[row, column]} in row {n_before + row + 1}, column {name}{line}, "
                "is not a finite number. Fill or drop such cells."
            )

    def _check_kinds(self, frame: Frame, n_before: int) -> None:
        """Raise if columns of the frame, which follows ``n_before`` rows, are not of numbers."""
        numeric = _numeric(frame)
        others = {name: c for name, c in frame.columns.items() if name not in numeric}
        if not others:
            return
        path, found = self.path, []
        for name, cells in list(others.items())[:_MOST_NAMED]:
            row, why = _example(cells, self.options.decimal or ".")
            path, line = self._place(n_before + row)
            where = line[2:-1] if line else f"row {n_before + row + 1}"
            found.append(f"{where}, column {name if self.names is None else repr(name)}: {why}")
        more = len(others) - len(found)
        besides = f"; and {more:,} more columns" if more else ""
        raise ValueError(f"{path}: {'; '.join(found)}{besides}. {SEE_PAGE}")

    def _place(self, row: int) -> tuple[Path, str]:
        """The file that holds a row, and " (line 3)" if it has lines."""
        if self.line is None:
            return self.path, ""
        path, line = self.line(row)
        return path, f" (line {line})"


def read_table(
    path: Path,
    columns: Chosen = None,
    without: str | None = None,
    options: ReadOptions = ReadOptions(),  # noqa: B008 - it cannot be changed
    allow_gaps: bool = False,
) -> Table:
    """Open a table, to be read in batches; its values are checked when they are read.

    ``columns`` names the columns to read, in this order, or is a function that chooses them from
    the names that there are (default: all; ignored if the file has no names), ``without`` one to
    leave out. ``options`` say how CSV files are written; what they leave
    open is found out from the first lines, unless these leave a doubt. ``allow_gaps`` makes cells
    without a value NaN, which are an error otherwise.

    CSV files may be compressed by gzip, bzip2 or xz. The path ``-`` is a CSV file from standard
    input. A folder is read as the Parquet or CSV files in it, ordered by name. An NPZ file is read
    at its array X or at its only array, and as a whole; so is a workbook of Excel at its first
    sheet. All others can be larger than memory.

    Raises ValueError if the kind of file is unknown, a column is missing, the file is damaged or
    no regular one, or it is in doubt how it is written; FileNotFoundError if there is no file; and
    ImportError if a package that reads the kind of file is missing.
    """
    kind = _kind(path)
    source = Source.open(path, _endings(path) if path.is_dir() else ())
    if kind in (".npy", ".npz") and without is not None:
        raise ValueError(f"{path}: there is no column {without!r}; the file has no names.")
    with source.reading():
        if kind in _TEXT:
            table = _csv(source, columns, without, options)
        elif kind == ".parquet":
            table = _parquet(source, columns, without)
        elif kind == ".xlsx":
            table = _excel(source, columns, without)
        else:
            table = _npy(source) if kind == ".npy" else _npz(source)
    return replace(table, allow_gaps=allow_gaps)


def _kind(path: Path) -> str:
    """The ending that says how a file is read."""
    if path == STANDARD_INPUT:
        return ".csv"
    if path.is_dir():
        return ".parquet" if _endings(path) == (".parquet",) else ".csv"
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    kind = name.suffix.lower()
    if kind not in (READABLE if name is path else _TEXT):
        raise ValueError(
            f"{path}: tables are read from {', '.join(READABLE)} files, from "
            f"{', '.join(_TEXT)} files that end in {', '.join(COMPRESSED)} as well, from folders "
            "of .parquet or .csv files, and from standard input, which is called -."
        )
    return kind


def _endings(folder: Path) -> tuple[str, ...]:
    """The endings of the files in a folder that are read."""
    of_text = tuple(e + c for e in _IN_FOLDERS for c in ("", *COMPRESSED))
    names = [entry.name for entry in folder.rglob("*")]
    kinds = [e for e in ((".parquet",), of_text) if any(n.endswith(e) for n in names)]
    if len(kinds) != 1:
        found = "files of both kinds" if kinds else "neither"
        raise ValueError(f"{folder}: expected a folder of .parquet or .csv files, found {found}.")
    return kinds[0]


def _select(path: Path, names: list[str], columns: Chosen, without: str | None) -> list[str]:
    """Names of the columns to read from a file that has the columns ``names``."""
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ValueError(f"{path}: there are two columns {repeated[0]!r}; rename one.")
    if callable(columns):
        columns = columns(names)
    missing = sorted({*(columns or ()), *([] if without is None else [without])} - set(names))
    if missing:
        raise ValueError(f"{path}: there is no column {missing[0]!r}; there are {some_of(names)}.")
    selected = [name for name in columns or names if name != without]
    if not selected:
        besides = "" if without is None else f" besides {without!r}"
        raise ValueError(f"{path}: there is no column{besides}.")
    return selected


def _numeric(frame: Frame) -> dict[str, Array]:
    """The columns of numbers."""
    columns = frame.columns.items()
    return {n: c for n, c in columns if not isinstance(c, Texts) and c.dtype.kind == "f"}


def _example(cells: Cells, decimal: str) -> tuple[int, str]:
    """The number of a cell that is not a number, and why."""
    if not isinstance(cells, Texts):
        row = int(np.argmax(~np.isnat(cells)))
        return row, f"{cells[row]} is not a number"
    no_numbers = [not is_gap(v) and number(v, decimal) is None for v in cells.values]
    codes = cells.codes
    row = int(np.argmax(np.array([*no_numbers, False])[codes])) or int(np.argmax(codes >= 0))
    if codes[row] < 0:
        return row, "there is no value, in a column of text"
    return row, reason(cells.values[codes[row]], decimal)


def _frame(batch: Array) -> Frame:
    """The columns of an array, called by their numbers."""
    return Frame({f"{i}": column for i, column in enumerate(batch.T.astype(np.float64), start=1)})


def _npy(source: Source) -> Table:
    layout = npy_layout(source.path)
    n_rows = _height(source.path, layout)
    batches = partial(npy_batches, source.path, layout, BATCH_ROWS)
    return Table(source, None, n_rows, batches, is_array=True)


def _npz(source: Source) -> Table:
    path = source.path
    names = npz_names(path)
    name = "X" if "X" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise ValueError(f"{path}: has arrays {some_of(names)}; expected one, or one called X.")
    n_rows = _height(path, npz_layout(path, name))
    return Table(source, None, n_rows, lambda: iter([npz_array(path, name)]), is_array=True)


def _height(path: Path, layout: Layout) -> int:
    """Number of rows of an array; raise unless it is a table."""
    if len(layout.shape) != 2 or layout.shape[1] == 0:
        raise ValueError(
            f"{path}: expected a two-dimensional array of numbers, got shape {layout.shape} of "
            f"{layout.dtype}."
        )
    return layout.shape[0]


def _parquet(source: Source, columns: Chosen, without: str | None) -> Table:
    files = arrow.ParquetFiles(source.path, source.files)
    selected = _select(source.path, files.names, columns, without)

    def read() -> Iterator[Frame]:
        return files.frames(selected, BATCH_ROWS)

    return Table(source, selected, files.n_rows, read, notes=_notes_on(files.keys))


def _excel(source: Source, columns: Chosen, without: str | None) -> Table:
    sheet = Sheet(source.path)
    selected = _select(source.path, sheet.names, columns, without)

    def read() -> Iterator[Frame]:
        return sheet.frames(selected, BATCH_ROWS)

    def line(row: int) -> tuple[Path, int]:
        return source.path, sheet.line(row)

    return Table(source, selected, None, read, line, notes=sheet.notes)


def _csv(source: Source, columns: Chosen, without: str | None, options: ReadOptions) -> Table:
    files = CsvFiles.open(source, options)
    dialect, path = files.first, source.path
    has_names = bool(dialect.options.header)
    if without is not None and not has_names:
        raise ValueError(f"{path}: there is no column {without!r}; the file has no names.")
    names = [*dialect.names, *files.keys]
    selected = _select(path, names, columns if has_names else None, without)

    def read() -> Iterator[Frame]:
        return files.frames(selected, BATCH_ROWS, by_arrow=find_spec("pyarrow") is not None)

    notes = (*dialect.notes, *_notes_on(files.keys))
    given = selected if has_names else None
    return Table(source, given, None, read, files.place, dialect.options, notes)


def _notes_on(keys: Sequence[str]) -> tuple[str, ...]:
    """A note on the columns that the names of folders make, if there are any."""
    return (f"The names of folders make the columns {some_of(keys)}.",) if keys else ()
