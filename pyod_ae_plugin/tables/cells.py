"""What the text of a cell means: a number, a gap, or text."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np

from pyod_ae_plugin.columns.frames import LARGEST_EXACT, Cells, Texts

GAPS = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "#n/a", "nil"})
"""The words for a missing value, in small letters. ``strip().lower()`` of a cell is one of them."""

_LONGEST_SHOWN = 100  # characters of a cell in a message


def is_gap(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.strip().lower() in GAPS


def number(cell: str, decimal: str = ".") -> float | None:
    """The number in a cell, or None if there is none.

    Cells are read as ``float`` reads them, but "1_000" is not a number, and neither is an integer
    that float64 would round, since it may be a key that names something. With a decimal comma,
    points are not allowed, as they may separate thousands.
    """
    if "_" in cell:
        return None
    if decimal == ",":
        if "." in cell:
            return None
        cell = cell.replace(",", ".")
    try:
        value = float(cell)
    except ValueError:
        return None
    return None if _is_rounded(cell, value) else value


def as_cells(texts: Texts, decimal: str = ".") -> Cells:
    """A column of text as float64, if all its cells are numbers or gaps, or else as text."""
    numbers: list[float] = []
    for value in texts.values:
        found = math.nan if is_gap(value) else number(value, decimal)
        if found is None:
            return _without_gaps(texts)
        numbers.append(found)
    return np.array([*numbers, math.nan])[texts.codes]


def constant(value: str, n: int) -> Cells:
    """A column of the value in the name of a folder, ``n`` times."""
    is_null = value == "__HIVE_DEFAULT_PARTITION__"
    return as_cells(Texts(np.full(n, -is_null, dtype=np.int32), [value]))


def reason(cell: str, decimal: str = ".") -> str:
    """Why a cell of a column of text is not a number."""
    if number(cell, decimal) is not None:
        return f"{start_of(cell)} is text, not a number"
    if cell.strip().lstrip("+-").isdecimal():
        return f"{start_of(cell)} is an integer that float64 would round"
    return f"{start_of(cell)} is not a number"


def start_of(cell: str) -> str:
    """The beginning of a cell, for a message."""
    return repr(cell) if len(cell) <= _LONGEST_SHOWN else f"{cell[:_LONGEST_SHOWN]!r}..."


def _without_gaps(texts: Texts) -> Texts:
    """The same text, where words for a missing value are not values."""
    n = len(texts.values)
    words = map(str.lower, map(str.strip, texts.values))  # as in is_gap, but faster
    gaps = np.fromiter(map(GAPS.__contains__, words), dtype=bool, count=n)
    codes = np.append(np.where(gaps, -1, np.arange(n)), -1)
    return Texts(codes[texts.codes].astype(np.int32), texts.values)


def _is_rounded(cell: str, value: float) -> bool:
    """Whether a cell holds an integer that is not ``value``."""
    if not LARGEST_EXACT <= abs(value) < math.inf:
        return False
    return cell.strip().lstrip("+-").isdecimal() and Decimal(cell.strip()) != Decimal(value)
