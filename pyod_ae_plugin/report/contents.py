"""What a report shows, computed from a detector and rows."""

from __future__ import annotations

import inspect
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from pyod_ae_plugin.columns.frames import Frame
from pyod_ae_plugin.detectors.base import fitted_of
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plots import checked_labels, score_bins
from pyod_ae_plugin.report.rows_shown import Feature, Points, RankedRow, describe_rows
from pyod_ae_plugin.thresholds import ThresholdRule

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

# With more distinct scores than this, counts are kept for this many thresholds only.
MAX_STEPS = 10_000


@dataclass(frozen=True)
class Contents:
    """Everything that a report shows."""

    source: str  # name of the data
    n_rows: int
    n_features: int
    n_flagged: int  # rows above the starting threshold
    n_outliers: int | None  # true outliers; None without labels
    roc_auc: float | None  # None without labels of both classes
    average_precision: float | None  # None without labels of both classes
    sweep: Sweep
    start: StartingThreshold
    histogram: Histogram
    ranked: list[RankedRow]  # the highest score first
    features: list[Feature]  # the largest share first
    points: Points
    card: Card
    made: str  # date and time
    seconds: float  # duration of scoring


def compute_contents(
    detector: NeuralDetector,
    batches: Iterable[Array | Frame],
    y: Any = None,
    name_of: Callable[[int], Any] = str,
    source: str = "",
) -> Contents:
    """Score rows and compute what a report shows of them.

    The batches, rows [n, n_features] or tables, are read twice: for scoring, and for the rows that
    are shown individually. ``y`` holds their true labels, 0 or 1. ``name_of`` maps the position of
    a row to its name, and ``source`` names the data.
    """
    with warnings.catch_warnings():
        # The caller has matched the feature names; the batches are plain arrays.
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        began = time.perf_counter()
        scores = np.concatenate([detector.decision_function(batch) for batch in batches])
        seconds = time.perf_counter() - began
        labels = None if y is None else checked_labels(y, len(scores))
        ranked, features, points = describe_rows(detector, batches, scores, labels, name_of)
    start = starting_threshold(scores, fitted_of(detector).labels_of(scores), detector.threshold_)
    has_both = labels is not None and 0 < labels.sum() < len(labels)
    return Contents(
        source=source,
        n_rows=len(scores),
        n_features=detector.n_features_in_,
        n_flagged=int((scores > start.threshold).sum()),
        n_outliers=None if labels is None else int(labels.sum()),
        roc_auc=float(roc_auc_score(labels, scores)) if has_both else None,
        average_precision=float(average_precision_score(labels, scores)) if has_both else None,
        sweep=sweep_thresholds(scores, labels, start.threshold),
        start=start,
        histogram=_histogram(scores, labels, start.threshold),
        ranked=ranked,
        features=features,
        points=points,
        card=model_card(detector),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        seconds=seconds,
    )


# ---------------------------------------------------------------- thresholds


@dataclass(frozen=True)
class StartingThreshold:
    """The threshold that the page starts with, on the scale of the scores."""

    threshold: float
    n_differing: int  # rows that the detector labels differently, as some thresholders do


def starting_threshold(scores: Array, predicted: Array, threshold: float) -> StartingThreshold:
    """The threshold that gives the detector's labels or, if there is none, flags as many rows.

    ``threshold`` is the detector's, which some thresholders give on a scale of their own.
    """
    if not np.array_equal(scores > threshold, predicted == 1):
        n_inliers = int((predicted == 0).sum())
        ascending = np.sort(scores)
        below_all = np.nextafter(ascending[0], -np.inf)
        threshold = ascending[n_inliers - 1] if n_inliers else below_all
    differing = (scores > threshold) != (predicted == 1)
    return StartingThreshold(float(threshold), int(differing.sum()))


@dataclass(frozen=True)
class Sweep:
    """Exact numbers of rows above each of a series of thresholds."""

    thresholds: Array  # [n_steps], scores that occur, ascending
    n_above: Array  # [n_steps], rows with a score above the threshold
    n_outliers_above: Array | None  # [n_steps], true outliers among them; None without labels
    is_complete: bool  # every score is a threshold, so counts at other thresholds are known, too


def sweep_thresholds(scores: Array, labels: Array | None, threshold: float) -> Sweep:
    """Count the rows above each threshold, and with labels (0 or 1) the true outliers among them.

    If there are more than ``MAX_STEPS`` distinct scores, the thresholds are the highest half of
    ``MAX_STEPS``, since useful thresholds lie there; others, evenly spaced over the ranks below;
    and the last score that does not exceed ``threshold``, which flags the same rows.
    """
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    # Position of the last of each group of equal scores.
    last = np.flatnonzero(np.append(ascending[1:] > ascending[:-1], True))
    n_scores = len(last)
    if n_scores > MAX_STEPS:
        half = MAX_STEPS // 2
        spread = np.linspace(0, n_scores - half - 1, half - 1).astype(int)
        at_threshold = np.searchsorted(ascending[last], threshold, side="right") - 1
        highest = np.arange(n_scores - half, n_scores)
        last = last[np.unique(np.r_[spread, max(at_threshold, 0), highest])]
    n_outliers_above = None
    if labels is not None:
        n_outliers_up_to = np.cumsum(labels[order])
        n_outliers_above = n_outliers_up_to[-1] - n_outliers_up_to[last]
    return Sweep(
        thresholds=ascending[last],
        n_above=len(scores) - 1 - last,
        n_outliers_above=n_outliers_above,
        is_complete=n_scores <= MAX_STEPS,
    )


@dataclass(frozen=True)
class Histogram:
    """Numbers of rows in bins of scores."""

    edges: Array  # [n_bins + 1]
    inliers: Array  # [n_bins], rows by true label; without labels all are inliers
    outliers: Array  # [n_bins]
    n_beyond: int  # rows above the last edge, which are counted in the last bin
    low: float  # the range of the axis, which includes the starting threshold
    high: float


def _histogram(scores: Array, labels: Array | None, threshold: float) -> Histogram:
    edges, n_beyond = score_bins(scores, threshold)
    binned = np.minimum(scores, edges[-1])
    is_outlier = np.zeros(len(scores), bool) if labels is None else labels == 1
    return Histogram(
        edges=np.asarray(edges),
        inliers=np.histogram(binned[~is_outlier], edges)[0],
        outliers=np.histogram(binned[is_outlier], edges)[0],
        n_beyond=n_beyond,
        low=min(edges[0], threshold),
        high=max(edges[-1], threshold),
    )


# ---------------------------------------------------------------- model card


@dataclass(frozen=True)
class Parameter:
    """A parameter of a detector, with its value and its default as text."""

    name: str
    value: str
    default: str

    @property
    def is_set(self) -> bool:
        """Whether the value differs from the default."""
        return self.value != self.default


@dataclass(frozen=True)
class Card:
    """What the page says about the model."""

    facts: dict[str, str]  # training data, training, threshold, seed, device
    parameters: list[Parameter]  # those that differ from their defaults first, each part by name
    versions: dict[str, str]  # Python and packages on the machine that made the report


def model_card(detector: NeuralDetector) -> Card:
    """Describe a fitted detector without revealing anything about the machine or its users."""
    parameters = _parameters(detector)
    values = {parameter.name: parameter.value for parameter in parameters}
    n_weights = sum(tensor.numel() for tensor in detector.model.state_dict().values())
    losses = detector.history_.get("loss", [])
    n_held_out = len(getattr(detector, "held_out_scores_", ()))
    facts = {
        "Detector": type(detector).__name__,
        "Fitted to": f"{len(detector.decision_scores_):,} rows of "
        f"{detector.n_features_in_:,} features",
        "Rows held out for the threshold": f"{n_held_out:,}" if n_held_out else "none",
        "Threshold set by": f"contamination={values['contamination']}",
        "Training": f"{len(losses):,} epochs, loss {losses[0]:.4g} to {losses[-1]:.4g}"
        if losses
        else "not recorded",
        "Weights in the network": f"{n_weights:,}",
        "Seed (random_state)": values["random_state"],
        "Scored on": str(detector.scoring_module_.standardize.scale.device),
    }
    columns = getattr(detector, "columns_", None)
    if columns is not None and columns.notes:
        facts["Columns"] = " ".join(columns.notes)
    return Card(facts, parameters, {"Python": platform.python_version(), **package_versions()})


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    packages = ("pyod-ae-plugin", "pyod", "torch", "scikit-learn", "numpy")
    return {package: version(package) for package in packages}


def _parameters(detector: NeuralDetector) -> list[Parameter]:
    signature = inspect.signature(type(detector)).parameters
    parameters = [
        Parameter(name, format_value(value), format_value(signature[name].default))
        for name, value in detector.get_params(deep=False).items()
        if name != "checkpoint"  # a path says something about the machine
    ]
    return sorted(parameters, key=lambda parameter: (not parameter.is_set, parameter.name))


def format_value(value: Any) -> str:
    """Format a parameter's value without the memory addresses that ``repr`` may contain."""
    if value is None or isinstance(value, (str, ThresholdRule)) or is_dataclass(value):
        return repr(value)
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {format_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(format_value, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return str(getattr(value, "__qualname__", type(value).__name__))
