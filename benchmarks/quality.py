"""How well our detectors detect beside PyOD's, all with their defaults.

    python benchmarks/quality.py DIR [DIR ...] [--ablation] [--only NAME ...] [--jobs 2]

Each DIR holds ``.npz`` files in ADBench's format. By the outlier and the novelty protocol of
``pyod-ae bench``, with three seeds, on the sets of all DIR of at most 500 features, at most 6,000
rows of each; with ``--shipped`` on the sets inside scikit-learn. Prints, for each DIR and over all,
mean ROC AUC, its standard deviation over the seeds, mean average precision and mean rank; what our
detectors are ahead of each peer, with its standard error over the data sets; and the ROC AUC of
each set. Writes every run (``.csv``), versions and machine (``.json``), a box plot (``.png``) and a
diagram of mean ranks (``-ranks.png``) to ``benchmarks/results``, named by the folders. With
``--ablation`` our detectors are compared with themselves, one part changed at a time. With
``--only`` some detectors are measured, and what earlier runs wrote of the others is kept.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from figures import parser_of
from pyod.models.base import BaseDetector
from rich.console import Console
from rich.table import Table
from scipy.spatial.distance import cdist
from scipy.special import softmax
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
    OURS,
    detector_means,
    draw_chart,
    draw_ranks,
    environment,
    paired_difference,
    write_results,
)
from pyod_ae_plugin.fitted import Array

MOST_FEATURES, MOST_ROWS = 500, 6_000
PROTOCOLS = (OutlierProtocol(), NoveltyProtocol())

# ---------------------------------------------------------------- detectors


class KernelContraction(BaseDetector):
    """What a denoising autoencoder that has learned everything makes of the training rows.

    Reconstructs a standardised row x by kernel regression on reference rows x_i, a sample of the
    training rows, as ``sum(w_i x_i)`` with ``w = softmax(-|x - x_i|^2 / 2 h^2)``, and scores it by
    the length of the residual. This is the reconstruction that is best for rows x_i with normally
    distributed noise of standard deviation h [1]_. A reference is reconstructed from the others.

    h is one of ten multiples of the median distance to the fifth neighbour: that with which the 70%
    of the references that are reconstructed best have the lowest mean score.

    References
    ----------
    .. [1] Alain, G., Bengio, Y. What regularized auto-encoders learn from the data-generating
       distribution. JMLR 15, 2014.
    """

    def __init__(
        self, contamination: float = 0.1, n_references: int = 2_000, random_state: int | None = None
    ) -> None:
        super().__init__(contamination=contamination)
        self.n_references = n_references
        self.random_state = random_state

    def fit(self, X: Array, y: object = None) -> KernelContraction:
        self._set_n_classes(y)
        drawn = np.random.default_rng(self.random_state).permutation(len(X))[: self.n_references]
        self.references_ = X[drawn]
        squares = cdist(X, self.references_, "sqeuclidean")
        squares[drawn, np.arange(len(drawn))] = np.inf
        among = squares[drawn]  # [n_references, n_references]
        fifth = np.sqrt(np.partition(among, 4)[:, 4])
        unit = np.median(fifth[fifth > 0]) if fifth.any() else 1.0  # copies have distance 0
        n_kept = round(0.7 * len(drawn))

        def kept_mean(bandwidth: float) -> float:
            scores = self._residuals(self.references_, among, bandwidth)
            return float(np.sort(scores)[:n_kept].mean())

        self.bandwidth_ = min(unit * np.geomspace(0.1, 5, 10), key=kept_mean)
        self.decision_scores_ = self._residuals(X, squares, self.bandwidth_)
        self._process_decision_scores()
        return self

    def decision_function(self, X: Array) -> Array:
        return self._residuals(X, cdist(X, self.references_, "sqeuclidean"), self.bandwidth_)

    def _residuals(self, X: Array, squares: Array, bandwidth: float) -> Array:
        weights = softmax(-squares / (2 * bandwidth**2), axis=1)
        residuals: Array = np.linalg.norm(X - weights @ self.references_, axis=1)
        return residuals


PEERS = (
    *("AutoEncoder", "VAE", "DeepSVDD", "LUNAR", "IForest", "KNN", "LOF", "ECOD", "MCD", "PCA"),
    "OCSVM",
)
DETECTORS: dict[str, Callable[..., BaseDetector]] = {
    **{name: partial(create_detector, name) for name in (*OURS, *(f"pyod.{p}" for p in PEERS))},
    "pyod.KNN(n_neighbors=1)": partial(create_detector, "pyod.KNN", n_neighbors=1),
    "KernelContraction": KernelContraction,
}

# One part of each detector changed at a time: what its default is worth. With novelty=True other
# defaults hold, so that some are a change in one of the protocols only.
HEADS = ("euclidean", "nearest_neighbor", "joint_mahalanobis", "kernel")
CHANGES_OF_ONE_NETWORK: list[dict[str, Any]] = [
    {},
    *({"trim": share} for share in (0.0, 0.4)),
    *({"score_head": head} for head in HEADS),
    {"preprocessing": "robust"},
    {"held_out_threshold": False},
]
CHANGES: dict[str, list[dict[str, Any]]] = {
    "AutoEncoder": [
        *CHANGES_OF_ONE_NETWORK,
        {"corruption": {"mask": 0.3}},
        *({"hidden_neuron_list": (64, bottleneck)} for bottleneck in (2, 32)),
    ],
    "VAE": [*CHANGES_OF_ONE_NETWORK, *({"latent_dim": width} for width in (2, 8))],
    "AutoEncoderEnsemble": [{}, {"trim": 0.0}, *({"n_estimators": n} for n in (2, 6))],
}


def ablations() -> dict[str, Callable[..., BaseDetector]]:
    """Our detectors with one part changed, by what was changed."""
    return {
        " ".join([name, *(f"{k}={v}" for k, v in change.items())]): partial(
            create_detector, name, **change
        )
        for name, changes in CHANGES.items()
        for change in changes
    }


# ---------------------------------------------------------------- runs


def named_by_folder(folder: Path) -> Iterator[Dataset]:
    """The data sets of a folder; their names begin with its name."""
    for dataset in folder_datasets(folder):
        yield replace(dataset, name=f"{folder.name}/{dataset.name}")


def in_one_thread(
    name: str,
    create: Callable[..., BaseDetector],
    dataset: Dataset,
    seed: int,
    protocol: Protocol,
) -> Result:
    """One detector on one data set with one seed, in a process of its own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    return evaluate(name, lambda _, **settings: create(**settings), dataset, seed, protocol)


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


# ---------------------------------------------------------------- tables


def new_table(title: str, *headings: str) -> Table:
    """An empty table, its first column to the left and numbers to the right."""
    shown = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        shown.add_column(heading, justify="right" if i else "left")
    return shown


def mean_table(results: Sequence[Result], title: str, to_default: bool) -> Table:
    """Means over the data sets, best mean rank first; and differences to detectors as they are."""
    headings = ["ROC AUC", "± seeds", "AP", "mean rank", "fit s", "failed"]
    shown = new_table(title, "detector", *headings, *(["to the default"] if to_default else []))
    for mean in detector_means(results):
        auc, precision, _, seconds, _ = mean.values
        deviation = seed_deviation(results, mean.detector)
        cells = [f"{auc:.4f}", f"{deviation:.4f}", f"{precision:.4f}", f"{mean.mean_rank:.2f}"]
        cells += [f"{seconds:.2f}", str(mean.failures or "")]
        if to_default:
            cells.append(difference(results, mean.detector, mean.detector.split()[0]))
        shown.add_row(mean.detector, *cells)
    return shown


def seed_deviation(results: Sequence[Result], detector: str) -> float:
    """Standard deviation over the seeds of a detector's ROC AUC, mean over the data sets."""
    aucs = defaultdict(list)
    for result in results:
        if result.detector == detector and not result.error:
            aucs[result.dataset].append(result.roc_auc)
    return float(np.mean([np.std(values) for values in aucs.values()])) if aucs else float("nan")


def difference_table(results: Sequence[Result]) -> Table:
    """How much higher our ROC AUC is than that of each peer."""
    measured = [mean.detector for mean in detector_means(results)]
    ours = [name for name in OURS if name in measured]
    title = "ROC AUC minus that of the peer: mean over the data sets ± standard error, * beyond two"
    shown = new_table(title, "peer", *ours)
    for peer in measured:
        if peer not in OURS:
            shown.add_row(peer, *(difference(results, name, peer) for name in ours))
    return shown


def difference(results: Sequence[Result], detector: str, other: str) -> str:
    """Mean difference in ROC AUC with its standard error, and a mark if it exceeds two of these."""
    if detector == other:
        return ""
    mean, error = paired_difference(results, detector, other)
    return f"{mean:+.4f} ± {error:.4f} {'*' if abs(mean) > 2 * error else ' '}"


def set_table(results: Sequence[Result]) -> Table:
    """ROC AUC of each detector on each data set, mean over the seeds."""
    detectors = [mean.detector for mean in detector_means(results)]
    shown = new_table("ROC AUC of each data set", "data set", *detectors)
    aucs = defaultdict(list)
    for result in results:
        aucs[result.dataset, result.detector].append(result.roc_auc)
    for dataset in dict.fromkeys(r.dataset for r in results):
        shown.add_row(dataset, *(f"{np.mean(aucs[dataset, d]):.3f}" for d in detectors))
    return shown


# ---------------------------------------------------------------- command line


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="folder of .npz files")
    parser.add_argument("--shipped", action="store_true", help="the sets inside scikit-learn")
    parser.add_argument("--ablation", action="store_true", help="change one part at a time")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=DETECTORS,
        default=[*DETECTORS],
        help=f"detectors to measure, of {', '.join(DETECTORS)}",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    arguments = parser.parse_args()
    folders = [folder.absolute() for folder in arguments.folders]
    if bool(folders) == arguments.shipped:
        parser.error("give folders or --shipped")
    if len({folder.name for folder in folders}) < len(folders):
        parser.error("results name the folders, whose names must differ")
    source = chain.from_iterable(map(named_by_folder, folders)) if folders else shipped_datasets()
    datasets = [d.at_most(MOST_ROWS, 0) for d in source if d.X.shape[1] <= MOST_FEATURES]
    detectors = ablations() if arguments.ablation else DETECTORS
    chosen = [name for name in detectors if name.split()[0] in arguments.only]
    what = "ablation" if arguments.ablation else "quality"
    where = "-".join(folder.name for folder in folders) or "shipped"
    console = Console(width=260)
    arguments.results.mkdir(parents=True, exist_ok=True)
    for protocol in PROTOCOLS:
        kind = f"{what}-{where}-{protocol.name}"
        path = arguments.results / f"{kind}.csv"
        not_measured = detectors.keys() - chosen  # runs of what is no longer listed are dropped
        kept = [r for r in earlier_runs(path) if r.detector in not_measured]
        if kept and {r.dataset for r in kept} != {d.name for d in datasets}:
            parser.error(f"{path} keeps runs on other data sets; use another --results folder")
        tasks = [
            joblib.delayed(in_one_thread)(name, detectors[name], dataset, seed, protocol)
            for name in chosen
            for dataset in datasets
            for seed in range(arguments.seeds)
        ]
        parallel = joblib.Parallel(arguments.jobs, return_as="generator")
        new = list(tqdm(parallel(tasks), desc=kind, total=len(tasks)))
        results = sorted(kept + new, key=lambda r: list(detectors).index(r.detector))
        title = f"{protocol.name.capitalize()} protocol"
        write_results(results, path, protocol.name)
        path.with_suffix(".json").write_text(json.dumps(environment(protocol.name), indent=1))
        draw_chart(results, path.with_suffix(".png"), title)
        console.print(f"\n{title}")
        for folder in folders if len(folders) > 1 else []:
            of_folder = [r for r in results if r.dataset.startswith(f"{folder.name}/")]
            console.print(mean_table(of_folder, f"Mean over {folder.name}", arguments.ablation))
        console.print(
            mean_table(results, f"Mean over {len(datasets)} data sets", arguments.ablation)
        )
        if not arguments.ablation:
            if len({r.detector for r in results}) > 1:
                draw_ranks(results, path.with_name(f"{kind}-ranks.png"), title)
            console.print(difference_table(results))
            console.print(set_table(results))
        for result in new:
            if result.error:
                console.print(f"{result.detector} on {result.dataset}: {result.error}")


if __name__ == "__main__":
    main()
