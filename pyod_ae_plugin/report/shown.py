"""The rows that a page shows one by one, and what their features contribute."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyod_ae_plugin.plots import in_standard_units, in_two_dimensions, plain_feature_names
from pyod_ae_plugin.report.sampling import half_highest, highest, selected

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

Array = np.ndarray[Any, Any]

MAX_POINTS = 10_000  # in the latent space
MAX_RANKED = 100
MAX_CONTRIBUTIONS = 10  # of a row
MAX_FEATURES = 500  # that can be looked into
MAX_VALUES = 300_000  # of rows for features to be looked into
MAX_NAME = 80  # letters


@dataclass(frozen=True)
class Contribution:
    """What a feature contributes to the score of a row.

    Attributes
    ----------
    feature : str
    value, rebuilt : float
        In the units of the data.
    deviation : float or None
        From the mean of the training rows in standard deviations, where features are standardised.
    contribution : float
    """

    feature: str
    value: float
    rebuilt: float
    deviation: float | None
    contribution: float


@dataclass(frozen=True)
class RankedRow:
    """A row of a high score.

    Attributes
    ----------
    name : str
    score : float
    label : int or None
        The true one.
    contributions : list of Contribution
        The largest, by size.
    rest : float
        What all other features contribute together.
    """

    name: str
    score: float
    label: int | None
    contributions: list[Contribution]
    rest: float

    @property
    def reasons(self) -> list[Contribution]:
        """The contributions that make its score so high, no more than three."""
        return [part for part in self.contributions if part.contribution > 0][:3]


@dataclass(frozen=True)
class Feature:
    """A feature over the ranked rows.

    Attributes
    ----------
    name : str
    share : float
        Of the sizes of all contributions, its own.
    n_largest : int
        Rows in which its contribution is the largest.
    """

    name: str
    share: float
    n_largest: int


@dataclass(frozen=True)
class Points:
    """Rows in the latent space, and some of them with their values.

    Attributes
    ----------
    names : list of str
    scores : ndarray of shape (n,)
    labels : ndarray of shape (n,) or None
        The true ones.
    places : ndarray of shape (n, 2)
    axes : list of str
        What the two coordinates are.
    with_values : ndarray of shape (m,)
        Indices of the points that have values.
    values : ndarray of shape (m, n_features)
        Of the features in ``Contents.features``, in their order.
    """

    names: list[str]
    scores: Array
    labels: Array | None
    places: Array
    axes: list[str]
    with_values: Array
    values: Array


def shown_rows(
    detector: NeuralDetector,
    batches: Iterable[Array],
    scores: Array,
    labels: Array | None,
    name_of: Callable[[int], Any],
) -> tuple[list[RankedRow], list[Feature], Points]:
    """Take the rows that are shown from rows that have been scored, and explain those ranked.

    Parameters
    ----------
    detector : NeuralDetector
    batches : iterable of ndarray of shape (n, n_features)
    scores : ndarray of shape (n_rows,)
    labels : ndarray of shape (n_rows,) or None
    name_of : callable

    Returns
    -------
    ranked : list of RankedRow
    features : list of Feature
    points : Points
    """
    drawn = half_highest(scores, MAX_POINTS)
    n_shown_features = min(detector.n_features_in_, MAX_FEATURES)
    # The highest half of these holds all that are ranked.
    with_values = half_highest(scores[drawn], MAX_VALUES // n_shown_features)
    codes, pieces = [], []
    for indices, rows in selected(batches, drawn):
        codes.append(detector.transform(rows))
        pieces.append(rows[np.isin(indices, drawn[with_values])])
    values = np.concatenate(pieces)
    top = highest(scores, MAX_RANKED)
    rows = values[np.searchsorted(drawn[with_values], top)]
    parts = detector.explain(rows)

    names = feature_names(detector)
    sizes = np.abs(parts)
    shares = sizes.mean(0) / max(sizes.mean(0).sum(), np.finfo(float).tiny)
    order = np.argsort(-shares, kind="stable")[:MAX_FEATURES]
    n_largest = np.bincount(parts.argmax(1), minlength=len(shares))
    features = [Feature(names[j], float(shares[j]), int(n_largest[j])) for j in order]

    places, axes = in_two_dimensions(np.concatenate(codes), lambda: scores[drawn])
    points = Points(
        names=[_short(name_of(int(i))) for i in drawn],
        scores=scores[drawn],
        labels=None if labels is None else labels[drawn],
        places=places,
        axes=axes,
        with_values=with_values,
        values=values[:, order],
    )
    described = zip(top, _contributions(detector, rows, parts, names), strict=True)
    ranked = [
        RankedRow(
            name=_short(name_of(int(i))),
            score=float(scores[i]),
            label=None if labels is None else int(labels[i]),
            contributions=largest,
            rest=rest,
        )
        for i, (largest, rest) in described
    ]
    return ranked, features, points


def feature_names(detector: NeuralDetector) -> list[str]:
    """Names of the features, or what stands for them; long ones are cut."""
    return [_short(name) for name in plain_feature_names(detector)]


def _contributions(
    detector: NeuralDetector, rows: Array, parts: Array, names: list[str]
) -> Iterable[tuple[list[Contribution], float]]:
    """The largest contributions of each row, and the sum of the others."""
    rebuilt = detector.reconstruct(rows)
    deviations = in_standard_units(detector, rows)
    for i, of_row in enumerate(parts):
        order = np.argsort(-np.abs(of_row), kind="stable")
        largest = [
            Contribution(
                feature=names[j],
                value=float(rows[i, j]),
                rebuilt=float(rebuilt[i, j]),
                deviation=float(deviations[i, j]) if detector.preprocessing else None,
                contribution=float(of_row[j]),
            )
            for j in order[:MAX_CONTRIBUTIONS]
        ]
        yield largest, float(of_row[order[MAX_CONTRIBUTIONS:]].sum())


def _short(name: Any) -> str:
    text = str(name)
    return text if len(text) <= MAX_NAME else text[: MAX_NAME - 1] + "…"
