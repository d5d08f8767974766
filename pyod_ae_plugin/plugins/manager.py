"""Discovery of plugins, and lookup by name of what they provide."""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import re
import warnings
from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import pluggy

from pyod_ae_plugin.plugins import hookspecs

if TYPE_CHECKING:
    from pyod.models.base import BaseDetector


class PluginWarning(UserWarning):
    """A plugin could not be used, in whole or in part."""


@cache
def plugin_manager() -> pluggy.PluginManager:
    """Load all installed plugins; warn about those that cannot be loaded."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    entry_points = importlib.metadata.entry_points(group=hookspecs.PROJECT)
    # The package's own plugin comes first, so that no other plugin can take its names.
    own = f"{hookspecs.PROJECT}."
    for entry_point in sorted(entry_points, key=lambda e: (not e.value.startswith(own), e.name)):
        try:
            manager.register(entry_point.load(), name=entry_point.name)
        except Exception as error:  # an import of third-party code can raise anything
            _warn(entry_point.name, f"cannot be loaded from {entry_point.value!r}", error)
    return manager


def detector_names() -> list[str]:
    """Names of all registered detectors, sorted.

    Returns
    -------
    list of str
        Those of this package and of plugins, and PyOD's for tabular data as ``pyod.<Class>``.

    Examples
    --------
    >>> from pyod_ae_plugin import detector_names
    >>> "AutoEncoder" in detector_names(), "pyod.IForest" in detector_names()
    (True, True)
    """
    return sorted(_provided("pyod_ae_detectors"))


def create_detector(name: str, **params: Any) -> BaseDetector:
    """Create a detector by its registered name.

    Parameters
    ----------
    name : str
        One of :func:`detector_names`.
    **params
        Keyword arguments of the detector.

    Returns
    -------
    BaseDetector
        The detector, not fitted.

    Raises
    ------
    ValueError
        If no detector has this name.
    TypeError
        If the detector does not accept one of the keyword arguments; the message lists those that
        it accepts.

    Examples
    --------
    >>> from pyod_ae_plugin import create_detector
    >>> create_detector("AutoEncoder", epoch_num=5).epoch_num
    5
    """
    create = find("pyod_ae_detectors", name, "detector")
    check_keywords(name, create, params)
    return create(**params)


def check_keywords(name: str, create: Callable[..., Any], keywords: Collection[str]) -> None:
    """Raise a TypeError on unknown keywords of a class or function, with the known ones."""
    if not keywords:  # as when an object is unpickled; to read a signature takes time
        return
    parameters = inspect.signature(create).parameters.values()
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for keyword in keywords:
        if keyword in known:
            continue
        raise TypeError(
            f"{name} has no parameter {keyword!r}. {did_you_mean(keyword, known)}Its parameters "
            f"are: {', '.join(known)}."
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that suggests the nearest known name, with a space at its end, or "".

    Examples
    --------
    >>> did_you_mean("vae", ["AutoEncoder", "VAE"])
    "Did you mean 'VAE'? "
    >>> did_you_mean("forest", ["AutoEncoder", "VAE"])
    ''
    """
    folded = {other.casefold(): other for other in known}
    alike = [name.casefold()]
    if alike[0] not in folded:
        alike = difflib.get_close_matches(alike[0], folded)
    return f"Did you mean {' or '.join(repr(folded[other]) for other in alike)}? " if alike else ""


def parameter_summaries(described: object) -> dict[str, str]:
    """The first sentence on each parameter, from the numpydoc of a class or function.

    Examples
    --------
    >>> from pyod_ae_plugin import AutoEncoder
    >>> parameter_summaries(AutoEncoder)["novelty"]
    'Whether the training rows are all normal.'
    """
    text = inspect.getdoc(described) or ""
    parts = re.split(r"^(.+)\n-+\n", f"{text}\n", flags=re.M)  # titles at odd places
    section = dict(zip(parts[1::2], parts[2::2], strict=True)).get("Parameters", "")
    entries = re.findall(r"^(\w+) ?:.*\n((?:[ \t]+.*\n|\n)*)", section, re.M)
    return {name: _first_sentence(lines) for name, lines in entries}


def _first_sentence(lines: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", " ".join(lines.split()))
    text = re.sub(r" \[\d+\]_|``", "", text)  # no references and marks of code
    return re.split(r"(?<=[.;]) (?=[A-Z])", text, maxsplit=1)[0]


def create_supported(
    create: Callable[..., BaseDetector], n_features: int, **params: Any
) -> BaseDetector:
    """Create a detector with those of the parameters that it has; the others are ignored.

    ``create`` takes keyword arguments and returns a detector. It also gets ``n_features``, the
    number of features of the rows to come, if it cannot be called without, as for PyOD's
    ``DeepSVDD``.
    """
    required: dict[str, int] = {}
    try:
        detector = create()
    except TypeError:
        required["n_features"] = n_features
        detector = create(**required)
    known = detector.get_params(deep=False)
    # Created again instead of set_params: PyOD's deep detectors use their seed in __init__.
    return create(**required, **{k: v for k, v in params.items() if k in known})


def find(hook: str, name: str, kind: str) -> Callable[..., Any]:
    """Look up what plugins provide through a hook by name; ``kind`` names it in the error."""
    provided = _provided(hook)
    if name not in provided:
        raise ValueError(
            f"Unknown {kind} {name!r}. {did_you_mean(name, provided)}Known are: "
            f"{', '.join(sorted(provided))}. "
            f"A plugin can add more through the hook {hook}."
        )
    return provided[name]


def _provided(hook: str) -> dict[str, Callable[..., Any]]:
    """Collect by name what plugins provide through a hook; the first plugin wins a name."""
    found: dict[str, Callable[..., Any]] = {}
    manager = plugin_manager()
    # Registration order puts ours first. pluggy's own order can be changed by a plugin.
    order = [name for name, _ in manager.list_name_plugin()]
    implementations = getattr(manager.hook, hook).get_hookimpls()
    for implementation in sorted(implementations, key=lambda i: order.index(i.plugin_name)):
        plugin = implementation.plugin_name
        # Each is called by itself, so that an error in one does not affect the others.
        try:
            provided = implementation.function()
            offers = {} if provided is None else dict(provided)
        except Exception as error:  # a third-party hook can raise anything
            _warn(plugin, f"raises in {hook}", error)
            continue
        for name, offer in offers.items():
            if not isinstance(name, str) or not callable(offer):
                what = f"provides {name!r}: {offer!r} through {hook}, not a name and a callable"
                _warn(plugin, what)
            elif name in found:
                _warn(plugin, f"provides {name!r} through {hook}, a name that is already taken")
            else:
                found[name] = offer
    return found


def _warn(plugin: str, what: str, error: Exception | None = None) -> None:
    reason = f": {type(error).__name__}: {error}" if error is not None else ""
    warnings.warn(f"Plugin {plugin!r} {what}{reason}", PluginWarning, stacklevel=4)
