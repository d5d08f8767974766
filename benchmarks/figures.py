"""Figures that a benchmark prints, keeps and writes."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser with the first line of a script's description, and ``--results``."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    return parser


class Figures:
    """Figures in the order in which they are found."""

    def __init__(self) -> None:
        self._rows: list[dict[str, object]] = []

    def add(self, what: str, value: float, unit: str = "") -> None:
        """Print a figure and keep it."""
        print(f"  {what:70} {value:12.4g} {unit}", flush=True)
        self._rows.append({"what": what, "value": value, "unit": unit})

    def write(self, path: Path, described: dict[str, Any]) -> None:
        """Write the figures as CSV, and beside them, as JSON, what they hang on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ("what", "value", "unit"))
            writer.writeheader()
            writer.writerows(self._rows)
        path.with_suffix(".json").write_text(json.dumps(described, indent=1))


def draw_costs(costs: dict[str, dict[str, tuple[list[int], list[float]]]], path: Path) -> None:
    """Draw nanoseconds a row: for each quantity, of each detector, against that quantity."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(costs), 4), layout="constrained")
    colors = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"))
    styles = [(*color, line) for line in ("-", "--") for color in colors]
    for axes, (quantity, curves) in zip(
        figure.subplots(1, len(costs), squeeze=False)[0], costs.items(), strict=True
    ):
        for (name, (x, y)), (color, marker, line) in zip(curves.items(), styles, strict=False):
            axes.loglog(x, y, line, color=color, marker=marker, label=name)
        axes.set(xlabel=quantity, ylabel="nanoseconds a row")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
