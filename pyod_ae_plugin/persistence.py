"""Saves and loads fitted detectors as JSON and safetensors, without pickle."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pyod_ae_plugin.plugins.manager import create_detector, detector_names, find
from pyod_ae_plugin.thresholds import RULES, ThresholdRule
from pyod_ae_plugin.version import __version__

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

FORMAT = 1
HOOK = "pyod_ae_detectors"
_DESCRIPTION = "detector.json"
_TENSORS = "tensors.safetensors"
# Marks the scoring module's tensors; the others are the fitted attributes that are arrays.
_MODULE_PREFIX = "module."
_TUPLE = "tuple"
_RULE = "threshold_rule"


def save_detector(detector: NeuralDetector, path: Path) -> None:
    """Save a fitted detector as a folder with a description and its tensors.

    Parameters
    ----------
    detector : NeuralDetector
        Fitted, and of a registered class.
    path : Path
        The folder. It is written beside and renamed, so that a failure leaves what was there.

    Raises
    ------
    ValueError
        If the class is not registered, or a parameter, such as a network factory, cannot be
        written without pickle.
    FileExistsError
        If something other than a saved detector is there.
    """
    path = path.resolve()
    if path.exists() and not _is_replaceable(path):
        raise FileExistsError(
            f"{path} exists and is more or other than a saved detector; it is left alone."
        )
    name = type(detector).__name__
    if name not in detector_names() or find(HOOK, name, "detector") is not type(detector):
        raise ValueError(
            f"{type(detector)} is not registered as the detector {name!r}, so it could not be "
            f"loaded again. Register it in a plugin, through the hook {HOOK}."
        )
    attributes = detector.fitted_attributes()
    arrays = {k: v for k, v in attributes.items() if _is_numeric_array(v)}
    description = {
        "format": FORMAT,
        "detector": name,
        "versions": {p: version(p) for p in ("pyod-ae-plugin", "pyod", "torch", "scikit-learn")},
        "params": {k: _to_json(k, v) for k, v in detector.get_params(deep=False).items()},
        "attributes": {k: _to_json(k, v) for k, v in attributes.items() if k not in arrays},
    }
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
    for key, value in detector.scoring_module_.state_dict().items():
        tensors[_MODULE_PREFIX + key] = value.cpu().contiguous()
    try:
        _restored(json.loads(json.dumps(description), object_hook=_from_json), tensors, "cpu")
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            "The parameters no longer fit what was fitted, so the detector could not be loaded "
            f"again. Fit it anew, or set them back. ({error})"
        ) from error
    _write(path, json.dumps(description, indent=1), tensors)


def load_detector(path: str | Path, device: str | torch.device | None = None) -> NeuralDetector:
    """Load a detector that was saved with its method ``save``.

    Nothing in the folder is executed: classes, networks and score heads are looked up by name
    among the installed plugins.

    Parameters
    ----------
    path : str or Path
        The folder.
    device : str, torch.device or None, default=None
        Where it shall score; None is where its own ``device`` parameter says, if that is here,
        else the CPU.

    Returns
    -------
    NeuralDetector
        As it was when saved.

    Raises
    ------
    FileNotFoundError
        If there is no saved detector.
    ValueError
        If it is damaged, of an unknown format or of an unknown kind, or the device is not here.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pyod_ae_plugin import AutoEncoder, load_detector
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> detector = AutoEncoder(epoch_num=2, verbose=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     detector.save(f"{folder}/model")
    ...     loaded = load_detector(f"{folder}/model")
    >>> bool((loaded.decision_function(X) == detector.decision_function(X)).all())
    True
    """
    path = Path(path)
    if not (path / _DESCRIPTION).is_file():
        raise FileNotFoundError(f"{path} holds no saved detector: it has no {_DESCRIPTION}.")
    try:
        description = json.loads((path / _DESCRIPTION).read_text(), object_hook=_from_json)
        tensors = load_file(path / _TENSORS)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"The detector in {path} is damaged: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(
            f"The detector in {path} is not of format {FORMAT}, the one that pyod-ae-plugin "
            f"{__version__} reads. Install the version that wrote it, or fit it anew."
        )
    try:
        return _restored(description, tensors, device)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"The detector in {path} is damaged: {error!r}") from error


def _restored(
    description: dict[str, Any],
    tensors: Mapping[str, torch.Tensor],
    device: str | torch.device | None,
) -> NeuralDetector:
    detector = create_detector(description["detector"], **description["params"])
    attributes: dict[str, Any] = {}
    module = {}
    for key, tensor in tensors.items():
        if key.startswith(_MODULE_PREFIX):
            module[key.removeprefix(_MODULE_PREFIX)] = tensor
        else:
            attributes[key] = tensor.numpy()
    attributes |= description["attributes"]
    unknown = [key for key in attributes if not is_fitted_name(key)]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no fitted attribute")
    if "feature_names_in_" in attributes:
        attributes["feature_names_in_"] = np.array(attributes["feature_names_in_"], dtype=object)
    restored: NeuralDetector = detector
    restored.restore(attributes, module, device)
    return restored


def is_fitted_name(name: str) -> bool:
    """Whether fit sets such an attribute: threshold_, say, or PyOD's _mu, _sigma and _classes."""
    apart = name in ("scoring_module_", "thresholder_")  # kept as tensors; follows from threshold_
    learned = name.endswith("_") and not name.startswith("_") and not apart
    return learned or name in ("_mu", "_sigma", "_classes")


def _is_replaceable(path: Path) -> bool:
    """Whether a folder is empty or holds a saved detector and nothing else."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return not names or names == {_DESCRIPTION, _TENSORS}


def _write(path: Path, description: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write beside and rename, so that at each moment the old or the new detector is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex
    new, old = path.with_name(f".{path.name}-{mark}"), path.with_name(f".{path.name}-old-{mark}")
    try:
        new.mkdir()
        (new / _DESCRIPTION).write_text(description)
        (new / _TENSORS).write_bytes(save(dict(tensors)))
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


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


def _from_json(value: dict[str, Any]) -> Any:
    if value.keys() == {_RULE}:
        rule, params = value[_RULE]
        return RULES[rule](**params)
    return tuple(value[_TUPLE]) if value.keys() == {_TUPLE} else value
