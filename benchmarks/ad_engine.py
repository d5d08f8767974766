"""What PyOD's ADEngine detects with and without our detectors.

    python benchmarks/ad_engine.py DIR [--seeds 3]

DIR holds ADBench's ``.npz`` files. The engine investigates the sets of DIR and those inside
scikit-learn that it routes otherwise with our detectors than without, at most 6,000 rows of each,
features as they are. Prints the mean ROC AUC of the detector that is planned first and of the
consensus of the three that are planned, and the mean time of an investigation. Writes every run
(``.csv``), versions and machine (``.json``) to ``benchmarks/results``.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import parser_of
from pyod.utils.ad_engine import ADEngine
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from pyod_ae_plugin.benchmarking.datasets import Dataset, folder_datasets, shipped_datasets
from pyod_ae_plugin.benchmarking.summary import environment
from pyod_ae_plugin.integrations.ad_engine import extend

MOST_ROWS = 6_000
PRIORITIES = ("balanced", "accuracy")
ENGINES: dict[str, Callable[[ADEngine], ADEngine]] = {"PyOD's": lambda e: e, "extended": extend}


def rerouted(folder: Path) -> Iterator[Dataset]:
    """Data sets for which the plan with our detectors is another one."""
    plain, extended = ADEngine(), extend(ADEngine())
    for dataset in (*folder_datasets(folder), *shipped_datasets()):
        profile = plain.profile_data(dataset.X)
        if plain.plan_detection(profile) != extended.plan_detection(profile):
            yield dataset.at_most(MOST_ROWS, 0)


def investigate(dataset: Dataset, engine: ADEngine, priority: str) -> dict[str, Any]:
    """What the engine makes of a data set, and in how many seconds."""
    began = time.perf_counter()
    state = engine.investigate(dataset.X, priority=priority)
    return {
        "seconds": time.perf_counter() - began,
        "detectors": " ".join(plan["detector_name"] for plan in state.plans),
        "first": roc_auc_score(dataset.y, state.results[0]["scores_train"]),
        "consensus": roc_auc_score(dataset.y, state.consensus["scores"]),
    }


def table(runs: list[dict[str, Any]]) -> Table:
    """Means over data sets and seeds."""
    shown = Table(title=f"Means over {len({r['dataset'] for r in runs})} data sets")
    for heading in ("priority", "engine", "first", "consensus", "seconds"):
        shown.add_column(heading)
    for priority, engine in product(PRIORITIES, ENGINES):
        these = [r for r in runs if (r["priority"], r["engine"]) == (priority, engine)]
        means = (np.mean([r[what] for r in these]) for what in ("first", "consensus", "seconds"))
        shown.add_row(priority, engine, *(f"{mean:.3f}" for mean in means))
    return shown


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, help="ADBench's .npz files")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for dataset in tqdm(list(rerouted(arguments.folder))):
        for seed, priority, engine in product(range(arguments.seeds), PRIORITIES, ENGINES):
            run = investigate(dataset, ENGINES[engine](ADEngine(random_state=seed)), priority)
            what = {"dataset": dataset.name, "seed": seed, "priority": priority, "engine": engine}
            runs.append({**what, **run})
    arguments.results.mkdir(parents=True, exist_ok=True)
    with (arguments.results / "ad_engine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, runs[0])
        writer.writeheader()
        writer.writerows(runs)
    described = json.dumps(environment("outlier"), indent=1)
    (arguments.results / "ad_engine.json").write_text(described)
    Console().print(table(runs))


if __name__ == "__main__":
    main()
