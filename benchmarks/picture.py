"""Draw the picture of the README: what the detectors do, how well, and how fast.

    python benchmarks/picture.py

Fits one detector for the first panel and takes the figures of the others from
``benchmarks/results``. Writes ``docs/overview.png``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from quality import PEERS
from scipy.stats import rankdata
from tables import figures, means

from pyod_ae_plugin import AutoEncoderEnsemble
from pyod_ae_plugin.benchmarking.summary import OURS

THEIRS = [f"pyod.{peer}" for peer in PEERS]
PICTURE = Path(__file__).parents[1] / "docs" / "overview.png"
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#999999"  # Okabe and Ito


def main() -> None:
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    detected, quality, speed = figure.subplots(1, 3, width_ratios=[1, 1.35, 0.9])
    draw_detector(detected)
    draw_quality(quality)
    draw_speed(speed)
    for axes in (quality, speed):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=100, pil_kwargs={"optimize": True})
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


def draw_detector(axes: Axes) -> None:
    """Rows along a curve, some others, and what a detector makes of the plane."""
    rng = np.random.default_rng(1)
    t = rng.uniform(-2.6, 2.6, size=470)
    curve = np.column_stack([t, 1.6 * np.sin(1.5 * t)]) + 0.15 * rng.normal(size=(470, 2))
    X = np.vstack([curve, rng.uniform(-3, 3, size=(30, 2))])
    detector = AutoEncoderEnsemble(contamination=0.06, device="cpu", verbose=0).fit(X)

    axis = np.linspace(-3.2, 3.2, 160)
    plane = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    scores = detector.decision_function(plane)
    shades = rankdata(scores).reshape(160, 160) / scores.size
    axes.contourf(axis, axis, shades, levels=12, cmap="Greys", vmax=1.4)
    boundary = [detector.threshold_]
    axes.contour(axis, axis, scores.reshape(160, 160), levels=boundary, colors="black")
    outlier = detector.labels_ == 1
    axes.scatter(*X[~outlier].T, s=7, color=BLUE)
    axes.scatter(*X[outlier].T, s=45, color="#D55E00", marker="x", linewidths=2)
    axes.set(title="Rows that are reconstructed\nbadly are outliers", xticks=[], yticks=[])
    axes.set_xlabel("darker: higher scores; crosses: outliers")


def draw_quality(axes: Axes) -> None:
    """Mean ROC AUC of each detector, ours with filled marks."""
    by_protocol = {p: means(f"quality-adbench-keel-{p}") for p in ("outlier", "novelty")}
    best = {
        name: mean.values[0]
        for name, mean in by_protocol["outlier"].items()
        if name in OURS or name in THEIRS
    }
    names = sorted(best, key=best.__getitem__)
    marks = {
        "outlier": ("o", "with outliers to train on"),
        "novelty": ("D", "with normal rows only"),
    }
    for y, name in enumerate(names):
        aucs = [found[name].values[0] for found in by_protocol.values()]
        color = BLUE if name in OURS else GREY
        axes.plot(aucs, [y, y], color=color, linewidth=2.5 if name in OURS else 1, zorder=1)
        for auc, (mark, _) in zip(aucs, marks.values(), strict=True):
            face = color if name in OURS else "white"
            axes.scatter(auc, y, marker=mark, s=48, color=face, edgecolor=color, linewidths=1.5)
    for mark, label in marks.values():
        axes.scatter([], [], marker=mark, s=48, color="black", label=label)
    axes.legend(loc="upper left", frameon=False, fontsize="small")
    labels = [name if name in OURS else name.replace("pyod.", "PyOD's ") for name in names]
    axes.set_yticks(range(len(names)), labels)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name in OURS else "normal")
    axes.grid(axis="x", alpha=0.3)
    axes.set(
        title="Detection: mean ROC AUC\nover 69 data sets of ADBench and KEEL", xlabel="ROC AUC"
    )


def draw_speed(axes: Axes) -> None:
    """How many times faster than PyOD's AutoEncoder ours are, on a CPU."""
    found = figures("speed")
    bars = {
        f"{name}\n{label}": found[f"{name}: {what}", "times as fast as PyOD's AutoEncoder"]
        for what, label in (("fit", "fit"), ("scoring", "score"))
        for name in OURS
    }
    drawn = axes.barh(list(bars), list(bars.values()), color=BLUE, height=0.55)
    axes.bar_label(drawn, [f" {times:.0f} times" for times in bars.values()], fontweight="bold")
    axes.invert_yaxis()
    axes.margins(x=0.4)
    axes.set(title="Speed on a CPU, as a multiple\nof PyOD's AutoEncoder", xlabel="times")


if __name__ == "__main__":
    main()
