"""Turns results into means, mean ranks, tables, files and a chart."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import rankdata

from pyod_ae_plugin.benchmarking.evaluation import METRICS, Result

_SECONDS = ("fit_seconds", "score_seconds")
_HEADINGS = ("ROC AUC", "AP", "P@n", "fit s", "score s")


@dataclass(frozen=True)
class DetectorMean:
    """A detector over all data sets, each of which counts the same.

    Attributes
    ----------
    detector : str
    values : tuple of float
        Means of the metrics and of the seconds, in the order of the tables.
    mean_rank : float
        Mean over data sets of its rank by ROC AUC; 1 is best.
    failures : int
        Runs that ended in an error.
    """

    detector: str
    values: tuple[float, ...]
    mean_rank: float
    failures: int


def detector_means(results: Sequence[Result]) -> list[DetectorMean]:
    """Means and mean ranks, best mean rank first; failed runs rank last and are in no mean."""
    detectors = list(dict.fromkeys(r.detector for r in results))
    datasets = list(dict.fromkeys(r.dataset for r in results))
    means = np.array([[_means(results, d, s) for s in datasets] for d in detectors])
    auc = means[:, :, 0]
    ranks = rankdata(-np.nan_to_num(auc, nan=-1.0), axis=0)
    summary = [
        DetectorMean(
            detector,
            tuple(float(v) for v in _nanmean(means[i])),
            float(ranks[i].mean()),
            sum(bool(r.error) for r in results if r.detector == detector),
        )
        for i, detector in enumerate(detectors)
    ]
    return sorted(summary, key=lambda m: m.mean_rank)


def dataset_table(results: Sequence[Result]) -> Table:
    """Every detector on every data set, means over seeds, the best ROC AUC of each in bold."""
    table = _table("data set", "detector", *_HEADINGS, title="Each data set (mean over seeds)")
    for dataset, group in groupby(results, key=lambda r: r.dataset):
        of_dataset = list(group)
        names = list(dict.fromkeys(r.detector for r in of_dataset))
        rows = {name: _means(of_dataset, name, dataset) for name in names}
        best = max(np.nan_to_num(values[0], nan=-1.0) for values in rows.values())
        for i, (name, values) in enumerate(rows.items()):
            shown = (dataset, _shape(of_dataset[0]))[i] if i < 2 else ""
            style = "bold" if values[0] == best else None
            table.add_row(shown, name, *_cells(values), style=style)
        table.add_section()
    return table


def mean_table(results: Sequence[Result]) -> Table:
    """Every detector over all data sets, best first."""
    n_datasets = len({r.dataset for r in results})
    title = f"Mean over {n_datasets} data sets"
    table = _table("detector", "mean rank", *_HEADINGS, "failed", title=title)
    for mean in detector_means(results):
        failed = str(mean.failures) if mean.failures else ""
        table.add_row(mean.detector, f"{mean.mean_rank:.2f}", *_cells(mean.values), failed)
    return table


def write_results(results: Sequence[Result], path: Path, protocol: str) -> None:
    """Write every run to a CSV file, or with versions and machine to a JSON file.

    Raises
    ------
    ValueError
        If the file's name ends in neither .csv nor .json.
    """
    rows = [asdict(result) for result in results]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Result)])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        known = [{k: None if v != v else v for k, v in row.items()} for row in rows]
        path.write_text(json.dumps({**circumstances(protocol), "results": known}, indent=1))
    else:
        raise ValueError(f"Results are written to .csv or .json files, got {path.name!r}.")


def circumstances(protocol: str) -> dict[str, Any]:
    """What results hang on: the protocol, the versions and the machine."""
    packages = ("pyod-ae-plugin", "pyod", "torch", "scikit-learn", "numpy")
    return {
        "protocol": protocol,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {package: version(package) for package in packages},
    }


def _means(results: Iterable[Result], detector: str, dataset: str) -> list[float]:
    """Mean metrics and seconds over the seeds; NaN where every seed failed."""
    runs = [r for r in results if r.detector == detector and r.dataset == dataset]
    names = METRICS + _SECONDS
    return list(_nanmean(np.array([[getattr(r, name) for name in names] for r in runs])))


def _nanmean(
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: np.ndarray[tuple[int], np.dtype[np.float64]] = np.where(known, values, 0).sum(
            0
        ) / known.sum(0)
    return means


def _table(*headings: str, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        text = heading in ("data set", "detector")
        table.add_column(heading, justify="left" if text else "right", no_wrap=True)
    return table


def _cells(values: Sequence[float]) -> list[str]:
    digits = [3] * len(METRICS) + [2, 3]
    return ["-" if v != v else f"{v:.{d}f}" for v, d in zip(values, digits, strict=True)]


def _shape(result: Result) -> str:
    return f"{result.n_train}x{result.n_features}"
