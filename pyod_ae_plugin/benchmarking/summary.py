"""Summaries of benchmark results: means and ranks, tables, files and a chart."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import rankdata

from pyod_ae_plugin.benchmarking.evaluation import METRICS, Result
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plots import BLUE, GREY, open_axes
from pyod_ae_plugin.report.contents import package_versions
from pyod_ae_plugin.storage import atomic_write

OURS = ("AutoEncoder", "AutoEncoderEnsemble", "VAE")
_HEADINGS = ("ROC AUC", "AP", "P@n", "fit s", "score s")


@dataclass(frozen=True)
class DetectorMean:
    """Means of a detector over data sets, all of the same weight."""

    detector: str
    values: tuple[float, ...]  # ROC AUC, AP, precision at n, seconds to fit and to score
    mean_rank: float  # by ROC AUC; 1 is best
    failures: int  # runs that ended in an error


def detector_means(results: Sequence[Result]) -> list[DetectorMean]:
    """Compute means, best mean rank first; failed runs rank last and count in no other mean."""
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
    """Tabulate means over seeds by data set and detector, the best ROC AUC of each set in bold."""
    table = _table("data set", "detector", *_HEADINGS, title="Each data set (mean over seeds)")
    for dataset, group in groupby(results, key=lambda r: r.dataset):
        runs = list(group)
        names = list(dict.fromkeys(r.detector for r in runs))
        shape = f"{runs[0].n_train}x{runs[0].n_features}"
        rows = {name: _means(runs, name, dataset) for name in names}
        best = max(np.nan_to_num(values[0], nan=-1.0) for values in rows.values())
        for i, (name, values) in enumerate(rows.items()):
            # The data set's name is in the first of its lines, its shape in the second.
            label = (dataset, shape)[i] if i < 2 else ""
            style = "bold" if values[0] == best else None
            table.add_row(label, name, *_cells(values), style=style)
        table.add_section()
    return table


def mean_table(results: Sequence[Result]) -> Table:
    """Tabulate the means of all detectors, best mean rank first."""
    n_datasets = len({r.dataset for r in results})
    title = f"Mean over {n_datasets} data sets"
    table = _table("detector", "mean rank", *_HEADINGS, "failed", title=title)
    for mean in detector_means(results):
        failed = str(mean.failures) if mean.failures else ""
        table.add_row(mean.detector, f"{mean.mean_rank:.2f}", *_cells(mean.values), failed)
    return table


def write_results(results: Sequence[Result], path: Path, protocol: str) -> None:
    """Write all runs to a .csv file, or with :func:`environment` to a .json file."""
    rows = [asdict(result) for result in results]
    if path.suffix == ".csv":
        with atomic_write(path) as new, new.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Result)])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        runs = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # no NaN
        with atomic_write(path) as new:
            new.write_text(json.dumps({**environment(protocol), "results": runs}, indent=1))
    else:
        raise ValueError(f"Results are written to .csv or .json files, got {path.name!r}.")


def environment(protocol: str) -> dict[str, Any]:
    """Protocol, versions and machine, on which results depend."""
    return {
        "protocol": protocol,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": package_versions(),
    }


def draw_chart(results: Sequence[Result], path: Path, title: str) -> None:
    """Draw a box plot of ROC AUC for each detector, the best mean rank on top.

    Each box holds one value for each data set and seed. Detectors that failed everywhere are left
    out.
    """
    means = [m for m in reversed(detector_means(results)) if m.values[0] == m.values[0]]
    aucs = [[r.roc_auc for r in results if r.detector == m.detector and not r.error] for m in means]
    axes = open_axes(None, 8, 1.2 + 0.42 * len(means))
    boxes = axes.boxplot(
        aucs,
        orientation="horizontal",
        widths=0.6,
        patch_artist=True,
        showmeans=True,
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black"},
        medianprops={"color": "black"},
        flierprops={"markersize": 3},
    )
    for box, mean in zip(boxes["boxes"], means, strict=True):
        ours = mean.detector in OURS
        box.set(facecolor=BLUE if ours else GREY, hatch="//" if ours else None)
    axes.set_yticks(
        range(1, len(means) + 1), [f"{m.detector}  (mean {m.values[0]:.3f})" for m in means]
    )
    axes.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="ROC AUC, one value for each data set and seed", title=title)
    axes.grid(axis="x", alpha=0.3)
    with atomic_write(path) as new:
        axes.figure.savefig(new, dpi=150)  # type: ignore[union-attr]


def _means(results: Iterable[Result], detector: str, dataset: str) -> list[float]:
    """Mean metrics and seconds over the seeds; NaN if all seeds failed."""
    runs = [r for r in results if r.detector == detector and r.dataset == dataset]
    names = (*METRICS, "fit_seconds", "score_seconds")
    return list(_nanmean(np.array([[getattr(r, name) for name in names] for r in runs])))


def _nanmean(values: Array) -> Array:
    """``np.nanmean`` over rows, without its warning for a column of NaN only."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: Array = np.where(known, values, 0).sum(0) / known.sum(0)
    return means


def _table(*headings: str, title: str) -> Table:
    """Make an empty table with text to the left and numbers to the right."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        text = heading in ("data set", "detector")
        table.add_column(heading, justify="left" if text else "right", no_wrap=True)
    return table


def _cells(values: Sequence[float]) -> list[str]:
    """Format means, a missing one as a dash."""
    digits = (3, 3, 3, 2, 3)
    return ["-" if v != v else f"{v:.{d}f}" for v, d in zip(values, digits, strict=True)]
