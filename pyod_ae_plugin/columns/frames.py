"""A table in memory: named columns of numbers, times or text."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

Array = np.ndarray[Any, Any]

TIME = np.dtype("datetime64[us]")
LARGEST_EXACT = 2**53  # float64 does not tell larger integers from their neighbours


class Texts(NamedTuple):
    """A column of text: each cell is a number into a list of distinct values.

    Parameters
    ----------
    codes : ndarray of shape (n,)
        Of int32; -1 where there is no value.
    values : list of str
        Distinct. Some may have no cell.

    Examples
    --------
    >>> Texts.of(["DE", None, "DE"]).codes
    array([ 0, -1,  0], dtype=int32)
    """

    codes: Array
    values: list[str]

    @classmethod
    def of(cls, cells: Iterable[str | None]) -> Texts:
        """The column of cells, None where there is no value."""
        index: dict[str, int] = {}
        codes = [-1 if cell is None else index.setdefault(cell, len(index)) for cell in cells]
        return cls(np.array(codes, dtype=np.int32), list(index))

    def cells(self) -> list[str | None]:
        """Each cell as text, None where there is no value."""
        values = [*self.values, None]
        return [values[code] for code in self.codes.tolist()]


Cells = Array | Texts
"""The cells of a column: float64 with NaN for gaps, ``TIME`` with NaT for gaps, or Texts."""


@dataclass(frozen=True)
class Frame:
    """Columns of one height, in order.

    Parameters
    ----------
    columns : dict of str to Cells
        At least one.

    Examples
    --------
    >>> frame = Frame({"amount": np.array([1.0, 2.0]), "country": Texts.of(["DE", "FR"])})
    >>> frame.shape, frame.take([1]).columns["country"].cells()
    ((2, 2), ['FR'])
    """

    columns: Mapping[str, Cells]

    def __len__(self) -> int:
        return height(next(iter(self.columns.values())))

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of columns."""
        return len(self), len(self.columns)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.columns)

    def select(self, names: Sequence[str]) -> Frame:
        """Some of the columns, in this order."""
        return Frame({name: self.columns[name] for name in names})

    def take(self, rows: Array | slice) -> Frame:
        """Rows by their indices."""
        return Frame({name: taken(cells, rows) for name, cells in self.columns.items()})


def height(cells: Cells) -> int:
    """Number of cells of a column."""
    return len(cells.codes) if isinstance(cells, Texts) else len(cells)


def is_time(cells: Cells) -> bool:
    """Whether the cells are times, not text or numbers."""
    return not isinstance(cells, Texts) and cells.dtype == TIME


def gaps_in(cells: Cells) -> Array:
    """Whether each cell [n] has no value."""
    if isinstance(cells, Texts):
        return cells.codes < 0
    return np.isnat(cells) if cells.dtype == TIME else np.isnan(cells)


def taken(cells: Cells, rows: Array | slice) -> Cells:
    """Cells by their indices."""
    if isinstance(cells, Texts):
        return Texts(cells.codes[rows], cells.values)
    return cells[rows]


def joined(pieces: Sequence[Frame]) -> Frame:
    """The rows of frames with the same columns, in order."""
    if len(pieces) == 1:
        return pieces[0]
    return Frame({n: _joined_cells([p.columns[n] for p in pieces]) for n in pieces[0].names})


def _joined_cells(parts: Sequence[Cells]) -> Cells:
    arrays = [part for part in parts if not isinstance(part, Texts)]
    if len(arrays) == len(parts) and len({array.dtype for array in arrays}) == 1:
        return np.concatenate(arrays)
    return Texts.of(cell for part in parts for cell in as_texts(part).cells())


# ------------------------------------------------------------------- cells as numbers and as text

_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)


def read_numbers(values: Sequence[str]) -> Array:
    """Numbers [n] that texts show, NaN where a text is none."""
    matches = map(_NUMBER.fullmatch, values)
    return np.array([float(m[0]) if m else np.nan for m in matches], np.float64)


def spelled(number: float) -> str:
    """Text of a number; a whole one has no point, whatever type it came in."""
    if float(number).is_integer() and abs(number) < 1e16:
        return str(int(number))
    return repr(float(number))


def as_texts(cells: Cells) -> Texts:
    """The column as text."""
    if isinstance(cells, Texts):
        return cells
    filled = ~np.isnan(cells)
    distinct, inverse = np.unique(cells[filled], return_inverse=True)
    codes = np.full(len(cells), -1, np.int32)
    codes[filled] = inverse
    if cells.dtype == TIME:
        return Texts(codes, [shown_time(time) for time in distinct])
    return Texts(codes, list(map(spelled, distinct.tolist())))


def shown_time(time: np.datetime64) -> str:
    """Text of a time."""
    return str(time.item())


# ------------------------------------------------------- tables of pandas, polars, Arrow and others


def frame_of(X: object) -> Frame | None:
    """The table as a Frame, None if X is not a table with named columns.

    Tables are those of pandas, polars, Arrow (also a record batch) and whatever else narwhals knows
    and has its rows in memory. An index of rows is left out.

    Texts of blanks only, None, NaN, NA and NaT are gaps. Truth values become the texts "True" and
    "False". Times with a zone become the times on its clock, times of day those of 1970-01-01.
    Spans of time become seconds. Integers beyond 2**53 become texts, which keep their last digits.

    Parameters
    ----------
    X : object
        A table, or anything else.

    Returns
    -------
    Frame or None
        The columns, in their order.

    Raises
    ------
    ValueError
        If two columns have one name, or a column holds something else, such as lists or bytes.

    Examples
    --------
    >>> import pandas as pd
    >>> from pyod_ae_plugin.columns.frames import frame_of
    >>> frame = frame_of(pd.DataFrame({"amount": [1, 2], "country": ["DE", None]}))
    >>> frame.columns["amount"]
    array([1., 2.])
    >>> frame.columns["country"].cells()
    ['DE', None]
    """
    if isinstance(X, Frame):
        return X
    native: Any = X
    if type(X).__name__ == "RecordBatch" and type(X).__module__.startswith("pyarrow"):
        import pyarrow as pa

        native = pa.Table.from_batches([X])
    if hasattr(native, "columns") and hasattr(native, "set_axis"):  # pandas allows any names
        native = native.set_axis(_names(native.columns), axis=1)
    elif hasattr(native, "column_names"):  # Arrow allows one name twice
        _names(native.column_names)
    table = nw.from_native(native, eager_only=True, pass_through=True)
    if not isinstance(table, nw.DataFrame):
        return None
    if not table.columns:
        raise ValueError("The table has no columns. Give one with at least one column.")
    return Frame({name: _cells(table.get_column(name)) for name in table.columns})


def as_given(frame: Frame, X: Any) -> Any:
    """The columns as a table of the library that X is a table of, with its index."""
    if isinstance(X, Frame):
        return frame
    cells = {n: c.cells() if isinstance(c, Texts) else c for n, c in frame.columns.items()}
    table = nw.from_dict(cells, backend=nw.get_native_namespace(X)).to_native()
    if hasattr(table, "set_axis"):
        table.index = X.index
    return table


def _names(columns: Iterable[object]) -> list[str]:
    """Names of columns as text, those of several levels joined."""
    names = ["_".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in columns]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ValueError(
            f"The table has several columns named {twice[0]!r}. Give each column a name of its own."
        )
    return names


def _cells(series: nw.Series[Any]) -> Cells:
    """The cells of a column of any library."""
    dtype = series.dtype
    if dtype.is_integer() and len(series.drop_nulls()) and _largest(series) > LARGEST_EXACT:
        return _of_objects(series.name, series.to_list())
    if dtype.is_numeric():
        return _floats(series)
    if dtype == nw.Datetime or dtype == nw.Date:
        if getattr(dtype, "time_zone", None):
            series = series.dt.replace_time_zone(None)
        times: Array = series.cast(nw.Datetime("us")).to_numpy()
        return times.astype(TIME)
    if dtype == nw.Duration:
        return _floats(series.dt.total_microseconds()) / 1e6
    cells = series.to_list()
    if dtype == nw.String or dtype == nw.Categorical:  # pandas has NaN for gaps, others None
        cells = [None if gap else cell for cell, gap in zip(cells, series.is_null(), strict=True)]
    return _of_objects(series.name, cells)


def _largest(series: nw.Series[Any]) -> int:
    """The largest size of an integer."""
    return max(abs(int(series.min())), abs(int(series.max())))


def _floats(series: nw.Series[Any]) -> Array:
    """A copy as float64, NaN for gaps."""
    return np.array(series.cast(nw.Float64).to_numpy(), np.float64)


def _of_objects(name: str, cells: list[Any]) -> Cells:
    """Cells that are Python objects, one type or several."""
    if set(map(type, cells)) <= {str, type(None)}:  # the fast way for most columns of text
        return _without_blanks(Texts.of(cells))
    cells = [None if _is_gap(cell) else cell for cell in cells]
    kinds = {_kind(name, cell) for cell in {type(cell): cell for cell in cells}.values()} - {"gap"}
    if not kinds:
        return np.full(len(cells), np.nan)
    if kinds == {"time"}:
        times = ["NaT" if cell is None else _clock_time(cell) for cell in cells]
        return np.array(times, TIME)
    if kinds == {"number"} and not any(_is_large(cell) for cell in cells):
        return np.array([np.nan if cell is None else float(cell) for cell in cells])
    if kinds == {"span"}:
        return np.array([np.nan if cell is None else _seconds(cell) for cell in cells])
    return Texts.of(None if cell is None else _text(cell) for cell in cells)


def _without_blanks(texts: Texts) -> Cells:
    """The column with blank cells as gaps."""
    filled = np.array([_is_gap(value) for value in texts.values] + [True]) == 0
    if not filled.any():
        return np.full(len(texts.codes), np.nan)
    if filled[:-1].all():
        return texts
    codes = np.where(filled[texts.codes], np.cumsum(filled)[texts.codes] - 1, -1)
    values = [value for value, kept in zip(texts.values, filled, strict=False) if kept]
    return Texts(codes.astype(np.int32), values)


def _is_gap(cell: Any) -> bool:
    if isinstance(cell, str):
        return not cell or cell.isspace()
    if type(cell).__name__ in ("NoneType", "NAType", "NaTType"):
        return True
    if isinstance(cell, float | Decimal | np.floating):
        return bool(cell != cell)
    return isinstance(cell, np.datetime64 | np.timedelta64) and bool(np.isnat(cell))


def _kind(name: str, cell: Any) -> str:
    """What a cell is; ValueError if it cannot stand in a table."""
    if cell is None:
        return "gap"
    if isinstance(cell, str | bool | np.bool_) or type(cell).__name__ == "Period":
        return "text"
    if isinstance(cell, datetime.date | datetime.time | np.datetime64):
        return "time"
    if isinstance(cell, datetime.timedelta | np.timedelta64):
        return "span"
    if isinstance(cell, Real | Decimal):
        return "number"
    raise ValueError(
        f"Column {name!r} holds {type(cell).__name__} (such as {str(cell)[:40]!r}), expected "
        "numbers, text, times or truth values. Leave the column out, or write its parts as columns."
    )


def _is_large(cell: Any) -> bool:
    return isinstance(cell, int | np.integer) and abs(int(cell)) > LARGEST_EXACT


def _clock_time(cell: Any) -> Any:
    """The time on the clock, of its zone if it has one."""
    if isinstance(cell, datetime.time):
        cell = datetime.datetime.combine(datetime.date(1970, 1, 1), cell)
    if isinstance(cell, datetime.datetime):
        cell = cell.replace(tzinfo=None)
    return np.datetime64(cell).astype(TIME)


def _seconds(cell: Any) -> float:
    return float(np.timedelta64(cell) / np.timedelta64(1, "s"))


def _text(cell: Any) -> str:
    """The text that a cell would be read from."""
    if isinstance(cell, int | np.integer) and not isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, Real | Decimal) and not isinstance(cell, bool):
        return spelled(float(cell))
    if isinstance(cell, datetime.date | datetime.time | np.datetime64):
        return shown_time(_clock_time(cell))
    if isinstance(cell, datetime.timedelta | np.timedelta64):
        return spelled(_seconds(cell))
    return str(cell)
