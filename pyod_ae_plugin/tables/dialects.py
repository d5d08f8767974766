"""How the cells of a CSV file are written: separator, decimals, encoding and names of columns."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from pyod_ae_plugin.sources import some_of
from pyod_ae_plugin.tables.cells import is_gap, number, start_of

SEPARATORS = (",", ";", "\t", "|")  # that are looked for; a blank is one if there is none of these

_Record = list[str]


@dataclass(frozen=True)
class ReadOptions:
    """The format of CSV files. The reader detects an option that is None from the first lines.

    Parameters
    ----------
    sep : str, optional
        The character between cells.
    decimal : {".", ","}, optional
        The character before decimals.
    encoding : str, optional
        What Python calls the encoding. By default it is UTF-8. A mark at the beginning of a file,
        of UTF-8, UTF-16 or UTF-32, says more than this.
    header : bool, optional
        Whether the first line holds the names of the columns.
    """

    sep: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: bool | None = None

    def __post_init__(self) -> None:
        if self.sep is not None and not _is_separator(self.sep):
            raise ValueError(
                f"sep: expected one character, such as ';' or a tab, got {self.sep!r}."
            )
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"decimal: expected '.' or ',', got {self.decimal!r}.")
        if self.encoding is not None and not _is_encoding(self.encoding):
            raise ValueError(
                f"encoding: expected a name such as 'utf-8' or 'latin-1', got {self.encoding!r}."
            )
        if self.header is not None and not isinstance(self.header, bool):
            raise ValueError(f"header: expected true, false or null, got {self.header!r}.")

    def to_json(self) -> dict[str, Any]:
        """The options as values that JSON holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> ReadOptions:
        """The options that :meth:`to_json` gave; ValueError if it did not."""
        names = [field.name for field in fields(cls)]
        if not isinstance(value, dict) or sorted(map(str, value)) != sorted(names):
            raise ValueError(f"options of reading: expected {some_of(names)}, got {value!r}.")
        return cls(**value)


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written."""

    options: ReadOptions  # none of them is None
    names: list[str]  # of the columns; numbers if the file has no names
    n_lines: int  # that come before the first row
    notes: tuple[str, ...]  # a sentence for each thing that was found out and is not usual

    @property
    def sep(self) -> str:
        """The character between cells."""
        return self.options.sep or ","

    @property
    def decimal(self) -> str:
        """The character before decimals."""
        return self.options.decimal or "."


def find_dialect(shown: Path, lines: Sequence[str], options: ReadOptions) -> Dialect:
    """Find out how a file, which begins with these lines, is written.

    Raises ValueError, which calls the file ``shown`` and names the option to give, where the lines
    leave a doubt.
    """
    n_top, named_sep = _lines_on_top(lines, options.sep)
    first_line, top, lines = n_top + 1, lines[:n_top], lines[n_top:]
    if not lines:
        raise ValueError(f"{shown}: the file is empty.")
    notes = [_top_note(top)] if top else []
    sep = options.sep or named_sep or _find_separator(shown, lines, first_line)
    records, n_header_lines = _records(lines, sep, shown, first_line)
    decimal = options.decimal or _find_decimal(shown, records, sep)
    if (options.sep is None and sep != ",") or (options.decimal is None and decimal != "."):
        named = "a tab" if sep == "\t" else "blanks" if sep == " " else f"{sep!r}"
        notes.append(f"Cells are separated by {named} and decimals by {decimal!r}.")
    header = options.header
    if header is None:
        header, note = _find_header(f"{shown}: line {first_line}", records, decimal)
        notes += [note] if note else []
    encoding = options.encoding or "utf-8"
    found = ReadOptions(sep, decimal, encoding, header)
    first = records[0]
    names = [cell.strip() if header else f"{i}" for i, cell in enumerate(first, start=1)]
    return Dialect(found, names, n_top + (n_header_lines if header else 0), tuple(notes))


def _is_separator(sep: object) -> bool:
    return isinstance(sep, str) and len(sep) == 1 and sep.isascii() and sep not in '"\r\n\0'


def _is_encoding(name: object) -> bool:
    """Whether Python decodes text by a codec of this name."""
    try:
        return isinstance(name, str) and "a".encode(name).decode(name) == "a"
    except (LookupError, ValueError):
        return False


# ------------------------------------------------------------------ lines on top


def _lines_on_top(lines: Sequence[str], sep: str | None) -> tuple[int, str | None]:
    """Number of lines before the first one of the table, and the separator if one names it.

    These are blank lines, comments, and the line "sep=;" that Excel reads.
    """
    found = None
    for n, line in enumerate(lines):
        # A first column that is named "#" is not a comment.
        named = line[:1] == "#" and line[1:2] in ((sep,) if sep else SEPARATORS)
        of_excel = re.fullmatch(r"sep=([,;\t|])\s*", line)
        if of_excel:
            found = of_excel[1]
        elif line.strip() and (named or not line.startswith("#")):
            return n, found
    return len(lines), found


def _top_note(lines: Sequence[str]) -> str:
    said = [line.strip() for line in lines if line.strip()]
    last = f": {start_of(said[-1])}" if said else ""
    if len(lines) == 1:
        return f"Line 1 is skipped, since it is blank or a comment{last}."
    return f"Lines 1 to {len(lines)} are skipped, since they are blank or comments{last}."


def _records(
    lines: Sequence[str], sep: str, shown: Path, first_line: int
) -> tuple[list[_Record], int]:
    """The rows in the lines that are not blank, and the number of lines that the first takes."""
    reader, records, n_first = csv.reader(lines, delimiter=sep), [], 0
    try:
        for cells in filter(None, reader):
            n_first = n_first or reader.line_num
            records.append(cells)
    except csv.Error as error:
        line = first_line + reader.line_num - 1
        raise ValueError(f"{shown}: {error}, in line {line}.") from error
    return records, n_first


# ------------------------------------------------------------------ separator and decimals


def _find_separator(shown: Path, lines: Sequence[str], first_line: int) -> str:
    """The separator of the lines."""
    tables: dict[str, list[_Record]] = {}
    errors = []
    for sep in SEPARATORS:
        try:
            tables[sep] = _records(lines, sep, shown, first_line)[0]
        except ValueError as error:  # a line is too long for a cell
            errors.append(error)
    if not tables:
        raise errors[0]
    found = [sep for sep, records in tables.items() if len(records[0]) > 1]
    if len(found) > 1:
        found = [sep for sep in found if _is_even(tables[sep])] or found
    if len(found) > 1:
        shares = {sep: _share_of_numbers(tables[sep]) for sep in found}
        found = [sep for sep in found if shares[sep] == max(shares.values())]
    if len(found) > 1:
        raise ValueError(
            f"{shown}: the cells may be separated by any of {some_of(found)}. Say by which: --sep "
            f"{found[0]!r}."
        )
    return found[0] if found else _separator_besides(shown, lines, first_line)


def _separator_besides(shown: Path, lines: Sequence[str], first_line: int) -> str:
    """The separator of lines of which the first has none of the usual ones."""
    by_blanks = _records(lines, " ", shown, first_line)[0]
    is_whole = all(cell for cells in by_blanks for cell in cells)
    is_table = len(by_blanks[0]) > 1 and _is_even(by_blanks)
    if is_whole and is_table and _share_of_numbers(by_blanks[1:] or by_blanks) == 1:
        return " "
    words = [line.split() for line in lines]
    if any(len(cells) > 1 and _share_of_numbers([cells]) == 1 for cells in words):
        raise ValueError(
            f"{shown}: the cells seem to be separated by several blanks. Write the file with one "
            "separator between cells, such as ','."
        )
    # Numbers with a decimal comma, in one column.
    rows = _records(lines[1:], ";", shown, first_line + 1)[0]
    commas = [row[0] for row in rows if "," in row[0]]
    return ";" if commas and all(number(cell, ",") is not None for cell in commas) else ","


def _is_even(records: Sequence[_Record]) -> bool:
    """Whether all rows have one number of cells."""
    return len({len(cells) for cells in records}) == 1


def _share_of_numbers(records: Sequence[_Record]) -> float:
    """Share of the cells that are numbers, with decimals of either kind, or gaps."""
    cells = [cell for cells in records for cell in cells]
    known = [is_gap(c) or number(c) is not None or number(c, ",") is not None for c in cells]
    return sum(known) / max(len(known), 1)


def _find_decimal(shown: Path, records: Sequence[_Record], sep: str) -> str:
    """The character before decimals: a comma if whole columns of numbers have one."""
    columns = [_values(column) for column in zip(*(records[1:] or records), strict=False)]
    commas = [c for column in _numeric(columns, ",") for c in column if "," in c]
    if not commas:
        return "."
    points = any("." in c for column in _numeric(columns, ".") for c in column)
    thousands = all(re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", c.strip()) for c in commas)
    if not points and not thousands:
        return ","
    if sep == ",":  # such cells are quoted; they stay text
        return "."
    raise ValueError(
        f"{shown}: the comma in {start_of(commas[0])} may come before decimals or separate "
        "thousands. Say which: --decimal ',' or --decimal '.' (then such cells are text)."
    )


def _values(column: Sequence[str]) -> list[str]:
    """The cells that are not gaps."""
    return [cell for cell in column if not is_gap(cell)]


def _numeric(columns: Sequence[list[str]], decimal: str) -> list[list[str]]:
    """The columns that hold numbers only."""
    return [c for c in columns if all(number(cell, decimal) is not None for cell in c)]


# ------------------------------------------------------------------ names


def _find_header(where: str, records: Sequence[_Record], decimal: str) -> tuple[bool, str]:
    """Whether the first row holds names, and a note if that is not evident."""
    first, rows = records[0], records[1:]
    numbers = [number(cell, decimal) for cell in first]
    if all(x is None for x in numbers):
        if any(cell.strip() for cell in first) and all(map(is_gap, first)):
            raise _undecided(where, first)
        return True, ""
    if any(x is None and not is_gap(cell) for x, cell in zip(numbers, first, strict=True)):
        if not _differs(first, rows, decimal):
            raise _undecided(where, first)
        return True, ""
    n_blank = int(not first[0].strip())  # above the index that pandas writes
    named = [cell.strip() for cell in first[n_blank:]]
    if not any(map(is_gap, named)):
        body = [[number(cell, decimal) for cell in row[n_blank:]] for row in rows]
        is_header = _are_names(named, [x for x in numbers if x is not None], body)
        if is_header is None:
            raise _undecided(where, first)
        if is_header:
            return True, "The first line, of consecutive numbers, is taken for names."
    return False, "The first line holds no names; columns are called by their numbers."


def _differs(first: _Record, rows: Sequence[_Record], decimal: str) -> bool:
    """Whether a column has text in the first row and numbers below, or the other way round."""
    for name, *column in zip(first, *rows, strict=False):
        values = _values(column)
        is_number = [number(cell, decimal) is not None for cell in values]
        above = number(name, decimal) is not None
        if not is_gap(name) and values and all(below != above for below in is_number):
            return True
    return False


def _are_names(
    cells: list[str], numbers: list[float], body: Sequence[Sequence[float | None]]
) -> bool | None:
    """Whether a first row of numbers holds names; None if that cannot be told.

    Names are consecutive numbers from 0 or 1. They are values if all other rows rise likewise.
    """
    n, step = len(cells), _step(numbers)
    consecutive = any(cells == [f"{i}" for i in range(i, i + n)] for i in (0, 1))
    if n == 1:  # a list of integers, or what pandas writes for a series
        return None if consecutive and body and not any(map(_is_integer, body)) else False
    if not body or step is None or not (consecutive or n > 2):
        return False
    steps = [_step(row) for row in body]
    if all(other is not None and math.isclose(other, step) for other in steps):
        return False
    # In a table of integers, 0 and 1 side by side may be values as well.
    return True if consecutive and (n > 2 or not any(map(_is_integer, body))) else None


def _step(row: Sequence[float | None]) -> float | None:
    """The step by which numbers rise evenly, or None if they do not."""
    numbers = [x for x in row if x is not None]
    steps = [after - before for before, after in pairwise(numbers)]
    if len(numbers) < max(len(row), 2) or steps[0] <= 0:
        return None
    return steps[0] if all(math.isclose(step, steps[0], rel_tol=1e-6) for step in steps) else None


def _is_integer(row: Sequence[float | None]) -> bool:
    return all(x is None or x.is_integer() for x in row)


def _undecided(where: str, first: _Record) -> ValueError:
    return ValueError(
        f"{where} may hold names or values: {some_of([*map(_shortened, first)])}. Say which: "
        "--header if it holds names, --no-header if it holds values."
    )


def _shortened(cell: str) -> str:
    return cell[:30]
