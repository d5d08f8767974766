"""The command line: ``pyod-ae demo | list | fit | score | report | bench``.

Exit status: 0 for success, 1 for an error in data, a model or a run, 2 for wrong usage. Imports
that take long are inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import ast
import contextlib
import json
import platform
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

    from pyod_ae_plugin.benchmarking.datasets import Dataset
    from pyod_ae_plugin.benchmarking.evaluation import Protocol, Result
    from pyod_ae_plugin.tables.dialects import ReadOptions

# ------------------------------------------- what is printed: no name acts on the terminal

# Control characters, separators of lines, marks and overrides of direction, and lone surrogates,
# which stand for bytes of file names that are not text.
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

Rows = Annotated[
    Path,
    typer.Argument(
        help="Table: CSV (.csv, .tsv, .txt, also .gz, .bz2, .xz; - is standard input), Parquet, a "
        "folder of these, Excel, NPY or NPZ."
    ),
]
Separator = Annotated[
    str | None, typer.Option(help="CSV: the character between cells, or tab. Default: detected.")
]
Decimal = Annotated[
    str | None, typer.Option(help="CSV: the decimal point, . or a comma. Default: detected.")
]
Encoding = Annotated[str | None, typer.Option(help="CSV: such as latin-1. Default: UTF-8.")]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="CSV: whether the first line holds names. Default: detected.",
        show_default=False,
    ),
]
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


class FitCommand(TyperCommand):
    """The command fit, for which ``-p help`` needs no table and no output."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        if "help" in (given.get("param") or []):
            _print_params(given.get("detector") or "AutoEncoder")
            ctx.exit()
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

N_DIGITS = 5  # sets of bench; all ten would take twice as long
BENCH_DETECTORS = (
    "AutoEncoder,VAE,AutoEncoderEnsemble,"
    "pyod.AutoEncoder,pyod.IForest,pyod.ECOD,pyod.KNN,pyod.LOF,pyod.HBOS"
)


def main() -> None:
    """Run the command line; print errors that the user can fix as one line on stderr."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        for line in _lines_of(error):
            say(line, fg="red", err=True)
        sys.exit(1)
    except Exception:  # a fault in this program
        for line in traceback.format_exc().splitlines():
            say(line, err=True)
        sys.exit(1)


def _lines_of(error: Exception) -> list[str]:
    """An error in one line, or in one for each column that cannot be used and a remedy."""
    from pyod_ae_plugin.columns.profiles import UnusableColumnsError
    from pyod_ae_plugin.tables.reading import SEE_PAGE

    if not isinstance(error, UnusableColumnsError):
        return [f"pyod-ae: {error}"]
    lines = ["pyod-ae: some columns of the table cannot be used.", *str(error).split("\n")]
    lines += _how_to_give_roles(lines)
    if error.rows:
        dropped = [part for name in error.rows for part in ("--drop", name)]
        lines.append(f"To leave them out: {shlex.join(['pyod-ae', *sys.argv[1:], *dropped])}")
    return [*lines, SEE_PAGE]


def _print_version(asked: bool) -> None:
    """Print the versions of this package and of what it computes with, and exit."""
    if asked:
        from importlib.metadata import version

        from pyod_ae_plugin import __version__

        others = ", ".join(f"{name} {version(name)}" for name in ("pyod", "torch", "numpy"))
        say(f"pyod-ae {__version__} ({others}, Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def options_of_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print versions and exit."
        ),
    ] = False,
) -> None:
    """Autoencoder outlier detectors for PyOD: fit, score and compare without writing code."""


def _how_to_give_roles(lines: list[str]) -> list[str]:
    """A line on how to give a column a role, if other lines advise to."""
    if not any("the role '" in line for line in lines):
        return []
    return [
        "Give roles by --id, --label and --drop, or any role as in "
        """-p 'columns={"zip": "category"}'."""
    ]


@app.command("list")
def list_detectors() -> None:
    """List all detectors: ours, those of plugins, and PyOD's as pyod.NAME."""
    from pyod_ae_plugin import detector_names

    for name in detector_names():
        say(name)


@app.command(cls=FitCommand)
def fit(
    data: Rows,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Where to save: a folder or .safetensors file."),
    ],
    detector: Annotated[
        str,
        typer.Option(
            help="AutoEncoder, VAE, AutoEncoderEnsemble or a plugin's. `pyod-ae list` lists them."
        ),
    ] = "AutoEncoder",
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            "-p",
            help="Parameter of the detector as NAME=VALUE; can be repeated. `-p help` lists them.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Name of the column that marks outliers: never learned from."),
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="Name of a column that names rows: kept, not learned from."),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Name of a column to leave out; can be repeated.")
    ] = None,
    missing: Annotated[
        Literal["mask", "drop", "refuse"],
        typer.Option(
            help="What to do about missing values: hide them from the network, leave out rows "
            "that have any, or end with an error."
        ),
    ] = "mask",
    sep: Separator = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    header: Header = None,
    engine: Engine = "local",
    address: Address = None,
    workers: Annotated[int, typer.Option(min=1, help="With --engine ray: number of workers.")] = 2,
) -> None:
    """Fit a detector to a table and save it.

    Columns may hold numbers, categories, times, ids and a label. The command detects what each
    holds and prints what it assumes. How the file is written is saved with the model.
    """
    from pyod_ae_plugin import create_detector
    from pyod_ae_plugin.detectors import NeuralDetector
    from pyod_ae_plugin.storage import check_output, check_replaceable, check_separate

    name = _one_label(label)
    asked = {} if name is None else {name: "label"}
    _check_known([detector])
    model = create_detector(detector, **_params(param or []))
    if not isinstance(model, NeuralDetector):
        raise typer.BadParameter(f"{detector} cannot be saved; `pyod-ae bench` can run it.")
    check_separate(output, data)
    check_replaceable(output)
    if model.checkpoint is not None:
        check_output(Path(model.checkpoint), data)
    asked |= dict.fromkeys(ids or [], "id") | dict.fromkeys(drop or [], "drop")
    if _on_ray(engine, address):
        from pyod_ae_plugin.integrations.ray.files import fit_files

        fit_files(model, data, list(asked), workers, address)
    else:
        from pyod_ae_plugin.filetasks import fit_table

        options = _read_options(sep, decimal, encoding, header)
        notes = fit_table(model, data, asked, missing, options)
        for note in [*notes, *_how_to_give_roles(notes)]:
            say(note, err=True)
    model.save(output)
    n_features = "feature" if model.n_features_in_ == 1 else "features"
    say(
        f"Fitted {detector} to {len(model.labels_):,} rows of {model.n_features_in_} {n_features}. "
        f"Saved to {output}."
    )
    rule = f"contamination={model.contamination}"
    assumed = any(given.startswith("contamination=") for given in param or [])
    say(
        f"{int(model.labels_.sum()):,} of them score above the threshold, {model.threshold_:.6g}: "
        + (f"{rule}." if assumed else f"{rule} is assumed. For 1%: -p contamination=0.01.")
    )
    following = ["score", str(data), "--model", str(output), "-o", "scores.csv", "--top", "10"]
    say(f"Next: pyod-ae {shlex.join(following)}")


@app.command()
def score(
    data: Rows,
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="CSV, NPY, NPZ or Parquet file to write.")
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Name of a column to write beside the scores; can be repeated."),
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            min=0, help="Number of rows to print: those with the highest scores, with reasons."
        ),
    ] = 0,
    only_outliers: Annotated[
        bool, typer.Option("--only-outliers", help="Write the rows above the threshold only.")
    ] = False,
    sep: Separator = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    header: Header = None,
    device: Device = None,
    engine: Engine = "local",
    address: Address = None,
) -> None:
    """Score the rows of a table by a saved detector, and write ids, scores and labels.

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
        say(f"Scored {n_rows:,} rows: {n_outliers:,} outliers. Written to {output}.")
        return
    from pyod_ae_plugin.filetasks import open_for, top_rows_of
    from pyod_ae_plugin.scorefiles import check_writable, score_table

    check_writable(output, data, model)
    detector = load_detector(model, device)
    options = _read_options(sep, decimal, encoding, header)
    opened = open_for(detector, data, keep or [], options)
    for note in opened.notes:
        say(note, err=True)
    scored = score_table(
        opened.matrices,
        opened.score,
        detector.threshold_,
        output,
        model,
        device,
        kept=opened.kept,
        only_outliers=only_outliers,
        n_top=top,
    )
    say(f"Scored {scored.n_rows:,} rows: {scored.n_outliers:,} outliers. Written to {output}.")
    if top:
        console().print(top_rows_of(opened, *scored.top))
    try:
        report = opened.drift(scored.sample)
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
        list[str] | None,
        typer.Option(
            help="Name of a column of true labels: 0 and 1, False and True, or 1 and -1, where the "
            "second each time is an outlier; or others with --outlier-value."
        ),
    ] = None,
    outlier_value: Annotated[
        list[str] | None,
        typer.Option(help="With --label: the label of outliers; can be repeated."),
    ] = None,
    sep: Separator = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    header: Header = None,
    device: Device = None,
) -> None:
    """Score a table by a saved detector, and write a report to read in a browser."""
    from pyod_ae_plugin import load_detector
    from pyod_ae_plugin.filetasks import labels_of, note_on_label, open_for
    from pyod_ae_plugin.report import Report, compute_contents, require_bokeh

    require_bokeh()
    name = _one_label(label)
    if outlier_value and name is None:
        raise typer.BadParameter("--outlier-value needs --label.")
    _check_output(output, [data, model], ".html")
    detector = load_detector(model, device)
    options = _read_options(sep, decimal, encoding, header)
    opened = open_for(detector, data, [] if name is None else [name], options)
    labels, notes = None, list(opened.notes)
    if name is not None:
        labels = labels_of(opened, name, outlier_value or [])
        notes += note_on_label(opened, name)
    for note in notes:
        say(note, err=True)
    contents = compute_contents(detector, opened.rows, labels, lambda i: i + 1, source=data.name)
    Report(contents).save(output)
    n_rows, n_outliers = contents.n_rows, contents.n_flagged
    say(f"Reported on {n_rows:,} rows: {n_outliers:,} outliers. Written to {output}.")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The .csv file to write.")] = Path(
        "orders.csv"
    ),
    run: Annotated[
        bool, typer.Option("--run", help="Also fit, score and report. Needs the extra report.")
    ] = False,
) -> None:
    """Write a small made-up table of orders, and show the commands to try on it."""
    from pyod_ae_plugin.demo import write_orders

    if run:
        from pyod_ae_plugin.report import require_bokeh

        require_bokeh()
    _check_output(output, [], ".csv")
    n = write_orders(output)
    say(f"Wrote {n:,} orders to {output}. Its column is_fraud marks the odd ones.")
    model = ["--model", "orders-model"]
    commands = [
        ["fit", str(output), "-o", "orders-model"],
        ["score", str(output), *model, "-o", "scores.csv", "--top", "10"],
        ["report", str(output), *model, "-o", "report.html", "--label", "is_fraud"],
    ]
    for command in commands:
        say(f"$ pyod-ae {shlex.join(command)}")
        if run:
            app(command, standalone_mode=False)
            say("")


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
    found = shipped_datasets(N_DIGITS) if data is None else folder_datasets(data)
    results = _run([rules.draw(dataset) for dataset in found], names, rules, n_seeds)

    terminal = console()
    terminal.width = max(terminal.width, 96)  # a narrow terminal wraps, not truncates
    terminal.print(summary.dataset_table(results))
    terminal.print(summary.mean_table(results))
    title = f"{protocol} with duplicates" if duplicates else protocol
    seeds_run = "1 seed" if n_seeds == 1 else f"{n_seeds} seeds"
    say(f"Protocol {title}, {seeds_run}, at most {max_rows:,} rows per data set.")
    say("Higher is better, but for ranks and seconds.")
    if data is None:
        say(
            "Data sets of scikit-learn. breast_cancer: malignant cases are the outliers. wine: ten "
            "wines of one kind are outliers among those of two others. digits-0 and so on: twenty "
            "images of other digits are outliers among those of one digit."
        )
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

    from pyod_ae_plugin import create_detector
    from pyod_ae_plugin.benchmarking.evaluation import run

    if not names:
        raise typer.BadParameter("--detectors names no detector.")
    _check_known(names)
    results = []
    n_runs = len(datasets) * len(names) * n_seeds
    with tqdm(total=n_runs, desc="bench", unit="run") as bar:
        for result in run(datasets, names, create_detector, protocol, n_seeds):
            bar.set_postfix_str(visible(f"{result.dataset} {result.detector}"))
            bar.update()
            results.append(result)
    return results


def _check_known(names: list[str]) -> None:
    """Raise unless all are names of detectors."""
    from pyod_ae_plugin import detector_names
    from pyod_ae_plugin.plugins.manager import did_you_mean

    known = detector_names()
    for name in names:
        if name not in known:
            raise typer.BadParameter(
                f"Unknown detector {name!r}. {did_you_mean(name, known)}`pyod-ae list` lists all."
            )


def _print_params(detector: str) -> None:
    """Print the parameters of a detector with their defaults, and what each is."""
    from rich.table import Table

    from pyod_ae_plugin import create_detector
    from pyod_ae_plugin.plugins.manager import parameter_summaries

    _check_known([detector])
    created = create_detector(detector)
    listing = Table(box=None, show_header=False)
    summaries = parameter_summaries(type(created))
    for name, value in created.get_params(deep=False).items():
        listing.add_row(f"{name}={value!r}", summaries.get(name, ""))
    say(f"Parameters of {detector}, with their defaults:")
    console().print(listing)


def _one_label(label: list[str] | None) -> str | None:
    """The column that --label names, if any; a second one is an error."""
    if len(label or []) > 1:
        raise typer.BadParameter(f"--label names one column, got {label}. Leave the others out.")
    return label[0] if label else None


def _read_options(
    sep: str | None, decimal: str | None, encoding: str | None, header: bool | None
) -> ReadOptions:
    """The options on how a CSV file is written; None where the file tells."""
    from pyod_ae_plugin.tables.dialects import ReadOptions

    named = {"tab": "\t", r"\t": "\t"}
    try:
        return ReadOptions(named.get(sep or "", sep), decimal, encoding, header)
    except ValueError as error:
        raise typer.BadParameter(f"--{error}") from error


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
