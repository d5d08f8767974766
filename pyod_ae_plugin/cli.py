"""The command line: ``pyod-ae list | fit | score | report | bench``.

Exit status: 0 when all went well, 1 when data, a model or a run is at fault, 2 when the command
itself is. Heavy imports happen inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import ast
import contextlib
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from pyod_ae_plugin.benchmarking.datasets import Dataset
    from pyod_ae_plugin.benchmarking.evaluation import Result
    from pyod_ae_plugin.benchmarking.protocols import Protocol

Engine = Annotated[
    Literal["local", "ray"], typer.Option(help="Where to compute: here, or on a Ray cluster.")
]
Address = Annotated[
    str | None,
    typer.Option(help="Of the Ray cluster; default: RAY_ADDRESS, or one on this machine."),
]

app = typer.Typer(
    help="Autoencoder outlier detectors for PyOD: fit, score and compare without writing code.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

BENCH_DETECTORS = (
    "AutoEncoder,VAE,AutoEncoderEnsemble,"
    "pyod.AutoEncoder,pyod.VAE,pyod.IForest,pyod.ECOD,pyod.KNN,pyod.LOF,pyod.HBOS"
)
# ADBench, too, draws at most this many rows from its larger sets.
BENCH_ROWS = 10_000
TABLE_WIDTH = 96


def main() -> None:
    """Run the command line; report what the user can mend as one line on stderr."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        typer.secho(f"pyod-ae: {error}", fg="red", err=True)
        sys.exit(1)


@app.command("list")
def list_detectors() -> None:
    """List the registered detectors: ours, those of plugins, and PyOD's own as pyod.NAME."""
    from pyod_ae_plugin import detector_names

    typer.echo("\n".join(detector_names()))


@app.command()
def fit(
    data: Annotated[
        Path, typer.Argument(help="Training rows: CSV, NPY, NPZ, Parquet, or a folder of the last.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the model, or a .safetensors file.")
    ],
    detector: Annotated[str, typer.Option(help="AutoEncoder, VAE or a plugin's.")] = "AutoEncoder",
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", help="Parameter as NAME=VALUE, repeatable."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column to leave out, such as known labels.")
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    workers: Annotated[
        int, typer.Option(min=1, help="With --engine ray: so many fit together.")
    ] = 2,
) -> None:
    """Fit a detector to a table and save it."""
    import numpy as np

    from pyod_ae_plugin import create_detector, detector_names
    from pyod_ae_plugin.detectors import IncrementalDetector
    from pyod_ae_plugin.tables import Shown, read_table

    if detector not in detector_names():
        raise typer.BadParameter(f"Unknown detector {detector}; `pyod-ae list` shows all.")
    model = create_detector(detector, **_params(param or []))
    if not isinstance(model, IncrementalDetector):
        raise typer.BadParameter(f"{detector} has no save(); it can be benchmarked, not saved.")
    if _on_ray(engine, address):
        from pyod_ae_plugin.integrations.ray.files import fit_files

        fit_files(model, data, label, workers, address)
    else:
        table = read_table(data, without=label)
        model.fit_batches(Shown(table, "Reading"))
        if table.names is not None:
            model.feature_names_in_ = np.array(table.names, dtype=object)
    model.save(output)
    typer.echo(
        f"Fitted {detector} to {len(model.labels_)} rows of {model.n_features_in_} features: "
        f"{int(model.labels_.sum())} outliers above {model.threshold_:.6g}. Saved to {output}."
    )


@app.command()
def score(
    data: Annotated[
        Path, typer.Argument(help="Rows to score: CSV, NPY, NPZ, Parquet, or a folder of the last.")
    ],
    model: Annotated[Path, typer.Option(help="What fit wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="CSV, NPY, NPZ or Parquet with score and label.")
    ],
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: as fitted.")] = None,
    engine: Engine = "local",
    address: Address = None,
) -> None:
    """Score a table with a saved detector; columns that it was not fitted to are left out.

    Broken off, the same command goes on where it was. With --engine ray the output is a folder of
    Parquet files, in which those columns are kept.
    """
    from pyod_ae_plugin import load_detector

    if _on_ray(engine, address):
        from pyod_ae_plugin.integrations.ray.files import score_files

        detector = load_detector(model, "cpu")
        n_rows, n_outliers = score_files(detector, data, output, device, address)
        typer.echo(f"Scored {n_rows} rows: {n_outliers} outliers. Written to {output}.")
        return
    from pyod_ae_plugin.scorefiles import check_writable, score_table
    from pyod_ae_plugin.tables import read_table

    check_writable(output)
    detector = load_detector(model, device)
    names = getattr(detector, "feature_names_in_", None)
    table = read_table(data, columns=None if names is None else list(names))
    # The names have just been matched; the detector is given none to match again.
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    scored = score_table(
        table, detector.decision_function, detector.threshold_, output, model, device
    )
    typer.echo(f"Scored {scored.n_rows} rows: {scored.n_outliers} outliers. Written to {output}.")
    try:
        report = detector.check_drift(scored.sample)
    except ValueError as error:  # the scores are written; too few rows are no fault of theirs
        typer.echo(f"Drift not checked: {error}")
    else:
        typer.secho(report, fg="yellow" if report.drifted else None)


@app.command()
def report(
    data: Annotated[
        Path, typer.Argument(help="Rows: CSV, NPY, NPZ, Parquet, or a folder of the last.")
    ],
    model: Annotated[Path, typer.Option(help="What fit wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, as .html.")],
    label: Annotated[
        str | None, typer.Option(help="Column of true labels: 0 for inliers, 1 for outliers.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: as fitted.")] = None,
) -> None:
    """Report on a table with a saved detector: one page to read in a browser."""
    from pyod_ae_plugin import load_detector
    from pyod_ae_plugin.report import Report, gather, require_bokeh
    from pyod_ae_plugin.tables import Shown, read_table

    require_bokeh()
    if output.suffix != ".html" or not output.resolve().parent.is_dir():
        raise typer.BadParameter(f"{output} must end in .html and be in a folder that is there.")
    detector = load_detector(model, device)
    names = getattr(detector, "feature_names_in_", None)
    table = read_table(data, columns=None if names is None else list(names), without=label)
    labels = None if label is None else read_table(data, columns=[label]).values[:, 0]
    contents = gather(detector, Shown(table, "Reading"), labels, lambda i: i + 1, source=data.name)
    Report(contents).save(output)
    n_flagged = contents.n_flagged
    typer.echo(f"Reported on {contents.n_rows} rows: {n_flagged} outliers. Written to {output}.")


@app.command()
def bench(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of .npz files with X and y, such as ADBench's."),
    ] = None,
    detectors: Annotated[
        str, typer.Option(help="Names from `pyod-ae list`, with commas between.")
    ] = BENCH_DETECTORS,
    protocol: Annotated[
        Literal["outlier", "novelty", "adbench"],
        typer.Option(
            help="Fit to all rows and judge them; or to half of the inliers and judge all others; "
            "or to 70 % and judge 30 %, as ADBench does."
        ),
    ] = "outlier",
    duplicates: Annotated[
        bool,
        typer.Option(
            "--duplicates", help="Protocol adbench: copy rows of sets of fewer than 1,000."
        ),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Runs with different seeds; 1, or 3 by protocol adbench."),
    ] = None,
    max_rows: Annotated[
        int, typer.Option(min=10, help="Draw no more rows than this from a data set.")
    ] = BENCH_ROWS,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Every run as .csv or .json.")
    ] = None,
    chart: Annotated[Path | None, typer.Option(help="Box plot as .png.")] = None,
) -> None:
    """Compare detectors on labelled data; by default on the sets inside scikit-learn."""
    from rich.console import Console

    from pyod_ae_plugin.benchmarking.protocols import PROTOCOLS, AdBenchProtocol
    from pyod_ae_plugin.benchmarking.summary import (
        dataset_table,
        draw_chart,
        mean_table,
        write_results,
    )

    names = list(dict.fromkeys(name.strip() for name in detectors.split(",") if name.strip()))
    for target, endings in ((output, (".csv", ".json")), (chart, (".png",))):
        if target is not None and target.suffix not in endings:
            raise typer.BadParameter(f"{target} must end in {' or '.join(endings)}.")
        if target is not None and not target.resolve().parent.is_dir():
            raise typer.BadParameter(f"{target}: there is no such folder.")
    if duplicates and protocol != "adbench":
        raise typer.BadParameter("--duplicates belongs to --protocol adbench.")
    chosen = (
        AdBenchProtocol(max_rows, duplicates)
        if protocol == "adbench"
        else PROTOCOLS[protocol](max_rows)
    )
    n_seeds = seeds or chosen.n_seeds
    results = _run(_datasets(data, chosen), names, chosen, n_seeds)

    console = Console()
    console.width = max(console.width, TABLE_WIDTH)  # rather wrapped than cut off
    console.print(dataset_table(results))
    console.print(mean_table(results))
    followed = f"{protocol} with duplicates" if duplicates else protocol
    console.print(f"Protocol {followed}, {n_seeds} seed(s), at most {max_rows} rows a set.")
    if output is not None:
        write_results(results, output, followed)
    if chart is not None:
        draw_chart(results, chart, f"Protocol {followed}")
    failures = [result for result in results if result.error]
    for result in failures:
        typer.secho(f"{result.detector} on {result.dataset}: {result.error}", fg="red", err=True)
    raise typer.Exit(1 if failures else 0)


def _run(
    datasets: list[Dataset], names: list[str], protocol: Protocol, n_seeds: int
) -> list[Result]:
    from tqdm import tqdm

    from pyod_ae_plugin import create_detector, detector_names
    from pyod_ae_plugin.benchmarking.evaluation import run

    unknown = sorted(set(names) - set(detector_names()))
    if unknown or not names:
        raise typer.BadParameter(f"Unknown detectors {unknown}; `pyod-ae list` shows all.")
    results = []
    n_runs = len(datasets) * len(names) * n_seeds
    with tqdm(total=n_runs, desc="bench", unit="run") as bar:
        for result in run(datasets, names, create_detector, protocol, n_seeds):
            bar.set_postfix_str(f"{result.dataset} {result.detector}")
            bar.update()
            results.append(result)
    return results


def _datasets(folder: Path | None, protocol: Protocol) -> list[Dataset]:
    from pyod_ae_plugin.benchmarking.datasets import folder_datasets, shipped_datasets

    datasets: Iterator[Dataset] = shipped_datasets() if folder is None else folder_datasets(folder)
    return [protocol.draw(dataset) for dataset in datasets]


def _on_ray(engine: str, address: str | None) -> bool:
    if engine == "local" and address is not None:
        raise typer.BadParameter("--address belongs to --engine ray.")
    if engine == "ray":
        from pyod_ae_plugin.integrations.ray.extra import ray_module

        ray_module()  # or say at once what is missing
    return engine == "ray"


def _params(assignments: list[str]) -> dict[str, Any]:
    params = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise typer.BadParameter(f"{assignment!r} is not of the form NAME=VALUE.")
        params[name] = _value(value)
    return params


def _value(text: str) -> Any:
    """Read a value as JSON, or as Python, or take it for a bare word."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return read(text)
    return text
