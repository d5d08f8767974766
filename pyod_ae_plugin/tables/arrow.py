"""Parquet and CSV files of any size, through pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pyod_ae_plugin.columns.frames import LARGEST_EXACT, TIME, Array, Cells, Frame, Texts
from pyod_ae_plugin.sources import check_keys, folder_keys
from pyod_ae_plugin.tables.cells import GAPS, as_cells, constant, number


def pyarrow() -> Any:
    """Import pyarrow; an ImportError names the extra that installs it."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow: pip install 'pyod-ae-plugin[arrow]'."
        ) from error
    return pyarrow


_NO_TIME = np.iinfo(np.int64).min  # is NaT

# ------------------------------------------------------------------ Parquet


class ParquetFiles:
    """A table in a Parquet file, or in the Parquet files of a folder.

    Folders that are called ``key=value`` make a column of each key.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self._files = {file: folder_keys(path, file) for file in files}
        parquet = pyarrow().parquet
        # The first file says which columns there are; the number of rows is that of all files.
        first, self.keys = files[0], list(self._files[files[0]])
        self.names: list[str] = [*parquet.read_schema(first).names, *self.keys]
        self.n_rows = sum(parquet.read_metadata(file).num_rows for file in self._files)

    def frames(self, columns: Sequence[str], n_rows: int) -> Iterator[Frame]:
        """Yield the columns in frames of at most ``n_rows`` rows, in order."""
        for path, partition in self._files.items():
            check_keys(path, partition, self.keys)
            # pyarrow.dataset would decode whole row groups, which can be of any size.
            with pyarrow().parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
                in_file = [name for name in columns if name not in partition]
                _check_columns(path, file.schema_arrow, in_file)
                # Without a column, batches would have no height.
                for batch in file.iter_batches(n_rows, columns=in_file or None):
                    yield _frame(path, batch, columns, partition)


def _frame(path: Path, batch: Any, columns: Sequence[str], partition: dict[str, str]) -> Frame:
    cells: dict[str, Cells] = {}
    held = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in columns:
        if name in partition:
            cells[name] = constant(partition[name], len(batch))
        else:
            cells[name] = _typed_cells(f"{path}: column {name!r}", held[name])
    return Frame(cells)


def _check_columns(path: Path, schema: Any, columns: Sequence[str]) -> None:
    """Raise unless a Parquet file has these columns."""
    names = set(schema.names)
    missing = [name for name in columns if name not in names]
    if missing:
        raise ValueError(f"{path}: column {missing[0]!r} is missing; the first file has it.")


def _typed_cells(where: str, column: Any) -> Cells:
    """Convert a column of a type to cells. In text, only null is a gap.

    Whole numbers that float64 would round become text, since they may be keys.
    """
    arrow, types = pyarrow(), pyarrow().types
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return _number_cells(column)
    if types.is_boolean(kind):
        return Texts(_codes(column.cast(arrow.int32())), ["False", "True"])
    if types.is_timestamp(kind) or types.is_date(kind):
        return _time_cells(column)
    if types.is_time(kind) or str(kind) in ("string", "large_string", "string_view"):
        return _texts(column.cast(arrow.string()))
    if types.is_null(kind):
        return np.full(len(column), np.nan)
    raise ValueError(
        f"{where} holds {kind}; expected numbers, text, times or booleans. Leave the column out, "
        "or convert it."
    )


def _number_cells(column: Any) -> Cells:
    arrow, kind = pyarrow(), column.type
    values = _filled(column.cast(arrow.float64(), safe=False), np.nan)
    is_whole = arrow.types.is_integer(kind) or getattr(kind, "scale", 1) <= 0
    if is_whole and (np.abs(values) >= LARGEST_EXACT).any():
        return as_cells(_texts(column.cast(arrow.string())))
    return values


def _time_cells(column: Any) -> Array:
    """Times as a clock in their time zone shows them."""
    arrow = pyarrow()
    if getattr(column.type, "tz", None) is not None:
        column = arrow.compute.local_timestamp(column)
    counts = column.cast(arrow.timestamp("us"), safe=False).cast(arrow.int64())
    return _filled(counts, _NO_TIME).view(TIME)


# ------------------------------------------------------------------ CSV


def split(
    text: bytes, sep: str, n_columns: int, positions: Sequence[int], longest: int
) -> Any | None:
    """Split rows of CSV in UTF-8 into cells; return the columns at some positions as a table.

    A blank line is a gap in a table of one column, and no row in others. Returns None where rows
    have another number of cells, or a cell has more than ``longest`` bytes.
    """
    arrow, csv = pyarrow(), pyarrow().csv
    names = [f"{i}" for i in range(n_columns)]
    selected = [names[i] for i in positions]
    try:
        table = csv.read_csv(
            arrow.BufferReader(text),
            csv.ReadOptions(column_names=names, block_size=len(text) + 1),
            csv.ParseOptions(
                delimiter=sep, newlines_in_values=b'"' in text, ignore_empty_lines=n_columns > 1
            ),
            csv.ConvertOptions(
                column_types=dict.fromkeys(selected, arrow.string()),
                include_columns=selected,
                null_values=_SPELLINGS,
                strings_can_be_null=True,
                check_utf8=False,
            ),
        )
    except arrow.ArrowInvalid:
        return None
    return None if any(_longest(c) > longest for c in table.columns) else table


def text_frame(tables: Sequence[Any], names: Sequence[str], decimal: str) -> Frame:
    """Join tables of text, and convert each column to numbers if all its cells are."""
    columns = pyarrow().concat_tables(tables).columns
    cells = (_text_cells(column.combine_chunks(), decimal) for column in columns)
    return Frame(dict(zip(names, cells, strict=True)))


def _longest(column: Any) -> int:
    """At least the length of the longest cell in bytes."""
    n_bytes: int = column.nbytes
    if n_bytes < 2**16:
        return n_bytes
    compute = pyarrow().compute
    return compute.max(compute.binary_length(column)).as_py() or 0


def _text_cells(column: Any, decimal: str) -> Cells:
    """Convert text as :func:`as_cells` does, which decides where pyarrow reads no number."""
    arrow, compute, numbers = pyarrow(), pyarrow().compute, column
    first = compute.first(column).as_py()
    # pyarrow is slow where many cells are not numbers.
    if first is not None and number(first, decimal) is None:
        return as_cells(_texts(column), decimal)
    if decimal == ",":
        if compute.any(compute.match_substring(column, ".")).as_py():
            return as_cells(_texts(column), decimal)
        numbers = compute.replace_substring(column, ",", ".")
    try:
        values = _filled(numbers.cast(arrow.float64()), np.nan)
    except arrow.ArrowInvalid:
        return as_cells(_texts(column), decimal)
    if (np.abs(values) >= LARGEST_EXACT).any():
        return as_cells(_texts(column), decimal)
    return values


# ------------------------------------------------------------------ columns of pyarrow


def _texts(column: Any) -> Texts:
    encoded = column.dictionary_encode()
    return Texts(_codes(encoded.indices), _strings(encoded.dictionary))


def _strings(column: Any) -> list[str]:
    """The cells of a column of text without null."""
    arrow = pyarrow()
    # Many times as fast as to_pylist; but if cells hold NUL, the joint text comes apart there.
    lists = arrow.ListArray.from_arrays(arrow.array([0, len(column)], arrow.int32()), column)
    cells: list[str] = arrow.compute.binary_join(lists, "\0")[0].as_py().split("\0")
    return cells if len(cells) == len(column) else column.to_pylist()


def _codes(column: Any) -> Array:
    return _filled(column, -1).astype(np.int32, copy=False)


def _filled(column: Any, value: float) -> Array:
    """A column of numbers as an array that can be written to, null as a value."""
    if len(column) == 0:
        return np.empty(0, dtype=column.type.to_pandas_dtype())
    # pyarrow's own ways to make an array import pandas, which takes seconds.
    held = np.frombuffer(column.buffers()[1], dtype=column.type.to_pandas_dtype())
    values: Array = held[column.offset : column.offset + len(column)].copy()
    if column.null_count:
        values[_filled(column.is_null().cast(pyarrow().uint8()), 0) == 1] = value
    return values


def _spellings(word: str) -> list[str]:
    """A word in all mixtures of small letters and capitals."""
    return sorted({"".join(letters) for letters in product(*zip(word, word.upper(), strict=True))})


_SPELLINGS = [spelling for word in sorted(GAPS) for spelling in _spellings(word)]


# ------------------------------------------------------------------ writing


def write_parquet(path: Path, pieces: Iterable[Mapping[str, Array]]) -> None:
    """Write a table that comes in pieces with the same columns."""
    arrow, writer = pyarrow(), None
    try:
        for piece in pieces:
            table = arrow.table(dict(piece))
            writer = writer or arrow.parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
