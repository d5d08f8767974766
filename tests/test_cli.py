"""The command line as a user runs it, and the tables it reads."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest

import pyod_ae_plugin
from pyod_ae_plugin import (
    AutoEncoder,
    create_detector,
    filetasks,
    load_detector,
    scorefiles,
)
from pyod_ae_plugin.scorefiles import write_columns
from pyod_ae_plugin.storage import working_folder
from pyod_ae_plugin.tables import arrow
from pyod_ae_plugin.tables.reading import read_table


@pytest.fixture
def table(tmp_path, X):
    X[:5] += 6
    path = tmp_path / "rows.csv"
    header = ",".join("abcdef") + ",known\n"
    lines = [",".join(map(str, row)) + ",odd" for row in X]
    path.write_text(header + "\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_help_names_the_commands():
    done = subprocess.run(
        [sys.executable, "-c", "from pyod_ae_plugin.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(command in done.stdout for command in ("list", "fit", "score", "report", "bench"))


@pytest.mark.slow
def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['pyod-ae', '--help']\n"
        "from pyod_ae_plugin.cli import main\n"
        "try: main()\n"
        "except SystemExit: print({'torch', 'sklearn', 'pyod', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_version_names_what_computes(run):
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith(f"pyod-ae {pyod_ae_plugin.__version__} (pyod ")
    assert f"torch {version('torch')}" in out


@pytest.mark.parametrize("detector", ["AutoEncoder", "VAE", "pyod.IForest"])
def test_param_help_lists_the_parameters_with_their_defaults(run, detector):
    status, out, _ = run("fit", "-p", "help", "--detector", detector)
    assert status == 0
    for name, value in create_detector(detector).get_params(deep=False).items():
        assert f"{name}={value!r} " in out


def test_param_help_tells_what_a_parameter_is(run):
    _, out, _ = run("fit", "--param=help")
    assert "Whether the training rows are all normal." in out


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["--detector", "vae"], "'VAE'"),
        (["--detector", "pyod.iforest"], "'pyod.IForest'"),
        (["-p", "epochs=3"], "'epoch_num'"),
    ],
)
def test_a_wrong_name_offers_the_nearest(run, table, tmp_path, arguments, meant):
    status, _, err = run("fit", table, "-o", tmp_path / "model", *arguments)
    assert status in (1, 2)
    assert f"Did you mean {meant}?" in " ".join(err.replace("│", "").split())


def test_list_names_ours_and_pyods(run):
    status, out, _ = run("list")
    assert status == 0
    assert {"AutoEncoder", "VAE", "pyod.IForest"} <= set(out.split())


@pytest.mark.parametrize(
    "name", ["model", pytest.param("model.safetensors", marks=pytest.mark.slow)]
)
def test_fit_then_score(run, table, tmp_path, X, name):
    status, out, _ = run(
        "fit", table, "-o", tmp_path / name, "--label", "known",
        "-p", "epoch_num=20", "-p", "hidden_neuron_list=[8, 3]", "-p", "device=cpu",
        "-p", "verbose=0",
    )  # fmt: skip
    assert status == 0
    assert "Fitted AutoEncoder to 300 rows of 6 features. Saved to" in out
    assert "30 of them score above the threshold" in out
    assert "contamination=0.1 is assumed" in out
    assert f"Next: pyod-ae score {shlex.quote(str(table))} --model" in out
    status, out, _ = run("score", table, "--model", tmp_path / name, "-o", tmp_path / "scores.csv")
    assert status == 0
    assert "Scored 300 rows: 30 outliers" in out
    scored = read_table(tmp_path / "scores.csv")
    assert scored.names == ["score", "label"]
    assert set(np.argsort(scored.values[:, 0])[-5:]) == set(range(5))
    assert load_detector(tmp_path / name).epoch_num == 20


def test_scoring_finds_the_columns_by_name(run, table, tmp_path, X):
    run("fit", table, "-o", tmp_path / "model", "--label", "known", "-p", "verbose=0")
    shuffled = tmp_path / "shuffled.csv"
    order = [3, 0, 5, 1, 4, 2]
    np.savetxt(
        shuffled, X[:, order], fmt="%r", delimiter=",", comments="",
        header=",".join("abcdef"[i] for i in order),
    )  # fmt: skip
    outputs = []
    for data in (table, shuffled):
        run("score", data, "--model", tmp_path / "model", "-o", tmp_path / "s.npy")
        outputs.append(np.load(tmp_path / "s.npy"))
    assert np.array_equal(*outputs)
    status, _, err = run("score", tmp_path / "no.csv", "--model", tmp_path / "model", "-o", "s.csv")
    assert (status, "no such file" in err) == (1, True)


NOT_NUMBERS = {
    "a,b\n1,2\n3,x\n": "line 3, column 'b': 'x' is not a number",
    "a,b\n1,2\n3,\n": "nan in row 2, column 'b' (line 3), is not a finite number",
    "a,b\n1,nan\n3,4\n": "nan in row 1, column 'b'",
    "a,b\n\n1,2\n\n3,x\n": "line 5, column 'b': 'x' is not a number",
    "a,b\n1,1_000\n": "line 2, column 'b': '1_000' is not a number",
}
BAD_TABLES = {
    "2,1\n3,inf\n": "inf in row 2, column 2 (line 2)",
    "a,b\n1,2\n3\n": "line 3 has 1 cells, the first has 2",
    "a,b\n1,2\n3,4,5\n": "line 3 has 3 cells, the first has 2",
    "a,b\n1,2,3\n3,4,5\n": "line 2 has 3 cells, the first has 2",
    "a;b\n1,5;2\n3;4;5\n": "line 3 has 3 cells, the first has 2",
    "a,a\n1,2\n": "two columns 'a'",
    "": "the file is empty",
    "a,b\n": "the table is empty",
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.items())
def test_bad_tables_are_located_and_exit_with_1(run, tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    status, _, err = run("fit", path, "-o", tmp_path / "model")
    assert status == 1
    assert "bad.csv" in err
    assert message in err
    assert not (tmp_path / "model").exists()


def test_of_a_table_without_a_score_nothing_is_left(run, table, tmp_path):
    run("fit", table, "--label", "known", "-o", tmp_path / "model", "-p", "epoch_num=1")
    (tmp_path / "bad.csv").write_text("a,b,c,d,e,f\n")
    before = {path.name for path in tmp_path.iterdir()}
    options = ("--model", tmp_path / "model", "-o", tmp_path / "scores.csv")
    status, _, err = run("score", tmp_path / "bad.csv", *options)
    assert status == 1
    assert "the table is empty" in err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_wrong_use_exits_with_2(run, table, tmp_path):
    assert run("fit", table)[0] == 2
    assert run("bench", "--detectors", "NoSuch")[0] == 2
    assert run("bench", "--chart", tmp_path / "chart.txt")[0] == 2
    assert run("fit", table, "-o", tmp_path / "m", "-p", "epoch_num")[0] == 2


def test_bad_parameters_exit_with_1_and_one_line(run, table, tmp_path):
    status, _, err = run("fit", table, "-o", tmp_path / "m", "--label", "known", "-p", "lr=-1")
    assert status == 1
    assert err.startswith("pyod-ae: The 'lr' parameter of AutoEncoder must be")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_bench_prints_tables_and_writes_files(run, tmp_path, X):
    y = np.zeros(300, int)
    y[:20] = 1
    X[:20] += 5
    np.savez(tmp_path / "toy.npz", X=X, y=y)
    status, out, _ = run(
        "bench", "--data", tmp_path, "--detectors", "AutoEncoder,pyod.KNN", "--seeds", 2,
        "--protocol", "novelty", "-o", tmp_path / "r.csv", "--chart", tmp_path / "c.png",
    )  # fmt: skip
    assert status == 0
    assert all(word in out for word in ("toy", "AutoEncoder", "pyod.KNN", "ROC AUC", "mean rank"))
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 1 + 2 * 2
    assert (tmp_path / "c.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "followed", "n_runs"),
    [
        (["outlier"], "outlier, 1 seed", 1),
        (["novelty", "--seeds", 2], "novelty, 2 seeds", 2),
        (["adbench"], "adbench, 3 seeds", 3),
        (["adbench", "--duplicates", "--seeds", 1], "adbench with duplicates, 1 seed", 1),
    ],
)
def test_bench_follows_a_protocol(run, tmp_path, X, options, followed, n_runs):
    np.savez(tmp_path / "toy.npz", X=X, y=np.arange(300) % 10 == 0)
    status, out, _ = run(
        "bench", "--data", tmp_path, "--detectors", "pyod.KNN", "-o", tmp_path / "r.json",
        "--protocol", *options,
    )  # fmt: skip
    assert status == 0
    assert f"Protocol {followed}" in out
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["protocol"] == followed.partition(",")[0]
    n_train = {"outlier": 300, "novelty": 135, "adbench": 210, "adbench with duplicates": 700}
    assert [r["n_train"] for r in written["results"]] == [n_train[written["protocol"]]] * n_runs


def test_duplicates_belong_to_one_protocol(run):
    status, _, err = run("bench", "--duplicates")
    assert status == 2
    assert "--protocol adbench" in err


def test_bench_exits_with_1_when_a_run_failed(run, tmp_path, X):
    np.savez(tmp_path / "toy.npz", X=X[:20], y=np.arange(20) % 2)
    status, out, err = run("bench", "--data", tmp_path, "--detectors", "pyod.XGBOD,pyod.KNN")
    assert status == 1
    assert "pyod.XGBOD on toy: " in err
    assert "pyod.KNN" in out


@pytest.mark.parametrize("ending", [".csv", ".npy", ".npz", ".parquet"])
def test_tables_come_back_as_written(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra arrow")
    columns = {"score": np.array([0.1, 1e-17, 3e30]), "label": np.array([0, 1, 0])}
    write_columns(tmp_path / f"t{ending}", [columns], 3)
    if ending == ".npz":
        with np.load(tmp_path / "t.npz") as arrays:
            assert all(np.array_equal(arrays[k], v) for k, v in columns.items())
        return
    table = read_table(tmp_path / f"t{ending}")
    assert np.array_equal(table.values, np.column_stack(list(columns.values())))


@pytest.mark.parametrize("ending", [".CSV", ".NPY", ".NPZ"])
def test_endings_may_be_in_capitals(tmp_path, ending):
    columns = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}
    small = tmp_path / f"t{ending.lower()}"
    if ending == ".NPZ":
        np.savez(small, X=np.column_stack(list(columns.values())))
    else:
        write_columns(small, [columns], 2)
    table = read_table(small.rename(tmp_path / f"T{ending}"))
    assert table.values.tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_npz_is_read_at_x(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.ones((2, 3)), y=np.zeros(2))
    assert read_table(tmp_path / "t.npz").values.shape == (2, 3)
    np.savez(tmp_path / "u.npz", a=np.ones((2, 3)), b=np.ones((2, 3)))
    with pytest.raises(ValueError, match="expected one, or one called X"):
        read_table(tmp_path / "u.npz")


def test_quoted_cells_and_byte_order_marks_are_read(tmp_path):
    (tmp_path / "t.csv").write_text('\ufeff"x, first",y\n"1.5",2\n', encoding="utf-8")
    table = read_table(tmp_path / "t.csv")
    assert table.names == ["x, first", "y"]
    assert table.values.tolist() == [[1.5, 2.0]]


def test_damaged_archives_are_named(tmp_path):
    (tmp_path / "t.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"t\.npz"):
        read_table(tmp_path / "t.npz")
    (tmp_path / "t.csv").write_bytes("größe\n1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.csv.*utf-8"):
        read_table(tmp_path / "t.csv")


def test_lines_are_counted_where_a_column_is_left_out(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,x\n1,2\n")
    with pytest.raises(ValueError, match="line 3 has 2 cells"):
        _ = read_table(tmp_path / "t.csv", without="c").values


def test_columns_come_in_the_order_asked_for(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    assert read_table(tmp_path / "t.csv", columns=["b", "a"]).values.tolist() == [[2, 1], [4, 3]]


def test_unknown_kinds_of_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="tables are read from"):
        read_table(tmp_path / "t.xls")
    with pytest.raises(ValueError, match="written to"):
        write_columns(tmp_path / "t.xlsx", [{"a": np.zeros(2)}], 2)


# ------------------------------------------------------------------ tables of any size


def write_rows(path, X):
    """Write rows to a file of the kind of its ending; a path without one becomes a folder."""
    if path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix == ".csv":
        np.savetxt(path, X, fmt="%.17g", delimiter=",", header="a,b,c,d,e,f", comments="")
    else:
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of the extra arrow")
        pieces = {path: X}
        if not path.suffix:
            path.mkdir()
            pieces = {path / f"{i}.parquet": piece for i, piece in enumerate(np.split(X, 3))}
        for where, rows in pieces.items():
            columns = {name: rows[:, i] for i, name in enumerate("abcdef")}
            parquet.write_table(arrow.pyarrow().table(columns), where, row_group_size=70)
    return path


@pytest.mark.parametrize("kind", ["t.csv", "t.npy", "t.parquet", "t"])
def test_tables_come_in_batches(kind, tmp_path, X, small_batches):
    table = read_table(write_rows(tmp_path / kind, X))
    for _ in range(2):
        batches = list(table)
        assert max(map(len, batches)) <= (300 if kind == "t.csv" else 100)
        assert np.array_equal(np.concatenate(batches), X)
    assert table.n_rows == (None if kind == "t.csv" else 300)


@pytest.mark.slow
def test_a_long_csv_file_comes_in_several_batches(tmp_path, small_batches):
    pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra arrow")
    X = np.random.default_rng(0).normal(size=(30_000, 6))
    batches = list(read_table(write_rows(tmp_path / "t.csv", X)))
    assert len(batches) > 2
    assert np.array_equal(np.concatenate(batches), X)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_either_order_are_read(order, tmp_path, X, small_batches):
    np.save(tmp_path / "t.npy", np.asarray(X, order=order))
    assert np.array_equal(read_table(tmp_path / "t.npy").values, X)


@pytest.mark.parametrize(("text", "message"), {**NOT_NUMBERS, **BAD_TABLES}.items())
def test_bad_tables_are_located_without_pyarrow(tmp_path, text, message, without_pyarrow):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        _ = read_table(tmp_path / "bad.csv").values


def test_csv_without_pyarrow_is_read_alike(tmp_path, X, without_pyarrow):
    table = read_table(write_rows(tmp_path / "t.csv", X), columns=["f", "a"])
    assert np.array_equal(table.values, X[:, [5, 0]])


def test_csv_without_pyarrow_comes_in_batches(tmp_path, X, without_pyarrow, small_batches):
    table = read_table(write_rows(tmp_path / "t.csv", X), columns=["f"])
    assert [batch.shape for batch in table] == [(100, 1)] * 3


def test_a_column_must_be_left(tmp_path):
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"t\.csv: there is no column besides 'a'"):
        read_table(tmp_path / "t.csv", without="a")


def test_csv_that_python_cannot_parse_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("1" * 200_000)
    with pytest.raises(ValueError, match=r"t\.csv: field larger than field limit"):
        read_table(tmp_path / "t.csv")


def test_a_bad_cell_is_counted_over_all_batches(tmp_path, X, small_batches):
    X[250, 3] = np.nan
    for kind in ("t.csv", "t.npy", "t.parquet"):
        with pytest.raises(ValueError, match=r"nan in row 251, column ('d'|4)"):
            _ = read_table(write_rows(tmp_path / kind, X)).values


def test_columns_that_are_no_numbers_are_named(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of the extra arrow")
    table = arrow.pyarrow().table({"a": [1.0], "b": ["x"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: row 1, column 'b': 'x' is not a number"):
        _ = read_table(tmp_path / "t.parquet").values
    assert read_table(tmp_path / "t.parquet", without="b").values.tolist() == [[1.0]]


@pytest.mark.parametrize("ending", [".csv", ".npy", ".npz", ".parquet"])
def test_a_run_that_was_broken_off_goes_on(ending, run, tmp_path, X, small_batches, monkeypatch):
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra arrow")
    data, model = write_rows(tmp_path / "t.npy", X), tmp_path / "model"
    run("fit", data, "-o", model, "-p", "epoch_num=2", "-p", "verbose=0", "-p", "device=cpu")
    output = tmp_path / f"scores{ending}"
    command = ("score", data, "--model", model, "-o", output)
    assert run(*command)[0] == 0
    whole = output.read_bytes() if ending != ".npz" else None
    output.unlink()

    scored = []
    score = filetasks.Opened.score

    def fails_at_the_third(self, X):
        if len(scored) == 2:
            raise OSError("no space left")
        scored.append(len(X))
        return score(self, X)

    monkeypatch.setattr(filetasks.Opened, "score", fails_at_the_third)
    status, _, err = run(*command)
    assert (status, "no space left" in err) == (1, True)
    assert not output.exists()
    scored.append("next run")
    status, out, _ = run(*command)
    assert (status, "Scored 300 rows" in out) == (0, True)
    assert scored == [100, 100, "next run", 100, 300]  # the last are the sample for drift
    assert whole is None or output.read_bytes() == whole
    assert {p.name for p in tmp_path.iterdir()} == {"t.npy", "model", output.name}


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
@pytest.mark.parametrize("changed", ["data", "model"])
def test_parts_of_another_run_are_not_used(
    changed, name, run, tmp_path, X, small_batches, monkeypatch
):
    data, model, output = tmp_path / "t.npy", tmp_path / name, tmp_path / "s.npy"
    np.save(data, X)
    params = ("-p", "epoch_num=2", "-p", "verbose=0", "-p", "device=cpu")
    run("fit", data, "-o", model, *params)
    with monkeypatch.context() as patch:
        patch.setattr(scorefiles, "write_columns", None)  # fails when all parts are there
        with pytest.raises(TypeError):
            scorefiles.score_table(read_table(data), lambda X: X[:, 0], 0.0, output, model, None)
    if changed == "data":
        np.save(data, X + 1)
    else:
        run("fit", data, "-o", model, *params, "-p", "random_state=1")
    run("score", data, "--model", model, "-o", output)
    expected = load_detector(model).decision_function(np.load(data))
    assert np.array_equal(np.load(output)[:, 0], expected)


def test_fit_reads_what_fit_in_memory_reads(run, tmp_path, X, small_batches):
    data = write_rows(tmp_path / "t.csv", X)
    run("fit", data, "-o", tmp_path / "model", "-p", "epoch_num=2", "-p", "verbose=0")
    whole = AutoEncoder(epoch_num=2, verbose=0).fit(X)
    assert np.allclose(load_detector(tmp_path / "model").decision_scores_, whole.decision_scores_)


def test_a_folder_needs_parquet_files(tmp_path):
    with pytest.raises(ValueError, match=r"folder of \.parquet or \.csv files, found neither"):
        read_table(tmp_path)


def test_an_output_that_cannot_be_written_is_refused_first(run, table, tmp_path):
    for output in (tmp_path / "s.xlsx", tmp_path / "no" / "s.csv"):
        status, _, err = run("score", table, "--model", tmp_path / "no model", "-o", output)
        assert (status, str(output) in err) == (1, True)


# ----------------------------------------------------------------- outputs and inputs


@pytest.fixture
def inputs(run, tmp_path, X):
    """A folder with a table, a folder of Parquet, a model and a data set for `bench`."""
    pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra arrow")
    write_rows(tmp_path / "x.csv", X)
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "1.parquet", X)
    (tmp_path / "sets").mkdir()
    np.savez(tmp_path / "sets" / "1_set.npz", X=X, y=(X[:, 0] > 1).astype(int))
    assert run("fit", tmp_path / "x.csv", "-o", tmp_path / "model", *QUICK_FIT)[0] == 0
    return tmp_path


QUICK_FIT = ("-p", "epoch_num=1", "-p", "verbose=0", "-p", "device=cpu")
SCORE = ("score", "x.csv", "--model", "model", "-o")
OVER_INPUTS = {
    "the table": (*SCORE, "x.csv"),
    "the table by another way": (*SCORE, "model/../x.csv"),
    "a link to the table": (*SCORE, "link.csv"),
    "the target of a link": ("score", "link.csv", "--model", "model", "-o", "x.csv"),
    "another name of the table": (*SCORE, "same.csv"),
    "into the model": (*SCORE, "model/scores.csv"),
    "into the model by a link": (*SCORE, "to_model/scores.csv"),
    "into the table": ("score", "rows", "--model", "model", "-o", "rows/2.parquet"),
    "over a part": ("score", "rows", "--model", "model", "-o", "rows/1.parquet"),
    "the target of a link in the table": ("score", "linked", "--model", "model", "-o", "p.parquet"),
    "a report into the model": ("report", "x.csv", "--model", "model", "-o", "model/r.html"),
    "a report over the table": ("report", "x.csv", "--model", "model", "-o", "link.html"),
    "a model into the table": ("fit", "rows", "-o", "rows/model", *QUICK_FIT),
    "a model around the table": ("fit", "rows/1.parquet", "-o", "rows", *QUICK_FIT),
    "a model over the table": ("fit", "x.csv", "-o", "link.safetensors", *QUICK_FIT),
    "a checkpoint into the table": (
        *("fit", "rows", "-o", "new", *QUICK_FIT),
        *("-p", "checkpoint=rows/state"),
    ),
    "results over the data": ("bench", "--data", "sets", "-o", "link.json"),
    "a chart over the data": ("bench", "--data", "sets", "--chart", "link.png"),
}


QUICKLY_CHECKED = ("the table", "into the model", "a link to the table", "a model around the table")


@pytest.mark.parametrize(
    "case",
    [
        case if case in QUICKLY_CHECKED else pytest.param(case, marks=pytest.mark.slow)
        for case in OVER_INPUTS
    ],
)
def test_nothing_is_written_over_what_is_read(case, run, inputs, monkeypatch):
    monkeypatch.chdir(inputs)
    for name in ("link.csv", "link.html", "link.safetensors"):
        (inputs / name).symlink_to("x.csv")
    (inputs / "same.csv").hardlink_to("x.csv")
    (inputs / "to_model").symlink_to("model")
    for name in ("link.png", "link.json"):
        (inputs / name).symlink_to("sets/1_set.npz")
    (inputs / "p.parquet").write_bytes((inputs / "rows" / "1.parquet").read_bytes())
    (inputs / "linked").mkdir()
    (inputs / "linked" / "1.parquet").symlink_to(inputs / "p.parquet")

    def content():
        return {p: p.read_bytes() for p in inputs.rglob("*") if p.is_file()}

    before = content()
    status, _, err = run(*OVER_INPUTS[case])
    assert (status, err.count("\n")) == (1, 1)
    assert "which is read. Name another output." in err
    assert content() == before


def test_the_target_of_a_linked_output_is_written(run, inputs, monkeypatch):
    monkeypatch.chdir(inputs)
    (inputs / "real").mkdir()
    (inputs / "scores.csv").symlink_to("real/scores.csv")
    assert run(*SCORE, "scores.csv")[0] == 0
    assert (inputs / "scores.csv").is_symlink()
    assert (inputs / "real" / "scores.csv").read_text().startswith("score,label")


def must_not_run(*_):
    raise AssertionError("computed before the output was checked")


OUTPUTS_THAT_CANNOT_BE = {
    "a long name": (*SCORE, "s" * 300 + ".csv"),
    "a folder": (*SCORE, "folder.csv"),
    "a file as a folder": (*SCORE, "x.csv/scores.csv"),
    "a link to itself": (*SCORE, "loop.csv"),
    "a report of a long name": ("report", "x.csv", "--model", "model", "-o", "r" * 300 + ".html"),
    "a model of a long name": ("fit", "x.csv", "-o", "m" * 300, *QUICK_FIT),
    "a model with another ending": ("fit", "x.csv", "-o", "model.pkl", *QUICK_FIT),
    "a model in a file": ("fit", "x.csv", "-o", "x.csv/model", *QUICK_FIT),
    "a model over other files": ("fit", "x.csv", "-o", "sets", *QUICK_FIT),
    "results of a long name": ("bench", "--data", "sets", "-o", "r" * 300 + ".csv"),
}


@pytest.mark.parametrize("command", OUTPUTS_THAT_CANNOT_BE.values(), ids=OUTPUTS_THAT_CANNOT_BE)
def test_an_output_that_cannot_be_is_refused_before_anything_is_computed(
    command, run, inputs, monkeypatch
):
    monkeypatch.chdir(inputs)
    (inputs / "folder.csv").mkdir()
    (inputs / "loop.csv").symlink_to("loop.csv")
    for method in ("fit", "fit_batches", "decision_function"):
        monkeypatch.setattr(AutoEncoder, method, must_not_run)
    status, _, err = run(*command)
    assert (status, err.count("\n")) == (1, 1)


# ----------------------------------------------------------------- several runs, one output


def test_a_second_run_for_one_output_fails_at_once(run, inputs, monkeypatch):
    monkeypatch.chdir(inputs)
    with working_folder(inputs / "scores.csv"):
        status, _, err = run(*SCORE, "scores.csv")
    assert (status, err.count("\n")) == (1, 1)
    assert "scores.csv is being written by another run" in err
    assert run(*SCORE, "scores.csv")[0] == 0


@pytest.mark.slow
def test_runs_with_two_models_and_one_output_do_not_mix(run, inputs, monkeypatch):
    monkeypatch.chdir(inputs)
    X = np.random.default_rng(0).normal(size=(1000, 6))
    np.save("rows.npy", X)
    run("fit", "rows.npy", "-o", "other", *QUICK_FIT, "-p", "random_state=1")
    for model in ("model", "other"):
        run("score", "rows.npy", "--model", model, "-o", f"by-{model}.npy")
    code = (
        "from pyod_ae_plugin import cli\n"
        "from pyod_ae_plugin.tables import reading\n"
        "reading.BATCH_ROWS = 10\n"
        "cli.main()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, "score", "rows.npy", "--model", model, "-o", "s.npy"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for model in ("model", "other")
    ]
    ended = [(process.communicate()[1], process.returncode) for process in processes]
    for err, status in ended:
        assert status == 0 or "is being written by another run" in err
    assert 0 in [status for _, status in ended]
    by_one = [np.load(f"by-{model}.npy") for model in ("model", "other")]
    assert any(np.array_equal(np.load("s.npy"), scores) for scores in by_one)
    assert not list(inputs.glob(".*"))


def plant_of_somebody_else(folder):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    folder.mkdir(0o700)
    os.chown(folder, 12345, 12345)


PLANTED = {
    "of somebody else": plant_of_somebody_else,
    "open to others": lambda folder: (folder.mkdir(), folder.chmod(0o777)),
    "a link": lambda folder: ((folder.parent / "own").mkdir(), folder.symlink_to("own")),
    "a file": lambda folder: folder.write_text(""),
}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="asks who owns a folder")
@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_parts_that_could_be_anybodys_end_the_run(plant, run, inputs, monkeypatch):
    monkeypatch.chdir(inputs)
    plant(inputs / ".scores.csv.parts")
    monkeypatch.setattr(AutoEncoder, "decision_function", must_not_run)
    status, _, err = run(*SCORE, "scores.csv")
    assert (status, err.count("\n")) == (1, 1)
    assert "is not a folder that only you can write to" in err
    assert not (inputs / "scores.csv").exists()


@pytest.mark.parametrize(
    "damage", ["shorter", *(pytest.param(d, marks=pytest.mark.slow) for d in ("NaN", "no array"))]
)
def test_a_damaged_part_is_computed_anew(damage, run, inputs, monkeypatch, small_batches):
    monkeypatch.chdir(inputs)
    np.save("rows.npy", np.random.default_rng(0).normal(size=(300, 6)))
    command = ("score", "rows.npy", "--model", "model", "-o")
    run(*command, "expected.npy")
    with monkeypatch.context() as patch:
        patch.setattr(scorefiles, "write_columns", None)  # fails when all parts are there
        assert run(*command, "scores.npy")[0] == 1
    part = sorted((inputs / ".scores.npy.parts").glob("*.npy"))[1]
    if damage == "no array":
        part.write_bytes(b"\x93NUMPY")
    else:
        scores = np.load(part)
        np.save(part, scores[1:] if damage == "shorter" else scores * np.nan)
    assert run(*command, "scores.npy")[0] == 0
    assert np.array_equal(np.load("scores.npy"), np.load("expected.npy"))
