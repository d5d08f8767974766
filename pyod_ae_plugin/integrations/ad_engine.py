"""Our detectors in PyOD's ADEngine."""

from __future__ import annotations

import copy
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from sklearn.utils import _safe_indexing

if TYPE_CHECKING:
    from pyod.utils.ad_engine import ADEngine
    from pyod.utils.knowledge import KnowledgeBase

Engine = TypeVar("Engine", bound="ADEngine")

PREFIX = "pyod_ae."
_N_FEATURES_SHOWN = 5  # as many as PyOD shows

_KNOWLEDGE = Path(__file__).with_name("knowledge")


def extend(engine: Engine, *, replace: bool = False) -> Engine:
    """Add our detectors to an engine, in place.

    Three attributes of the engine are replaced; PyOD's classes, PyOD's modules and other engines
    are not changed. The page :doc:`/integrations` says what stays as PyOD has it.

    ``engine.kb`` becomes a copy of its knowledge base with these additions. ADEngine creates a
    detector from the class path in its knowledge base, so it plans, runs and compares our detectors
    as it does its own, and passes them its ``random_state``.

    - Detectors: ``pyod_ae.AutoEncoder``, ``pyod_ae.VAE`` and ``pyod_ae.AutoEncoderEnsemble``.
    - Routing rules for tables of 3 to 99 features, on which our detectors were better on average
      than the plans without them: ``pyod_ae.VAE`` comes first for ``priority='balanced'``, and all
      three come first for ``'accuracy'``. Other tables, and ``'speed'``, are routed as before.
    - The benchmark ``pyod_ae_plugin``, on which these rules are based, and papers.

    ``engine.explain_findings`` becomes a method that calls PyOD's. If the detector is ours, it
    names the features that contribute most to the score, according to
    :meth:`~pyod_ae_plugin.AutoEncoder.explain`, and adds the ``contribution`` of each.

    ``engine.build_detector`` becomes a method that calls PyOD's and then refuses our detectors with
    parameters that name files, such as ``checkpoint``: plans come from clients of the MCP server
    too, who shall not choose where this process writes.

    Parameters
    ----------
    engine : ADEngine
        The engine to extend. Extending it again changes nothing.
    replace : bool, default=False
        Whether to name our detectors without the prefix ``pyod_ae.``. The entries ``AutoEncoder``
        and ``VAE`` then create our classes, which accept all keywords of PyOD's. This cannot be
        undone for this engine.

    Returns
    -------
    engine : ADEngine
        The same engine.

    Raises
    ------
    TypeError
        If ``engine`` is not an ADEngine.

    Examples
    --------
    >>> from pyod.utils.ad_engine import ADEngine
    >>> from pyod.utils.data import generate_data
    >>> from pyod_ae_plugin.integrations.ad_engine import extend
    >>> X, _ = generate_data(train_only=True, n_train=300, n_features=5, random_state=0)
    >>> engine = extend(ADEngine(random_state=0))
    >>> state = engine.investigate(X)
    >>> [plan["detector_name"] for plan in state.plans]
    ['pyod_ae.VAE', 'KNN', 'IForest']
    >>> engine.build_detector(state.plans[0]).random_state
    0
    """
    from pyod.utils.ad_engine import ADEngine
    from pyod.utils.knowledge import KnowledgeBase

    if not isinstance(engine, ADEngine):
        raise TypeError(f"engine must be an ADEngine, such as ADEngine(); got {engine!r}.")
    kb, ours = copy.deepcopy(engine.kb), KnowledgeBase(str(_KNOWLEDGE))
    names = {name: _name(name, kb, ours, replace) for name in ours.algorithms}
    for name, facts in ours.algorithms.items():
        kb.algorithms[names[name]] = facts
        if names[name] == name:
            kb.algorithms.pop(PREFIX + name, None)  # of an earlier call without replace
    _set_rules(kb.routing_rules["rules"], ours.routing_rules["rules"], names)
    kb.benchmarks.update(ours.benchmarks)
    kb.papers.update(ours.papers)
    engine.kb = kb
    engine.build_detector = MethodType(_build_detector, engine)
    engine.explain_findings = MethodType(_explain_findings, engine)
    return engine


def _build_detector(engine: ADEngine, plan: dict[str, Any]) -> Any:
    """ADEngine.build_detector; parameters of our detectors that name files raise ValueError."""
    from pyod_ae_plugin.detectors import NeuralDetector
    from pyod_ae_plugin.detectors.parameters import named_files

    detector = type(engine).build_detector(engine, plan)
    named = named_files(detector) if isinstance(detector, NeuralDetector) else {}
    if named:
        name, value = next(iter(named.items()))
        raise ValueError(
            f"{name}={value!r} names a file, which a plan may not, since plans come from clients "
            f"too. Leave it out, or create {type(detector).__name__} without an engine."
        )
    return detector


def _explain_findings(
    engine: ADEngine,
    result: dict[str, Any],
    indices: list[int] | None = None,
    top_k: int = 5,
    X: Any = None,
    feature_names: list[str] | None = None,
) -> list[dict[str, Any]]:
    """ADEngine.explain_findings; findings of our detectors get contributions to the score."""
    from pyod_ae_plugin.detectors import NeuralDetector

    detector = result.get("detector")
    entries: list[dict[str, Any]]
    entries = type(engine).explain_findings(engine, result, indices, top_k, X, feature_names)
    if X is None or not entries or not isinstance(detector, NeuralDetector):
        return entries
    contributions = detector.explain(_safe_indexing(X, [entry["index"] for entry in entries]))
    values = np.asarray(X, dtype=np.float64)
    mean, std = values.mean(0), values.std(0)
    for entry, contribution in zip(entries, contributions, strict=True):
        row = values[entry["index"]]
        entry["contributing_features"] = [
            {
                "feature": j,
                "name": feature_names[j] if feature_names is not None else f"feature_{j}",
                "value": float(row[j]),
                "mean": float(mean[j]),
                "z_score": float(abs(row[j] - mean[j]) / (std[j] or 1.0)),
                "direction": "high" if row[j] >= mean[j] else "low",
                "contribution": float(contribution[j]),
            }
            for j in np.argsort(-np.abs(contribution), kind="stable")[:_N_FEATURES_SHOWN].tolist()
        ]
    return entries


def _name(name: str, kb: KnowledgeBase, ours: KnowledgeBase, replace: bool) -> str:
    """Name of a detector of ours in this knowledge base."""
    present = kb.algorithms.get(name, {}).get("class_path")
    replaced = present == ours.algorithms[name]["class_path"]  # by an earlier call
    return name if replace or replaced else PREFIX + name


def _set_rules(
    rules: list[dict[str, Any]], ours: list[dict[str, Any]], names: dict[str, str]
) -> None:
    """Put our rules behind the others, in place of those of an earlier call."""
    for rule in ours:
        for recommendation in rule["recommendations"]:
            recommendation["detector"] = names[recommendation["detector"]]
    ids = {rule["id"] for rule in ours}
    rules[:] = [rule for rule in rules if rule["id"] not in ids] + ours
