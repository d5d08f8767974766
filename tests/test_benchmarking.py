"""The benchmark: data sets, protocols, measures, ranks, differences, files and charts."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler

from pyod_ae_plugin import create_detector
from pyod_ae_plugin.benchmarking.datasets import Dataset, folder_datasets, shipped_datasets
from pyod_ae_plugin.benchmarking.evaluation import (
    PROTOCOLS,
    AdBenchProtocol,
    NoveltyProtocol,
    OutlierProtocol,
    Result,
    run,
)
from pyod_ae_plugin.benchmarking.summary import (
    critical_difference,
    dataset_table,
    detector_means,
    draw_chart,
    draw_ranks,
    mean_table,
    paired_difference,
    write_results,
)


@pytest.fixture(scope="module")
def toy():
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(180, 4)), rng.normal(size=(20, 4)) * 4])
    return Dataset("toy", X, np.repeat([0, 1], [180, 20]))


def result(detector, dataset, auc, error=""):
    return Result(detector, dataset, 0, 10, 2, auc, auc / 2, auc / 3, 1.0, 2.0, error)


def test_shipped_sets_are_real_and_labelled():
    shipped = {d.name: d for d in shipped_datasets()}
    assert len(shipped) == 12
    assert shipped["breast_cancer"].y.sum() == 212
    assert shipped["wine"].y.sum() == 10
    assert all(shipped[f"digits-{k}"].y.sum() == 20 for k in range(10))
    assert all(len(d.X) == len(d.y) and np.isfinite(d.X).all() for d in shipped.values())


def test_folders_are_read_in_the_order_of_their_numbers(tmp_path, toy):
    for name in ("10_b", "2_a", "x"):
        np.savez(tmp_path / f"{name}.npz", X=toy.X, y=toy.y)
    assert [d.name for d in folder_datasets(tmp_path)] == ["x", "2_a", "10_b"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((3, 2))}, "no array 'y'"),
        ({"X": np.zeros((3, 2)), "y": [0, 1]}, "must hold X"),
        ({"X": np.zeros((3, 2)), "y": [0, 1, 2]}, "must hold X"),
        ({"X": np.zeros((3, 2)), "y": [0, 0, 0]}, "must hold X"),
    ],
)
def test_unusable_files_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=f"bad.npz .*{message}"):
        list(folder_datasets(tmp_path))


def test_a_folder_without_sets_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.npz files"):
        list(folder_datasets(tmp_path))


@pytest.mark.slow
def test_adbench_sets_load(adbench):
    datasets = list(folder_datasets(adbench))
    assert len(datasets) == len(list(adbench.glob("*.npz")))
    assert all(set(np.unique(d.y)) == {0, 1} for d in datasets)


def test_at_most_keeps_the_share_of_outliers(toy):
    drawn = toy.at_most(100, seed=0)
    assert drawn.X.shape == (100, 4)
    assert drawn.y.sum() == 10
    assert toy.at_most(1000, seed=0) is toy


def test_outlier_protocol_judges_the_training_scores(toy):
    (got,) = run([toy], ["pyod.PCA"], create_detector, OutlierProtocol(), 1)
    scores = create_detector("pyod.PCA").fit(toy.X).decision_scores_
    assert got.roc_auc == pytest.approx(roc_auc_score(toy.y, scores))
    assert got.average_precision == pytest.approx(average_precision_score(toy.y, scores))
    flagged = np.argsort(scores)[-20:]
    assert got.precision_at_n == pytest.approx(toy.y[flagged].mean())
    assert got.n_train == 200


def test_novelty_protocol_trains_on_half_of_the_inliers(toy):
    seen = []

    def create(name, **settings):
        detector = create_detector(name, epoch_num=2, device="cpu", **settings)
        seen.append(detector)
        return detector

    first, second = run([toy], ["AutoEncoder"], create, NoveltyProtocol(), 2)
    assert first.n_train == second.n_train == 90
    assert first.roc_auc != second.roc_auc
    used = [(d.novelty, d.random_state, d.verbose) for d in seen[1::2]]
    assert used == [(True, 0, 0), (True, 1, 0)]


def split_as_adbench_does(X, y, seed):
    """What ``DataGenerator.generator`` of ADBench 0.1.11 calls when it duplicates and samples."""
    np.random.seed(seed)
    if len(y) < 1000:
        drawn = np.random.choice(np.arange(len(y)), 1000, replace=True)
        X, y = X[drawn], y[drawn]
    if len(y) > 10000:
        np.random.seed(seed)
        drawn = np.random.choice(np.arange(len(y)), 10000, replace=False)
        X, y = X[drawn], y[drawn]
    X_train, X_test, _, y_test = train_test_split(X, y, test_size=0.3, shuffle=True, stratify=y)
    scaler = MinMaxScaler().fit(X_train)
    return scaler.transform(X_train), scaler.transform(X_test), y_test


@pytest.mark.parametrize("n_rows", [200, 2_000, 12_000])
def test_adbench_protocol_draws_the_rows_that_adbench_draws(n_rows):
    X = np.random.default_rng(0).normal(size=(n_rows, 2))
    dataset = Dataset("made up", X, (np.arange(n_rows) % 10 == 0).astype(int))
    protocol = AdBenchProtocol(duplicates=True)
    assert protocol.draw(dataset) is dataset
    for seed in (1, 2):
        ours = protocol.scaled_split(dataset, seed)
        theirs = split_as_adbench_does(dataset.X, dataset.y, seed)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_adbench_protocol_takes_small_sets_as_they_are_and_no_more_rows_than_told(toy):
    X_train, X_test, y_test = AdBenchProtocol().scaled_split(toy, 1)
    assert (len(X_train), len(X_test), y_test.sum()) == (140, 60, 6)
    assert (X_train.min(0) == 0).all()
    assert np.allclose(X_train.max(0), 1)
    assert sum(map(len, AdBenchProtocol(max_rows=100).split(toy, 1)[:2])) == 100


def test_adbench_protocol_judges_rows_that_were_not_fitted_with_seeds_from_1(toy):
    results = list(run([toy], ["pyod.KNN"], create_detector, AdBenchProtocol(), 3))
    assert [(r.seed, r.n_train) for r in results] == [(1, 140), (2, 140), (3, 140)]
    X_train, X_test, y_test = AdBenchProtocol().scaled_split(toy, 2)
    scores = create_detector("pyod.KNN").fit(X_train).decision_function(X_test)
    assert results[1].roc_auc == roc_auc_score(y_test, scores)


@pytest.mark.slow
def test_adbench_s_own_files_are_split_with_their_share_of_outliers(adbench):
    for dataset in folder_datasets(adbench):
        X_train, X_test, y_test = AdBenchProtocol().split(dataset, 3)
        assert len(X_train) + len(X_test) == min(len(dataset.X), 10_000)
        assert y_test.mean() == pytest.approx(dataset.y.mean(), abs=0.02)


def test_protocols_are_known_by_their_names():
    assert list(PROTOCOLS) == ["outlier", "novelty", "adbench"]
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())


def test_a_set_that_cannot_be_split_is_a_result(toy):
    lonely = Dataset("lonely", toy.X, (np.arange(200) == 0).astype(int))
    (got,) = run([lonely], ["pyod.KNN"], create_detector, AdBenchProtocol(), 1)
    assert got.error.startswith("ValueError: The least populated class")
    assert (got.n_train, got.n_features) == (200, 4)


def test_a_failing_detector_is_a_result(toy):
    def create(name):
        raise RuntimeError("no such luck")

    (got,) = run([toy], ["x"], create, OutlierProtocol(), 1)
    assert got.error == "RuntimeError: no such luck"
    assert np.isnan(got.roc_auc)


@pytest.mark.slow
def test_detectors_that_must_know_the_width_are_told(toy):
    (got,) = run([toy], ["pyod.DeepSVDD"], create_detector, OutlierProtocol(), 1)
    assert got.error == ""


def test_means_and_ranks():
    results = [
        result("a", "s", 0.9),
        result("b", "s", 0.8),
        result("c", "s", 0.7),
        result("a", "t", 0.5),
        result("b", "t", 0.5),
        result("c", "t", float("nan"), "boom"),
    ]
    means = {m.detector: m for m in detector_means(results)}
    assert [means[d].mean_rank for d in "abc"] == [1.25, 1.75, 3.0]
    assert means["a"].values[0] == pytest.approx(0.7)
    assert means["c"].values[0] == pytest.approx(0.7)
    assert means["c"].failures == 1
    assert means["b"].values[3:] == (1.0, 2.0)


def test_paired_differences_are_of_means_over_seeds_with_their_error_over_sets():
    failed = result("b", "v", float("nan"), "boom")
    a = [result("a", s, auc) for s, auc in (("s", 0.7), ("s", 0.9), ("t", 0.6), ("u", 0.5))]
    b = [result("b", s, auc) for s, auc in (("s", 0.7), ("t", 0.6), ("u", 0.6))]
    results = [*a, result("a", "v", 0.9), *b, failed]
    # 0.1, 0 and -0.1; set v is left out.
    assert paired_difference(results, "a", "b") == pytest.approx((0.0, 0.1 / 3**0.5))
    assert paired_difference(results, "b", "b") == (0.0, 0.0)
    mean, error = paired_difference(results[:2] + b[:1], "a", "b")
    assert mean == pytest.approx(0.1)
    assert np.isnan(error)
    assert np.isnan(paired_difference([a[0], failed], "a", "b")).all()


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_those_of_demsar_s_table(k, q):
    expected = q * (k * (k + 1) / (6 * 30)) ** 0.5
    assert critical_difference(k, 30) == pytest.approx(expected, rel=3e-4)


def test_tables_show_every_detector_on_every_set():
    results = [result(d, s, 0.5) for s in "st" for d in "abc"]
    assert dataset_table(results).row_count == 6
    assert mean_table(results).row_count == 3


def test_results_are_written(tmp_path):
    results = [result("a", "s", 0.9), result("b", "s", float("nan"), "boom")]
    write_results(results, tmp_path / "r.csv", "outlier")
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert [row["roc_auc"] for row in rows] == ["0.9", "nan"]
    write_results(results, tmp_path / "r.json", "outlier")
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["results"][1]["roc_auc"] is None
    assert {"torch", "pyod"} <= set(document["versions"])
    with pytest.raises(ValueError, match=r"\.csv or \.json"):
        write_results(results, tmp_path / "r.xml", "outlier")


@pytest.mark.parametrize("draw", [draw_chart, draw_ranks])
def test_chart_is_drawn(tmp_path, draw):
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra plots")
    results = [result(d, s, 0.5 + 0.1 * i) for i, d in enumerate("abc") for s in "stu"]
    draw(results, tmp_path / "chart.png", "Title")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_bars_join_the_largest_groups_that_do_not_differ(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs the extra plots")
    # Mean ranks 1, 2, 3 and 4 on 12 data sets; the critical difference is 1.35.
    results = [result(d, s, 0.9 - 0.1 * i) for i, d in enumerate("abcd") for s in "stuvwxyzijkl"]
    draw_ranks(results, tmp_path / "ranks.png", "Title")
    lines = [collection.get_segments()[0] for collection in pyplot.gca().collections]
    *bars, critical = ([float(x) for x in line[:, 0]] for line in lines)
    assert bars == [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]
    assert critical == pytest.approx([1, 1 + critical_difference(4, 12)])
