"""How well our detectors detect beside PyOD's, all with their defaults.

    python benchmarks/quality.py DIR [--ablation] [--only NAME ...] [--jobs 2]

DIR holds ADBench's ``.npz`` files. By the outlier and the novelty protocol of ``pyod-ae bench``,
with three seeds, on the sets of DIR of at most 500 features, at most 6,000 rows of each; with
``--shipped`` on the sets inside scikit-learn. Prints mean ROC AUC, its standard deviation over
the seeds, mean average precision and mean rank, and the ROC AUC of each set. Writes every run
(``.csv``), versions and machine (``.json``) and a box plot (``.png``) to ``benchmarks/results``.
With ``--ablation`` our detectors are compared with themselves, one part changed at a time. With
``--only`` some detectors are measured, and what earlier runs wrote of the others is kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from collections import defaultdict
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from pyod.models.base import BaseDetector
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from pyod_ae_plugin import create_detector
from pyod_ae_plugin.benchmarking.datasets import Dataset, folder_datasets, shipped_datasets
from pyod_ae_plugin.benchmarking.evaluation import (
    NoveltyProtocol,
    OutlierProtocol,
    Protocol,
    Result,
    evaluate,
)
from pyod_ae_plugin.benchmarking.summary import (
    detector_means,
    draw_chart,
    environment,
    write_results,
)

RESULTS = Path(__file__).parent / "results"
MOST_FEATURES, MOST_ROWS = 500, 6_000
PROTOCOLS = (OutlierProtocol(), NoveltyProtocol())
PEERS = ("AutoEncoder", "VAE", "DeepSVDD", "LUNAR", "IForest", "KNN", "LOF", "ECOD", "MCD", "PCA")
DETECTORS = ("AutoEncoder", "VAE", "AutoEncoderEnsemble", *(f"pyod.{p}" for p in (*PEERS, "OCSVM")))

# One part of each detector changed at a time: what its default is worth.
CHANGES: dict[str, list[dict[str, Any]]] = {
    "AutoEncoder": [
        {},
        {"trim": 0.0},
        {"trim": 0.2},
        {"trim": 0.5},
        {"score_head": "euclidean"},
        {"score_head": "mahalanobis"},
        {"score_head": "joint_mahalanobis"},
        {"score_head": "nll"},
        {"corruption": {"mask": 0.3}},
        {"corruption": {"noise": 0.3}},
        {"hidden_neuron_list": (128, 64, 1)},
        {"hidden_neuron_list": (128, 64, 4)},
        {"hidden_neuron_list": (128, 64, 32)},
        {"hidden_activation_name": "relu"},
        {"epoch_num": 10},
        {"lr": 1e-3},
        {"batch_size": 32},
        {"batch_norm": True, "dropout_rate": 0.2},
    ],
    "VAE": [
        {},
        {"trim": 0.0},
        {"score_head": "euclidean"},
        {"score_head": "mahalanobis"},
        {"score_head": "joint_mahalanobis"},
        {"score_head": "nll"},
        {"score_head": "reconstruction_probability"},
        {"score_head": "elbo"},
        {"beta": 0.1},
        {"beta": 0.0},
        {"latent_dim": 2},
        {"encoder_neuron_list": (128, 64), "decoder_neuron_list": (64, 128)},
        {"hidden_activation_name": "relu"},
        {"epoch_num": 30},
        {"batch_norm": True, "dropout_rate": 0.2},
    ],
    "AutoEncoderEnsemble": [
        {},
        {"trim": 0.0},
        {"corruption": {}},
        {"score_head": "euclidean"},
        {"score_head": "joint_mahalanobis"},
        {"hidden_neuron_list": (96, 48, 32)},
        {"n_estimators": 4},
        {"max_samples": 256},
        {"batch_size": 32},
        {"combination": "maximization"},
    ],
}


def ablations() -> dict[str, partial[BaseDetector]]:
    """Our detectors with one part changed, by what was changed."""
    return {
        " ".join([name, *(f"{k}={v}" for k, v in change.items())]): partial(
            create_detector, name, **change
        )
        for name, changes in CHANGES.items()
        for change in changes
    }


def in_one_thread(
    name: str, create: partial[BaseDetector], dataset: Dataset, seed: int, protocol: Protocol
) -> Result:
    """One detector on one data set with one seed, in a process of its own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    return evaluate(name, lambda _, **settings: create(**settings), dataset, seed, protocol)


def table(results: list[Result]) -> Table:
    """Means over the data sets, best mean rank first."""
    shown = Table(title="Mean over the data sets", title_justify="left")
    for heading in ("detector", "ROC AUC", "± seeds", "AP", "mean rank", "fit s", "failed"):
        shown.add_column(heading, justify="left" if heading == "detector" else "right")
    for mean in detector_means(results):
        auc, precision, _, seconds, _ = mean.values
        deviation = np.mean(list(deviations(results, mean.detector).values()))
        cells = (f"{auc:.4f}", f"{deviation:.4f}", f"{precision:.4f}", f"{mean.mean_rank:.2f}")
        shown.add_row(mean.detector, *cells, f"{seconds:.2f}", str(mean.failures or ""))
    return shown


def deviations(results: list[Result], detector: str) -> dict[str, float]:
    """Standard deviation over the seeds of a detector's ROC AUC on each data set."""
    aucs = defaultdict(list)
    for result in results:
        if result.detector == detector and not result.error:
            aucs[result.dataset].append(result.roc_auc)
    return {dataset: float(np.std(values)) for dataset, values in aucs.items()}


def set_table(results: list[Result]) -> Table:
    """ROC AUC of each detector on each data set, mean over the seeds."""
    detectors = [mean.detector for mean in detector_means(results)]
    shown = Table(title="ROC AUC of each data set", title_justify="left")
    for heading in ("data set", *detectors):
        shown.add_column(heading, justify="left" if heading == "data set" else "right")
    for dataset in dict.fromkeys(r.dataset for r in results):
        aucs = [
            np.mean([r.roc_auc for r in results if (r.detector, r.dataset) == (d, dataset)])
            for d in detectors
        ]
        shown.add_row(dataset, *(f"{auc:.3f}" for auc in aucs))
    return shown


def earlier_runs(path: Path) -> list[Result]:
    """What a run before wrote, so that detectors can be measured in several runs."""
    if not path.exists():
        return []
    kinds = {"seed": int, "n_train": int, "n_features": int}
    kinds |= dict.fromkeys(("detector", "dataset", "error"), str)
    with path.open(newline="") as file:
        return [
            Result(**{f.name: kinds.get(f.name, float)(row[f.name]) for f in fields(Result)})
            for row in csv.DictReader(file)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="ADBench's .npz files")
    parser.add_argument("--shipped", action="store_true", help="the sets inside scikit-learn")
    parser.add_argument("--ablation", action="store_true", help="change one part at a time")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="detectors to measure")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    arguments = parser.parse_args()
    if (arguments.folder is None) != arguments.shipped:
        parser.error("give a folder or --shipped")
    source = shipped_datasets() if arguments.shipped else folder_datasets(arguments.folder)
    datasets = [d.at_most(MOST_ROWS, 0) for d in source if d.X.shape[1] <= MOST_FEATURES]
    detectors = ablations() if arguments.ablation else {}
    if not arguments.ablation:
        detectors = {name: partial(create_detector, name) for name in DETECTORS}
    wanted = set(arguments.only or DETECTORS)
    chosen = {name: create for name, create in detectors.items() if name.split()[0] in wanted}
    what = "ablation" if arguments.ablation else "quality"
    console = Console(width=220)
    arguments.results.mkdir(parents=True, exist_ok=True)
    for protocol in PROTOCOLS:
        kind = f"{what}-{'shipped' if arguments.shipped else 'adbench'}-{protocol.name}"
        path = arguments.results / f"{kind}.csv"
        tasks = [
            joblib.delayed(in_one_thread)(name, create, dataset, seed, protocol)
            for name, create in chosen.items()
            for dataset in datasets
            for seed in range(arguments.seeds)
        ]
        parallel = joblib.Parallel(arguments.jobs, return_as="generator")
        new = list(tqdm(parallel(tasks), desc=kind, total=len(tasks)))
        kept = detectors.keys() - chosen.keys()  # what is no longer listed is dropped
        results = [r for r in earlier_runs(path) if r.detector in kept] + new
        results.sort(key=lambda r: list(detectors).index(r.detector))
        write_results(results, path, protocol.name)
        path.with_suffix(".json").write_text(json.dumps(environment(protocol.name), indent=1))
        draw_chart(results, path.with_suffix(".png"), f"{protocol.name.capitalize()} protocol")
        console.print(f"\n{protocol.name.capitalize()} protocol, {len(datasets)} data sets")
        console.print(table(results))
        if not arguments.ablation:
            console.print(set_table(results))
        for result in new:
            if result.error:
                console.print(f"{result.detector} on {result.dataset}: {result.error}")


if __name__ == "__main__":
    main()
