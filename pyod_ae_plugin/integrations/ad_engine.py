"""Our detectors in the knowledge base of PyOD's ADEngine."""

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
    """Add our detectors to the knowledge base of an engine, in place.

    ADEngine builds a detector by importing the class path in its knowledge base. So entries that
    lead to our classes are all it takes, and nothing of PyOD is patched: what the engine does with
    its own detectors it does with ours, ``random_state`` included. Added are

    - the detectors ``pyod_ae.AutoEncoder``, ``pyod_ae.VAE`` and ``pyod_ae.AutoEncoderEnsemble``;
    - routing rules for tables of 3 to 19 features, where ours were measured to detect better, on
      average, than what is planned without them: ``pyod_ae.VAE`` first for
      ``priority='balanced'``, and all three for ``'accuracy'``. Other tables, and ``'speed'``, are
      routed as before;
    - the benchmark ``pyod_ae_plugin`` behind these rules, and papers.

    What the engine's ``explain_findings`` says of our detectors' findings are the features that
    contribute most to the score, by :meth:`~pyod_ae_plugin.AutoEncoder.explain`, each with its
    ``contribution`` besides what PyOD gives.

    Parameters
    ----------
    engine : ADEngine
        It gets an extended copy as ``kb``; other engines, and who else holds its knowledge base,
        see nothing of it. Extending again changes nothing.
    replace : bool, default=False
        Give our detectors their bare names: the entries ``AutoEncoder`` and ``VAE`` then lead to
        our classes and no longer to PyOD's, whose keywords ours accept. What is replaced stays so
        for this engine.

    Returns
    -------
    engine : ADEngine
        The same engine.

    Raises
    ------
    TypeError
        If ``engine`` is not an ADEngine.

    Notes
    -----
    What PyOD's engine decides in code, and not by its knowledge base, stays as it is:

    - ``compare_detectors`` without names and ``get_kb_for_routing`` go by the rank in ADBench's
      paper. Our detectors have none there and come behind those that have one.
    - Plans that are made by name hold the contamination and no other keyword. Ours then show a
      progress bar, on stderr, unless ``params`` say ``verbose=0``. Plans by routing do.
    - The MCP server's ``explain_findings`` is given no detector, and compares features with their
      means, for all detectors alike.

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
            kb.algorithms.pop(PREFIX + name, None)  # from before it was replaced
    _set_rules(kb.routing_rules["rules"], ours.routing_rules["rules"], names)
    kb.benchmarks.update(ours.benchmarks)
    kb.papers.update(ours.papers)
    engine.kb = kb
    engine.explain_findings = MethodType(_explain_findings, engine)
    return engine


def _explain_findings(
    engine: ADEngine,
    result: dict[str, Any],
    indices: list[int] | None = None,
    top_k: int = 5,
    X: Any = None,
    feature_names: list[str] | None = None,
) -> list[dict[str, Any]]:
    """ADEngine.explain_findings, by contributions to the score where the detector is ours."""
    from pyod_ae_plugin.detectors.base import NeuralDetector as ScoringDetector

    detector = result.get("detector")
    entries: list[dict[str, Any]]
    entries = type(engine).explain_findings(engine, result, indices, top_k, X, feature_names)
    if X is None or not entries or not isinstance(detector, ScoringDetector):
        return entries
    contributions = detector.explain(_safe_indexing(X, [entry["index"] for entry in entries]))
    values = np.asarray(X, dtype=np.float64)
    mean, std = values.mean(0), values.std(0)
    for entry, of_row in zip(entries, contributions, strict=True):
        row = values[entry["index"]]
        entry["contributing_features"] = [
            {
                "feature": j,
                "name": feature_names[j] if feature_names is not None else f"feature_{j}",
                "value": float(row[j]),
                "mean": float(mean[j]),
                "z_score": float(abs(row[j] - mean[j]) / (std[j] or 1.0)),
                "direction": "high" if row[j] >= mean[j] else "low",
                "contribution": float(of_row[j]),
            }
            for j in np.argsort(-np.abs(of_row), kind="stable")[:_N_FEATURES_SHOWN].tolist()
        ]
    return entries


def _name(name: str, kb: KnowledgeBase, ours: KnowledgeBase, replace: bool) -> str:
    """What a detector of ours is called in this knowledge base."""
    there = kb.algorithms.get(name, {}).get("class_path")
    return name if replace or there == ours.algorithms[name]["class_path"] else PREFIX + name


def _set_rules(
    rules: list[dict[str, Any]], ours: list[dict[str, Any]], names: dict[str, str]
) -> None:
    """Put our rules behind the others, once."""
    for rule in ours:
        for recommendation in rule["recommendations"]:
            recommendation["detector"] = names[recommendation["detector"]]
    ids = {rule["id"] for rule in ours}
    rules[:] = [rule for rule in rules if rule["id"] not in ids] + ours
