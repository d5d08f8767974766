"""The roles of columns, and how cells of each become columns of a matrix and back.

Each column that is learned from takes one or more columns of the matrix:

- A number takes one. NaN stands where it is missing.
- A category takes a 0/1 column for each frequent value, one ("other") for all rare and unseen
  values together, and one ("missing") if cells were missing in training; otherwise a missing cell
  counts as other. If there were only two values, the first of them in sorted order takes no column.
- A time takes sine and cosine of the hour of the day and of the day of the week, and the days since
  the first training row on request. NaN stands where it is missing.
- A number or a time takes one more, 0/1, for "is missing", if some of the training cells were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import numpy as np

from pyod_ae_plugin.columns.frames import (
    TIME,
    Array,
    Cells,
    Texts,
    as_texts,
    read_numbers,
    shown_time,
    spelled,
)
from pyod_ae_plugin.columns.times import DAY, ORDERS, hours, read_times, weekdays

ROLES = ("number", "category", "time", "time+position", "id", "label", "drop")
MOST_VALUES = 50  # of a category that have a column of their own
PARTS = ("hour", "weekday", "position")  # of a time

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class Column:
    """A column of the training table, here one that is not learned from.

    Attributes
    ----------
    name : str
        As in the table.
    role : str
        One of ``ROLES``.
    notes : tuple of str
        What a user should know of it, a sentence each.
    """

    name: str
    role: str
    notes: tuple[str, ...] = ()

    roles: ClassVar[tuple[str, ...]] = ("id", "label", "drop")

    @property
    def matrix_names(self) -> list[str]:
        """Names of its columns of the matrix."""
        return []

    def check(self) -> None:
        """Raise ValueError if the fields do not fit together."""

    def prepare(self, cells: Cells, first_row: int = 0) -> Array:
        """The cells [n] as what :meth:`fill` takes.

        A ValueError names a cell that is not of the role; ``first_row`` is what it calls the first.
        """
        raise NotImplementedError

    def fill(self, block: Array, prepared: Array) -> None:
        """Write rows into the columns [n, len(matrix_names)] of a matrix, which are zero."""
        raise NotImplementedError

    def decode(self, block: Array) -> Cells:
        """The cells [n] that columns of a matrix stand for."""
        raise NotImplementedError


@dataclass(frozen=True)
class NumberColumn(Column):
    """Numbers.

    Attributes
    ----------
    gaps : bool
        Whether cells were missing in training.
    constant : float or None
        The only value; then nothing but what is missing is learned.
    """

    gaps: bool = False
    constant: float | None = None

    roles: ClassVar[tuple[str, ...]] = ("number",)

    @property
    def matrix_names(self) -> list[str]:
        own = [self.name] if self.constant is None else []
        return own + [f"{self.name} is missing"] * self.gaps

    def check(self) -> None:
        expect(self.constant is None or math.isfinite(self.constant), "a finite constant")

    def prepare(self, cells: Cells, first_row: int = 0) -> Array:
        if isinstance(cells, Texts):
            numbers = _looked_up(read_numbers(cells.values), cells)
            _refuse(self.name, cells, first_row, np.isnan(numbers) & (cells.codes >= 0), "a number")
        elif cells.dtype == TIME:
            numbers = np.full(len(cells), np.nan)
            _refuse(self.name, cells, first_row, ~np.isnat(cells), "a number")
        else:
            numbers = cells
        _refuse(self.name, cells, first_row, np.isinf(numbers), "a finite number")
        return numbers

    def fill(self, block: Array, prepared: Array) -> None:
        if self.constant is None:
            block[:, 0] = prepared
        if self.gaps:
            block[:, -1] = np.isnan(prepared)

    def decode(self, block: Array) -> Cells:
        if self.constant is None:
            numbers: Array = block[:, 0].copy()
            return numbers
        return np.full(len(block), self.constant)


@dataclass(frozen=True)
class CategoryColumn(Column):
    """Values, of which the frequent ones count.

    Attributes
    ----------
    values : tuple of str
        Those that are told apart, sorted.
    rare : bool
        Whether there were others in training.
    gaps : bool
        Whether cells were missing in training.
    """

    values: tuple[str, ...] = ()
    rare: bool = False
    gaps: bool = False

    roles: ClassVar[tuple[str, ...]] = ("category",)

    @property
    def _n_bases(self) -> int:
        """1 if the first of two values has no column: it is what none of the others says."""
        return int(len(self.values) <= 2 and not self.rare)

    @property
    def _states(self) -> list[str]:
        """What the columns of the matrix stand for, in order."""
        named = [*self.values[self._n_bases :], *["missing"] * self.gaps, "other"]
        pooled = {"missing", "other"} & set(self.values)  # a value may bear such a name itself
        n_values = len(self.values) - self._n_bases
        return named[:n_values] + [f"({s})" if s in pooled else s for s in named[n_values:]]

    @property
    def states(self) -> list[str]:
        """What a cell can be: its values, "missing" and "other"."""
        return [*self.values[: self._n_bases], *self._states]

    @property
    def matrix_names(self) -> list[str]:
        return [f"{self.name}={state}" for state in self._states]

    def check(self) -> None:
        least = 1 if self.gaps or self.rare else 2
        expect(least <= len(self.values) <= MOST_VALUES, f"{least} to {MOST_VALUES} values")
        expect(list(self.values) == sorted(set(self.values)), "sorted, distinct values")

    def prepare(self, cells: Cells, first_row: int = 0) -> Array:
        texts = as_texts(cells)
        width = len(self.matrix_names)
        places = {value: i - self._n_bases for i, value in enumerate(self.values)}
        table = [places.get(value, width - 1) for value in texts.values]
        gap = width - 2 if self.gaps else width - 1
        return np.array([*table, gap], np.int64)[texts.codes]  # the code of a gap is -1

    def fill(self, block: Array, prepared: Array) -> None:
        rows = np.flatnonzero(prepared >= 0)
        block[rows, prepared[rows]] = 1

    def decode(self, block: Array) -> Cells:
        if self._n_bases:
            block = np.column_stack([1 - block.sum(axis=1), block])
        codes = np.where(np.isnan(block).any(axis=1), -1, block.argmax(axis=1))
        return Texts(codes.astype(np.int32), self.states)


@dataclass(frozen=True)
class TimeColumn(Column):
    """Times.

    Attributes
    ----------
    order : str
        How they are written where they are text, one of ``times.ORDERS``.
    parts : tuple of str
        What is learned of them, out of ``PARTS``.
    start : str
        The time of the first training row.
    gaps : bool
        Whether cells were missing in training.
    """

    order: str = "ymd"
    parts: tuple[str, ...] = ()
    start: str = ""
    gaps: bool = False

    roles: ClassVar[tuple[str, ...]] = ("time", "time+position")

    @property
    def matrix_names(self) -> list[str]:
        names = {
            "hour": ("hour (sin)", "hour (cos)"),
            "weekday": ("day of week (sin)", "day of week (cos)"),
            "position": ("days since start",),
        }
        shown = chain.from_iterable(names[part] for part in self.parts)
        return [f"{self.name} {part}" for part in [*shown, *["is missing"] * self.gaps]]

    @property
    def _origin(self) -> np.datetime64:
        origin: np.datetime64 = read_times([self.start], "ymd")[0]
        return origin

    def check(self) -> None:
        expect(self.order in ORDERS, f"an order of {ORDERS}")
        known = tuple(part for part in PARTS if part in self.parts)
        expect(bool(known) and self.parts == known, f"some of {PARTS} in this order")
        expect(self.role == "time+position" or "position" not in known, "no position for 'time'")
        expect(not np.isnat(read_times([self.start], "ymd")[0]), "a start such as 2024-01-31")

    def prepare(self, cells: Cells, first_row: int = 0) -> Array:
        if not isinstance(cells, Texts) and cells.dtype == TIME:
            return cells
        texts = as_texts(cells)
        times = _looked_up(read_times(texts.values, self.order), texts)
        example = {"ymd": "2024-01-31", "dmy": "31.01.2024", "mdy": "01/31/2024"}
        expected = f"a time such as {example.get(self.order, '20240131')}"
        _refuse(self.name, cells, first_row, np.isnat(times) & (texts.codes >= 0), expected)
        return times

    def fill(self, block: Array, prepared: Array) -> None:
        place = 0
        for part in self.parts:
            if part == "position":
                block[:, place] = (prepared - self._origin) / DAY
                place += 1
                continue
            turns = hours(prepared) / 24 if part == "hour" else weekdays(prepared) / 7
            # Computed side by side in memory, so that a row has the same bits in each table.
            block[:, place] = np.sin(2 * np.pi * turns)
            block[:, place + 1] = np.cos(2 * np.pi * turns)
            place += 2
        if self.gaps:
            block[:, -1] = np.isnat(prepared)

    def decode(self, block: Array) -> Cells:
        shown: dict[str, list[str]] = {}
        place = 0
        for part in self.parts:
            if part == "position":
                shown[part] = [_date(self._origin, days) for days in block[:, place].tolist()]
                place += 1
                continue
            turns = np.arctan2(block[:, place], block[:, place + 1]) / (2 * np.pi)
            show = _clock if part == "hour" else _weekday
            shown[part] = list(map(show, turns.tolist()))
            place += 2
        ordered = [shown[part] for part in ("position", "weekday", "hour") if part in shown]
        known = ~np.any(np.isnan(block[:, :place]), axis=1)
        rows = enumerate(zip(*ordered, strict=True))
        return Texts.of(" ".join(cells) if known[i] else None for i, cells in rows)


def _clock(turns: float) -> str:
    """The time of day, such as 14:05, of days since midnight; full turns do not count."""
    if math.isnan(turns):
        return ""
    minutes = round(turns * 1440) % 1440
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _weekday(turns: float) -> str:
    return "" if math.isnan(turns) else _WEEKDAYS[round(turns * 7) % 7]


def _date(start: np.datetime64, days: float) -> str:
    """The date that is this number of days after the start, limited to the years 1 to 9999."""
    if math.isnan(days):
        return ""
    earliest, latest = -719162, 2932896  # of the years 1 to 9999, in days since 1970
    since = (start - np.datetime64(0, "us")) / DAY + days
    return str(np.datetime64(math.floor(min(max(since, earliest), latest)), "D"))


# ------------------------------------------------------------- cells, and what is wrong with them


def _looked_up(table: Array, texts: Texts) -> Array:
    """What each cell is by a table of what each value is; NaN or NaT for gaps."""
    gap = np.array([np.nan if table.dtype != TIME else np.datetime64("NaT")], table.dtype)
    return np.concatenate([table, gap])[texts.codes]  # the code of a gap is -1


def shown_cell(cells: Cells, i: int) -> str:
    """A cell as text."""
    if isinstance(cells, Texts):
        code = int(cells.codes[i])
        return cells.values[code] if code >= 0 else "missing"
    if cells.dtype == TIME:
        return "missing" if np.isnat(cells[i]) else shown_time(cells[i])
    return "missing" if np.isnan(cells[i]) else spelled(cells[i])


def _refuse(name: str, cells: Cells, first_row: int, wrong: Array, expected: str) -> None:
    """Raise ValueError that names the first of the wrong cells."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        others = f" (and {len(rows) - 1:,} more such cells)" if len(rows) > 1 else ""
        cell = shown_cell(cells, rows[0])[:60]
        row = first_row + rows[0]
        raise ValueError(f"Column {name!r}, row {row}: expected {expected}, got {cell!r}{others}.")


def expect(holds: bool, what: str) -> None:
    """Raise ValueError unless it holds."""
    if not holds:
        raise ValueError(f"expected {what}")
