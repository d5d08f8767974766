"""What a report holds and how it looks in a file. How it behaves is in test_report_browser.py."""

import html
import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.report import rows_shown
from pyod_ae_plugin.report.contents import (
    MAX_STEPS,
    compute_contents,
    format_value,
    starting_threshold,
    sweep_thresholds,
)
from pyod_ae_plugin.report.page import (
    format_number,
    format_percent,
    format_seconds,
    json_text,
)
from pyod_ae_plugin.report.rows_shown import Contribution, RankedRow, sample_rows, top_rows

LIMIT = 5_000_000


@pytest.fixture
def shop():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "amount": rng.gamma(2, 30, 300).round(2),
            "country": rng.choice(["DE", "FR"], 300),
            "time": pd.date_range("2024-03-01", periods=300, freq="97min"),
        }
    )


@pytest.fixture(scope="module")
def fitted(quick, data):
    return quick(epoch_num=10).fit(data[0])


# ------------------------------------------------------------------ thresholds and counts


@pytest.mark.parametrize("n", [1, 2, 500, 30_000])
@pytest.mark.parametrize("ties", [False, True])
def test_counts_are_exact_at_each_threshold(n, ties):
    rng = np.random.default_rng(n)
    scores = rng.gamma(2, size=n).round(2 if ties else 12)
    labels = rng.integers(0, 2, n)
    threshold = np.quantile(scores, 0.3)
    counted = sweep_thresholds(scores, labels, threshold)
    assert counted.is_complete == (n < 10_000 or ties)
    assert len(counted.thresholds) <= MAX_STEPS
    for t, above, outliers in zip(
        counted.thresholds[::50], counted.n_above[::50], counted.n_outliers_above[::50], strict=True
    ):
        assert above == (scores > t).sum()
        assert outliers == labels[scores > t].sum()
    # the threshold that the page begins with flags what the step below it does
    step = np.searchsorted(counted.thresholds, threshold, side="right") - 1
    assert counted.n_above[step] == (scores > threshold).sum()


def test_the_page_begins_with_the_threshold_of_the_detector(data, fitted):
    contents = fitted.report(data[0]).contents
    assert contents.start.threshold == fitted.threshold_
    assert contents.n_flagged == fitted.labels_.sum()
    assert contents.start.n_differing == 0


@pytest.mark.parametrize("far", [20.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_threshold_beyond_all_scores_is_in_the_histogram(far, data, fitted):
    bins = fitted.report(np.full((30, 8), far) + data[0].mean(0)).contents.histogram
    assert bins.low <= fitted.threshold_ <= bins.high
    assert (bins.inliers.sum(), bins.outliers.sum()) == (30, 0)


@pytest.mark.parametrize("predicted", [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
def test_labels_by_a_threshold_on_another_scale_are_kept(predicted):
    scores, predicted = np.array([1.0, 2.0, 3.0, 4.0]), np.array(predicted)
    start = starting_threshold(scores, predicted, threshold=0.5)
    assert start.n_differing == 0
    assert np.array_equal(scores > start.threshold, predicted == 1)


def test_labels_that_follow_no_threshold_are_counted_as_such():
    start = starting_threshold(
        np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 0, 1]), threshold=9.0
    )
    assert start.threshold == 2.0
    assert start.n_differing == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IQR", "KARCH", "FILTER"])
@pytest.mark.filterwarnings("ignore")
def test_thresholders_of_pyod_are_followed(quick, name, data):
    pytest.importorskip("pythresh", reason="needs pythresh, of the extra ensembles")
    from pyod.models import thresholds

    detector = quick(contamination=getattr(thresholds, name)()).fit(data[0])
    contents = detector.report(data[0]).contents
    assert contents.n_flagged == detector.labels_.sum()


# ------------------------------------------------------------------ which rows are shown


def test_of_many_rows_the_highest_and_a_sample_are_shown():
    scores = np.random.default_rng(0).normal(size=1000)
    drawn = sample_rows(scores, 200)
    assert len(set(drawn)) == 200
    assert set(top_rows(scores, 100)) <= set(drawn)
    assert np.median(scores[np.setdiff1d(drawn, top_rows(scores, 100))]) < np.quantile(scores, 0.7)
    assert np.array_equal(drawn, sample_rows(scores, 200))
    assert np.array_equal(top_rows(np.array([1.0, 3.0, 3.0, 2.0]), 3), [1, 2, 3])


def test_rows_are_the_same_in_one_batch_and_in_many(data, fitted, monkeypatch):
    X, _, y, _ = data
    monkeypatch.setattr(rows_shown, "MAX_POINTS", 250)
    whole = compute_contents(fitted, [X], y)
    parts = compute_contents(fitted, np.split(X, [1, 100, 101, 420]), y)
    assert len(whole.points.names) == 250
    assert whole.points.names == parts.points.names
    assert np.allclose(whole.points.values, parts.points.values)
    assert [row.name for row in whole.ranked] == [row.name for row in parts.ranked]
    order = [int(name) for name in whole.points.names]
    shares = [feature.name for feature in whole.features]
    columns = [int(name.split()[1]) for name in shares]
    assert np.array_equal(whole.points.values, X[order][:, columns])
    assert np.array_equal(whole.points.labels, y[order])
    assert len(whole.sweep.thresholds) == len(set(fitted.decision_function(X)))


def test_ranked_rows_have_their_contributions(data, fitted):
    X, _, y, _ = data
    contents = fitted.report(X, y).contents
    scores = fitted.decision_function(X)
    order = [int(row.name) for row in contents.ranked]
    assert np.array_equal(order, np.argsort(-scores, kind="stable")[:100])
    parts = fitted.explain(X[order])
    for i, row in zip(range(3), contents.ranked, strict=False):
        assert row.score == scores[order[i]]
        assert row.label == y[order[i]]
        total = sum(part.contribution for part in row.contributions) + row.rest
        assert total == pytest.approx(parts[i].sum())
        largest = row.contributions[0]
        j = np.abs(parts[i]).argmax()
        assert largest.feature == f"feature {j}"
        assert float(largest.value) == pytest.approx(X[order[i], j], rel=1e-3)
        z = (X[order[i], j] - X.mean(0)[j]) / X.std(0)[j]
        assert largest.deviation == pytest.approx(z, abs=1e-4)
    assert all(part.contribution > 0 for row in contents.ranked for part in row.reasons)
    assert sum(feature.share for feature in contents.features) == pytest.approx(1)
    assert sum(feature.n_largest for feature in contents.features) == 100


def test_reasons_are_what_raises_a_score_noticeably():
    parts = [(9.0, "a"), (-8.0, "b"), (3.0, "c"), (0.5, "d")]
    contributions = [Contribution(name, "1", "1", None, size) for size, name in parts]
    row = RankedRow("0", 4.5, None, contributions, 0.0)
    assert [part.feature for part in row.reasons] == ["a", "c"]


def test_a_table_is_shown_as_people_write_it(quick, shop):
    contents = quick(columns="auto").fit(shop).report(shop).contents
    axes = {feature.name: feature.axis for feature in contents.features}
    assert axes == {"amount": "number", "country": ["DE", "FR", "other"], "time": "time"}
    column = [feature.name for feature in contents.features].index("country")
    order = [int(name) for name in contents.points.names]
    drawn = [axes["country"][int(i)] for i in contents.points.values[:, column]]
    assert drawn == shop["country"].iloc[order].tolist()
    amounts = [p for row in contents.ranked for p in row.contributions if p.feature == "amount"]
    assert all(len(part.reconstruction.strip("-").replace(".", "")) <= 5 for part in amounts)


def test_rows_and_features_have_the_names_of_a_frame(quick, X):
    frame = pd.DataFrame(X, columns=list("abcdef"), index=[f"row {i}" for i in range(300)])
    frame.iloc[17, 2] = 30.0
    contents = quick(epoch_num=20).fit(frame).report(frame).contents
    assert contents.ranked[0].name == "row 17"
    assert contents.ranked[0].contributions[0].feature == "c"


@pytest.mark.slow
@pytest.mark.parametrize("Detector", [AutoEncoder, VAE, AutoEncoderEnsemble])
def test_every_detector_reports(quick, Detector, data):
    X, _, y, _ = data
    detector = quick(Detector, preprocessing=False).fit(X)
    report = detector.report(X, y == 1)
    assert report.contents.roc_auc == pytest.approx(roc_auc_score(y, detector.decision_function(X)))
    assert report.contents.average_precision == pytest.approx(
        average_precision_score(y, detector.decision_function(X))
    )
    assert report.contents.ranked[0].contributions[0].deviation is None
    assert Detector.__name__ in report.to_html()


@pytest.mark.slow
@pytest.mark.parametrize("y", [np.zeros(600), np.ones(600, bool)])
def test_labels_of_one_class_have_no_curve(y, data, fitted):
    contents = fitted.report(data[0], y).contents
    assert contents.roc_auc is None
    assert contents.n_outliers == y.sum()
    assert "All rows have the same label" in fitted.report(data[0], y).to_html()


@pytest.mark.parametrize("y", [np.zeros(3), np.full(600, 2), np.full(600, np.nan)])
def test_wrong_labels_are_refused(y, data, fitted):
    with pytest.raises(ValueError, match="0 for inliers and 1 for outliers"):
        fitted.report(data[0], y)


def test_rows_that_do_not_fit_are_refused(data, fitted):
    with pytest.raises(ValueError, match="features"):
        fitted.report(data[0][:, :3])


ODD_ROWS = [
    np.ones((1, 4)),
    np.ones((50, 4)),
    np.full((3, 4), 1e30),  # their scores overflow
    np.vstack([np.eye(4), np.full((1, 4), 1e30)]),
]


@pytest.mark.slow
@pytest.mark.parametrize("X", ODD_ROWS, ids=["one", "equal", "huge", "one huge"])
def test_odd_rows_have_a_page(quick, X):
    detector = quick().fit(np.random.default_rng(0).normal(size=(60, 4)))
    page = detector.report(X).to_html()
    assert "NaN" not in page[: page.index("<script>")]


# ------------------------------------------------------------------ the file


@pytest.mark.slow
def test_ten_thousand_rows_take_less_than_five_megabytes(quick, tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(10_000, 30)), rng.integers(0, 2, 10_000)
    detector = quick(epoch_num=1).fit(X)
    detector.report(X, y).save(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size <= LIMIT


@pytest.mark.slow
def test_wide_and_long_data_take_no_more(quick, tmp_path):
    rng = np.random.default_rng(0)
    names = [f"a feature with a long name {'x' * 200} {j}" for j in range(600)]
    frame = pd.DataFrame(rng.normal(size=(12_000, 600)).astype(np.float32), columns=names)
    detector = quick(epoch_num=1, score_head="euclidean").fit(frame[:1000])
    report = detector.report(frame)
    report.save(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size <= LIMIT
    text = (tmp_path / "report.html").read_text()
    assert "10,000 of 12,000 rows" in text
    assert "The 500 that contribute most are here." in text
    assert not report.contents.sweep.is_complete


def test_the_page_refers_to_nothing_outside(fitted, data):
    page = fitted.report(data[0]).to_html()
    without_library = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.findall(r"https?://|url\(|@import|\bsrc=", without_library)
    assert re.findall(r'href="([^"]*)"', without_library) == ["data:,"]
    assert "default-src 'none'" in html.unescape(without_library)


@pytest.mark.slow
def test_names_stay_text(quick, X):
    odd = "</script><script>alert(1)</script>"
    frame = pd.DataFrame(X[:, :3], columns=["a", "b", odd], index=[f"{odd}{i}" for i in range(300)])
    page = quick().fit(frame).report(frame).to_html()
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert page.count("<script") == page.count("</script>") == 4


def test_numbers_and_values_as_text():
    numbers = [format_number(x) for x in (2014.0, 0.123456, 31415.92, 1e-12, 3.4e38)]
    assert numbers == ["2,014", "0.1235", "31,416", "1e-12", "3.4e+38"]
    assert format_number(2014.0, separator="") == "2014"
    seconds = [format_seconds(x) for x in (0.019, 1.25, 4321.0)]
    assert seconds == ["less than 0.1 seconds", "1.2 seconds", "4,321 seconds"]
    assert [format_percent(x) for x in (0.1, 0.00012)] == ["10.0%", "0.01%"]
    assert format_value([16, None, "relu"]) == "[16, None, 'relu']"
    assert format_value({"weight_decay": 1e-05}) == "{'weight_decay': 1e-05}"
    assert format_value(len) == "len"


def test_json_ends_no_element():
    value = {"a": "</script><!-- & ]]>", "b": [1.5, None]}
    assert json.loads(json_text(value)) == value
    assert not set("<>&") & set(json_text(value))


def test_the_card_says_how_the_model_was_made_and_nothing_of_the_machine(quick, data, tmp_path):
    detector = quick(
        epoch_num=2,
        random_state=7,
        checkpoint=tmp_path / "checkpoint",
        hidden_neuron_list=[8, 2],
    ).fit(data[0])
    card = detector.report(data[0]).contents.card
    assert card.facts["Seed (random_state)"] == "7"
    assert card.facts["Fitted to"] == "600 rows of 8 features"
    assert {p.name: p.value for p in card.parameters if p.is_set} == {
        "device": "'cpu'", "epoch_num": "2", "hidden_neuron_list": "[8, 2]", "random_state": "7",
        "verbose": "0",
    }  # fmt: skip
    assert {"Python", "pyod", "torch"} <= set(card.versions)
    assert str(tmp_path) not in str(card)


@pytest.mark.slow
def test_notebooks_show_it_in_a_frame(fitted, data):
    shown = fitted.report(data[0])._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "<script" not in shown


def test_a_missing_bokeh_is_named_with_its_extra(fitted, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh.embed", None)
    with pytest.raises(ImportError, match=r"pyod-ae-plugin\[report\]"):
        fitted.report(data[0])


# ------------------------------------------------------------------ the command


@pytest.fixture
def table(tmp_path, X):
    X[:5] += 6
    known = np.arange(300) < 5
    path = tmp_path / "rows.csv"
    frame = pd.DataFrame(X, columns=list("abcdef")).assign(known=known.astype(int))
    frame.to_csv(path, index=False)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_the_command_writes_a_page(quick, named, run, table, tmp_path, X):
    frame = pd.read_csv(table)
    rows = frame[list("abcdef")] if named else X
    quick(epoch_num=20).fit(rows).save(tmp_path / "model")
    output = tmp_path / "report.html"
    status, out, _ = run(
        "report", table, "--model", tmp_path / "model", "-o", output, "--label", "known"
    )
    assert (status, "Reported on 300 rows: 30 outliers" in out) == (0, True)
    page = output.read_text()
    assert "rows.csv" in page
    assert str(tmp_path) not in page
    assert "Confusion matrix" in page
    assert re.search(
        r'<button type="button" class="link">[1-5]</button>', page
    )  # as counted from 1
    frame[list("fedcba" if named else "abcdef")].to_csv(tmp_path / "other.csv", index=False)
    status, _, _ = run(
        "report", tmp_path / "other.csv", "--model", tmp_path / "model", "-o", output
    )
    assert status == 0
    assert "Confusion matrix" not in output.read_text()


def test_the_command_refuses_what_cannot_be(quick, run, table, tmp_path, X):
    quick().fit(X).save(tmp_path / "model")
    command = ("report", table, "--model", tmp_path / "model")
    assert run(*command, "-o", tmp_path / "report.pdf")[0] == 2
    assert run(*command, "-o", tmp_path / "no" / "report.html")[0] == 2
    status, _, err = run(*command, "-o", tmp_path / "report.html", "--label", "nothing")
    assert (status, "there is no column 'nothing'" in err) == (1, True)
    assert not (tmp_path / "report.html").exists()
