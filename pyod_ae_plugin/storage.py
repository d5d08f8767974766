"""Atomic file writes, locks, the files of saved detectors, and checkpoints of fits."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

MODEL_SUFFIX = ".safetensors"

_DESCRIPTION = "detector.json"
_KEY = "pyod_ae_plugin"  # of the metadata that mark a file of tensors as ours
_WRITTEN_BY = {"written_by": "pyod_ae_plugin"}  # marks a description as ours
_DIGEST = "sha256"
_LOCK = ".lock"
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}")  # folders that killed processes leave
_LARGEST_DESCRIPTION = 2**26  # bytes; 100,000 features with long names take 5 MiB
_SECONDS_TO_WAIT = 60  # for another save to the same folder; one takes seconds
# Endings by which other programs would take a folder of ours for a file of theirs.
# fmt: off
_FOREIGN_SUFFIXES = frozenset((
    ".bin", ".ckpt", ".csv", ".gz", ".h5", ".hdf5", ".html", ".joblib", ".json", ".keras",
    ".msgpack", ".npy", ".npz", ".onnx", ".parquet", ".pb", ".pickle", ".pkl", ".pmml", ".pt",
    ".pt2", ".pth", ".safetensor", ".tar", ".tflite", ".tgz", ".tsv", ".txt", ".xml", ".yaml",
    ".yml", ".zip",
))
# fmt: on
# What a damaged or forged file raises in JSON, in safetensors, in torch and in the checks.
_DAMAGED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,  # RecursionError, too
    OSError,
    MemoryError,
    SafetensorError,
)

# ------------------------------------------------------------------------------ atomic writes


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which replaces ``path`` if nothing fails.

    A reader of ``path`` finds the old file or the new one, never a part. The new file keeps the
    permissions of the old one. If ``path`` is a link, its target is replaced.
    """
    path = _resolved(path)
    folder = _temporary(path)  # for whatever else a library writes beside its file
    folder.mkdir()
    new = folder / path.name
    try:
        new.touch()
        mode = (path if path.exists() else new).stat().st_mode
        yield new
        new.chmod(mode)  # some libraries write files that only their owner may read
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_output(output: Path, *inputs: Path) -> None:
    """Raise unless a file can be written there and leaves all inputs as they are.

    Raises ValueError as :func:`check_separate` does, and OSError if its folder is missing or cannot
    be written to, its name is too long, or something other than a file is there.
    """
    check_separate(output, *inputs)
    _check_place(output)
    if not output.resolve().parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no such folder.")
    if output.exists() and not output.is_file():
        raise FileExistsError(f"{output} is there and is no regular file. Name another output.")


def check_separate(output: Path, *inputs: Path) -> None:
    """Raise ValueError if an output would be written over, into or around what is read.

    That is an input, a file in it, the target of a link in it, or a folder above one of these.
    """
    target = _resolved(output)
    for given in inputs:
        for source in (given, *given.rglob("*")) if given.is_dir() else (given,):
            read = _resolved(source)
            is_same = target.exists() and read.exists() and target.samefile(read)
            if is_same or target == read or read in target.parents or target in read.parents:
                raise ValueError(
                    f"{output} would be written over, into or around {given}, which is read. Name "
                    "another output."
                )


def _check_place(output: Path) -> None:
    """Raise OSError if a name is too long, or if nothing can be written to the folder above it."""
    target = _resolved(output)
    try:
        with suppress(FileNotFoundError):
            target.lstat()
    except OSError as error:
        raise OSError(f"{output} cannot be written: {error.strerror}.") from error
    above = next(folder for folder in target.parents if folder.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{output}: you may not write to the folder {above}.")


def _resolved(path: Path) -> Path:
    """The path without links; a loop of links raises OSError."""
    try:
        resolved, is_loop = path.resolve(), False
    except RuntimeError:  # what a loop of links raises before Python 3.13
        is_loop = True
    if is_loop or resolved.is_symlink():
        raise OSError(f"{path} is a link that leads back to itself.")
    return resolved


def _temporary(path: Path) -> Path:
    """A name for a folder beside a path; its length does not depend on that of the path."""
    return path.with_name(f".{uuid.uuid4().hex}")


# -------------------------------------------------------------------------------------- locks


@contextmanager
def locked(folder: Path, seconds: float, in_use: str) -> Iterator[None]:
    """Hold the lock of a folder: a hidden file in it, which is deleted afterwards.

    Raises BlockingIOError with the message ``in_use`` if another process or thread holds the lock
    for longer than some seconds.
    """
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=seconds, poll_interval=0.01)
    except Timeout as error:
        raise BlockingIOError(in_use) from error
    try:
        yield
    finally:
        # Deleted while it is held: a process that waits for it notices, and makes a new one.
        with suppress(PermissionError):  # Windows deletes no open file; filelock does it later
            (folder / _LOCK).unlink(missing_ok=True)
        lock.release()


@contextmanager
def working_folder(output: Path) -> Iterator[Path]:
    """Give a hidden folder beside an output, for one run at a time, that survives a failed run.

    It is deleted if nothing fails or nothing is in it. Only its owner may read or write it. One
    that belongs to somebody else, is a link, or is open to others raises PermissionError: what is
    in it could be anybody's. Raises BlockingIOError if another run uses it.
    """
    output = output.resolve()
    folder = output.with_name(f".{output.name}.parts")
    in_use = f"{output} is being written by another run. Wait for it, or name another output."
    with suppress(FileExistsError):
        folder.mkdir(0o700)
    try:
        _check_private(folder)
    except FileNotFoundError as error:  # a run that ended at this moment has deleted it
        raise BlockingIOError(in_use) from error
    with locked(folder, 0, in_use):
        try:
            yield folder
        except BaseException:
            if {entry.name for entry in folder.iterdir()} <= {_LOCK}:
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def _check_private(folder: Path) -> None:
    """Raise PermissionError unless a folder is the user's own and nobody else may write to it."""
    found = folder.lstat()
    is_own = not hasattr(os, "geteuid") or (
        found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
    if not stat.S_ISDIR(found.st_mode) or not is_own:
        raise PermissionError(
            f"{folder}, in which parts of the output are kept, is not a folder that only you can "
            "write to. Delete it, or name an output in another folder."
        )


# --------------------------------------------------------------------------- files of tensors


def write_sealed(path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a description, as JSON holds it, and tensors to a file, atomically.

    The tensors are contiguous and on the CPU. The file is in safetensors format and has a digest
    of all that it holds. One that cannot be written, for example on a full disk, raises OSError.
    """
    sealed = {_DIGEST: _digest(description, tensors), **description}
    _write_tensors(path, tensors, json.dumps(sealed))


def read_sealed(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the description and the tensors that :func:`write_sealed` wrote.

    The tensors are views of the file and take no memory of their own: copy those that are to stay.
    Raises ValueError if the file is not there or not as it was written.
    """
    try:
        tensors, described = _read_tensors(path)
        description = json.loads(described)
        _check_digest(description.pop(_DIGEST), description, tensors)
    except _DAMAGED as error:
        raise ValueError(_reason(error)) from error
    return description, tensors


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], described: str) -> None:
    with atomic_write(path) as new:
        try:
            save_file(dict(tensors), new, {_KEY: described})
        except SafetensorError as error:  # a full disk raises it, too
            raise OSError(f"{path} could not be written: {error}") from error


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors of a file, as views of it, and what its metadata say."""
    if not path.is_file():  # to open a pipe would wait for a writer
        raise FileNotFoundError(f"{path} is missing or is no regular file")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata()[_KEY]


def _reason(error: BaseException) -> str:
    return repr(error) if isinstance(error, LookupError) else str(error) or repr(error)


def _check_digest(
    digest: object, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    if digest != _digest(description, tensors):
        raise ValueError("its content does not match its digest")


def _digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a description and of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------------------- model files


def write_model(path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a description, as JSON holds it, and tensors, contiguous and on the CPU.

    At each moment the old or the new model is there, whole, also if several processes write. A path
    that ends in ``.safetensors`` is one file, any other a folder. Raises what
    :func:`check_replaceable` raises.
    """
    path = path.resolve()
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    description = {**_WRITTEN_BY, **description}
    if path.suffix.lower() == MODEL_SUFFIX:
        write_sealed(path, description, tensors)
    else:
        _write_folder(path, description, tensors)


def check_replaceable(path: Path) -> None:
    """Raise unless a model can be written to a path without harm to anything else.

    Raises ValueError if the ending means another format, FileExistsError if something other than a
    model is there, and OSError if nothing can be written there.
    """
    _check_place(path)
    path = path.resolve()
    if path.suffix.lower() in _FOREIGN_SUFFIXES:
        raise ValueError(
            f"{path}: a detector is not saved in the format that {path.suffix} means. Name a file "
            f"that ends in {MODEL_SUFFIX}, or a folder, which has no ending."
        )
    if not path.exists():
        return
    while True:
        version = _version(path)
        if path.suffix.lower() == MODEL_SUFFIX:
            is_model = _is_marked(path)
        else:
            is_model = path.is_dir() and _model_files(path) is not None
        if is_model:
            return
        if _version(path) == version:  # else another process has just saved
            raise _left_alone(path)


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the description and the tensors that :func:`write_model` wrote.

    The tensors are views of the file and take no memory of their own: copy those that are to stay.
    A model that is replaced meanwhile is read again. Raises FileNotFoundError if there is no model,
    and ValueError if it is not as it was written.
    """
    while True:
        version = _version(path)
        try:
            description, tensors = _read_folder(path) if path.is_dir() else _read_file(path)
        except (FileNotFoundError, ValueError):
            if _version(path) == version:
                raise
        else:
            for key in _WRITTEN_BY:
                description.pop(key, None)
            return description, tensors


def model_digest(path: Path) -> str:
    """The digest of the model in a file or folder; raises what :func:`read_model` raises."""
    return _digest(*read_model(path))


def damaged(path: Path, error: Exception) -> ValueError:
    """Return the error that refuses a model."""
    return ValueError(
        f"The saved detector {path} is damaged: {_reason(error)}. Take a copy that is whole, or "
        "fit it anew."
    )


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} holds no saved detector.")
    try:
        return read_sealed(path)
    except ValueError as error:
        raise damaged(path, error) from error


def _read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not (path / _DESCRIPTION).is_file():
        raise FileNotFoundError(f"{path} holds no saved detector. It has no {_DESCRIPTION}.")
    try:
        description = _read_description(path)
        tensors, _ = _read_tensors(path / _tensors_name(description[_DIGEST]))
        _check_digest(description.pop(_DIGEST), description, tensors)
    except _DAMAGED as error:
        raise damaged(path, error) from error
    return description, tensors


def _write_folder(
    path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    if not path.exists():
        new = _temporary(path)
        new.mkdir()
        try:
            _fill(new, [], description, tensors)
            new.rename(path)
        except OSError:
            if not path.exists():  # else another process made it first
                raise
        else:
            return
        finally:
            shutil.rmtree(new, ignore_errors=True)
    in_use = f"{path} has been locked by another process for over {_SECONDS_TO_WAIT} s. Try again."
    with locked(path, _SECONDS_TO_WAIT, in_use):
        earlier = _model_files(path)  # again, as it may have changed before it was locked
        if earlier is None:
            raise _left_alone(path)
        _fill(path, earlier, description, tensors)


def _left_alone(path: Path) -> FileExistsError:
    return FileExistsError(
        f"{path} exists and is not just a saved detector. It is left as it is. Name another "
        "path, or delete it first."
    )


def _fill(
    folder: Path,
    earlier: Sequence[Path],
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write a model to a folder, and delete the files of an earlier one."""
    digest = _digest(description, tensors)
    # The description names the tensors by their digest: to replace it is to replace both.
    tensors_path = folder / _tensors_name(digest)
    try:
        _write_tensors(tensors_path, tensors, digest)
        with atomic_write(folder / _DESCRIPTION) as new:
            new.write_text(json.dumps({_DIGEST: digest, **description}, indent=1))
    except BaseException:
        if tensors_path not in earlier:
            tensors_path.unlink(missing_ok=True)
        raise
    for file in earlier:
        if file.is_dir():
            shutil.rmtree(file)
        elif file.name not in (_DESCRIPTION, _LOCK, tensors_path.name):
            file.unlink()


def _model_files(folder: Path) -> list[Path] | None:
    """The files in a folder if they are a model and what killed processes left, else None."""
    files = list(folder.iterdir())
    named = None
    if (folder / _DESCRIPTION).is_file():
        try:
            description = _read_description(folder)
            named = _tensors_name(description[_DIGEST])
            is_ours = description.items() >= _WRITTEN_BY.items()
        except _DAMAGED:
            is_ours = False
        if not is_ours:
            return None
    for file in files:
        if _TEMPORARY.fullmatch(file.name):
            belongs = file.is_dir()
        else:
            is_named = file.name in (_DESCRIPTION, _LOCK, named)
            is_left = _is_tensors_name(file.name) and _is_marked(file)
            belongs = (is_named or is_left) and file.is_file()
        if not belongs or file.is_symlink():
            return None
    return files


def _is_marked(path: Path) -> bool:
    """Whether a file of tensors was written by this module."""
    try:
        _read_tensors(path)
    except _DAMAGED:
        return False
    return True


def _version(path: Path) -> list[tuple[str, int, int]]:
    """What changes whenever something in a file or folder is replaced."""
    found = []
    for file in (path, *path.iterdir()) if path.is_dir() else (path,):
        with suppress(OSError):  # another process has just deleted it
            status = file.lstat()
            found.append((file.name, status.st_ino, status.st_mtime_ns))
    return sorted(found)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / _DESCRIPTION
    if path.stat().st_size > _LARGEST_DESCRIPTION:
        raise ValueError(f"{_DESCRIPTION} is larger than {_LARGEST_DESCRIPTION} bytes")
    description: dict[str, Any] = json.loads(path.read_text())
    if not isinstance(description, dict):
        raise TypeError(f"{_DESCRIPTION} holds no object")
    return description


def _tensors_name(digest: Any) -> str:
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{digest!r} is not a digest")
    return f"tensors-{digest[:16]}{MODEL_SUFFIX}"


def _is_tensors_name(name: str) -> bool:
    return re.fullmatch(rf"tensors-[0-9a-f]{{16}}\{MODEL_SUFFIX}", name) is not None


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
            write_sealed(self.path, self._described, tensors)
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
        try:
            described, state = read_sealed(self.path)
        except ValueError as error:
            raise self.damaged(error) from error
        if described != self._described:
            raise ValueError(
                f"The checkpoint {self.path} is of a fit with other parameters or other data. "
                + _REMEDY
            )
        return state

    def damaged(self, reason: object) -> ValueError:
        """Return the error that refuses the file."""
        return ValueError(f"The checkpoint {self.path} is damaged: {reason}. {_REMEDY}")

    def remove(self) -> None:
        """Delete the file if there is one."""
        self.path.resolve().unlink(missing_ok=True)


_REMEDY = "Delete it to start anew, or name another file."
