"""The rows that a report shows individually: which ones, where they lie, what explains them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyod_ae_plugin.columns.frames import TIME, Frame, Texts, as_texts, joined
from pyod_ae_plugin.detectors.base import matrix_of
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plots import (
    feature_names,
    format_number,
    in_standard_units,
    in_two_dimensions,
    main_reasons,
    shown_cells,
)

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

MAX_POINTS = 10_000  # rows drawn in the latent space
MAX_RANKED = 100  # rows in the table
MAX_CONTRIBUTIONS = 10  # features listed for a ranked row
MAX_FEATURES = 500  # features whose values are drawn
MAX_VALUES = 300_000  # values drawn, of all these features together
MAX_NAME = 80  # characters of a name


@dataclass(frozen=True)
class Contribution:
    """Contribution of a feature to the score of a row, on the scale of the scores."""

    feature: str
    value: str
    reconstruction: str
    # The value in standard deviations of the training rows from their mean; None if the detector
    # does not standardise features, or the value is not a number.
    deviation: float | None
    contribution: float


@dataclass(frozen=True)
class RankedRow:
    """A row with one of the highest scores."""

    name: str  # index label or number
    score: float
    label: int | None  # true label
    contributions: list[Contribution]  # the largest by absolute value, descending
    rest: float  # sum of the contributions of all other features

    @property
    def reasons(self) -> list[Contribution]:
        """Up to three contributions that raise the score most, see :func:`main_reasons`."""
        sizes = np.array([part.contribution for part in self.contributions])
        return [self.contributions[j] for j in main_reasons(sizes)]


@dataclass(frozen=True)
class Feature:
    """How much a feature matters in the ranked rows."""

    name: str
    share: float  # of the summed absolute contributions of all features
    n_largest: int  # rows in which it contributes most
    axis: str | list[str]  # what its drawn values are, see Columns.axes


@dataclass(frozen=True)
class Points:
    """Rows [n] drawn in the latent space. For m of them the feature values are drawn, too."""

    names: list[str]  # index labels or numbers
    scores: Array
    labels: Array | None  # true labels
    places: Array  # [n, 2], coordinates in the figure
    axes: list[str]  # names of the two coordinates
    with_values: Array  # [m], indices of the points whose feature values are drawn
    values: Array  # [m, k], their values of the features in ``Contents.features``


def describe_rows(
    detector: NeuralDetector,
    batches: Iterable[Array | Frame],
    scores: Array,
    labels: Array | None,
    name_of: Callable[[int], Any],
) -> tuple[list[RankedRow], list[Feature], Points]:
    """Explain the rows with the highest scores, and collect points to draw, in one pass.

    Rows of a table are named by its first id, if it has one.
    """
    drawn = sample_rows(scores, MAX_POINTS)
    n_features = min(detector.n_features_in_, MAX_FEATURES)
    # All ranked rows are among these: the sample takes more of the highest scores.
    with_values = sample_rows(scores[drawn], MAX_VALUES // n_features)
    codes, pieces, names_of_rows = [], [], []
    for indices, rows in take_rows(batches, drawn):
        codes.append(detector.transform(rows))
        names_of_rows += _names(detector, indices, rows, name_of)
        pieces.append(some_rows(rows, np.isin(indices, drawn[with_values])))
    kept = joined_rows(pieces)
    row_names = dict(zip(drawn.tolist(), map(_shorten, names_of_rows), strict=True))

    top = top_rows(scores, MAX_RANKED)
    top_values = some_rows(kept, np.searchsorted(drawn[with_values], top))
    contributions = detector.explain(top_values)
    names = [_shorten(name) for name in feature_names(detector)]
    columns = getattr(detector, "columns_", None)
    axes = ["number"] * len(names) if columns is None else columns.axes
    features, order = _features(contributions, names, axes)
    ranked = [
        RankedRow(
            name=row_names[int(i)],
            score=float(scores[i]),
            label=None if labels is None else int(labels[i]),
            contributions=largest,
            rest=rest,
        )
        for i, (largest, rest) in zip(
            top, _largest(detector, top_values, contributions, names), strict=True
        )
    ]
    places, axis_names = in_two_dimensions(np.concatenate(codes), lambda: scores[drawn])
    points = Points(
        names=list(row_names.values()),
        scores=scores[drawn],
        labels=None if labels is None else labels[drawn],
        places=places,
        axes=axis_names,
        with_values=with_values,
        values=_drawn(detector, kept)[:, order],
    )
    return ranked, features, points


def _features(
    contributions: Array, names: list[str], axes: Sequence[str | list[str]]
) -> tuple[list[Feature], Array]:
    """The features that contribute most over all rows, and their columns."""
    sizes = np.abs(contributions).mean(0)
    shares = sizes / max(sizes.sum(), np.finfo(float).tiny)
    n_largest = np.bincount(contributions.argmax(1), minlength=len(names))
    order = np.argsort(-shares, kind="stable")[:MAX_FEATURES]
    features = [Feature(names[j], float(shares[j]), int(n_largest[j]), axes[j]) for j in order]
    return features, order


def _largest(
    detector: NeuralDetector, rows: Array | Frame, contributions: Array, names: list[str]
) -> Iterator[tuple[list[Contribution], float]]:
    """For each row its largest contributions, and the sum of the others."""
    values = shown_cells(detector, rows)
    reconstructions = shown_cells(detector, _rounded(detector.reconstruct(rows)))
    deviations = _deviations(detector, rows)
    for i, row in enumerate(contributions):
        order = np.argsort(-np.abs(row), kind="stable")
        largest = [
            Contribution(
                feature=names[j],
                value=_shorten(values[i][j]),
                reconstruction=_shorten(reconstructions[i][j]),
                deviation=None if np.isnan(deviations[i, j]) else float(deviations[i, j]),
                contribution=float(row[j]),
            )
            for j in order[:MAX_CONTRIBUTIONS]
        ]
        yield largest, float(row[order[MAX_CONTRIBUTIONS:]].sum())


def _rounded(rows: Array | Frame) -> Array | Frame:
    """Rows whose numbers have no more digits than are shown of a cell."""
    if not isinstance(rows, Frame):
        return rows  # shown_cells rounds the numbers of arrays
    return Frame(
        {
            name: cells
            if isinstance(cells, Texts) or cells.dtype == TIME
            else np.array([float(format_number(number, separator="")) for number in cells])
            for name, cells in rows.columns.items()
        }
    )


def _deviations(detector: NeuralDetector, rows: Array | Frame) -> Array:
    """Values [n, n_features] in standard units; NaN for a gap and for what is not a number."""
    matrix = matrix_of(detector, rows)
    units = in_standard_units(detector, matrix)
    columns = getattr(detector, "columns_", None)
    if columns is not None:
        places = columns.places_of_numbers
        units = np.where(places < 0, np.nan, units[:, places])
    return units if detector.preprocessing else np.full_like(units, np.nan)


def _drawn(detector: NeuralDetector, rows: Array | Frame) -> Array:
    """Numbers [n, n_features] by which the values of rows are drawn."""
    columns = getattr(detector, "columns_", None)
    return matrix_of(detector, rows) if columns is None else columns.drawn(rows)


def ids_of(detector: NeuralDetector, rows: Array | Frame) -> dict[str, list[str | None]]:
    """The cells of the ids of a table, by name; empty if there are none."""
    if not isinstance(rows, Frame):
        return {}
    there = [name for name in detector.columns_.ids if name in rows.columns]
    return {name: as_texts(rows.columns[name]).cells() for name in there}


def _names(
    detector: NeuralDetector, indices: Array, rows: Array | Frame, name_of: Callable[[int], Any]
) -> list[Any]:
    """Names of rows with these indices: by the first id of a table, else by their places."""
    by_ids = next(iter(ids_of(detector, rows).values()), None)
    return [name_of(int(i)) for i in indices] if by_ids is None else by_ids


def joined_rows(pieces: Sequence[Array | Frame]) -> Array | Frame:
    """Rows in pieces of one kind as one."""
    frames = [piece for piece in pieces if isinstance(piece, Frame)]
    arrays = [piece for piece in pieces if not isinstance(piece, Frame)]
    return joined(frames) if frames else np.concatenate(arrays)


def some_rows(rows: Array | Frame, which: Array) -> Array | Frame:
    """Rows by their indices, or by whether to take each."""
    return rows.take(which) if isinstance(rows, Frame) else rows[which]


def _shorten(name: Any) -> str:
    text = str(name)
    return text if len(text) <= MAX_NAME else text[: MAX_NAME - 1] + "…"


# ---------------------------------------------------------------- sampling of rows


def top_rows(scores: Array, n: int) -> Array:
    """Indices of the n highest scores, the highest first."""
    candidates = np.arange(len(scores))
    if n < len(scores):
        candidates = np.sort(np.argpartition(-scores, n)[:n])
    ranked: Array = candidates[np.argsort(-scores[candidates], kind="stable")]
    return ranked


def sample_rows(scores: Array, n: int) -> Array:
    """Ascending indices of n rows: half have the highest scores, half are drawn from the others.

    The sample is the same each time. If there are no more than n rows, all are taken.
    """
    if n >= len(scores):
        return np.arange(len(scores))
    top = top_rows(scores, n // 2)
    others = np.delete(np.arange(len(scores)), top)
    drawn = np.random.default_rng(0).choice(others, n - len(top), replace=False)
    return np.sort(np.concatenate([top, drawn]))


def take_rows(
    batches: Iterable[Array | Frame], indices: Array
) -> Iterator[tuple[Array, Array | Frame]]:
    """Take rows from batches by ascending indices: from each batch the indices and their rows."""
    start = 0
    for batch in batches:
        stop = start + len(batch)
        first, last = np.searchsorted(indices, [start, stop])
        if last > first:
            yield indices[first:last], some_rows(batch, indices[first:last] - start)
        start = stop
