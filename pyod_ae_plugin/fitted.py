"""What a fit learned, as one value, and how it becomes named tensors and back."""

from __future__ import annotations

import copy
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyod_ae_plugin.columns.matrix import Columns
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.devices import default_settings
from pyod_ae_plugin.engine.folded import score_function
from pyod_ae_plugin.engine.rows import Rows
from pyod_ae_plugin.engine.tiles import map_rows
from pyod_ae_plugin.engine.training import add_prefix, strip_prefix
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring import ScoringModule
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE
from pyod_ae_plugin.thresholds import ThresholdRule

Array = np.ndarray[Any, Any]

# With so many, differences of the distribution functions below 0.05 stay unfound however many
# rows come: what drift is found is worth finding.
_N_REFERENCE = 1_000
# Marks the scoring module's tensors among those of a saved detector.
_MODULE_PREFIX = "module."


class Threshold(NamedTuple):
    """How scores become labels.

    Attributes
    ----------
    value : float
        Rows with larger scores are outliers. Thresholders of PyThresh have a scale of their own.
    thresholder : object or None
        The fitted thresholder; None where ``contamination`` is a share.
    scores : ndarray of shape (n,) or None
        The scores, in the order of its ``labels_``, that a thresholder was fitted to if it has a
        scale of its own.
    """

    value: float
    thresholder: Any = None
    scores: Array | None = None

    @classmethod
    def chosen_by(cls, contamination: Any, scores: Array, *, held_out: bool = False) -> Threshold:
        """Choose the threshold from scores [n], by a share of outliers or a thresholder.

        A share is that of the scores above the threshold; if they are ``held_out``, it is the one
        to be expected of new rows: by the conformal quantile, the score at place
        ``ceil((n + 1) * (1 - share))``, at most the highest (Vovk et al. 2005, Algorithmic Learning
        in a Random World). A thresholder is copied, since it may be shared with other detectors.
        """
        if isinstance(contamination, float) and held_out:
            place = math.ceil((len(scores) + 1) * (1 - contamination) - 1e-9)
            return cls(float(np.sort(scores)[min(place, len(scores)) - 1]))
        if isinstance(contamination, float):
            return cls(float(np.percentile(scores, 100 * (1 - contamination))))
        thresholder = copy.deepcopy(contamination)
        thresholder.fit(scores)
        chosen = cls(cls.value_of(thresholder), thresholder)
        return chosen if chosen.is_on_scores else chosen._replace(scores=scores)

    @staticmethod
    def value_of(thresholder: Any) -> float:
        """The threshold of a fitted thresholder, on its own scale."""
        if isinstance(thresholder, ThresholdRule):
            return float(thresholder.thresh_)
        # PyOD takes the share of outliers where a thresholder has no threshold.
        return float(thresholder.thresh_ or np.mean(thresholder.labels_))

    @property
    def is_on_scores(self) -> bool:
        """Whether a row is an outlier if and only if its score is above the threshold."""
        return self.thresholder is None or isinstance(self.thresholder, ThresholdRule)

    def labels(self, scores: Array) -> Array:
        """Labels of scores [n]: 0 for inliers, 1 for outliers. Each depends on its score alone."""
        if self.is_on_scores:
            return (scores > self.value).astype(int)
        if self.scores is not None and self.thresholder.thresh_ is None:
            # Its predict would divide anew the scores that it is given.
            return _labels_of_nearest(scores, self.scores, self.thresholder.labels_)
        # PyThresh fails on a single score.
        labels: Array = self.thresholder.predict(np.append(scores, scores[-1]))
        return labels[:-1]


def _labels_of_nearest(scores: Array, known: Array, labels: Array) -> Array:
    """For each score [n] the label of the nearest of the known scores [m]."""
    order = known.argsort(kind="stable")
    known = known[order]
    nearest = np.searchsorted(0.5 * (known[1:] + known[:-1]), scores)
    found: Array = np.asarray(labels)[order][nearest].astype(int)
    return found


def is_count(value: Any) -> bool:
    """Whether a value is an integer of 1 or more."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_history(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(losses, list) and all(map(_is_number, losses)) for losses in value.values()
    )


def _is_json_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_array(kinds: str, ndim: int = 1) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        is_array = isinstance(value, np.ndarray) and value.ndim == ndim and len(value) > 0
        return is_array and value.dtype.kind in kinds

    return check


def _is_finite(value: Array, may_have_gaps: bool) -> bool:
    return bool((~np.isinf(value) if may_have_gaps else np.isfinite(value)).all())


def _is_ascending(value: Any) -> bool:
    return _is_array("f")(value) and bool((value[1:] >= value[:-1]).all())


def _are_labels(value: Any) -> bool:
    return _is_array("iu")(value) and bool(np.isin(value, (0, 1)).all())


def _kept(is_right: Callable[[Any], bool], expected: str) -> dict[str, Any]:
    """Metadata of a field that is saved with a detector: the check of what is read again."""
    return {"is_right": is_right, "expected": expected}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """All that a fit learned.

    A field ``name`` is the attribute ``name_`` of the fitted detector. A field that is None sets
    none.
    """

    scoring_module: ScoringModule  # maps raw rows to scores
    # rows with larger scores are outliers; see Threshold
    threshold: float = field(metadata=_kept(_is_number, "a finite number"))
    # scores and labels of the training rows
    decision_scores: Array = field(metadata=_kept(_is_array("f"), "floats in one dimension"))
    labels: Array = field(metadata=_kept(_are_labels, "0 and 1 in one dimension"))
    # values of each feature in a sample of the training rows [m, n_features], each ascending
    drift_reference: Array = field(metadata=_kept(_is_array("f", 2), "floats in two dimensions"))
    history: dict[str, list[float]] = field(metadata=_kept(_is_history, "lists of numbers by name"))
    lr: float = field(metadata=_kept(_is_number, "a finite number"))  # highest one of training
    # calibration scores, ascending; None where no rows were kept from training
    held_out_scores: Array | None = field(
        default=None, metadata=_kept(_is_ascending, "ascending floats in one dimension")
    )
    # of a VAE: KL divergence of each latent dimension in nats, and whether it is used
    kl: Array | None = field(default=None, metadata=_kept(_is_array("f"), "floats"))
    active_units: Array | None = field(default=None, metadata=_kept(_is_array("b"), "booleans"))
    feature_names_in: Array | None = field(
        default=None, metadata=_kept(_is_list_of_names, "a list of str")
    )
    # what rows of a table are encoded by, if they are
    columns: Columns | None = field(
        default=None,
        metadata=_kept(lambda value: isinstance(value, Columns), "the columns of a table"),
    )
    # how the file of the training rows was read, if they came from one
    reading: dict[str, Any] | None = field(
        default=None, metadata=_kept(_is_json_dict, "options by name")
    )
    thresholder: Any = None  # fitted, if contamination is one
    # the network as it was trained, if training may continue from it; it is not saved
    network: Network | None = None

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Fitted:
        """What the attributes of a fitted detector say.

        Users set ``threshold_``. Where a thresholder gave another one, theirs is on the scores.
        """
        values: dict[str, Any] = {f.name: attributes.get(f"{f.name}_") for f in fields(cls)}
        chosen = values["thresholder"]
        if chosen is not None and values["threshold"] != Threshold.value_of(chosen):
            values["thresholder"] = None
        return cls(**values)

    def attributes(self) -> dict[str, Any]:
        """The attributes of a detector that learned this, by name; None where it has none."""
        return {f"{f.name}_": getattr(self, f.name) for f in fields(self) if f.name != "network"}

    @property
    def n_features(self) -> int:
        """Width of the rows that the scoring module takes."""
        return self.scoring_module.standardize.n_features

    @property
    def n_features_in(self) -> int:
        """Features of the rows that a user passes, which may be encoded to more."""
        return self.n_features if self.columns is None else len(self.columns.features)

    @property
    def module_names(self) -> list[str] | None:
        """Names of what the scoring module takes, if there are names."""
        if self.columns is not None:
            return self.columns.matrix_names
        return None if self.feature_names_in is None else list(self.feature_names_in)

    @property
    def is_labelled_by_score(self) -> bool:
        """Whether a row is an outlier if and only if its score is above the threshold."""
        return self._chosen.is_on_scores

    def score(self, rows: Rows, precision: Precision = "float32") -> Array:
        """Scores [n] of checked rows [n, n_features] on the CPU."""
        return score_rows(self.scoring_module, rows, precision)

    def labels_of(self, scores: Array) -> Array:
        """Labels of scores [n]: 0 for inliers, 1 for outliers."""
        return self._chosen.labels(scores)

    def share_for(self, contamination: Any) -> float:
        """The share of outliers that the threshold stands for.

        That is ``contamination`` where it gives this threshold, and else the share of training rows
        that are outliers by it: those of a thresholder, or of a threshold that was set by hand.
        """
        is_share = isinstance(contamination, float) and 0 < contamination <= 1
        held_out = self.held_out_scores is not None
        chosen = None
        if is_share:
            chosen = Threshold.chosen_by(contamination, self._deciding, held_out=held_out)
        if chosen is not None and self.thresholder is None and chosen.value == self.threshold:
            return float(contamination)
        return float(self.labels_of(self.decision_scores).mean())

    @property
    def _chosen(self) -> Threshold:
        return Threshold(self.threshold, self.thresholder, self._deciding)

    @property
    def _deciding(self) -> Array:
        """The scores that the threshold was chosen by."""
        return self.decision_scores if self.held_out_scores is None else self.held_out_scores

    def p_values_of(self, scores: Array) -> Array:
        """Conformal p-values of scores [n], by the scores of the rows kept from training.

        Raises
        ------
        ValueError
            If no rows were kept from training.
        """
        if self.held_out_scores is None:
            raise ValueError(
                "p-values need rows that were kept from training; fit with held_out_threshold=True."
            )
        n = len(self.held_out_scores)
        n_below = np.searchsorted(self.held_out_scores, scores, side="left")
        p_values: Array = (1 + n - n_below) / (1 + n)
        return p_values

    def to_saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Attributes as JSON holds them, and tensors by name, contiguous and on the CPU."""
        attributes: dict[str, Any] = {"n_features_in_": self.n_features}
        tensors = {}
        for f in fields(self):
            name, value = f"{f.name}_", getattr(self, f.name)
            if not f.metadata or value is None:
                continue
            if isinstance(value, Columns):
                attributes[name] = value.to_json()
            elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                tensors[name] = torch.from_numpy(np.ascontiguousarray(value))
            else:
                attributes[name] = value.tolist() if isinstance(value, np.ndarray) else value
        state = self.scoring_module.state_dict()
        module = {key: value.cpu().contiguous() for key, value in state.items()}
        return attributes, {**tensors, **add_prefix(_MODULE_PREFIX, module)}


@default_settings()
def score_rows(module: ScoringModule, rows: Rows, precision: Precision = "float32") -> Array:
    """Scores [n], float64, of checked rows [n, n_features] on the CPU."""
    scores: Array = map_rows(score_function(module, precision), rows, module).numpy()
    return scores


def drift_reference(rows: Rows) -> Array:
    """Values [m, n_features] of each feature in at most 1,000 of the rows, ascending.

    Each column is sorted by itself, so that rows cannot be read from it.
    """
    sample = rows.index_select(0, torch.from_numpy(spread_sample(len(rows)))).numpy()
    dtype = sample.dtype if sample.dtype.kind == "f" else np.float64
    return np.sort(sample.astype(dtype), axis=0)


def spread_sample(n: int) -> Array:
    """Ascending indices of at most 1,000 of n, drawn by a generator of their own."""
    if n <= _N_REFERENCE:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, _N_REFERENCE, replace=False))


def check_scores(scores: Array) -> None:
    """Raise if training left nothing that tells rows apart."""
    if scores.min() >= HIGHEST_SCORE:
        raise FloatingPointError(
            "Training diverged: every score overflows. Lower the learning rate lr, and "
            "keep preprocessing=True so that the features are standardised."
        )


class Saved(NamedTuple):
    """What a file says of a fit, checked, except that the scoring module is still tensors.

    Attributes
    ----------
    n_features : int
    state : dict of str to Tensor
        Of the scoring module.
    fields : dict of str to object
        The other fields of :class:`Fitted` by name.
    """

    n_features: int
    state: dict[str, Tensor]
    fields: dict[str, Any]


def from_saved(attributes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Saved:
    """Check what :meth:`Fitted.to_saved` gave, after it was in a file.

    Raises
    ------
    ValueError, TypeError
        If an attribute is missing, is one too many or is not of its kind.
    """
    found = {key: tensor.numpy().copy() for key, tensor in tensors.items() if "." not in key}
    found = {**attributes, **found}
    if "n_features_in_" not in found:
        raise ValueError("n_features_in_ is missing")
    n_features = found.pop("n_features_in_")
    if not is_count(n_features):
        raise ValueError(f"n_features_in_ must be an int of 1 or more, got {n_features!r}")
    if "columns_" in found:
        found["columns_"] = Columns.from_json(found["columns_"])
        if found["columns_"].width != n_features:
            raise ValueError("columns_ must be encoded to n_features_in_ columns")
    kept = {f"{f.name}_": f for f in fields(Fitted) if f.metadata}
    for name, value in found.items():
        if name not in kept:
            raise TypeError(f"{name!r} is not an attribute that fit sets")
        if isinstance(value, np.ndarray) and not _is_finite(value, name == "drift_reference_"):
            raise ValueError(f"{name} holds NaN or infinity")
    for name, description in kept.items():
        if name not in found:
            if description.default is MISSING:
                raise ValueError(f"{name} is missing")
        elif not description.metadata["is_right"](found[name]):
            got, expected = reprlib.repr(found[name]), description.metadata["expected"]
            raise ValueError(f"{name} must be {expected}, got {got}")
    if len(found["labels_"]) != len(found["decision_scores_"]):
        raise ValueError("labels_ and decision_scores_ differ in length")
    if found["drift_reference_"].shape[1] != n_features:
        raise ValueError("drift_reference_ must have n_features_in_ columns")
    if "feature_names_in_" in found:
        names = found["feature_names_in_"] = np.array(found["feature_names_in_"], dtype=object)
        columns = found.get("columns_")
        if len(names) != (n_features if columns is None else len(columns.features)):
            raise ValueError("feature_names_in_ must hold n_features_in_ names")
    values = {name.removesuffix("_"): value for name, value in found.items()}
    return Saved(int(n_features), strip_prefix(_MODULE_PREFIX, tensors), values)
