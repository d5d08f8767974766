"""Summaries of benchmark results: means, ranks and differences, tables, files and charts."""

from __future__ import annotations

import csv
import json
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from scipy.stats import chi2, rankdata, studentized_range

from pyod_ae_plugin.benchmarking.evaluation import METRICS, Result
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plots import BLUE, GREY, open_axes
from pyod_ae_plugin.report.contents import package_versions
from pyod_ae_plugin.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = ("AutoEncoder", "AutoEncoderEnsemble", "VAE")
_HEADINGS = ("ROC AUC", "AP", "P@n", "fit s", "score s")

# ---------------------------------------------------------------- means, ranks and differences


@dataclass(frozen=True)
class DetectorMean:
    """Means of a detector over data sets, all of the same weight."""

    detector: str
    values: tuple[float, ...]  # ROC AUC, AP, precision at n, seconds to fit and to score
    mean_rank: float  # by ROC AUC; 1 is best
    failures: int  # runs that ended in an error


def detector_means(results: Sequence[Result]) -> list[DetectorMean]:
    """Compute means, best mean rank first; failed runs rank last and count in no other mean."""
    means = _dataset_means(results)
    aucs = np.array([values[:, 0] for values in means.values()])
    ranks = rankdata(-np.nan_to_num(aucs, nan=-1.0), axis=0)
    summary = [
        DetectorMean(
            detector,
            tuple(float(v) for v in _nanmean(values)),
            float(ranks[i].mean()),
            sum(bool(r.error) for r in results if r.detector == detector),
        )
        for i, (detector, values) in enumerate(means.items())
    ]
    return sorted(summary, key=lambda m: m.mean_rank)


def paired_difference(results: Sequence[Result], detector: str, other: str) -> tuple[float, float]:
    """Mean over data sets of a detector's ROC AUC minus another's, and its standard error.

    The difference on a data set is that of the means over seeds. Data sets on which one of the two
    failed are left out. The standard error of fewer than two differences is NaN.
    """
    means = _dataset_means(results)
    differences = means[detector][:, 0] - means[other][:, 0]
    differences = differences[~np.isnan(differences)]
    n = len(differences)
    mean = differences.mean() if n else np.nan
    error = differences.std(ddof=1) / n**0.5 if n > 1 else np.nan
    return float(mean), float(error)


def critical_difference(n_detectors: int, n_datasets: int, alpha: float = 0.05) -> float:
    """Smallest difference of two mean ranks that is significant by the Nemenyi test [1]_.

    References
    ----------
    .. [1] Demsar, J. Statistical comparisons of classifiers over multiple data sets. JMLR 7, 2006.

    Examples
    --------
    >>> round(critical_difference(n_detectors=4, n_datasets=14), 2)
    1.25
    """
    q = studentized_range.ppf(1 - alpha, n_detectors, np.inf) / 2**0.5
    return float(q * (n_detectors * (n_detectors + 1) / (6 * n_datasets)) ** 0.5)


def _dataset_means(results: Sequence[Result]) -> dict[str, Array]:
    """Means over the seeds [n_datasets, 5] by detector; NaN where no seed has a result."""
    datasets = list(dict.fromkeys(r.dataset for r in results))
    runs = defaultdict(list)
    for r in results:
        runs[r.detector, r.dataset].append(r)
    return {
        detector: np.array([_means(runs[detector, dataset]) for dataset in datasets])
        for detector in dict.fromkeys(r.detector for r in results)
    }


def _means(runs: Sequence[Result]) -> list[float]:
    """Mean metrics and seconds of runs; NaN if all failed."""
    names = (*METRICS, "fit_seconds", "score_seconds")
    values = [[getattr(r, name) for name in names] for r in runs]
    return list(_nanmean(np.array(values).reshape(-1, len(names))))


def _nanmean(values: Array) -> Array:
    """``np.nanmean`` over rows, without its warning for a column of NaN only."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: Array = np.where(known, values, 0).sum(0) / known.sum(0)
    return means


# ---------------------------------------------------------------- tables and files


def dataset_table(results: Sequence[Result]) -> Table:
    """Tabulate means over seeds by data set and detector, the best ROC AUC of each set in bold."""
    table = _table("data set", "detector", *_HEADINGS, title="Each data set (mean over seeds)")
    for dataset, group in groupby(results, key=lambda r: r.dataset):
        runs = list(group)
        names = list(dict.fromkeys(r.detector for r in runs))
        shape = f"{runs[0].n_train}x{runs[0].n_features}"
        rows = {name: _means([r for r in runs if r.detector == name]) for name in names}
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


# ---------------------------------------------------------------- charts


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
    _save(axes, path)


def draw_ranks(results: Sequence[Result], path: Path, title: str) -> None:
    """Draw the mean rank of each detector on an axis, the best on the left.

    A bar joins detectors whose mean ranks differ by no more than :func:`critical_difference`. The
    title gives the p-value of the Friedman test that all detectors have the same mean rank.
    """
    means = detector_means(results)
    ranks = np.array([mean.mean_rank for mean in means])
    k, n = len(means), len({r.dataset for r in results})
    critical = critical_difference(k, n)
    p = chi2.sf(12 * n / (k * (k + 1)) * ((ranks - (k + 1) / 2) ** 2).sum(), k - 1)
    groups = _groups(ranks, critical)
    depth = 0.5 * (len(groups) + 1)  # from the axis to the first names, in lines of text
    best = np.floor(ranks[0])
    worst = np.ceil(max(ranks[-1], best + critical))
    axes = open_axes(None, 9, 1.2 + 0.25 * (depth + k / 2))
    for i, mean in enumerate(means):
        color, weight = (BLUE, "bold") if mean.detector in OURS else ("black", "normal")
        edge, side = (best, "right") if i < k / 2 else (worst, "left")
        y = -depth - min(i, k - 1 - i)
        axes.plot([ranks[i], ranks[i], edge], [0, y, y], color=color, linewidth=1)
        name = f" {mean.detector} ({ranks[i]:.2f}) "
        axes.text(edge, y, name, color=color, weight=weight, ha=side, va="center")
    for i, (first, last) in enumerate(groups, 1):
        axes.hlines(-0.5 * i, ranks[first], ranks[last], color="black", linewidth=4)
    axes.hlines(2, best, best + critical, color="black")
    axes.text(best + critical, 2, f" critical difference {critical:.2f}", va="center")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set(visible=True, position=("data", 0))
    axes.tick_params("x", bottom=False, labelbottom=False, top=True, labeltop=True)
    axes.set(xlim=(best, worst), yticks=[])
    axes.set_title(f"{title}: mean ranks by ROC AUC on {n} data sets (Friedman test: p = {p:.1g})")
    _save(axes, path)


def _groups(ranks: Array, critical: float) -> list[tuple[int, int]]:
    """First and last index of the largest groups of sorted ranks that differ by no more."""
    groups: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = int(np.searchsorted(ranks, rank + critical, side="right")) - 1
        if last > max(first, groups[-1][1] if groups else 0):
            groups.append((first, last))
    return groups


def _save(axes: Axes, path: Path) -> None:
    with atomic_write(path) as new:
        axes.figure.savefig(new, dpi=150)  # type: ignore[union-attr]
