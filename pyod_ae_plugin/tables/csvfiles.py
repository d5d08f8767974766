"""Tables in CSV files, read in batches by pyarrow if it is there, or else by Python."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyod_ae_plugin.columns.frames import Cells, Frame, Texts
from pyod_ae_plugin.sources import Source, check_keys, folder_keys, some_of
from pyod_ae_plugin.tables import arrow
from pyod_ae_plugin.tables.cells import as_cells, constant
from pyod_ae_plugin.tables.dialects import Dialect, ReadOptions, find_dialect
from pyod_ae_plugin.tables.textfiles import line_ends, text_blocks, text_lines, without_lines

_BLOCK_BYTES = 2**20
_CELL_BYTES = 64  # of text; a number takes 25
_MOST_CELLS = 2**22  # of a batch
_FEW_ROWS, _MANY_COLUMNS = 32, 2000  # which pyarrow, with its effort for each column, is slow for
_FIRST_LINES = 100  # that show how a file is written; they take no more than a block


@dataclass(frozen=True)
class CsvFiles:
    """A table in a CSV file, or in several that have the same columns."""

    source: Source
    dialects: Mapping[Path, Dialect]  # of each file

    @classmethod
    def open(cls, source: Source, options: ReadOptions) -> CsvFiles:
        """Find out from the first lines how the files are written, where ``options`` are None."""
        dialects: dict[Path, Dialect] = {}
        for file in source.files:
            name = source.shown(file)
            found = find_dialect(name, _first_lines(file, name, options.encoding), options)
            options = found.options  # further files are written as the first
            first = next(iter(dialects.values()), found)
            if first.names != found.names:
                raise ValueError(
                    f"{name}: the columns are {some_of(found.names)}; expected "
                    f"{some_of(first.names)}, as in {source.files[0]}. All files of a folder need "
                    "the same columns in the same order."
                )
            dialects[file] = found
            keys = [*folder_keys(source.path, source.files[0])]
            check_keys(file, folder_keys(source.path, file), keys)
        return cls(source, dialects)

    @property
    def first(self) -> Dialect:
        """How the first file is written."""
        return next(iter(self.dialects.values()))

    @property
    def keys(self) -> list[str]:
        """Names of the columns that the names of folders make."""
        return list(folder_keys(self.source.path, self.source.files[0]))

    def frames(self, columns: Sequence[str], n_rows: int, by_arrow: bool) -> Iterator[Frame]:
        """Yield columns in frames of about ``n_rows`` rows, in order."""
        for file in self.dialects:
            values = folder_keys(self.source.path, file)
            # Of at least one column, so that it has a height.
            held = [name for name in columns if name not in values] or self.first.names[:1]
            part = self._part(file, held)
            n_rows = min(n_rows, max(_MOST_CELLS // len(part.dialect.names), 1))
            for frame in _by_arrow(part, n_rows) if by_arrow else _by_python(part, n_rows):
                added = {key: constant(value, len(frame)) for key, value in values.items()}
                yield Frame({**frame.columns, **added}).select(columns)

    def place(self, row: int) -> tuple[Path, int]:
        """The file that holds a row, and the number of the line in which the row ends."""
        parts = (self._part(file, self.first.names) for file in self.dialects)
        places = ((part.shown, line) for part in parts for line, _ in _rows(part, part.blocks()))
        found = next(islice(places, row, None), None)
        if found is None:
            raise ValueError(
                f"{self.source.path}: the file changed while it was read. Run again when nothing "
                "else writes to it."
            )
        return found

    def _part(self, file: Path, columns: Sequence[str]) -> _Part:
        dialect = self.dialects[file]
        place = {name: i for i, name in enumerate(dialect.names)}
        return _Part(
            file, self.source.shown(file), dialect, [place[name] for name in columns], columns
        )


class _Part(NamedTuple):
    """Columns of one file."""

    file: Path
    shown: Path
    dialect: Dialect
    positions: list[int]
    names: Sequence[str]

    def blocks(self) -> Iterator[bytes]:
        """The text of the rows."""
        line = _CELL_BYTES * len(self.dialect.names)
        size = max(_BLOCK_BYTES, min(2 * _FEW_ROWS * line, 32 * _BLOCK_BYTES), line)
        encoding = self.dialect.options.encoding or "utf-8"
        return without_lines(
            text_blocks(self.file, self.shown, encoding, size), self.dialect.n_lines
        )


def _first_lines(file: Path, shown: Path, encoding: str | None) -> list[str]:
    """The first lines of a file, the last of them whole, and at least one with cells."""
    lines, n_characters, n_filled = [], 0, 0
    for line in text_lines(text_blocks(file, shown, encoding or "utf-8", 2**16)):
        n_filled += bool(line.strip())
        n_characters += len(line)
        lines.append(line)
        if n_filled >= _FIRST_LINES or (n_filled > 1 and n_characters > _BLOCK_BYTES):
            break
    return lines


# ------------------------------------------------------------------ by Python


def _by_python(part: _Part, n_rows: int) -> Iterator[Frame]:
    yield from _frames(part, _rows(part, part.blocks()), n_rows)


def _frames(part: _Part, rows: Iterator[tuple[int, list[str]]], n_rows: int) -> Iterator[Frame]:
    """Gather rows of text in frames of ``n_rows`` rows."""
    while batch := [cells for _, cells in islice(rows, n_rows)]:
        columns: dict[str, Cells] = {}
        for name, i in zip(part.names, part.positions, strict=True):
            texts = Texts.of(cells[i] for cells in batch)
            columns[name] = as_cells(texts, part.dialect.decimal)
        yield Frame(columns)


def _rows(
    part: _Part, blocks: Iterable[bytes], n_lines: int | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row in blocks of text, which follow upon ``n_lines`` lines.

    In a table of one column, a blank line is a gap, but nothing at the end of the file.
    """
    before = part.dialect.n_lines if n_lines is None else n_lines
    n_cells = len(part.dialect.names)
    reader = csv.reader(text_lines(blocks), delimiter=part.dialect.sep)
    blank: int | None = None  # the number of the line before, if it was blank
    try:
        for cells in reader:
            line = before + reader.line_num
            if blank is not None:
                yield blank, [""]
            blank = line if not cells and n_cells == 1 else None
            if cells and len(cells) != n_cells:
                raise ValueError(
                    f"{part.shown}: line {line} has {len(cells)} cells, the first has {n_cells}."
                )
            if cells:
                yield line, cells
    except csv.Error as error:
        raise ValueError(f"{part.shown}: {error}, in line {before + reader.line_num}.") from error


# ------------------------------------------------------------------ by pyarrow


def _by_arrow(part: _Part, n_rows: int) -> Iterator[Frame]:
    """Read by pyarrow; from the place on that it cannot read, by Python.

    Python reads quotes that are not as usual, and its errors name the line.
    """
    tables: list[Any] = []  # of pyarrow
    n_lines, blocks = part.dialect.n_lines, part.blocks()
    for whole, rest in _whole_rows(part, blocks):
        table = None if whole is None else _split(part, whole)
        if whole is None or table is None:
            if tables:
                yield arrow.text_frame(tables, part.names, part.dialect.decimal)
            rows = _rows(part, chain([whole or b"", rest], blocks), n_lines)
            yield from _frames(part, rows, n_rows)
            return
        n_lines += line_ends(whole)
        tables.append(table)
        if sum(map(len, tables)) >= n_rows:
            yield arrow.text_frame(tables, part.names, part.dialect.decimal)
            tables = []
    if sum(map(len, tables)):
        yield arrow.text_frame(tables, part.names, part.dialect.decimal)


def _split(part: _Part, text: bytes) -> Any | None:
    """The cells of rows of text as a table of pyarrow, or None if Python is to read them."""
    dialect = part.dialect
    if len(dialect.names) > _MANY_COLUMNS and line_ends(text) < _FEW_ROWS:
        return None
    return arrow.split(
        text, dialect.sep, len(dialect.names), part.positions, csv.field_size_limit()
    )


def _whole_rows(part: _Part, blocks: Iterator[bytes]) -> Iterator[tuple[bytes | None, bytes]]:
    """Yield text that ends with a row, and what has been read behind it.

    The text is None, and all is behind it, if quotes stand where pyarrow does not expect them.
    """
    n_columns, sep = len(part.dialect.names), ord(part.dialect.sep)
    rest = b""
    for block in chain(blocks, [b""]):
        data, is_last = rest + block, not block
        if is_last and n_columns == 1:
            data = _without_blank_end(data)
        end = _end_of_rows(data, sep, n_columns == 1, is_last)
        if end is None or (end == 0 and len(data) > 4 * _BLOCK_BYTES + len(block)):
            yield None, data
            return
        rest = data[end:]
        if end:
            yield data[:end], rest


def _end_of_rows(data: bytes, sep: int, one_column: bool, is_last: bool) -> int | None:
    """Where the last whole row ends; None if there are unusual quotes.

    In a table of one column, blank lines at the end wait for what follows.
    """
    if b'"' in data:
        return None if one_column else _end_of_quoted_rows(data, sep, is_last)
    if is_last:
        return len(data)
    filled = len(data.rstrip(b"\r\n")) if one_column else len(data)
    return max(data.rfind(b"\n", 0, filled), data.rfind(b"\r", 0, max(filled - 1, 0))) + 1


def _end_of_quoted_rows(data: bytes, sep: int, is_last: bool) -> int | None:
    """Where the last whole row ends, outside quotes; None if the quotes are unusual.

    Quotes are as usual if they come in pairs that enclose a cell, or stand side by side in one.
    """
    characters = np.frombuffer(data, dtype=np.uint8)
    quotes = np.flatnonzero(characters == ord('"'))
    if is_last:
        end = len(data)
    else:
        is_end = (characters == ord("\n")) | (characters == ord("\r"))
        is_end[-1] &= characters[-1] == ord("\n")  # a "\n" may follow a "\r"
        ends = np.flatnonzero(is_end)
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
        end = int(ends[-1]) + 1 if len(ends) else 0
    quotes = quotes[quotes < end]
    if len(quotes) % 2:
        return None
    around = np.concatenate([[ord("\n")], characters[:end], [ord("\n")]])
    beside = np.concatenate([around[quotes[::2]], around[quotes[1::2] + 2]])
    usual = (sep, ord("\n"), ord("\r"), ord('"'))
    return end if np.isin(beside, usual).all() else None


def _without_blank_end(data: bytes) -> bytes:
    """Text without a last line if that is blank."""
    lines = data.splitlines(keepends=True)
    return data[: -len(lines[-1])] if lines and not lines[-1].strip(b"\r\n") else data
