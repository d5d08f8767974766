"""Detectors in files: from a detector to a description and tensors, and back, without pickle."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyod_ae_plugin import __version__
from pyod_ae_plugin.detectors.fit import assemble
from pyod_ae_plugin.detectors.parameters import VALUES
from pyod_ae_plugin.detectors.recipe import Recipe
from pyod_ae_plugin.engine.devices import (
    available_device,
    default_settings,
    resolve_device,
    seeded_global_rng,
)
from pyod_ae_plugin.engine.training import check_loadable, load_exactly
from pyod_ae_plugin.fitted import Fitted, from_saved
from pyod_ae_plugin.plugins.manager import detector_names, find
from pyod_ae_plugin.scoring import ScoringModule, Standardize
from pyod_ae_plugin.storage import damaged, read_model, write_model
from pyod_ae_plugin.thresholds import RULES, ThresholdRule

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

FORMAT = 1
_HOOK = "pyod_ae_detectors"
# Tags of parameters that JSON has no kind for.
_TUPLE, _RULE, _VALUE = "tuple", "threshold_rule", "value"
_VALUE_KINDS = {kind.__name__: kind for kind in VALUES}
# Paths of the machine that fitted. From a file, they would be where a later fit writes.
_LEFT_BEHIND = ("checkpoint",)


@default_settings()
def save_detector(detector: NeuralDetector, fitted: Fitted, path: Path) -> None:
    """Save the parameters of a detector and what it learned; see ``NeuralDetector.save``."""
    params = described_params(detector)
    if not fitted.is_labelled_by_score:
        raise ValueError(
            f"The labels are those of {type(fitted.thresholder).__name__}, which cannot be saved "
            "without pickle. Fit with the present contamination, or set threshold_."
        )
    attributes, tensors = fitted.to_saved()
    description = {
        "format": FORMAT,
        "detector": type(detector).__name__,
        "versions": {p: version(p) for p in ("pyod-ae-plugin", "pyod", "torch", "scikit-learn")},
        "params": params,
        "attributes": {k: _to_json(k, v) for k, v in attributes.items()},
    }
    try:
        _restored(description, tensors, torch.device("cpu"))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            "The parameters no longer fit what was fitted, so the detector could not be loaded "
            f"again. Fit it anew, or set them back. ({error})"
        ) from error
    write_model(path, description, tensors)


def described_params(detector: NeuralDetector) -> dict[str, Any]:
    """The parameters of a detector as JSON; a ValueError names one that needs pickle."""
    name = type(detector).__name__
    if name not in detector_names() or find(_HOOK, name, "detector") is not type(detector):
        raise ValueError(
            f"{type(detector)} is not registered as the detector {name!r}, so it could not be "
            f"loaded again. Register it in a plugin, through the hook {_HOOK}."
        )
    params = {k: v for k, v in detector.get_params(deep=False).items() if k not in _LEFT_BEHIND}
    return {k: _to_json(k, v) for k, v in params.items()}


@default_settings()
def load_detector(path: str | Path, device: str | torch.device | None = None) -> NeuralDetector:
    """Load a detector that was saved with its method ``save``.

    Nothing in the files is executed: classes, networks and score heads are looked up by name
    among the installed plugins. Their content is checked before memory is allocated for it.

    Parameters
    ----------
    path : str or Path
        The folder or file.
    device : str, torch.device or None, default=None
        Where it scores. Default: the device of its ``device`` parameter if this machine has it,
        else the CPU.

    Returns
    -------
    NeuralDetector
        As it was when saved, but for ``checkpoint``, which is None.

    Raises
    ------
    FileNotFoundError
        If there is no saved detector.
    ValueError
        If it is damaged, of an unknown format or of an unknown kind, or this machine does not have
        the device.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pyod_ae_plugin import AutoEncoder, load_detector
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> detector = AutoEncoder(epoch_num=2, verbose=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     detector.save(f"{folder}/model.safetensors")
    ...     loaded = load_detector(f"{folder}/model.safetensors")
    >>> bool((loaded.decision_function(X) == detector.decision_function(X)).all())
    True
    """
    path = Path(path)
    target = None if device is None else resolve_device(device)
    description, tensors = read_model(path)
    if description.get("format") != FORMAT:
        raise ValueError(
            f"The detector in {path} is not of format {FORMAT}, the one that pyod-ae-plugin "
            f"{__version__} reads. Install the version that wrote it, or fit it anew."
        )
    try:
        return _restored(description, tensors, target)
    except ValueError as error:
        raise ValueError(f"The detector in {path} cannot be loaded: {error}") from error
    # what Python and torch raise on values of unexpected types and sizes
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
    ) as error:
        raise damaged(path, error) from error


def _restored(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device | None
) -> NeuralDetector:
    """The detector of a description and tensors, which may be forged."""
    Detector = find(_HOOK, description["detector"], "detector")
    if not hasattr(Detector, "_recipe"):
        raise TypeError(f"{description['detector']!r} is not a detector of this package")
    params = {name: _from_json(value) for name, value in description["params"].items()}
    if set(params) & set(_LEFT_BEHIND):
        raise TypeError(f"it holds the parameter {_LEFT_BEHIND}, which is never saved")
    n_features, state, values = from_saved(description["attributes"], tensors)
    for name, value in params.items():
        # A list of widths has two tensors for each; a longer one would take long to build.
        if isinstance(value, (list, tuple)) and len(value) > len(state):
            raise ValueError(f"{name} has {len(value)} values, but the model {len(state)} tensors")
    detector: NeuralDetector = Detector(**params)
    detector._check_params()
    detector._check_state(state)
    module = _loaded_module(detector._recipe(n_features), n_features, state)
    module.to(available_device(detector.device) if device is None else device)
    thresholder = None
    if isinstance(detector.contamination, ThresholdRule):
        thresholder = copy.deepcopy(detector.contamination)
        thresholder.thresh_ = values["threshold"]
    detector._adopt(Fitted(scoring_module=module, thresholder=thresholder, **values))
    return detector


def _loaded_module(recipe: Recipe, n_features: int, state: Mapping[str, Tensor]) -> ScoringModule:
    """The scoring module of a state, which is first compared with one that takes no memory."""
    if state["standardize.scale"].shape != (n_features,):
        raise ValueError("the scaling is not that of n_features_in_ features")
    try:
        check_loadable(_built(recipe, n_features, torch.device("meta")), state)
    except (NotImplementedError, RuntimeError):
        # A plugin's network may need values, or a device of its own, while it is built.
        if recipe.draws_privately:
            raise
    with seeded_global_rng(0, torch.device("cpu")):
        module = _built(recipe, n_features, torch.device("cpu"))
    load_exactly(module, state)
    with torch.no_grad():
        module(torch.zeros(1, n_features))
    return module.requires_grad_(False)


def _built(recipe: Recipe, n_features: int, device: torch.device) -> ScoringModule:
    network = recipe.build_network(torch.Generator(), device)
    with device:
        head = recipe.build_head(network)
        return assemble(Standardize(n_features), network, head, fills_gaps=recipe.has_gaps)


def _to_json(name: str, value: Any) -> Any:
    """Return a value as JSON holds it, or raise a ValueError that names it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return _to_json(name, value.tolist())
    if isinstance(value, (torch.device, PathLike)):
        return str(value)
    if isinstance(value, ThresholdRule) and RULES.get(type(value).__name__) is type(value):
        return {_RULE: [type(value).__name__, _to_json(name, value.get_params())]}
    if type(value) in VALUES:
        return {_VALUE: [type(value).__name__, _to_json(name, vars(value))]}
    if isinstance(value, Mapping):
        return {str(k): _to_json(name, v) for k, v in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_to_json(name, v) for v in value]}
    if isinstance(value, list):
        return [_to_json(name, v) for v in value]
    raise ValueError(
        f"{name}={value!r} cannot be saved without pickle. Use a plain value or the name under "
        "which a plugin registers it; or use joblib, and load only files you trust."
    )


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_RULE}:
        rule, params = value[_RULE]
        return RULES[rule](**params)
    if value.keys() == {_VALUE}:
        kind, params = value[_VALUE]
        return _VALUE_KINDS[kind](**params)
    if value.keys() == {_TUPLE}:
        return tuple(_from_json(v) for v in value[_TUPLE])
    return {k: _from_json(v) for k, v in value.items()}
