"""Files of scores: written piece by piece, and gone on with where a run was broken off."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pyod_ae_plugin.detectors.rows import as_rows
from pyod_ae_plugin.engine.rows import RowSample
from pyod_ae_plugin.files import replacing
from pyod_ae_plugin.integrations import arrow
from pyod_ae_plugin.tables import Shown, Table
from pyod_ae_plugin.version import __version__

Array = np.ndarray[Any, Any]

WRITABLE = (".csv", ".npy", ".npz", ".parquet")
# Of the rows that were scored; drift shows in so many as well as in all.
_ROWS_KEPT = 10_000


class Scored(NamedTuple):
    """What was scored.

    Attributes
    ----------
    n_rows : int
    n_outliers : int
    sample : ndarray of shape (n, n_features)
        A uniform sample of the rows; all, if they are few.
    """

    n_rows: int
    n_outliers: int
    sample: Array


class Parts:
    """Scores that are kept, batch by batch, in a hidden folder beside the output.

    Parameters
    ----------
    output : Path
        The file that shall come of them.
    identity : str
        What they are scores of, by what; parts of anything else are thrown away.
    """

    def __init__(self, output: Path, identity: str) -> None:
        self._output, self._folder = output, output.with_name(f".{output.name}.parts")
        self._identity, self._described = identity, self._folder / "identity"
        if not self._described.is_file() or self._described.read_text() != identity:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.n = 0

    def add(self, batch: Array, score: Callable[[Array], Array]) -> Array:
        """Return the scores of the next batch, and keep them if they are not there already."""
        path = self._path(self.n)
        scores = np.load(path, allow_pickle=False) if path.exists() else score(batch)
        if not path.exists():
            with _writing(self._output):
                self._keep(path, scores)
        self.n += 1
        return scores

    def __iter__(self) -> Iterator[Array]:
        """Scores of the batches that were added."""
        return (np.load(self._path(i), allow_pickle=False) for i in range(self.n))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder)

    def _keep(self, path: Path, scores: Array) -> None:
        if not self._folder.exists():
            self._folder.mkdir()
            self._described.write_text(self._identity)
        with replacing(path) as new:
            np.save(new, scores)

    def _path(self, i: int) -> Path:
        return self._folder / f"{i:08}.npy"


def score_table(
    table: Table,
    score: Callable[[Array], Array],
    threshold: float,
    output: Path,
    model: Path,
    device: str | None,
) -> Scored:
    """Write score and label of each row of a table to a file.

    Broken off, it goes on at the batch where it was when it is called with the same arguments
    again. The file is there as a whole or not at all.

    Parameters
    ----------
    table : Table
    score : callable
        Maps rows to scores.
    threshold : float
        Rows with larger scores are labelled 1.
    output : Path
        CSV, NPY, NPZ or Parquet.
    model : Path
        The folder of the detector; the table, this and the device tell one run from another.
    device : str or None

    Returns
    -------
    Scored
    """
    check_writable(output)
    parts = Parts(output, _identity(table, model, device))
    n_outliers = 0
    sample, generator = RowSample(_ROWS_KEPT), torch.Generator().manual_seed(0)
    for batch in Shown(table, "Scoring"):
        scores = parts.add(batch, score)
        sample = sample.added(as_rows(batch)[:], generator)
        n_outliers += int((scores > threshold).sum())
    labelled = ({"score": s, "label": (s > threshold).astype(np.int64)} for s in parts)
    with _writing(output):
        write_columns(output, labelled, sample.n_seen)
    parts.remove()
    return Scored(sample.n_seen, n_outliers, sample.rows().numpy())


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Say of what cannot be written, as on a full disk, which file it was for and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{output}: the scores could not be written: {error}. Make room there and run the same "
            "command again: it goes on where it was."
        ) from error


def check_writable(path: Path) -> None:
    """Raise unless scores can be written to a file of this kind, there."""
    if path.suffix not in WRITABLE:
        raise ValueError(f"{path}: scores are written to {', '.join(WRITABLE)} files.")
    if not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder.")


def write_columns(path: Path, pieces: Iterable[Mapping[str, Array]], n_rows: int) -> None:
    """Write columns that come in pieces to a CSV, NPZ or Parquet file; to NPY side by side."""
    check_writable(path)
    with replacing(path) as new:
        if path.suffix == ".csv":
            _write_csv(new, pieces)
        elif path.suffix == ".npy":
            _write_npy(new, pieces, n_rows)
        elif path.suffix == ".npz":
            whole = list(pieces)
            columns = {name: np.concatenate([piece[name] for piece in whole]) for name in whole[0]}
            np.savez_compressed(new, **columns)  # type: ignore[arg-type]
        else:
            arrow.write_parquet(new, pieces)


def _write_csv(path: Path, pieces: Iterable[Mapping[str, Array]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        for i, piece in enumerate(pieces):
            if i == 0:
                writer.writerow(piece)
            writer.writerows(zip(*(column.tolist() for column in piece.values()), strict=True))


def _write_npy(path: Path, pieces: Iterable[Mapping[str, Array]], n_rows: int) -> None:
    with path.open("wb") as file:
        for i, piece in enumerate(pieces):
            values = np.column_stack(list(piece.values())).astype("<f8")
            if i == 0:
                described = {"descr": "<f8", "fortran_order": False}
                shape = (n_rows, values.shape[1])
                np.lib.format.write_array_header_1_0(file, {**described, "shape": shape})
            file.write(values.tobytes())


def _identity(table: Table, model: Path, device: str | None) -> str:
    """What scores hang on: the table's files by size and time, the detector by its contents."""
    digest = hashlib.sha256(repr((__version__, device, table.names)).encode())
    files = sorted(table.path.rglob("*")) if table.path.is_dir() else [table.path]
    for file in files:
        about = file.stat()
        digest.update(repr((str(file.resolve()), about.st_size, about.st_mtime_ns)).encode())
    for file in sorted(model.iterdir()) if model.is_dir() else [model]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
