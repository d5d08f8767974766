"""Draws how the detectors compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyod_ae_plugin.benchmarking.evaluation import Result
from pyod_ae_plugin.benchmarking.summary import detector_means

OURS = ("AutoEncoder", "AutoEncoderEnsemble", "VAE")


def draw_chart(results: Sequence[Result], path: Path, title: str) -> None:
    """Draw ROC AUC per data set as a box plot for each detector, the best mean on top.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Charts need matplotlib: pip install 'pyod-ae-plugin[plots]'.") from error

    means = [m for m in reversed(detector_means(results)) if m.values[0] == m.values[0]]
    aucs = [[r.roc_auc for r in results if r.detector == m.detector and not r.error] for m in means]
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(means)), layout="constrained")
    axes = figure.add_subplot()
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
        box.set(facecolor="#0072B2" if ours else "#DDDDDD", hatch="//" if ours else None)
    axes.set_yticks(
        range(1, len(means) + 1), [f"{m.detector}  (mean {m.values[0]:.3f})" for m in means]
    )
    axes.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="ROC AUC, one value for each data set and seed", title=title)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
