"""Excel workbooks, through openpyxl."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pyod_ae_plugin.columns.frames import TIME, Cells, Frame, Texts
from pyod_ae_plugin.sources import some_of
from pyod_ae_plugin.tables.cells import as_cells

_Row = tuple[Any, ...]


class Sheet:
    """A table in the first sheet of a workbook, whose first row that is not empty holds names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _opened(path) as workbook:
            sheets = workbook.sheetnames
            self._n_top, first = next(_filled(workbook.worksheets[0]), (0, ()))
        if not first:
            raise ValueError(f"{path}: the sheet {sheets[0]!r} is empty.")
        self.names = ["" if cell is None else str(cell).strip() for cell in _without_end(first)]
        self.notes: tuple[str, ...] = ()
        if len(sheets) > 1:
            self.notes = (f"The sheet {sheets[0]!r} is read, the first of {some_of(sheets)}.",)

    def frames(self, columns: Sequence[str], n_rows: int) -> Iterator[Frame]:
        """Yield the columns in frames of at most ``n_rows`` rows, in order."""
        place = {name: i for i, name in enumerate(self.names)}
        with _opened(self._path) as workbook:
            rows = self._rows(workbook.worksheets[0])
            while batch := list(islice(rows, n_rows)):
                yield Frame({name: _cells([row[place[name]] for row in batch]) for name in columns})

    def line(self, row: int) -> int:
        """The number in the sheet of a row of the table."""
        return self._n_top + row + 1

    def _rows(self, sheet: Any) -> Iterator[_Row]:
        """Yield the rows below the names, but no empty ones at the end."""
        n_columns, before = len(self.names), self._n_top
        for number, row in _filled(sheet):
            if number <= self._n_top:
                continue
            yield from [(None,) * n_columns] * (number - before - 1)
            before = number
            cells = _without_end(row)
            if len(cells) > n_columns:
                raise ValueError(
                    f"{self._path}: row {number} has {len(cells)} cells, the first has {n_columns}."
                )
            yield (*cells, *(None,) * (n_columns - len(cells)))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import openpyxl
    except ImportError as error:
        raise ImportError(
            "Excel files need openpyxl: pip install 'pyod-ae-plugin[excel]'."
        ) from error
    # openpyxl warns of what else a workbook holds, such as rules for its cells.
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
        try:
            yield workbook
        finally:
            workbook.close()


def _filled(sheet: Any) -> Iterator[tuple[int, _Row]]:
    """Yield number and cells of the rows that are not empty."""
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        if any(cell is not None for cell in row):
            yield number, row


def _without_end(row: _Row) -> _Row:
    """A row without the empty cells at its end."""
    n = max((i for i, cell in enumerate(row, start=1) if cell is not None), default=0)
    return row[:n]


def _cells(values: Iterable[Any]) -> Cells:
    """A column of times if all its cells are, or else of what their text means."""
    held = list(values)
    present = [value for value in held if value is not None]
    if present and all(isinstance(value, date) for value in present):
        times = [None if v is None else np.datetime64(_midnight(v), "us") for v in held]
        return np.array(times, dtype=TIME)
    return as_cells(Texts.of(None if value is None else str(value) for value in held))


def _midnight(day: date) -> datetime:
    """A time, or the beginning of a day."""
    return day if isinstance(day, datetime) else datetime(day.year, day.month, day.day)
