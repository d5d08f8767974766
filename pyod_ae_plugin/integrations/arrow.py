"""Parquet and CSV files of any size, through pyarrow."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, Any]

_CELL_BYTES = 64  # of text; a number takes 25


def pyarrow() -> Any:
    """Import pyarrow; an ImportError names the extra that installs it."""
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow: pip install 'pyod-ae-plugin[arrow]'."
        ) from error
    return pyarrow


class ParquetFiles:
    """A table in a Parquet file, or in the Parquet files of a folder."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self._files = files
        if not files:
            raise ValueError(f"{path}: there is no .parquet file in the folder.")
        parquet = pyarrow().parquet
        # The first file says which columns there are; the number of rows is that of all files.
        self.names: list[str] = parquet.read_schema(self._files[0]).names
        self.n_rows = sum(parquet.read_metadata(file).num_rows for file in self._files)

    def batches(self, columns: Sequence[str], n_rows: int) -> Iterator[Array]:
        """Yield the columns as float64 arrays of at most ``n_rows`` rows, in order."""
        for path in self._files:
            # pyarrow.dataset would decode whole row groups, which can be of any size.
            with pyarrow().parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
                _check_columns(path, file.schema_arrow, columns)
                for batch in file.iter_batches(n_rows, columns=list(columns)):
                    yield _as_array(batch.select(list(columns)))


def csv_batches(
    path: Path, names: Sequence[str], skip_rows: int, columns: Sequence[str], n_rows: int
) -> Iterator[Array]:
    """Yield columns of a CSV file as float64 arrays of about ``n_rows`` rows, in order.

    ``names`` names all columns of the file, whose first ``skip_rows`` lines are skipped.
    """
    csv = pyarrow().csv
    block_size = max(2**20, _CELL_BYTES * len(names))  # holds at least a line
    read_options = csv.ReadOptions(column_names=names, skip_rows=skip_rows, block_size=block_size)
    # An empty cell is an error, not NaN.
    convert_options = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pyarrow().float64()),
        null_values=[],
        include_columns=columns,
    )
    pieces: list[Array] = []
    with (
        path.open("rb") as file,
        # pyarrow.dataset would read ahead without a limit and keep the batches in memory.
        csv.open_csv(path, read_options, convert_options=convert_options) as reader,
    ):
        blocks = _text_blocks(file, block_size)
        for batch in reader:
            next(blocks, None)  # about what the batch was read from
            pieces.append(_as_array(batch))
            if sum(map(len, pieces)) >= n_rows:
                yield np.concatenate(pieces)
                pieces = []
        for _ in blocks:
            pass
    if pieces:
        yield np.concatenate(pieces)


def _text_blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the blocks of a file; raise unless it is text in UTF-8.

    pyarrow reads numbers only, and nothing in columns that are not selected. It must not be given a
    file of Python's: its threads may still read when Python ends, which crashes.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    while block := file.read(size):
        decoder.decode(block)
        if b"\0" in block:
            raise ValueError("it holds a NUL byte")
        yield block
    decoder.decode(b"", final=True)


def _as_array(batch: Any) -> Array:
    """Convert a record batch to an array [n, n_columns] of float64."""
    values = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
    return np.column_stack([v.astype(np.float64, copy=False) for v in values])


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


def _check_columns(path: Path, schema: Any, columns: Sequence[str]) -> None:
    """Raise unless a Parquet file has these columns and they hold numbers."""
    types = pyarrow().types
    kinds = dict(zip(schema.names, schema.types, strict=True))
    for name in columns:
        if name not in kinds:
            raise ValueError(f"{path}: column {name!r} is missing; the first file has it.")
        kind = kinds[name]
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise ValueError(f"{path}: column {name!r} holds {kind}, not numbers.")
