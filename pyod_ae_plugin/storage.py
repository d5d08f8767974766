"""Atomic file writes, the files of saved detectors, and checkpoints of fits."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

MODEL_SUFFIX = ".safetensors"

_DESCRIPTION = "detector.json"
_KEY = "detector"  # of the description in the metadata of a single file
_DIGEST = "sha256"
# A crash while files are written leaves some that begin with a dot.
_OURS = re.compile(r"detector\.json|tensors-\w+\.safetensors|\.(detector|tensors)-.*")
_LARGEST_DESCRIPTION = 2**26  # bytes; 100,000 features with long names take 5 MiB
# What JSON and the checks raise on a damaged file.
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, RecursionError)

# ------------------------------------------------------------------------------ atomic writes


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which replaces ``path`` if nothing fails.

    A reader of ``path`` finds the old file or the new one, never a part. The new file keeps the
    permissions of the old one.
    """
    new = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        new.touch()
        mode = (path if path.exists() else new).stat().st_mode
        yield new
        new.chmod(mode)  # some libraries write files that only their owner may read
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors, contiguous and on the CPU, to a safetensors file, atomically.

    A file that cannot be written, for example on a full disk, raises OSError.
    """
    with atomic_write(path) as new:
        try:
            save_file(dict(tensors), new, metadata)
        except SafetensorError as error:  # a full disk raises it, too
            raise OSError(f"{path} could not be written: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file, as views of the file, and its metadata."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


# ------------------------------------------------------------------------------- model files


def write_model(path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a description, as JSON holds it, and tensors, contiguous and on the CPU.

    At each moment the old or the new model is there, whole. A path that ends in ``.safetensors`` is
    one file, any other a folder. Raises FileExistsError if something other than a model is there.
    """
    path = path.resolve()
    if path.exists() and not _is_replaceable(path):
        raise FileExistsError(
            f"{path} exists and is more or other than a saved detector; it is left alone."
        )
    digest = _digest(description, tensors)
    described = json.dumps({_DIGEST: digest, **description}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == MODEL_SUFFIX:
        write_tensors(path, tensors, {_KEY: described})
    else:
        _write_folder(path, described, digest, tensors)


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the description and the tensors that :func:`write_model` wrote.

    The tensors are views of the file and take no memory of their own: copy those that are to stay.
    Raises FileNotFoundError if there is no model, and ValueError if it is not as it was written.
    """
    described_in = path / _DESCRIPTION if path.is_dir() else path
    if not described_in.is_file():
        lacking = f" It has no {_DESCRIPTION}." if path.is_dir() else ""
        raise FileNotFoundError(f"{path} holds no saved detector.{lacking}")
    try:
        if path.is_dir():
            if described_in.stat().st_size > _LARGEST_DESCRIPTION:
                raise ValueError(f"{_DESCRIPTION} is larger than {_LARGEST_DESCRIPTION} bytes")
            description = json.loads(described_in.read_text())
            tensors, _ = read_tensors(path / _tensors_name(description[_DIGEST]))
        else:
            tensors, metadata = read_tensors(path)
            description = json.loads(metadata[_KEY])
        digest = description.pop(_DIGEST)
    except (*_DAMAGED, OSError, MemoryError, SafetensorError) as error:
        raise damaged(path, error) from error
    if digest != _digest(description, tensors):
        raise damaged(path, "its content does not match its digest")
    return description, tensors


def damaged(path: Path, reason: object) -> ValueError:
    """Return the error that refuses a model."""
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
        with atomic_write(path / _DESCRIPTION) as new:
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


def _is_replaceable(path: Path) -> bool:
    """Whether a folder is empty or holds a model and nothing else, or a file is a model."""
    if path.is_dir() == (path.suffix == MODEL_SUFFIX):
        return False
    if path.is_dir():
        return all(_OURS.fullmatch(entry.name) for entry in path.iterdir())
    try:
        return _KEY in read_tensors(path)[1]
    except (OSError, SafetensorError):
        return False


def _tensors_name(digest: Any) -> str:
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{digest!r} is no digest")
    return f"tensors-{digest[:16]}{MODEL_SUFFIX}"


def _digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a description and of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------------------- checkpoints


class Checkpoint:
    """A file that holds the state of one fit.

    The fingerprint tells this fit from others: the state of another fit is refused.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._described = {"format": "1", "fit": fingerprint}

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Write a state. If an OSError is raised, the last state stays as it is."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        try:
            write_tensors(self.path, tensors, self._described)
        except OSError as error:
            reason = error.__cause__ or error  # what safetensors said, without the path again
            raise OSError(
                f"The checkpoint {self.path} could not be written: {reason}. The fit ends, so that "
                "no more is lost. Make room and fit again: it goes on from the last checkpoint "
                "that could be written."
            ) from error

    def load(self) -> dict[str, Tensor] | None:
        """Return the state that was written last, or None if there is no file.

        A file that is damaged or is of another fit raises ValueError.
        """
        if not self.path.exists():
            return None
        remedy = "Delete it to start anew, or name another file."
        try:
            state, described = read_tensors(self.path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"The checkpoint {self.path} is damaged: {error}. {remedy}") from error
        if described != self._described:
            raise ValueError(
                f"The checkpoint {self.path} is of a fit with other parameters or other data. "
                + remedy
            )
        return state

    def remove(self) -> None:
        """Delete the file if there is one."""
        self.path.unlink(missing_ok=True)
