"""Finds plugins, and looks up by name what they provide."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Mapping
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
    """Return the manager with every installed plugin that loads; the others are warned about."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    entry_points = importlib.metadata.entry_points(group=hookspecs.PROJECT)
    # The package's own plugins come first, so that nobody takes one of their names.
    own = f"{hookspecs.PROJECT}."
    for entry_point in sorted(entry_points, key=lambda e: (not e.value.startswith(own), e.name)):
        try:
            manager.register(entry_point.load(), name=entry_point.name)
        except Exception as error:  # whatever a stranger's import raises
            _warn(entry_point.name, f"cannot be loaded from {entry_point.value!r}", error)
    return manager


def detector_names() -> list[str]:
    """Names of all registered detectors, sorted.

    Returns
    -------
    list of str
        Ours, those of plugins, and PyOD's for tabular data as ``pyod.<Class>``.

    Examples
    --------
    >>> from pyod_ae_plugin import detector_names
    >>> "AutoEncoder" in detector_names(), "pyod.IForest" in detector_names()
    (True, True)
    """
    return sorted(_provided("pyod_ae_detectors"))


def create_detector(name: str, **params: Any) -> BaseDetector:
    """Create a registered detector.

    Parameters
    ----------
    name : str
        One of :func:`detector_names`.
    **params
        Keywords of the detector.

    Returns
    -------
    BaseDetector
        Not fitted yet.

    Raises
    ------
    ValueError
        If no detector has this name.
    TypeError
        If the detector does not take one of the keywords.

    Examples
    --------
    >>> from pyod_ae_plugin import create_detector
    >>> create_detector("AutoEncoder", epoch_num=5).epoch_num
    5
    """
    return find("pyod_ae_detectors", name, "detector")(**params)


def find(hook: str, name: str, kind: str) -> Callable[..., Any]:
    """What a plugin provides under a name through a hook; ``kind`` is its word in messages."""
    provided = _provided(hook)
    if name not in provided:
        raise ValueError(
            f"Unknown {kind} {name!r}. Known are: {', '.join(sorted(provided))}. "
            f"A plugin can add more through the hook {hook}."
        )
    return provided[name]


def _provided(hook: str) -> dict[str, Callable[..., Any]]:
    """Everything that plugins provide through a hook; where names clash, the first has it."""
    found: dict[str, Callable[..., Any]] = {}
    for plugin, offers in _offers(hook):
        for name, offer in offers.items():
            if not isinstance(name, str) or not callable(offer):
                _warn(plugin, f"provides {name!r}: {offer!r} through {hook}, no name of a callable")
            elif name in found:
                _warn(plugin, f"provides {name!r} through {hook}, a name that is already taken")
            else:
                found[name] = offer
    return found


def _offers(hook: str) -> Iterator[tuple[str, Mapping[str, Callable[..., Any]]]]:
    """Call the hook in each plugin by itself, so that one that raises stops no other."""
    manager = plugin_manager()
    # as they were registered, whatever a plugin would have: ours come first
    order = [name for name, _ in manager.list_name_plugin()]
    implementations = getattr(manager.hook, hook).get_hookimpls()
    for of_plugin in sorted(implementations, key=lambda i: order.index(i.plugin_name)):
        try:
            provided = of_plugin.function()
            offers = {} if provided is None else dict(provided)
        except Exception as error:  # whatever a stranger's hook raises
            _warn(of_plugin.plugin_name, f"raises in {hook}", error)
        else:
            yield of_plugin.plugin_name, offers


def _warn(plugin: str, what: str, error: Exception | None = None) -> None:
    reason = f": {type(error).__name__}: {error}" if error is not None else ""
    warnings.warn(f"Plugin {plugin!r} {what}{reason}", PluginWarning, stacklevel=4)
