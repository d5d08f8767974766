"""Where rows of a Ray dataset are written; workers import this module."""

from __future__ import annotations

from typing import Any

from pyarrow import parquet
from ray.data import SaveMode
from ray.data.datasource import BlockBasedFileDatasink


class ParquetInOrder(BlockBasedFileDatasink):
    """A folder of Parquet files, one of each task, their names in the order of the tasks."""

    def __init__(self, path: str) -> None:
        super().__init__(path, file_format="parquet", mode=SaveMode.ERROR)

    def write_block_to_file(self, block: Any, file: Any) -> None:
        """Write by one thread: several, as in Ray's ``write_parquet``, do not keep the order."""
        parquet.write_table(block.to_arrow(), file)
