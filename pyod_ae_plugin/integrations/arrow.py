"""Parquet and CSV files of any size, through pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


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
    """A table in a Parquet file, or in a folder of Parquet files, ordered by name."""

    def __init__(self, path: Path) -> None:
        self._files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not self._files:
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
    # pyarrow.dataset would read ahead without a limit and keep the batches in memory.
    reader = csv.open_csv(
        path,
        csv.ReadOptions(column_names=names, skip_rows=skip_rows),
        # An empty cell is an error, not NaN.
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pyarrow().float64()),
            null_values=[],
            include_columns=columns,
        ),
    )
    pieces: list[Array] = []
    for batch in reader:
        pieces.append(_as_array(batch))
        if sum(map(len, pieces)) >= n_rows:
            yield np.concatenate(pieces)
            pieces = []
    if pieces:
        yield np.concatenate(pieces)


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
    for name in columns:
        if name not in schema.names:
            raise ValueError(f"{path}: column {name!r} is missing; the first file has it.")
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise ValueError(f"{path}: column {name!r} holds {kind}, not numbers.")
