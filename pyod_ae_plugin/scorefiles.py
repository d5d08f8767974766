"""Files of scores, written batch by batch. A run that was interrupted can be resumed."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pyod_ae_plugin import __version__
from pyod_ae_plugin.columns.frames import TIME, Cells, Texts, as_texts
from pyod_ae_plugin.detectors.inputs import as_rows
from pyod_ae_plugin.engine.rows import RowSample
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.storage import atomic_write, check_output, model_digest, working_folder
from pyod_ae_plugin.tables import arrow
from pyod_ae_plugin.tables.reading import Table

WRITABLE = (".csv", ".npy", ".npz", ".parquet")


class Scored(NamedTuple):
    """Summary of the rows that were scored."""

    n_rows: int
    n_outliers: int  # scores above the threshold
    sample: Array  # a uniform sample of at most 10,000 rows
    top: tuple[Array, Array]  # indices and scores of the highest scores, descending


class Parts:
    """The scores of each batch, kept in a folder that is this run's alone.

    The names of the files hold the identity of the run: a digest of all that its scores depend on.
    """

    def __init__(self, folder: Path, identity: str, output: Path) -> None:
        self._folder, self._identity, self._output = folder, identity, output
        self._n_rows: list[int] = []  # of each part
        for path in folder.glob("*.npy"):
            if not path.stem.endswith(identity):  # of another run that was interrupted
                path.unlink()

    def add(self, batch: Array, score: Callable[[Array], Array]) -> Array:
        """Return the scores of the next batch, from an earlier run if it kept them."""
        i = len(self._n_rows)
        self._n_rows.append(len(batch))
        scores = self._kept(i)
        if scores is None:
            scores = np.asarray(score(batch), dtype=np.float64)
            with _write_errors(self._output), atomic_write(self._path(i)) as new:
                np.save(new, scores)
        return scores

    def __iter__(self) -> Iterator[Array]:
        """Yield the scores of the batches that were added."""
        for i in range(len(self._n_rows)):
            scores = self._kept(i)
            if scores is None:
                raise ValueError(f"{self._path(i)} was changed while it was in use. Run again.")
            yield scores

    def _kept(self, i: int) -> Array | None:
        """The scores of a batch, or None if there is no whole file of them."""
        try:
            scores: Array = np.load(self._path(i), allow_pickle=False)
        except (FileNotFoundError, EOFError, ValueError):
            return None
        is_whole = scores.shape == (self._n_rows[i],) and scores.dtype == np.float64
        return scores if is_whole and np.isfinite(scores).all() else None

    def _path(self, i: int) -> Path:
        return self._folder / f"{i:08}-{self._identity}.npy"


def score_table(
    table: Table,
    score: Callable[[Array], Array],
    threshold: float,
    output: Path,
    model: Path,
    device: str | None,
    *,
    kept: Callable[[], Iterable[Mapping[str, Cells]]] | None = None,
    only_outliers: bool = False,
    n_top: int = 0,
) -> Scored:
    """Write score and label of each row of a table to a CSV, NPY, NPZ or Parquet file.

    ``score`` maps rows [n, n_features] to scores [n]; rows above the threshold are labelled 1. The
    file is written as a whole or not at all. If the call is interrupted, another one with the same
    table, saved model and device resumes at the batch where it stopped. ``kept`` returns columns to
    write beside the scores, in batches like the table's; an NPY file has no place for them. With
    ``only_outliers``, rows above the threshold are written alone, with their numbers from 1.

    Raises ValueError if the table is empty or damaged or the output has another ending or is an
    input, and OSError if the output cannot be written or another run is writing it.
    """
    check_writable(output, table.path, model)
    n_outliers = 0
    # The drift test needs no more than 10,000 rows.
    sample, generator = RowSample(10_000), torch.Generator().manual_seed(0)
    top: tuple[Array, Array] = np.empty(0, np.int64), np.empty(0)
    with working_folder(output) as folder:
        parts = Parts(folder, _identity(table, model, device), output)
        for batch in table.with_progress("Scoring"):
            scores = parts.add(batch, score)
            sample = sample.added(as_rows(batch)[:], generator)
            n_outliers += int((scores > threshold).sum())
            top = _top(top, scores, sample.n_seen - len(scores), n_top)
        beside = repeat({}) if kept is None or output.suffix == ".npy" else kept()
        pieces = _pieces(parts, beside, threshold, only_outliers)
        with _write_errors(output):
            write_columns(output, pieces, n_outliers if only_outliers else sample.n_seen)
    return Scored(sample.n_seen, n_outliers, sample.rows().numpy(), top)


def _top(top: tuple[Array, Array], scores: Array, n_before: int, n: int) -> tuple[Array, Array]:
    """Indices and scores of the n highest scores so far, the highest first."""
    indices = np.concatenate([top[0], n_before + np.arange(len(scores))])
    scores = np.concatenate([top[1], scores])
    order = np.argsort(-scores, kind="stable")[:n]
    return indices[order], scores[order]


def _pieces(
    parts: Iterable[Array],
    beside: Iterable[Mapping[str, Cells]],
    threshold: float,
    only_outliers: bool,
) -> Iterator[dict[str, Array]]:
    """The columns to write, batch by batch; at least one batch, which may have no rows."""
    n_before = 0
    for scores, cells in zip(parts, beside, strict=False):
        rows = n_before + 1 + np.arange(len(scores))
        labels: Array = (scores > threshold).astype(np.int64)
        columns = {name: _written(column) for name, column in cells.items()}
        piece = {**columns, "score": scores, "label": labels}
        if only_outliers:
            piece = {"row": rows, **piece}
            piece = {name: column[labels == 1] for name, column in piece.items()}
        n_before += len(scores)
        yield piece


def _written(cells: Cells) -> Array:
    """Cells as they are written: whole numbers without a point, gaps as nothing."""
    if isinstance(cells, Texts):
        return np.array(cells.cells(), dtype=object)
    if cells.dtype == TIME:
        return np.array(as_texts(cells).cells(), dtype=object)
    with np.errstate(invalid="ignore"):
        whole = cells.astype(np.int64)
        is_whole = bool(np.equal(whole, cells).all())
    return whole if is_whole else cells


@contextmanager
def _write_errors(output: Path) -> Iterator[None]:
    """Raise errors while writing, as on a full disk, with the name of the output and a remedy."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{output}: the scores could not be written: {error}. Make room there and run the same "
            "command again; it resumes where it stopped."
        ) from error


def check_writable(path: Path, *inputs: Path) -> None:
    """Raise unless the file has a known ending and can be written without harm to the inputs."""
    if path.suffix not in WRITABLE:
        raise ValueError(f"{path}: scores are written to {', '.join(WRITABLE)} files.")
    check_output(path, *inputs)


def write_columns(path: Path, pieces: Iterable[Mapping[str, Array]], n_rows: int) -> None:
    """Write columns that come in pieces to a file; NPY gets them side by side as one array."""
    check_writable(path)
    with atomic_write(path) as new:
        if path.suffix == ".csv":
            _write_csv(new, pieces)
        elif path.suffix == ".npy":
            _write_npy(new, pieces, n_rows)
        elif path.suffix == ".npz":
            held = list(pieces)
            columns = {name: np.concatenate([piece[name] for piece in held]) for name in held[0]}
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
                shape = (n_rows, values.shape[1])
                header = {"descr": "<f8", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(values.tobytes())


def _identity(table: Table, model: Path, device: str | None) -> str:
    """Digest of what scores depend on: the table by size and time, the model by content."""
    digest = hashlib.sha256(repr((__version__, device, table.names, table.options)).encode())
    for file, state in table.source.states.items():
        digest.update(repr((str(file.resolve()), state)).encode())
    digest.update(model_digest(model).encode())
    return digest.hexdigest()[:32]
