"""What the command line prints of names that were chosen to act on a terminal."""

import ast
import io
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from pyod_ae_plugin import AutoEncoder, cli
from pyod_ae_plugin.cli import say, visible
from pyod_ae_plugin.plugins import hookimpl
from pyod_ae_plugin.plugins.manager import plugin_manager

HOSTILE = "\x1b[31mred\x1b[0m\x07\r\n\x9b2J\u202egpj[red]"
SHOWN = r"\x1b[31mred\x1b[0m\x07\r\n\x9b2J\u202egpj[red]"
# Line ends are those of lines, and tqdm begins its line anew by \r.
ACTING = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def run(run):
    """Run ``pyod-ae`` in this process; return exit status and all that it printed."""

    def run_and_check(*arguments):
        status, *streams = run(*arguments)
        printed = "".join(streams)
        assert ACTING.findall(printed) == []
        return status, re.sub(r"\s|│", "", printed)  # usage errors are in boxes, and wrapped

    return run_and_check


@pytest.fixture
def table(tmp_path, X):
    """A table whose file and columns have hostile names."""
    path = tmp_path / f"{HOSTILE}.csv"
    lines = [",".join(map(str, row)) for row in X.tolist()]
    header = ",".join(f'"{i}{HOSTILE}"' for i in range(X.shape[1]))
    path.write_text("\n".join([header, *lines]), newline="")
    return path


@pytest.fixture
def model(tmp_path, X, quick):
    """A model in a folder of a hostile name, fitted to columns of hostile names."""
    detector = quick().fit(X)
    detector.feature_names_in_ = np.array([f"{i}{HOSTILE}" for i in range(6)], dtype=object)
    detector.save(tmp_path / f"model {HOSTILE}")
    return tmp_path / f"model {HOSTILE}"


def test_what_acts_on_a_terminal_is_an_escape():
    assert visible(HOSTILE) == SHOWN
    assert visible("größe 重量 🙂 \\x1b") == "größe 重量 🙂 \\x1b"
    assert visible(os.fsdecode(b"\xff.csv")) == r"\udcff.csv"
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert ACTING.findall(visible(everything)) == []
    assert visible(everything).isprintable() == everything.isprintable() == False  # noqa: E712


@pytest.mark.slow
def test_fit_score_and_report_show_names(run, table, tmp_path):
    options = ("-p", "epoch_num=1", "-p", "verbose=0", "-p", "device=cpu")
    model, scores = tmp_path / f"m{HOSTILE}", tmp_path / f"s{HOSTILE}.csv"
    status, printed = run("fit", table, "-o", model, *options)
    assert (status, SHOWN in printed) == (0, True)
    status, printed = run("score", table, "--model", model, "-o", scores)
    assert (status, f"s{SHOWN}.csv" in printed) == (0, True)
    pytest.importorskip("bokeh", reason="needs bokeh, of the extra report")
    page = tmp_path / f"r{HOSTILE}.html"
    status, printed = run("report", table, "--model", model, "-o", page)
    assert (status, f"r{SHOWN}.html" in printed) == (0, True)


def test_columns_that_drifted_are_named(run, table, model, tmp_path, X):
    np.savetxt(
        table, X + 5, delimiter=",", comments="",
        header=",".join(f'"{i}{HOSTILE}"' for i in range(6)),
    )  # fmt: skip
    status, printed = run("score", table, "--model", model, "-o", tmp_path / "s.csv")
    assert (status, "Driftin6of6features:" in printed) == (0, True)
    assert printed.count(f"{SHOWN}(KS") == 5


def test_errors_in_tables_name_columns_and_files(run, table, model, tmp_path):
    table.write_text(table.read_text() + "\n1,2,3,4,5,x", newline="")
    for command in ("fit", "score", "report"):
        if command != "fit":
            pytest.importorskip("bokeh", reason="needs bokeh, of the extra report")
        output = tmp_path / {"fit": "o", "score": "o.csv", "report": "o.html"}[command]
        of_model = () if command == "fit" else ("--model", model)
        status, printed = run(command, table, *of_model, "-o", output)
        assert status == 1
        assert SHOWN.replace("\\", "") in printed.replace("\\", "")  # names of columns are quoted


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "{}.csv", "-o", "m"],
        ["fit", "{}", "-o", "m"],
        ["fit", "table", "-o", "m", "--detector", "{}"],
        ["fit", "table", "-o", "m", "--detector", "pyod.KNN", "-p", "{}"],
        ["fit", "table", "-o", "m", "-p", "{}=1"],
        ["fit", "table", "-o", "m", "-p", "network={}"],
        ["fit", "table", "-o", "m", "-p", "device={}"],
        ["fit", "table", "-o", "m", "--label", "{}"],
        ["fit", "table", "-o", "m", "--{}", "1"],
        ["fit", "table", "-o", "m", "--engine", "{}"],
        ["fit", "table", "{}", "-o", "m"],
        ["score", "table", "--model", "{}", "-o", "s.csv"],
        ["score", "table", "--model", "m", "-o", "{}"],
        ["score", "table", "--model", "m", "-o", "{}/s.csv"],
        ["report", "table", "--model", "{}", "-o", "r.html"],
        ["report", "table", "--model", "m", "-o", "{}"],
        ["bench", "--data", "{}"],
        ["bench", "--detectors", "{}"],
        ["bench", "--protocol", "{}"],
        ["bench", "-o", "{}"],
        ["bench", "--chart", "{}"],
        ["list", "{}"],
        ["{}"],
    ],
    ids=" ".join,
)
def test_wrong_use_shows_what_was_typed(arguments, run, table):
    typed = [table if word == "table" else word.format(HOSTILE) for word in arguments]
    status, printed = run(*typed)
    assert status in (1, 2)
    assert "red" in printed


def test_bench_shows_names_of_data_sets(run, tmp_path, X):
    folder = tmp_path / f"{HOSTILE}"
    folder.mkdir()
    np.savez(folder / f"{HOSTILE}.npz", X=X[:40], y=np.arange(40) % 4 == 0)
    status, printed = run("bench", "--data", folder, "--detectors", "pyod.KNN,pyod.XGBOD")
    assert status == 1
    assert printed.count(SHOWN) >= 2  # in the table, and with the run that failed
    np.savez(folder / f"{HOSTILE}.npz", **{HOSTILE: X})
    status, printed = run("bench", "--data", folder, "--detectors", "pyod.KNN")
    assert (status, SHOWN in printed) == (1, True)


def test_list_shows_names_of_plugins(run):
    plugin = types.SimpleNamespace(pyod_ae_detectors=hookimpl(lambda: {HOSTILE: AutoEncoder}))
    plugin_manager().register(plugin, name="hostile one")
    try:
        status, printed = run("list")
    finally:
        plugin_manager().unregister(name="hostile one")
    assert (status, SHOWN in printed) == (0, True)


def test_kinds_of_columns_are_shown(run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of the extra arrow")
    import pyarrow

    path = tmp_path / f"{HOSTILE}.parquet"
    parquet.write_table(pyarrow.table({HOSTILE: [{HOSTILE: 1.0}]}), path)
    status, printed = run("fit", path, "-o", tmp_path / "m")
    assert (status, f"holdsstruct<{SHOWN}" in printed) == (1, True)


def test_a_fault_in_the_program_is_a_traceback(run, monkeypatch, tmp_path):
    from pyod_ae_plugin import filetasks

    def fails(*_, **__):
        raise KeyError(HOSTILE) from RuntimeError(HOSTILE)

    monkeypatch.setattr(filetasks, "read_table", fails)
    status, printed = run("fit", "t.csv", "-o", tmp_path / "m")
    assert status == 1
    assert "Traceback" in printed
    assert f"RuntimeError:{SHOWN[:20]}" in printed


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colours_of_our_own_stay(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "argv", ["pyod-ae", "fit", f"{HOSTILE}.csv", "-o", "m"])
    with pytest.raises(SystemExit):
        cli.main()
    assert terminal.getvalue().startswith(f"\x1b[31mpyod-ae: {SHOWN}.csv")
    assert terminal.getvalue().endswith("\x1b[0m\n")
    assert len(ACTING.findall(terminal.getvalue())) == 2


def test_the_command_line_prints_through_one_place():
    module = ast.parse(Path(cli.__file__).read_text())
    prints = [node for node in module.body if getattr(node, "name", None) not in ("say", "console")]
    for node in (inner for outer in prints for inner in ast.walk(outer)):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        assert called not in ("print", "typer.echo", "typer.secho", "Console"), called


def test_a_line_is_one_line(capsys):
    say("a\nb", err=True)
    assert capsys.readouterr().err == "a\\nb\n"


@pytest.mark.slow
def test_warnings_on_stderr_are_shown(tmp_path, X):
    code = (
        "import sys, warnings\n"
        "from pyod_ae_plugin import cli\n"
        "from pyod_ae_plugin.tables import reading\n"
        "read = reading.read_table\n"
        "def warns(path, **options):\n"
        "    warnings.warn(f'odd: {path}', stacklevel=1)\n"
        "    return read(path, **options)\n"
        "reading.read_table = warns\n"
        "cli.main()"
    )
    np.save(tmp_path / f"{HOSTILE}.npy", X)
    options = ["-o", tmp_path / "m", "-p", "epoch_num=1", "-p", "verbose=0"]
    done = subprocess.run(
        [sys.executable, "-c", code, "fit", tmp_path / f"{HOSTILE}.npy", *options],
        capture_output=True,
        check=True,
    )
    assert f"UserWarning: odd: {tmp_path}/{SHOWN}.npy" in done.stderr.decode()
    assert ACTING.findall((done.stdout + done.stderr).decode()) == []
