"""The files that a saved detector is: JSON and safetensors, in a folder or in one file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, uint8

from pyod_ae_plugin.files import read_tensors, replacing, write_tensors

SUFFIX = ".safetensors"
_DESCRIPTION = "detector.json"
_KEY = "detector"  # of the description within a single file
_DIGEST = "sha256"
# Those beginning with a dot are what a crash leaves of files that were being written.
_OURS = re.compile(r"detector\.json|tensors-\w+\.safetensors|\.(detector|tensors)-.*")
_LARGEST_DESCRIPTION = 2**26  # that of 100,000 features with long names has some 5 MiB


def write_model(path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a description and tensors, so that at each moment the old or the new one is whole.

    Parameters
    ----------
    path : Path
        One file if it ends in ``.safetensors``, else a folder.
    description : mapping of str to object
        Of what JSON holds.
    tensors : mapping of str to Tensor
        Contiguous, on the CPU.

    Raises
    ------
    FileExistsError
        If something other than a model is there.
    """
    path = path.resolve()
    if path.exists() and not _is_replaceable(path):
        raise FileExistsError(
            f"{path} exists and is more or other than a saved detector; it is left alone."
        )
    digest = _digest(description, tensors)
    described = json.dumps({_DIGEST: digest, **description}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_file_name(path):
        write_tensors(path, tensors, {_KEY: described})
    else:
        _write_folder(path, described, digest, tensors)


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what :func:`write_model` wrote.

    Returns
    -------
    description : dict of str to object
    tensors : dict of str to Tensor
        Views of the file, which take no memory of their own: copy those that are to stay.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If it is not as it was written.
    """
    described_in = path / _DESCRIPTION if path.is_dir() else path
    if not described_in.is_file():
        lacking = f" It has no {_DESCRIPTION}." if path.is_dir() else ""
        raise FileNotFoundError(f"{path} holds no saved detector.{lacking}")
    try:
        if path.is_dir():
            description = _read_description(described_in)
            tensors, _ = _read_tensors(path / _tensors_name(description[_DIGEST]))
        else:
            tensors, metadata = _read_tensors(path)
            description = json.loads(metadata[_KEY])
        digest = description.pop(_DIGEST)
    # whatever JSON and safetensors raise on bytes that are not theirs
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, error) from error
    except (RecursionError, MemoryError, SafetensorError) as error:
        raise damaged(path, error) from error
    if digest != _digest(description, tensors):
        raise damaged(path, "its content does not match its digest")
    return description, tensors


def damaged(path: Path, reason: object) -> ValueError:
    """The error that refuses a model."""
    reason = f"{reason!r}" if isinstance(reason, LookupError) else reason
    return ValueError(
        f"The saved detector {path} is damaged: {reason}. Take a copy that is whole, or fit it "
        "anew."
    )


def _write_folder(path: Path, described: str, digest: str, tensors: Mapping[str, Tensor]) -> None:
    # The description names the tensors by their digest: to replace it is to replace both.
    tensors_path = path / _tensors_name(digest)
    made_folder, had_tensors = not path.exists(), tensors_path.exists()
    path.mkdir(exist_ok=True)
    try:
        write_tensors(tensors_path, tensors)
        with replacing(path / _DESCRIPTION) as new:
            new.write_text(described)
    except BaseException:
        if not had_tensors:
            tensors_path.unlink(missing_ok=True)
        if made_folder:
            path.rmdir()
        raise
    for file in path.iterdir():
        if file.name not in (_DESCRIPTION, tensors_path.name):
            file.unlink()


def _read_description(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_DESCRIPTION:
        raise ValueError(f"{path.name} is larger than {_LARGEST_DESCRIPTION} bytes")
    description: dict[str, Any] = json.loads(path.read_text())
    return description


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing")
    return read_tensors(path)


def _is_replaceable(path: Path) -> bool:
    """Whether a folder is empty or holds a model and nothing else, or a file is a model."""
    if path.is_dir() != (not _is_file_name(path)):
        return False
    if path.is_dir():
        return all(_OURS.fullmatch(entry.name) for entry in path.iterdir())
    try:
        return _KEY in _read_tensors(path)[1]
    except (OSError, SafetensorError):
        return False


def _is_file_name(path: Path) -> bool:
    return path.suffix == SUFFIX


def _tensors_name(digest: Any) -> str:
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{digest!r} is no digest")
    return f"tensors-{digest[:16]}{SUFFIX}"


def _digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a description and of names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()
