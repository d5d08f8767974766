"""Our detectors in the knowledge base of PyOD's ADEngine."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pyod.utils.ad_engine import ADEngine
    from pyod.utils.knowledge import KnowledgeBase

Engine = TypeVar("Engine", bound="ADEngine")

PREFIX = "pyod_ae."

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
    - ``explain_findings`` compares features with their means, for all detectors alike.

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
    return engine


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
