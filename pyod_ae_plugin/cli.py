"""The command line: ``pyod-ae list | fit | score | report | bench``.

Exit status: 0 for success, 1 for an error in data, a model or a run, 2 for wrong usage. Imports
that take long are inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

    from pyod_ae_plugin.benchmarking.datasets import Dataset
    from pyod_ae_plugin.benchmarking.evaluation import Protocol, Result
    from pyod_ae_plugin.detectors import NeuralDetector

# ------------------------------------------- what is printed: no name acts on the terminal

# Control characters, separators of lines, marks and overrides of direction, and lone surrogates,
# which stand for bytes of file names that are no text.
_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: object) -> str:
    r"""The text with what would act on a terminal as escapes, such as ``\x1b``."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def say(line: object, fg: str | None = None, err: bool = False) -> None:
    """Print one line, in a colour where the terminal has colours."""
    typer.secho(visible(line), fg=fg, err=err)


def console() -> Console:
    """A console of rich that prints text as it is, visibly."""
    from rich.console import Console

    class VisibleConsole(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(visible(text), **options)

    return VisibleConsole(markup=False, emoji=False, highlight=False)


class Commands(TyperGroup):
    """Commands that print usage errors and warnings visibly."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _visible_messages():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _visible_messages():
            return super().invoke(ctx)


@contextlib.contextmanager
def _visible_messages() -> Iterator[None]:
    formatted = warnings.formatwarning

    def visibly(message: Warning | str, *where: Any, **line: Any) -> str:
        return formatted(visible(message), *where, **line)

    warnings.formatwarning = visibly
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "message", None), str):  # of a usage error
            error.message = visible(error.message)  # type: ignore[attr-defined]
        raise
    finally:
        warnings.formatwarning = formatted


# ----------------------------------------------------------------------------- commands

Rows = Annotated[Path, typer.Argument(help="Rows: CSV, NPY, NPZ, Parquet, or a folder of Parquet.")]
Model = Annotated[Path, typer.Option(help="A model that `pyod-ae fit` saved.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda. Default: as fitted.")]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Where to compute: this machine, or a Ray cluster."),
]
Address = Annotated[
    str | None,
    typer.Option(help="Address of the Ray cluster. Default: RAY_ADDRESS, or a local one."),
]

app = typer.Typer(
    cls=Commands,
    help="Autoencoder outlier detectors for PyOD: fit, score and compare without writing code.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

BENCH_DETECTORS = (
    "AutoEncoder,VAE,AutoEncoderEnsemble,"
    "pyod.AutoEncoder,pyod.VAE,pyod.IForest,pyod.ECOD,pyod.KNN,pyod.LOF,pyod.HBOS"
)


def main() -> None:
    """Run the command line; print errors that the user can fix as one line on stderr."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        say(f"pyod-ae: {error}", fg="red", err=True)
        sys.exit(1)
    except Exception:  # a fault in this program
        for line in traceback.format_exc().splitlines():
            say(line, err=True)
        sys.exit(1)


@app.command("list")
def list_detectors() -> None:
    """List all detectors: those of this package and of plugins, and PyOD's as pyod.NAME."""
    from pyod_ae_plugin import detector_names

    for name in detector_names():
        say(name)


@app.command()
def fit(
    data: Rows,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Where to save: a folder or .safetensors file."),
    ],
    detector: Annotated[
        str, typer.Option(help="AutoEncoder, VAE, AutoEncoderEnsemble or a plugin's.")
    ] = "AutoEncoder",
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", help="Parameter as NAME=VALUE; can be repeated."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Name of a column to leave out, such as known labels.")
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    workers: Annotated[int, typer.Option(min=1, help="With --engine ray: number of workers.")] = 2,
) -> None:
    """Fit a detector to a table and save it."""
    import numpy as np

    from pyod_ae_plugin import create_detector, detector_names
    from pyod_ae_plugin.detectors import NeuralDetector
    from pyod_ae_plugin.storage import check_output, check_replaceable, check_separate
    from pyod_ae_plugin.tables import read_table

    if detector not in detector_names():
        raise typer.BadParameter(f"Unknown detector {detector!r}. `pyod-ae list` shows all names.")
    model = create_detector(detector, **_params(param or []))
    if not isinstance(model, NeuralDetector):
        raise typer.BadParameter(f"{detector} cannot be saved; `pyod-ae bench` can run it.")
    check_separate(output, data)
    check_replaceable(output)
    if model.checkpoint is not None:
        check_output(Path(model.checkpoint), data)
    if _on_ray(engine, address):
        from pyod_ae_plugin.integrations.ray.files import fit_files

        fit_files(model, data, label, workers, address)
    else:
        table = read_table(data, without=label)
        model.fit_batches(table.with_progress("Reading"))
        if table.names is not None:
            model.feature_names_in_ = np.array(table.names, dtype=object)
    model.save(output)
    say(
        f"Fitted {detector} to {len(model.labels_)} rows of {model.n_features_in_} features: "
        f"{int(model.labels_.sum())} outliers above {model.threshold_:.6g}. Saved to {output}."
    )


@app.command()
def score(
    data: Rows,
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="CSV, NPY, NPZ or Parquet file to write.")
    ],
    device: Device = None,
    engine: Engine = "local",
    address: Address = None,
) -> None:
    """Write score and label of each row of a table, by a saved detector.

    Columns are matched by name; those that the detector was not fitted to are left out. If the
    command is interrupted, the same command resumes where it stopped. With --engine ray the output
    is a folder of Parquet files, which keeps all columns.
    """
    from pyod_ae_plugin import load_detector

    if _on_ray(engine, address):
        from pyod_ae_plugin.integrations.ray.files import score_files
        from pyod_ae_plugin.storage import check_separate

        check_separate(output, data, model)
        detector = load_detector(model, "cpu")
        n_rows, n_outliers = score_files(detector, data, output, device, address)
        say(f"Scored {n_rows} rows: {n_outliers} outliers. Written to {output}.")
        return
    from pyod_ae_plugin.scorefiles import check_writable, score_table
    from pyod_ae_plugin.tables import read_table

    check_writable(output, data, model)
    detector = load_detector(model, device)
    table = read_table(data, columns=_features(detector))
    # Columns have been matched by name already, and batches have no names to check again.
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    scored = score_table(
        table, detector.decision_function, detector.threshold_, output, model, device
    )
    say(f"Scored {scored.n_rows} rows: {scored.n_outliers} outliers. Written to {output}.")
    try:
        report = detector.check_drift(scored.sample)
    except ValueError as error:  # no reason to fail, since the scores have been written
        say(f"Drift not checked: {error}")
    else:
        for line in str(report).rsplit("\n", 1):  # the last line holds no names
            say(line, fg="yellow" if report.drifted else None)


@app.command()
def report(
    data: Rows,
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .html file to write.")],
    label: Annotated[
        str | None, typer.Option(help="Name of a column of true labels: 0 inliers, 1 outliers.")
    ] = None,
    device: Device = None,
) -> None:
    """Write a report on a table, by a saved detector: one page to read in a browser."""
    from pyod_ae_plugin import load_detector
    from pyod_ae_plugin.report import Report, compute_contents, require_bokeh
    from pyod_ae_plugin.tables import read_table

    require_bokeh()
    _check_output(output, [data, model], ".html")
    detector = load_detector(model, device)
    table = read_table(data, columns=_features(detector), without=label)
    labels = None if label is None else read_table(data, columns=[label]).values[:, 0]
    batches = table.with_progress("Reading")
    contents = compute_contents(detector, batches, labels, lambda i: i + 1, source=data.name)
    Report(contents).save(output)
    n_rows, n_outliers = contents.n_rows, contents.n_flagged
    say(f"Reported on {n_rows} rows: {n_outliers} outliers. Written to {output}.")


@app.command()
def bench(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of .npz files with X and y, such as those of ADBench."),
    ] = None,
    detectors: Annotated[
        str, typer.Option(help="Names from `pyod-ae list`, separated by commas.")
    ] = BENCH_DETECTORS,
    protocol: Annotated[
        Literal["outlier", "novelty", "adbench"],
        typer.Option(
            help="outlier: fit to all rows and evaluate on them. novelty: fit to half of the "
            "inliers, evaluate on all other rows. adbench: fit to 70 %, evaluate on 30 %."
        ),
    ] = "outlier",
    duplicates: Annotated[
        bool,
        typer.Option(
            "--duplicates",
            help="With --protocol adbench: draw 1,000 rows, with replacement, from smaller sets.",
        ),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Number of seeds. Default: 1, or 3 with --protocol adbench."),
    ] = None,
    max_rows: Annotated[
        int, typer.Option(min=10, help="Draw at most this many rows from a data set.")
    ] = 10_000,  # as ADBench
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all runs to a .csv or .json file.")
    ] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw a box plot to a .png file.")] = None,
) -> None:
    """Compare detectors on labelled data sets, by default on those of scikit-learn."""
    from pyod_ae_plugin.benchmarking import summary
    from pyod_ae_plugin.benchmarking.datasets import folder_datasets, shipped_datasets
    from pyod_ae_plugin.benchmarking.evaluation import PROTOCOLS, AdBenchProtocol

    names = list(dict.fromkeys(name.strip() for name in detectors.split(",") if name.strip()))
    inputs = [] if data is None else [*data.glob("*.npz")]
    _check_output(output, inputs, ".csv", ".json")
    _check_output(chart, inputs, ".png")
    if duplicates and protocol != "adbench":
        raise typer.BadParameter("--duplicates needs --protocol adbench.")
    rules = (
        AdBenchProtocol(max_rows, duplicates)
        if protocol == "adbench"
        else PROTOCOLS[protocol](max_rows)
    )
    n_seeds = seeds or rules.n_seeds
    found = shipped_datasets() if data is None else folder_datasets(data)
    results = _run([rules.draw(dataset) for dataset in found], names, rules, n_seeds)

    terminal = console()
    terminal.width = max(terminal.width, 96)  # a narrow terminal wraps, not truncates
    terminal.print(summary.dataset_table(results))
    terminal.print(summary.mean_table(results))
    title = f"{protocol} with duplicates" if duplicates else protocol
    say(f"Protocol {title}, {n_seeds} seed(s), at most {max_rows} rows per data set.")
    if output is not None:
        summary.write_results(results, output, title)
    if chart is not None:
        summary.draw_chart(results, chart, f"Protocol {title}")
    failures = [result for result in results if result.error]
    for result in failures:
        say(f"{result.detector} on {result.dataset}: {result.error}", fg="red", err=True)
    raise typer.Exit(1 if failures else 0)


def _check_output(path: Path | None, inputs: list[Path], *endings: str) -> None:
    """Raise unless the file has one of the endings and can be written without harm to inputs."""
    from pyod_ae_plugin.storage import check_output

    if path is not None:
        if path.suffix not in endings:
            raise typer.BadParameter(f"{path} must end in {' or '.join(endings)}.")
        try:
            check_output(path, *inputs)
        except FileNotFoundError as error:
            raise typer.BadParameter(str(error)) from error


def _run(
    datasets: list[Dataset], names: list[str], protocol: Protocol, n_seeds: int
) -> list[Result]:
    """Run the benchmark with a progress bar."""
    from tqdm import tqdm

    from pyod_ae_plugin import create_detector, detector_names
    from pyod_ae_plugin.benchmarking.evaluation import run

    if not names:
        raise typer.BadParameter("--detectors names no detector.")
    unknown = sorted(set(names) - set(detector_names()))
    if unknown:
        raise typer.BadParameter(f"Unknown detectors {unknown}. `pyod-ae list` shows all names.")
    results = []
    n_runs = len(datasets) * len(names) * n_seeds
    with tqdm(total=n_runs, desc="bench", unit="run") as bar:
        for result in run(datasets, names, create_detector, protocol, n_seeds):
            bar.set_postfix_str(visible(f"{result.dataset} {result.detector}"))
            bar.update()
            results.append(result)
    return results


def _features(detector: NeuralDetector) -> list[str] | None:
    """Names of the features that the detector was fitted to, if it was fitted to names."""
    names = getattr(detector, "feature_names_in_", None)
    return None if names is None else list(names)


def _on_ray(engine: str, address: str | None) -> bool:
    """Whether to compute on Ray, which must be installed then."""
    if engine == "local" and address is not None:
        raise typer.BadParameter("--address needs --engine ray.")
    if engine == "ray":
        from pyod_ae_plugin.integrations.ray.cluster import ray_module

        ray_module()  # raises an ImportError that names the extra
    return engine == "ray"


def _params(assignments: list[str]) -> dict[str, Any]:
    """Parse NAME=VALUE arguments."""
    params = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise typer.BadParameter(f"--param {assignment!r} must have the form NAME=VALUE.")
        params[name] = _value(value)
    return params


def _value(text: str) -> Any:
    """Parse a value as JSON or as a Python literal; anything else is a string."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return read(text)
    return text
