"""What is done with tables in files: fitting to one, and opening one as a detector takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyod_ae_plugin.columns.frames import Cells, Frame, Texts, as_texts, gaps_in, joined
from pyod_ae_plugin.columns.matrix import Columns, NumberColumn
from pyod_ae_plugin.columns.profiles import UnusableColumnsError
from pyod_ae_plugin.detectors.base import adopt, fitted_of
from pyod_ae_plugin.detectors.inputs import allows_gaps, as_rows
from pyod_ae_plugin.drift import DriftReport, compare
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plots import feature_names, format_number, main_reasons, shown_cells
from pyod_ae_plugin.report.rows_shown import ids_of, joined_rows, some_rows, take_rows
from pyod_ae_plugin.sources import some_of
from pyod_ae_plugin.tables.dialects import ReadOptions
from pyod_ae_plugin.tables.reading import Table, read_table

if TYPE_CHECKING:
    from rich.table import Table as Listing

    from pyod_ae_plugin.detectors.base import NeuralDetector

Batch = Array | Frame

# ------------------------------------------------------------------------------------------- fit


def fit_table(
    detector: NeuralDetector,
    path: Path,
    asked: Mapping[str, str],
    missing: str,
    options: ReadOptions,
) -> list[str]:
    """Fit a detector to a table in a file, and return what to say of the table, a sentence each.

    ``asked`` holds roles of columns by name. ``missing`` is what to do about missing values: 'mask'
    hides them, 'drop' leaves out rows that have any, 'refuse' raises a ValueError.
    """
    params = detector.get_params(deep=False)
    left_out = [] if "columns" in params else list(asked)
    table = read_table(path, columns=_all_but(left_out), options=options)
    if "missing" in params and params["missing"] is None:
        detector.set_params(missing="mask" if missing == "mask" else "refuse")
    if table.is_array or "columns" not in params:
        rows = _numbers(table, asked, missing)
    else:
        given = params["columns"] if isinstance(params["columns"], Mapping) else {}
        detector.set_params(columns={**given, **asked} or "auto")
        rows = _Rows(table, table.with_progress("Reading").frames, missing, {**given, **asked})
    try:
        detector.fit_batches(rows)
    except UnusableColumnsError as error:
        raise _located(error, table) from error
    if not table.is_array:
        reading = table.options.to_json()
        adopt(detector, replace(fitted_of(detector), reading=reading, **_names(detector, rows)))
    columns: Columns | None = getattr(detector, "columns_", None)
    return [*table.notes, *([] if columns is None else columns.notes), *rows.notes]


def _located(error: UnusableColumnsError, table: Table) -> UnusableColumnsError:
    """The error with the lines of the file in which cells are not like the others."""
    places = []
    for name, row in error.rows.items():
        if row is not None and table.line is not None:
            path, line = table.line(row)
            places.append(f"{path}: line {line}, column {name!r} is the first such cell.")
    return UnusableColumnsError([*error.problems, *places], error.rows)


def _all_but(left_out: Sequence[str]) -> Callable[[list[str]], list[str]]:
    """A function that chooses all columns but some; those that are not there are an error."""

    def chosen(names: list[str]) -> list[str]:
        unknown = [name for name in left_out if name not in names]
        return [name for name in names if name not in left_out] + unknown

    return chosen


def _numbers(table: Table, asked: Iterable[str], missing: str) -> _Rows:
    """The rows of a table of numbers, of which those that are asked for by name are left out."""
    if table.names is None and (named := next(iter(asked), None)) is not None:
        raise ValueError(f"{table.path}: there is no column {named!r}; the file has no names.")
    table = replace(table, allow_gaps=missing != "refuse")
    return _Rows(table, table.with_progress("Reading").__iter__, missing, {})


def _names(detector: NeuralDetector, rows: _Rows) -> dict[str, Any]:
    """Names of the features, where the detector was given numbers without them."""
    if rows.names is None or hasattr(detector, "feature_names_in_"):
        return {}
    return {"feature_names_in": np.array(rows.names, dtype=object)}


class _Rows:
    """Batches of the rows to fit to, which can be iterated over again."""

    def __init__(
        self,
        table: Table,
        batches: Callable[[], Iterator[Batch]],
        missing: str,
        roles: Mapping[str, str],
    ) -> None:
        self.names = table.names
        self._path, self._batches, self._missing = table.path, batches, missing
        self._needless = {n for n, role in roles.items() if role in ("id", "label", "drop")}
        self._n_dropped = 0

    def __iter__(self) -> Iterator[Batch]:
        self._n_dropped, n_before = 0, 0
        for batch in self._batches():
            n_before += len(batch)
            if self._missing == "mask":
                yield batch
                continue
            kept = ~self._has_gap(batch, n_before - len(batch))
            self._n_dropped += int((~kept).sum())
            if kept.any():
                yield some_rows(batch, kept)
        if n_before and self._n_dropped == n_before:
            raise ValueError(
                f"{self._path}: each of {n_before:,} rows has a missing value. Leave out the "
                "columns that hold them by --drop, or hide such values by --missing mask."
            )

    @property
    def notes(self) -> list[str]:
        """What to say of rows that were left out."""
        rows = "row" if self._n_dropped == 1 else "rows"
        left_out = f"{self._n_dropped:,} {rows} with missing values are left out."
        return [left_out] if self._n_dropped else []

    def _has_gap(self, batch: Batch, n_before: int) -> Array:
        """Whether each row has a missing value; ValueError for the first if they are refused."""
        if isinstance(batch, Frame):
            gaps = {n: gaps_in(c) for n, c in batch.columns.items() if n not in self._needless}
        else:
            gaps = {str(j): np.isnan(column) for j, column in enumerate(batch.T, start=1)}
        has_gap: Array = np.any(list(gaps.values()), axis=0)
        if self._missing == "refuse" and has_gap.any():
            row = int(has_gap.argmax())
            name = next(name for name, own in gaps.items() if own[row])
            raise ValueError(
                f"{self._path}: row {n_before + row + 1} has no value in column {name!r}. Fit with "
                "--missing mask to hide such values, or --missing drop to leave such rows out."
            )
        return has_gap


# ----------------------------------------------------------------------- tables for a detector


@dataclass(frozen=True)
class Opened:
    """A table in a file, with the columns that a fitted detector needs."""

    detector: NeuralDetector
    table: Table
    columns: Columns | None  # how it is encoded; None if it is an array
    keep: list[str]  # columns to keep beside scores
    notes: tuple[str, ...]

    @property
    def matrices(self) -> Table:
        """The table as the numbers that the scoring module takes."""
        table = self.table if self.columns is None else self.table.encoded(self.columns)
        return replace(table, allow_gaps=allows_gaps(self.detector))

    @property
    def rows(self) -> Iterable[Batch]:
        """The table as the detector's methods take it, to be iterated over more than once."""
        if hasattr(self.detector, "columns_"):
            return _Again(self.table.frames)
        return self.matrices

    def score(self, matrix: Array) -> Array:
        """Scores [n] of rows of ``matrices``."""
        return fitted_of(self.detector).score(as_rows(matrix), self.detector.precision)

    def drift(self, sample: Array) -> DriftReport:
        """Compare rows of ``matrices`` with those of training."""
        return compare(fitted_of(self.detector), sample, self.score(sample), 0.05)

    @property
    def kept(self) -> Callable[[], Iterator[Mapping[str, Cells]]] | None:
        """A function that yields the columns to keep, batch by batch; None if there are none."""
        if not self.keep:
            return None
        return lambda: (frame.select(self.keep).columns for frame in self.table.frames())

    def column(self, name: str) -> Texts:
        """The cells of a column as text."""
        found = [frame.select([name]) for frame in self.table.frames()]
        return as_texts(joined(found).columns[name])


@dataclass(frozen=True)
class _Again:
    """What a function iterates over, as often as it is asked."""

    batches: Callable[[], Iterator[Batch]]

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()


def open_for(
    detector: NeuralDetector, path: Path, keep: Sequence[str], options: ReadOptions
) -> Opened:
    """Open a table in a file for a fitted detector, which finds the columns by their names.

    What ``options`` leave open is as it was for the table that the detector was fitted to. ``keep``
    names columns to keep beside the ids. Raises ValueError if the table lacks a column.
    """
    columns: Columns | None = getattr(detector, "columns_", None)
    if columns is None and hasattr(detector, "feature_names_in_"):
        columns = _of_numbers(detector.feature_names_in_)
    ids = [] if columns is None else columns.ids

    def needed(names: list[str]) -> list[str]:
        unknown = [name for name in keep if name not in names]
        if columns is None:
            return [*names, *unknown]
        columns.check_names(names)
        wanted = {*columns.features, *ids, *keep}
        return [*(name for name in names if name in wanted), *unknown]

    taken = [name for name in keep if name in ("score", "label", "row")]
    if taken:
        raise ValueError(
            f"{path}: the output already has a column {taken[0]!r}. Rename that of the table to "
            "keep it."
        )
    table = read_table(path, columns=needed, options=_filled(options, detector))
    notes = list(table.notes)
    if table.names is None and not (table.is_array and columns is None):
        table, note = _named(table, columns)
        notes += note
    if columns is None and not table.is_array:
        columns = _of_numbers(name for name in table.names or () if name not in keep)
    there = [name for name in (*ids, *keep) if name in (table.names or ())]
    return Opened(detector, table, columns, list(dict.fromkeys(there)), tuple(notes))


def _of_numbers(names: Iterable[str]) -> Columns:
    return Columns(tuple(NumberColumn(str(name), "number") for name in names))


def _filled(options: ReadOptions, detector: NeuralDetector) -> ReadOptions:
    """The options, with those of the table of training where they leave it open."""
    stored = getattr(detector, "reading_", None)
    known = ReadOptions() if stored is None else ReadOptions.from_json(stored)
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    return replace(known, **{name: value for name, value in values.items() if value is not None})


def _named(table: Table, columns: Columns | None) -> tuple[Table, list[str]]:
    """A table without names, with those of the table of training, and what to say of it."""
    n = next(len(frame.names) for frame in table.frames())
    numbered = [str(i + 1) for i in range(n)]
    known = [] if columns is None else [column.name for column in columns.columns]
    features = [] if columns is None else columns.features
    names = next((names for names in (known, features) if len(names) == n), numbered)
    if columns is not None and names is numbered and set(features) - set(numbered):
        raise ValueError(
            f"{table.path}: the file has no names and {n} columns, but the detector was fitted to "
            f"{some_of(features)}. Give it a first line of names."
        )
    note = "The file has no names: its columns are taken to be those of the training table."
    return table.with_names(names), [note] if names != numbered else []


# ------------------------------------------------------------------------------- labels of rows

# Pairs of labels, inlier first, that need no explanation.
_KNOWN_LABELS = (("0", "1"), ("false", "true"), ("1", "-1"))


def labels_of(opened: Opened, name: str, outlier_values: Sequence[str]) -> Array:
    """Labels [n], 1 for outliers, from a column; ValueError if it is unclear which are outliers."""
    cells = opened.column(name)
    where = f"{opened.table.path}, column {name!r}"
    if (cells.codes < 0).any():
        row = int((cells.codes < 0).argmax()) + 1
        raise ValueError(f"{where}: row {row} has no label. Fill it, or leave out the row.")
    values = [value.strip() for value in cells.values]
    found = sorted({values[code] for code in np.unique(cells.codes)})
    if outlier_values:
        unknown = [value for value in outlier_values if value not in found]
        if unknown:
            raise ValueError(f"{where}: no label is {unknown[0]!r}; they are {some_of(found)}.")
        outliers = set(outlier_values)
    else:
        small = {value.lower() for value in found}
        known = next((pair for pair in _KNOWN_LABELS if small <= set(pair)), None)
        if known is None:
            raise ValueError(
                f"{where}: the labels are {some_of(found)}; expected 0 and 1, False and True, or 1 "
                f"and -1. Name that of outliers, as in --outlier-value {found[-1]!r}."
            )
        outliers = {value for value in found if value.lower() == known[1]}
    is_outlier: Array = np.array([value in outliers for value in values])[cells.codes]
    return is_outlier.astype(int)


def note_on_label(opened: Opened, name: str) -> list[str]:
    """What to say of a label that the detector has learned from."""
    columns = opened.columns
    if columns is None or name not in columns.features:
        return []
    return [
        f"The detector has learned from {name!r}, so that it looks better than it is. Fit it with "
        f"--label {name!r}."
    ]


# ---------------------------------------------------------------------------------- the top rows


def top_rows_of(opened: Opened, indices: Array, scores: Array) -> Listing:
    """A table to print of the rows with these indices and scores: ids, and why they are on top."""
    from rich.table import Table as Listing

    detector = opened.detector
    order = np.argsort(indices)
    rows = joined_rows([rows for _, rows in take_rows(opened.rows, indices[order])])
    contributions, cells = detector.explain(rows), shown_cells(detector, rows)
    names, ids = feature_names(detector), ids_of(detector, rows)
    place = {int(indices[i]): k for k, i in enumerate(order)}
    listing = Listing("rank", "row", *ids, "score", "outlier", "why", title=None)
    for rank, (index, score) in enumerate(zip(indices.tolist(), scores.tolist(), strict=True), 1):
        k = place[index]
        reasons = [f"{names[j]} = {cells[k][j]}" for j in main_reasons(contributions[k])]
        shown = [ids[name][k] or "" for name in ids]
        outlier = "yes" if score > detector.threshold_ else "no"
        row = [str(rank), f"{index + 1:,}", *shown, format_number(score), outlier]
        listing.add_row(*row, ", ".join(reasons))
    return listing
