"""Tables of what the benchmarks found, as Markdown, from the files in ``benchmarks/results``.

    python benchmarks/tables.py [NAME]

Prints the table NAME, or without NAME the names. The documentation is built with them.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from statistics import fmean

from figures import RESULTS
from quality import earlier_runs

from pyod_ae_plugin.benchmarking.evaluation import Result
from pyod_ae_plugin.benchmarking.summary import (
    OURS,
    DetectorMean,
    detector_means,
    paired_difference,
)

PROTOCOLS = ("outlier", "novelty")
ABLATION = "ablation-adbench-keel"


def table(name: str) -> str:
    """Return a table of :data:`TABLES`, or any CSV file of the results as it is."""
    if name in TABLES:
        return TABLES[name]()
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        raise ValueError(f"There is no table {name!r}. There are {', '.join(TABLES)}, and {path}.")
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return markdown(header, rows)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table, numbers to the right."""
    body = [[_number(cell) for cell in row] for row in rows]
    right = [all(_is_number(row[j]) for row in body) for j in range(len(header))]
    lines = [header, ["---:" if of_numbers else "---" for of_numbers in right], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def quality(kind: str) -> str:
    """Every detector over all data sets: means of ROC AUC and average precision, mean rank."""
    by_protocol = [means(f"quality-{kind}-{protocol}") for protocol in PROTOCOLS]
    header = ["Detector"]
    for protocol in PROTOCOLS:
        header += [f"{protocol.capitalize()}: ROC AUC", "AP", "rank"]
    order = sorted(by_protocol[0].values(), key=lambda mean: -mean.values[0])
    rows = []
    for name in (mean.detector for mean in order):
        row = [detector_name(name)]
        for of_protocol in by_protocol:
            auc, precision, *_ = of_protocol[name].values
            row += [f"{auc:.3f}", f"{precision:.3f}", f"{of_protocol[name].mean_rank:.1f}"]
        rows.append(row)
    return markdown(header, rows)


def folders(kind: str) -> str:
    """Mean ROC AUC of every detector over the data sets of each folder, and its mean rank."""
    header, columns = ["Detector"], []
    for protocol in PROTOCOLS:
        runs = earlier_runs(RESULTS / f"quality-{kind}-{protocol}.csv")
        for folder in dict.fromkeys(run.dataset.partition("/")[0] for run in runs):
            of_folder = [run for run in runs if run.dataset.startswith(f"{folder}/")]
            found = {mean.detector: mean for mean in detector_means(of_folder)}
            header.append(f"{protocol.capitalize()}: {folder}")
            columns.append({name: f"{mean.values[0]:.3f}" for name, mean in found.items()})
        every = {mean.detector: mean for mean in detector_means(runs)}
        header.append("rank")
        columns.append({name: f"{mean.mean_rank:.1f}" for name, mean in every.items()})
    order = means(f"quality-{kind}-outlier")
    return markdown(header, [[detector_name(n), *(c[n] for c in columns)] for n in order])


def data_sets(kind: str, protocol: str) -> str:
    """ROC AUC of each detector on each data set, the highest in bold."""
    runs = earlier_runs(RESULTS / f"quality-{kind}-{protocol}.csv")
    names = list(dict.fromkeys(run.detector for run in runs))
    rows = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        aucs = [_auc(runs, name, dataset) for name in names]
        cells = ["-" if auc != auc else f"{auc:.2f}" for auc in aucs]
        best = max(cells)  # "-" comes before digits
        rows.append([dataset, *(f"**{cell}**" if cell == best else cell for cell in cells)])
    return markdown(["Data set", *map(detector_name, names)], rows)


def ablation(detector: str) -> str:
    """Return mean ROC AUC as it is, and differences to it with one default changed."""
    by_protocol = [earlier_runs(RESULTS / f"{ABLATION}-{protocol}.csv") for protocol in PROTOCOLS]
    auc = [means(f"{ABLATION}-{protocol}")[detector].values[0] for protocol in PROTOCOLS]
    rows = [["as it is", *(f"{value:.3f}" for value in auc)]]
    for name in dict.fromkeys(run.detector for run in by_protocol[0]):
        of_class, *changes = re.split(r" (?=\w+=)", name)
        if of_class == detector and changes:
            differences = [paired_difference(runs, name, detector) for runs in by_protocol]
            cells = (f"{mean:+.3f} ± {error:.3f}" for mean, error in differences)
            rows.append([", ".join(f"`{change}`" for change in changes), *cells])
    return markdown(["", *(protocol.capitalize() for protocol in PROTOCOLS)], rows)


def seconds(kind: str) -> str:
    """Return mean seconds of fit and of scoring, one thread for each detector."""
    order = sorted(means(f"quality-{kind}-outlier").values(), key=lambda mean: mean.values[3])
    rows = [[detector_name(m.detector), *(f"{s:.3f}" for s in m.values[3:])] for m in order]
    return markdown(["Detector", "fit, s", "decision_function, s"], rows)


def speed() -> str:
    """Fit and scoring on a CPU: ours with their defaults, and PyOD's detectors."""
    return _speeds("PyOD's AutoEncoder")


def same_network() -> str:
    """Fit and scoring on a CPU with the networks and the score of PyOD's detectors."""
    return _speeds("PyOD's AutoEncoder, 2 epochs")


def _speeds(peer: str) -> str:
    """Fit and scoring of the detectors that were measured beside a peer."""
    found, times = figures("speed"), f"times as fast as {peer}"
    names = dict.fromkeys(what.rpartition(":")[0] for what, unit in found if unit == times)
    rows = []
    for name in names:
        limits = [
            found.get((f"{name}: scoring", f"of the rate of {limit}"))
            for limit in ("matrix products", "products and activations")
        ]
        rows.append(
            [
                _code(name),
                f"{found[f'{name}: fit', 's']:.2f}",
                _two_digits(found[f"{name}: fit", times]),
                _two_digits(found[f"{name}: scoring", "million rows/s"]),
                _two_digits(found[f"{name}: scoring", times]),
                *("-" if share is None else f"{share:.2f}" for share in limits),
            ]
        )
    header = ["", "Fit, s", "times", "Million rows/s", "times", "of products", "with activations"]
    return markdown(header, rows)


def parts() -> str:
    """Shares of the time of a fit."""
    return _by_row("speed", "of the time", "Fit of", lambda share: f"{100 * share:.0f}%")


def gradients() -> str:
    """How many times faster gradients in closed form are than autograd's."""
    return _by_row("speed", "times as fast as autograd", "Gain", lambda times: f"{times:.1f}")


def latency() -> str:
    """Microseconds that the score of one row takes."""
    return _by_row("latency", "us", "One row, us", lambda us: f"{us:.0f}")


def first_fit() -> str:
    """Seconds of a new process."""
    found = figures("latency")
    rows = [[w.partition(": ")[2], f"{s:.2f}"] for (w, unit), s in found.items() if unit == "s"]
    return markdown(["A new process", "Seconds"], rows)


def growth(quantity: str) -> str:
    """Microseconds that fit and scoring of a row take, by the number of rows or of features."""
    return _by_row("growth", f"us a row, by {quantity}", "us a row", lambda us: f"{us:.2f}")


def busy() -> str:
    """How many times as long fit and scoring take beside a busy core."""
    return _by_row("busy", "times as long", "Times as long", lambda times: f"{times:.1f}")


def _by_row(file: str, unit: str, title: str, shown: Callable[[float], str]) -> str:
    """Figures of one unit: what is before the last colon makes the rows, the rest the columns."""
    of_unit = {what: value for (what, u), value in figures(file).items() if u == unit}
    cells: dict[str, dict[str, str]] = {}
    for what, value in of_unit.items():
        row, _, column = what.rpartition(": ")
        cells.setdefault(row, {})[column] = shown(value)
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    rows = [[_code(row), *(found.get(c, "-") for c in columns)] for row, found in cells.items()]
    return markdown([title, *columns], rows)


def _code(name: str) -> str:
    """Return a detector's name with class and parameter set as code."""
    names = r"(AutoEncoderEnsemble|AutoEncoder|VAE|IForest|KNN|ECOD|novelty=True)"
    return re.sub(names, r"`\1`", name)


def explanations() -> str:
    """How often the feature that was shifted contributes most."""
    found = figures("explanations")
    columns = [f"{m}, {s}" for m, s in product(("explain", "squared residual"), ("mean", "lowest"))]
    subjects = dict.fromkeys(what.rpartition(":")[0] for what, _ in found)
    rows = [[f"{s}", *(f"{found[f'{s}: {c}', '']:.2f}" for c in columns)] for s in subjects]
    return markdown(["Detector, score head", *columns], rows)


def gpu() -> str:
    """What ``gpu.py`` measured, by part, and on which card; a sentence if there are no figures."""
    path = RESULTS / "gpu.csv"
    if not path.exists():
        return "No figures yet: `benchmarks/gpu.py` has not run on a card.\n"
    described = json.loads(path.with_suffix(".json").read_text())
    versions = ", ".join(f"{n} {described['versions'][n]}" for n in ("torch", "triton", "cuda"))
    parts: dict[str, list[list[str]]] = {}
    for (what, unit), value in figures("gpu").items():
        part, _, figure = what.partition(": ")
        parts.setdefault(part, []).append([figure, f"{float(f'{value:.3g}'):g}", unit])
    tables = (
        f"`{part}`:\n\n{markdown(['Figure', 'Value', 'Unit'], rows)}"
        for part, rows in parts.items()
    )
    card = f"On an {described['gpu']}, driver {described['driver']}, {versions}.\n"
    return "\n".join([card, *tables])


def ad_engine() -> str:
    """What PyOD's ADEngine detects by its plans, and by plans with ours."""
    with (RESULTS / "ad_engine.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    rows = []
    for priority, engine in dict.fromkeys((run["priority"], run["engine"]) for run in runs):
        these = [run for run in runs if (run["priority"], run["engine"]) == (priority, engine)]
        columns = {"first": 3, "consensus": 3, "seconds": 1}
        cells = [f"{fmean(float(run[c]) for run in these):.{d}f}" for c, d in columns.items()]
        rows.append([priority, engine, *cells])
    header = ["Priority", "Engine", "First detector", "Consensus of three", "Seconds"]
    return markdown(header, rows)


def distributed() -> str:
    """ROC AUC of fits on Ray beside that of local ones, and what Ray adds over the data sets."""
    runs = earlier_runs(RESULTS / "distributed.csv")
    names = list(dict.fromkeys(run.detector for run in runs))
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    aucs = {name: [_auc(runs, name, dataset) for dataset in datasets] for name in names}
    rows = [
        [dataset, *(f"{aucs[name][i]:.3f}" for name in names)] for i, dataset in enumerate(datasets)
    ]
    rows.append(["mean", *(f"{fmean(aucs[name]):.3f}" for name in names)])
    row = ["beside local"]
    for name in names:
        mean, error = paired_difference(runs, name, name.partition(",")[0])
        row.append(f"{mean:+.4f} ± {error:.4f}" if "," in name else "")
    rows.append(row)
    header = [how or f"`{name}`" for name, _, how in (name.partition(", ") for name in names)]
    return markdown(["Data set", *header], rows)


def detector_name(name: str) -> str:
    """Return a detector's name for readers: PyOD's ``pyod.KNN`` is "PyOD's `KNN`"."""
    owner, _, of_class = name.rpartition(".")
    return f"PyOD's `{of_class}`" if owner else f"`{name}`"


def means(file: str) -> dict[str, DetectorMean]:
    """Return each detector's means over the data sets of a file of runs."""
    return {mean.detector: mean for mean in detector_means(earlier_runs(RESULTS / f"{file}.csv"))}


def _auc(runs: Iterable[Result], detector: str, dataset: str) -> float:
    aucs = [r.roc_auc for r in runs if (r.detector, r.dataset, r.error) == (detector, dataset, "")]
    return fmean(aucs) if aucs else float("nan")


def figures(file: str) -> dict[tuple[str, str], float]:
    """Return the figures of a file by what they are of and their unit."""
    with (RESULTS / f"{file}.csv").open(newline="") as opened:
        return {(r["what"], r["unit"]): float(r["value"]) for r in csv.DictReader(opened)}


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


def _number(cell: str) -> str:
    """Long decimal fractions are cut."""
    long = re.fullmatch(r"-?\d+\.\d{4,}", cell)
    return f"{float(cell):.4g}" if long else cell


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?|(\*\*)?[-+]?\d+(\.\d+)?(\*\*)?( ± \d+(\.\d+)?)?", cell) is not None


def _tables() -> Iterator[tuple[str, Callable[[], str]]]:
    for kind in ("adbench-keel", "shipped"):
        yield f"quality-{kind}", partial(quality, kind)
        yield f"seconds-{kind}", partial(seconds, kind)
        for protocol in PROTOCOLS:
            yield f"sets-{kind}-{protocol}", partial(data_sets, kind, protocol)
    yield "folders-adbench-keel", partial(folders, "adbench-keel")
    for detector in OURS if (RESULTS / f"{ABLATION}-novelty.csv").exists() else ():
        yield f"ablation-{detector}", partial(ablation, detector)
    for function in (speed, same_network, parts, gradients, latency, first_fit, busy):
        yield function.__name__, function
    for quantity in ("rows", "features") if (RESULTS / "growth.csv").exists() else ():
        yield f"growth-{quantity}", partial(growth, quantity)
    for function in (explanations, ad_engine, distributed, gpu):
        yield function.__name__, function


TABLES = dict(_tables())

if __name__ == "__main__":
    print(table(sys.argv[1]) if len(sys.argv) > 1 else "\n".join(TABLES))
