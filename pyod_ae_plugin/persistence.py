"""Saves and loads fitted detectors, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyod_ae_plugin import __version__
from pyod_ae_plugin.engine.devices import resolve_device
from pyod_ae_plugin.fitted import check_attributes
from pyod_ae_plugin.modelfiles import damaged, read_model, write_model
from pyod_ae_plugin.plugins.manager import detector_names, find
from pyod_ae_plugin.thresholds import RULES, ThresholdRule

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

FORMAT = 1
HOOK = "pyod_ae_detectors"
# Marks the scoring module's tensors; the others are the fitted attributes that are arrays.
_MODULE_PREFIX = "module."
_TUPLE = "tuple"
_RULE = "threshold_rule"
# Paths of the machine that fitted. From a file, they would be where a later fit writes.
_LEFT_BEHIND = ("checkpoint",)


def save_detector(detector: NeuralDetector, path: Path) -> None:
    """Save a fitted detector as a folder, or as one file.

    Parameters
    ----------
    detector : NeuralDetector
        Fitted, and of a registered class.
    path : Path
        One file if it ends in ``.safetensors``, else a folder. It is written beside and renamed,
        so that a failure leaves what was there.

    Raises
    ------
    ValueError
        If the class is not registered, or a parameter, such as a network factory, cannot be
        written without pickle.
    FileExistsError
        If something other than a saved detector is there.
    """
    params = described_params(detector)
    attributes = detector.fitted_attributes()
    arrays = {k: v for k, v in attributes.items() if _is_numeric_array(v)}
    description = {
        "format": FORMAT,
        "detector": type(detector).__name__,
        "versions": {p: version(p) for p in ("pyod-ae-plugin", "pyod", "torch", "scikit-learn")},
        "params": params,
        "attributes": {k: _to_json(k, v) for k, v in attributes.items() if k not in arrays},
    }
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
    for key, value in detector.scoring_module_.state_dict().items():
        tensors[_MODULE_PREFIX + key] = value.cpu().contiguous()
    try:
        _restored(description, tensors, torch.device("cpu"))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            "The parameters no longer fit what was fitted, so the detector could not be loaded "
            f"again. Fit it anew, or set them back. ({error})"
        ) from error
    write_model(path, description, tensors)


def described_params(detector: NeuralDetector) -> dict[str, Any]:
    """The parameters of a detector, fitted or not, as JSON holds them.

    Raises
    ------
    ValueError
        If the class is not registered, or a parameter cannot be written without pickle.
    """
    name = type(detector).__name__
    if name not in detector_names() or find(HOOK, name, "detector") is not type(detector):
        raise ValueError(
            f"{type(detector)} is not registered as the detector {name!r}, so it could not be "
            f"loaded again. Register it in a plugin, through the hook {HOOK}."
        )
    params = {k: v for k, v in detector.get_params(deep=False).items() if k not in _LEFT_BEHIND}
    return {k: _to_json(k, v) for k, v in params.items()}


def load_detector(path: str | Path, device: str | torch.device | None = None) -> NeuralDetector:
    """Load a detector that was saved with its method ``save``.

    Nothing in the files is executed: classes, networks and score heads are looked up by name
    among the installed plugins. What the files hold is checked before memory is taken for it.

    Parameters
    ----------
    path : str or Path
        The folder or file.
    device : str, torch.device or None, default=None
        Where it shall score; None is where its own ``device`` parameter says, if that is here,
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
        If it is not as it was written, of an unknown format or of an unknown kind, or the device
        is not here.

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
    except (ArithmeticError, AttributeError, LookupError, TypeError, RuntimeError) as error:
        raise damaged(path, error) from error
    except MemoryError as error:
        raise damaged(path, error) from error


def _restored(
    description: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    device: torch.device | None,
) -> NeuralDetector:
    Detector = find(HOOK, description["detector"], "detector")
    if not hasattr(Detector, "restore"):
        raise TypeError(f"{description['detector']!r} is no detector of this package")
    params = {name: _from_json(value) for name, value in description["params"].items()}
    if set(params) & set(_LEFT_BEHIND):
        raise TypeError(f"it holds the parameter {_LEFT_BEHIND}, which is never saved")
    detector: NeuralDetector = Detector(**params)
    attributes = dict(description["attributes"])
    module = {}
    for key, tensor in tensors.items():
        if key.startswith(_MODULE_PREFIX):
            module[key.removeprefix(_MODULE_PREFIX)] = tensor
        else:
            attributes[key] = tensor.numpy().copy()
    check_attributes(type(detector), attributes)
    if "feature_names_in_" in attributes:
        attributes["feature_names_in_"] = np.array(attributes["feature_names_in_"], dtype=object)
    detector.restore(attributes, module, device)
    return detector


def _is_numeric_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _to_json(name: str, value: Any) -> Any:
    """Return a value as JSON holds it, or say which one it cannot hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return _to_json(name, value.tolist())
    if isinstance(value, (torch.device, PathLike)):
        return str(value)
    if isinstance(value, ThresholdRule) and RULES.get(type(value).__name__) is type(value):
        return {_RULE: [type(value).__name__, _to_json(name, value.get_params())]}
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
    if value.keys() == {_TUPLE}:
        return tuple(_from_json(v) for v in value[_TUPLE])
    return {k: _from_json(v) for k, v in value.items()}
