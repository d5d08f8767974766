"""Tables with ids, categories, gaps, times and labels: in Python and on the command line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from each import EACH
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from pyod_ae_plugin import AutoEncoder, cli, load_detector
from pyod_ae_plugin.columns.frames import frame_of
from pyod_ae_plugin.demo import ODD, orders
from pyod_ae_plugin.storage import read_model
from pyod_ae_plugin.tables.reading import read_table

QUICK = {"epoch_num": 2, "verbose": 0, "device": "cpu"}
FEATURES = ["created_at", "country", "channel", "items", "amount", "age"]


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(orders(600, 12))


@pytest.fixture(scope="module")
def fitted(table):
    return AutoEncoder(columns="auto", verbose=0, device="cpu").fit(table)


# -------------------------------------------------------------------------------------- in Python


@EACH
def test_the_odd_orders_of_the_demo_are_on_top_for_the_right_reasons(Detector):
    table = pd.DataFrame(orders())
    detector = Detector(columns="auto", verbose=0, device="cpu").fit(table)
    assert roc_auc_score(table["is_fraud"], detector.decision_scores_) >= 0.98
    top = np.argsort(-detector.decision_scores_)[:10]
    assert table["is_fraud"].iloc[top].all()
    reasons = detector.explain(table.iloc[top]).argmax(axis=1)
    assert {detector.feature_names_in_[j] for j in reasons} <= set(ODD)


def test_ids_and_labels_are_not_learned_from(fitted, table):
    assert list(fitted.feature_names_in_) == FEATURES
    assert fitted.n_features_in_ == 6
    changed = table.assign(order_id="x", is_fraud=1 - table["is_fraud"])
    scores = fitted.decision_function(table)
    assert np.array_equal(fitted.decision_function(changed), scores)
    assert np.array_equal(fitted.decision_function(table[FEATURES]), scores)
    assert np.array_equal(fitted.decision_function(table[table.columns[::-1]]), scores)


def test_polars_and_arrow_tables_have_the_same_scores(fitted, table):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra arrow")
    pl = pytest.importorskip("polars", reason="needs polars")
    scores = fitted.decision_function(table)
    for given in (pa.Table.from_pylist(orders(600, 12)), pl.DataFrame(orders(600, 12))):
        assert np.array_equal(fitted.decision_function(given), scores)
        assert type(fitted.reconstruct(given)) is type(given)


def test_a_row_has_the_same_score_alone(fitted, table):
    scores = fitted.decision_function(table)
    assert [fitted.decision_function(table.iloc[[i]])[0] for i in range(5)] == list(scores[:5])


def test_contributions_are_those_of_the_tables_own_columns(fitted, table):
    contributions = fitted.explain(table)
    assert contributions.shape == (600, 6)
    strange = table.iloc[[3]].assign(country="Atlantis")
    assert FEATURES[fitted.explain(strange).argmax()] == "country"


def test_a_new_value_makes_a_row_more_abnormal(fitted, table):
    rows = table.iloc[:50]
    new = rows.assign(channel="fax")
    assert (fitted.decision_function(new) > fitted.decision_function(rows)).mean() > 0.9


def test_reconstructions_are_a_table_of_the_same_columns(fitted, table):
    rebuilt = fitted.reconstruct(table)
    assert list(rebuilt.columns) == FEATURES
    assert rebuilt.index.equals(table.index)
    assert (rebuilt["country"] == table["country"]).mean() > 0.5
    assert rebuilt["amount"].notna().all()


def test_drift_names_the_tables_own_columns(fitted, table):
    assert not fitted.check_drift(table).drifted
    moved = table.assign(country="NL")
    assert fitted.check_drift(moved).drifted_features == ["country"]


@EACH
def test_a_saved_detector_reads_the_same_tables(Detector, table, tmp_path):
    detector = Detector(columns="auto", **QUICK).fit(table)
    detector.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert np.array_equal(loaded.decision_function(table), detector.decision_scores_)
    description, _ = read_model(tmp_path / "model")
    assert json.loads(json.dumps(description)) == description


def test_a_forged_description_of_columns_is_refused(table, tmp_path):
    AutoEncoder(columns="auto", **QUICK).fit(table).save(tmp_path / "model")
    path = next(p for p in (tmp_path / "model").iterdir() if p.suffix == ".json")
    text = path.read_text()
    path.write_text(text.replace('"role": "number"', '"role": "category"', 1))
    with pytest.raises(ValueError, match="model"):
        load_detector(tmp_path / "model")


def test_batches_are_learned_from_as_one_table(table):
    at_once = AutoEncoder(columns="auto", **QUICK).fit(table)
    batches = [table.iloc[:200], table.iloc[200:]]
    in_batches = AutoEncoder(columns="auto", **QUICK).fit_batches(batches)
    assert np.array_equal(at_once.decision_scores_, in_batches.decision_scores_)
    with pytest.raises(TypeError, match="can be read again"):
        AutoEncoder(columns="auto", **QUICK).fit_batches(iter(batches))
    stream = AutoEncoder(columns="auto", **QUICK).partial_fit(batches[0]).partial_fit(batches[1])
    assert len(stream.decision_scores_) == 600


def test_roles_can_be_given(table):
    roles = {"items": "category", "created_at": "drop", "is_fraud": "label"}
    detector = AutoEncoder(columns=roles, **QUICK).fit(table)
    assert "created_at" not in detector.feature_names_in_
    assert "items=2" in detector.columns_.matrix_names
    assert clone(detector).columns == roles


def test_a_new_fit_forgets_the_columns_of_an_earlier_one(table):
    detector = AutoEncoder(columns="auto", **QUICK).fit(table)
    X = np.random.default_rng(0).normal(size=(100, 3))
    detector.set_params(columns=None).fit(X)
    assert not hasattr(detector, "columns_")
    assert not hasattr(detector, "feature_names_in_")
    assert np.array_equal(detector.decision_function(X), detector.decision_scores_)


def test_without_columns_the_error_names_them(table):
    with pytest.raises(ValueError, match=r"'country' \(text, such as 'FR'\)|'country' \(text"):
        AutoEncoder(**QUICK).fit(table)
    numbers = table[["items", "amount"]]
    detector = AutoEncoder(**QUICK).fit(numbers)
    reordered = numbers[["amount", "items"]]
    assert np.array_equal(detector.decision_function(reordered), detector.decision_scores_)


def test_an_array_is_refused_where_columns_are_asked_for(table):
    with pytest.raises(TypeError, match="table with named columns"):
        AutoEncoder(columns="auto", **QUICK).fit(np.ones((10, 2)))


def test_arrays_are_scored_by_a_detector_of_numbers_alone(table):
    numbers = table[["items", "amount"]]
    detector = AutoEncoder(columns="auto", **QUICK).fit(numbers)
    assert np.array_equal(detector.decision_function(numbers.to_numpy()), detector.decision_scores_)


@pytest.mark.slow
def test_the_exported_program_takes_what_columns_are_encoded_to(fitted, table, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("torch", minversion="2.11", reason="of torch 2.11, for ONNX")
    fitted.to_onnx(tmp_path / "detector.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "detector.onnx")
    X = fitted.columns_.encode(frame_of(table))
    scores, _ = session.run(["scores", "labels"], {"X": X})
    np.testing.assert_allclose(scores, fitted.decision_scores_, rtol=1e-3)
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["feature_names"]) == fitted.columns_.matrix_names


@pytest.mark.slow
def test_reports_and_plots_show_cells_as_they_are(fitted, table):
    pytest.importorskip("bokeh", reason="needs the extra report")
    contents = fitted.report(table, table["is_fraud"]).contents
    assert contents.ranked[0].name in set(table["order_id"])
    shown = {part.feature: part.value for part in contents.ranked[0].contributions}
    row = table.set_index("order_id").loc[contents.ranked[0].name]
    assert shown["country"] == row["country"]
    assert "<!DOCTYPE html>" in fitted.report(table).to_html()


def test_plots_of_tables(fitted, table):
    matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plots")
    matplotlib.use("Agg")
    from pyod_ae_plugin.plots import plot_explanation, plot_reconstruction, plot_top

    top = int(np.argmax(fitted.decision_scores_))
    labels = [t.get_text() for t in plot_explanation(fitted, table, top).get_yticklabels()]
    assert any(label.startswith("country = ") for label in labels)
    assert plot_top(fitted, table, 3).tables
    assert plot_reconstruction(fitted, table, top).get_yticklabels()


# ---------------------------------------------------------------------------- on the command line


@pytest.fixture(scope="module")
def after_demo(tmp_path_factory):
    """A folder in which the demo's commands fitted a detector to its table."""
    fit = ["fit", "orders.csv", "-o", "model", "-p", "verbose=0", "-p", "device=cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("demo"))
        for arguments in (["demo"], fit):
            cli.app(arguments, standalone_mode=False)
        return Path.cwd()


@pytest.fixture
def demo(after_demo, tmp_path, monkeypatch):
    """A copy of that folder, in which commands run."""
    shutil.copytree(after_demo, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_demo_ends_with_ids_and_reasons(run, demo):
    status, out, _ = run(
        "score", "orders.csv", "--model", "model", "-o", "scores.csv", "--top", "5"
    )
    assert (status, "Scored 3,000 rows" in out) == (0, True)
    header, first = (demo / "scores.csv").read_text().splitlines()[:2]
    assert header == "order_id,score,label"
    assert re.match(r"A\d+,[\d.]+,[01]$", first)
    assert len(re.findall(r"A\d{6}", out)) == 5
    assert "items = " in out or "amount = " in out
    status, _, err = run(
        "report", "orders.csv", "--model", "model", "-o", "report.html", "--label", "is_fraud"
    )
    assert status == 0, err
    assert "A1" in (demo / "report.html").read_text()


@pytest.mark.slow
def test_the_options_that_give_roles_are_named_where_a_role_is_advised(run, tmp_path):
    minutes = np.datetime64("2024-01-01T00:00") + np.arange(60).astype("m8[m]")
    lines = [f"{minute},{i % 7}" for i, minute in enumerate(minutes)]
    (tmp_path / "t.csv").write_text("\n".join(["when,x", *lines]))
    fit = ("fit", tmp_path / "t.csv", "-o", tmp_path / "m", "-p", "verbose=0")
    _, _, err = run(*fit)
    assert "give it the role 'drop'" in err
    assert "Give roles by --id, --label and --drop" in err
    _, _, err = run(*fit, "-p", 'columns={"when": "drop"}')
    assert "role" not in err


@pytest.mark.slow
def test_the_demo_runs_its_commands(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("demo", "--run")
    assert status == 0
    commands = [line[2:].split()[:2] for line in out.splitlines() if line.startswith("$ ")]
    assert commands == [["pyod-ae", "fit"], ["pyod-ae", "score"], ["pyod-ae", "report"]]
    assert "order_id is an id" in err
    assert {"orders-model", "scores.csv", "report.html"} <= {p.name for p in tmp_path.iterdir()}


def test_what_is_left_out_is_said_in_a_line_each_and_kept(run, demo):
    err = run("fit", "orders.csv", "-o", "again", "-p", "verbose=0", "-p", "epoch_num=1")[2]
    for said in (
        "order_id is an id: kept, not learned from.",
        "is_fraud is a label: kept, never learned from.",
        "age: ",
    ):
        assert said in err
    assert "order_id is an id: kept, not learned from." in load_detector("again").columns_.notes


def test_options_of_reading_are_kept_with_the_model(run, demo):
    text = (demo / "orders.csv").read_text().replace(",", ";").replace(".", ",")
    (demo / "latin.csv").write_text(text.replace("FR", "Français"), encoding="latin-1")
    fit = ("fit", "latin.csv", "-o", "latin", "-p", "verbose=0", "-p", "epoch_num=1")
    status, _, err = run(*fit)
    assert (status, "--encoding latin-1" in err) == (1, True)
    assert run(*fit, "--encoding", "latin-1", "--sep", ";")[0] == 0
    assert run("score", "latin.csv", "--model", "latin", "-o", "s.csv")[0] == 0


def test_only_outliers_and_other_columns_are_written_on_request(run, demo):
    command = ("score", "orders.csv", "--model", "model", "-o", "s.csv")
    status, out, _ = run(*command, "--only-outliers", "--keep", "country")
    lines = (demo / "s.csv").read_text().splitlines()
    assert lines[0] == "row,order_id,country,score,label"
    assert all(line.endswith(",1") for line in lines[1:])
    assert len(lines) - 1 == int(re.search(r": (\d+) outliers", out)[1])
    status, _, err = run(*command, "--keep", "nothing")
    assert (status, "no column 'nothing'" in err) == (1, True)


def test_rows_with_gaps_are_masked_dropped_or_refused(run, demo):
    fit = ("fit", "orders.csv", "-o", "m", "-p", "verbose=0", "-p", "epoch_num=1", "--missing")
    n = int(pd.read_csv(demo / "orders.csv")["age"].isna().sum())
    status, out, err = run(*fit, "drop")
    assert f"Fitted AutoEncoder to {3000 - n:,} rows" in out
    assert f"{n} rows with missing values are left out." in err
    status, _, err = run(*fit, "refuse")
    assert (status, "column 'age'" in err, "--missing mask" in err) == (1, True, True)
    assert run(*fit, "refuse", "--drop", "age")[0] == 0


def test_one_error_names_every_unusable_column_and_the_command_that_works(run, demo):
    rng = np.random.default_rng(0)
    table = pd.read_csv(demo / "orders.csv")
    table["note"] = [f"word{i}" for i in rng.integers(0, 1500, len(table))]
    table["code"] = ["7"] * 2999 + ["seven"]
    table.to_csv(demo / "odd.csv", index=False)
    status, _, err = run("fit", "odd.csv", "-o", "m", "-p", "verbose=0")
    assert status == 1
    assert "Column 'note'" in err
    assert "Column 'code'" in err
    assert "line 3001, column 'code'" in err
    assert "--drop note --drop code" in err
    options = ("--drop", "note", "--drop", "code", "-p", "epoch_num=1", "-p", "verbose=0")
    assert run("fit", "odd.csv", "-o", "m", *options)[0] == 0


def test_a_second_label_is_refused(run, demo):
    status, _, err = run("fit", "orders.csv", "-o", "m", "--label", "is_fraud", "--label", "items")
    assert (status, "names one column" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "options"),
    [(("0", "1"), ()), (("False", "True"), ()), (("1", "-1"), ()), (("ok", "bad"), ("bad",))],
)
def test_labels_come_in_several_forms(run, demo, labels, options):
    pytest.importorskip("bokeh", reason="needs the extra report")
    table = pd.read_csv(demo / "orders.csv")
    table["is_fraud"] = np.array(labels)[table["is_fraud"]]
    table.to_csv(demo / "labelled.csv", index=False)
    command = ("report", "labelled.csv", "--model", "model", "-o", "r.html", "--label", "is_fraud")
    if options:
        status, _, err = run(*command)
        assert (status, "--outlier-value" in err) == (1, True)
        command = (*command, "--outlier-value", *options)
    status, _, err = run(*command)
    assert status == 0, err
    assert "24" in (demo / "r.html").read_text()


@pytest.mark.slow
def test_a_label_that_was_learned_from_is_told_of(run, demo):
    pytest.importorskip("bokeh", reason="needs the extra report")
    table = pd.read_csv(demo / "orders.csv").rename(columns={"is_fraud": "checked"})
    table.to_csv(demo / "t.csv", index=False)
    run("fit", "t.csv", "-o", "m", "-p", "verbose=0", "-p", "epoch_num=1")
    err = run("report", "t.csv", "--model", "m", "-o", "r.html", "--label", "checked")[2]
    assert "has learned from 'checked'" in err


def test_a_file_without_names_is_matched_by_position_and_said(run, demo):
    text = (demo / "orders.csv").read_text().split("\n", 1)[1]
    (demo / "bare.csv").write_text(text)
    run("score", "orders.csv", "--model", "model", "-o", "a.csv")
    status, _, err = run("score", "bare.csv", "--model", "model", "-o", "b.csv", "--no-header")
    assert (status, "has no names" in err) == (0, True)
    assert (demo / "a.csv").read_text() == (demo / "b.csv").read_text()


def test_a_renamed_column_is_named_with_the_like_one(run, demo):
    text = (demo / "orders.csv").read_text().replace("amount", "Amount", 1)
    (demo / "renamed.csv").write_text(text)
    status, _, err = run("score", "renamed.csv", "--model", "model", "-o", "s.csv")
    assert (status, "'Amount' is not 'amount'" in err) == (1, True)


def test_the_same_scores_come_of_every_kind_of_file(run, demo):
    pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra arrow")
    table = pd.read_csv(demo / "orders.csv", parse_dates=["created_at"])
    table.to_parquet(demo / "t.parquet")
    table.to_csv(demo / "t.csv.gz", index=False)
    expected = None
    for name in ("orders.csv", "t.parquet", "t.csv.gz"):
        status, _, err = run("score", name, "--model", "model", "-o", "s.npy")
        assert status == 0, err
        scores = np.load("s.npy")
        assert expected is None or np.array_equal(scores, expected)
        expected = scores
    run("score", "t.parquet", "--model", "model", "-o", "s.parquet")
    assert read_table(demo / "s.parquet").names == ["order_id", "score", "label"]
