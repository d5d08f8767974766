"""Tables in files that all workers see, as Ray datasets, and scores of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pyod_ae_plugin.integrations.ray.cluster import connected, ray_module
from pyod_ae_plugin.integrations.ray.scorer import LABEL, score_dataset, write_parquet
from pyod_ae_plugin.integrations.ray.trainer import fit_dataset
from pyod_ae_plugin.integrations.ray.worker import USER_ERRORS
from pyod_ae_plugin.sources import Source, some_of
from pyod_ae_plugin.storage import working_folder

if TYPE_CHECKING:
    from pyod_ae_plugin.detectors.base import NeuralDetector

READABLE = (".csv", ".npy", ".parquet")


def read_dataset(path: Path) -> Any:
    """Open a table as a Ray dataset, in the order of its rows.

    It is CSV with a first line of names, NPY, Parquet, or a folder of Parquet files, ordered by
    name. Any other kind, or a CSV file without names, raises ValueError; no file,
    FileNotFoundError.
    """
    kind = ".parquet" if path.is_dir() else path.suffix.lower()
    if kind not in READABLE:
        raise ValueError(
            f"{path}: the engine 'ray' reads {', '.join(READABLE)} files and folders of Parquet."
        )
    Source.open(path, ".parquet")  # raises where there is no regular file
    data, path = ray_module("ray.data"), path.resolve()  # workers have folders of their own
    if kind == ".parquet":
        # A list of files would be looked up by threads that get in each other's way: Ray 2.60
        # fails then where aiohttp is not installed.
        return data.read_parquet(str(path))
    if kind == ".npy":
        return data.read_numpy(str(path))
    dataset = data.read_csv(str(path))
    if all(map(_is_number, dataset.columns())):
        raise ValueError(
            f"{path}: the first line holds numbers; the engine 'ray' needs names of columns there."
        )
    return dataset


def fit_files(
    detector: NeuralDetector,
    data: Path,
    left_out: Sequence[str],
    workers: int,
    address: str | None,
) -> None:
    """Fit a detector to the numbers in a table; on GPUs if the detector's device is one."""
    with connected(address), _errors_named(data):
        dataset = read_dataset(data)
        names = dataset.columns()
        unknown = [name for name in left_out if name not in names]
        if unknown:
            raise ValueError(
                f"{data}: there is no column {unknown[0]!r}; there are {some_of(names)}."
            )
        features = [name for name in names if name not in left_out]
        device = _kind_of(str(detector.device))
        fit_dataset(detector, dataset, features, workers=workers, device=device)


def score_files(
    detector: NeuralDetector, data: Path, output: Path, device: str | None, address: str | None
) -> tuple[int, int]:
    """Write keys, scores and labels of a table to a folder of Parquet files, whole or not at all.

    Returns the numbers of rows and of outliers.
    """
    _check_folder(output)
    with working_folder(output) as folder:
        new = folder / "rows"
        if new.exists():  # of a run that was killed
            shutil.rmtree(new)
        try:
            with connected(address), _errors_named(data):
                dataset = read_dataset(data)
                if not dataset.take(1):  # found before any worker is started
                    raise ValueError(f"{data}: the table is empty.")
                scored = score_dataset(detector, dataset, device=_kind_of(device or "cpu"))
                write_parquet(scored, str(new))
            new.rename(output)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    dataset = import_module("pyarrow.dataset")  # Ray brings it
    written = dataset.dataset(output, format="parquet")
    return written.count_rows(), written.count_rows(filter=dataset.field(LABEL) == 1)


@contextmanager
def _errors_named(data: Path) -> Iterator[None]:
    """Raise an error of a worker, which the table caused, as one line that names the table."""
    try:
        yield
    except ray_module("ray.exceptions").RayError as error:
        # Ray hands on only the text of a worker's traceback.
        kinds = "|".join(kind.__name__ for kind in USER_ERRORS)
        messages = re.findall(f"^(?:{kinds}): (.+)$", str(error), re.MULTILINE)
        if not messages:
            raise
        raise ValueError(f"{data}: {messages[-1]}") from error


def _kind_of(device: str) -> Literal["cpu", "cuda"]:
    return "cuda" if device.startswith("cuda") else "cpu"


def _check_folder(output: Path) -> None:
    """Raise unless a folder of Parquet files can be made there."""
    if output.suffix not in ("", ".parquet"):
        raise ValueError(f"{output}: the engine 'ray' writes a folder of Parquet files.")
    if output.exists():
        raise FileExistsError(f"{output} is there already; the engine 'ray' replaces nothing.")
    if not output.resolve().parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no such folder.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
