"""The rows that a report shows individually: which ones, where they lie, what explains them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plots import in_standard_units, in_two_dimensions, plain_feature_names

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
    value: float
    reconstruction: float
    # The value in standard deviations of the training rows from their mean; None if the detector
    # does not standardise features.
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
        """Up to three contributions that raise the score most."""
        return [part for part in self.contributions if part.contribution > 0][:3]


@dataclass(frozen=True)
class Feature:
    """How much a feature matters in the ranked rows."""

    name: str
    share: float  # of the summed absolute contributions of all features
    n_largest: int  # rows in which it contributes most


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
    batches: Iterable[Array],
    scores: Array,
    labels: Array | None,
    name_of: Callable[[int], Any],
) -> tuple[list[RankedRow], list[Feature], Points]:
    """Explain the rows with the highest scores, and collect points to draw, in one pass."""
    drawn = sample_rows(scores, MAX_POINTS)
    n_features = min(detector.n_features_in_, MAX_FEATURES)
    # All ranked rows are among these: the sample takes more of the highest scores.
    with_values = sample_rows(scores[drawn], MAX_VALUES // n_features)
    codes, pieces = [], []
    for indices, rows in take_rows(batches, drawn):
        codes.append(detector.transform(rows))
        pieces.append(rows[np.isin(indices, drawn[with_values])])
    values = np.concatenate(pieces)

    top = top_rows(scores, MAX_RANKED)
    top_values = values[np.searchsorted(drawn[with_values], top)]
    contributions = detector.explain(top_values)
    names = [_shorten(name) for name in plain_feature_names(detector)]
    features, order = _features(contributions, names)
    ranked = [
        RankedRow(
            name=_shorten(name_of(int(i))),
            score=float(scores[i]),
            label=None if labels is None else int(labels[i]),
            contributions=largest,
            rest=rest,
        )
        for i, (largest, rest) in zip(
            top, _largest(detector, top_values, contributions, names), strict=True
        )
    ]
    places, axes = in_two_dimensions(np.concatenate(codes), lambda: scores[drawn])
    points = Points(
        names=[_shorten(name_of(int(i))) for i in drawn],
        scores=scores[drawn],
        labels=None if labels is None else labels[drawn],
        places=places,
        axes=axes,
        with_values=with_values,
        values=values[:, order],
    )
    return ranked, features, points


def _features(contributions: Array, names: list[str]) -> tuple[list[Feature], Array]:
    """The features that contribute most over all rows, and their columns."""
    sizes = np.abs(contributions).mean(0)
    shares = sizes / max(sizes.sum(), np.finfo(float).tiny)
    n_largest = np.bincount(contributions.argmax(1), minlength=len(names))
    order = np.argsort(-shares, kind="stable")[:MAX_FEATURES]
    return [Feature(names[j], float(shares[j]), int(n_largest[j])) for j in order], order


def _largest(
    detector: NeuralDetector, rows: Array, contributions: Array, names: list[str]
) -> Iterator[tuple[list[Contribution], float]]:
    """For each row its largest contributions, and the sum of the others."""
    reconstructions = detector.reconstruct(rows)
    deviations = in_standard_units(detector, rows)
    for i, row in enumerate(contributions):
        order = np.argsort(-np.abs(row), kind="stable")
        largest = [
            Contribution(
                feature=names[j],
                value=float(rows[i, j]),
                reconstruction=float(reconstructions[i, j]),
                deviation=float(deviations[i, j]) if detector.preprocessing else None,
                contribution=float(row[j]),
            )
            for j in order[:MAX_CONTRIBUTIONS]
        ]
        yield largest, float(row[order[MAX_CONTRIBUTIONS:]].sum())


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


def take_rows(batches: Iterable[Array], indices: Array) -> Iterator[tuple[Array, Array]]:
    """Take rows from batches by ascending indices: from each batch the indices and their rows."""
    start = 0
    for batch in batches:
        stop = start + len(batch)
        first, last = np.searchsorted(indices, [start, stop])
        if last > first:
            yield indices[first:last], batch[indices[first:last] - start]
        start = stop
