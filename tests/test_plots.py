"""What the figures show. Those of plot_explanation are in test_explanations.py."""

import io
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, plots
from pyod_ae_plugin.thresholds import TopN

PLOTS = {
    "plot_history": lambda d, X, y, **k: plots.plot_history(d, **k),
    "plot_scores": lambda d, X, y, **k: plots.plot_scores(d, X, y, **k),
    "plot_roc": plots.plot_roc,
    "plot_precision_recall": plots.plot_precision_recall,
    "plot_latent": plots.plot_latent,
    "plot_reconstruction": lambda d, X, y, **k: plots.plot_reconstruction(d, X, **k),
    "plot_images": lambda d, X, y, **k: plots.plot_images(d, X[:3], (2, 4), **k),
    "plot_explanation": lambda d, X, y, **k: plots.plot_explanation(d, X, **k),
    "plot_top": lambda d, X, y, **k: plots.plot_top(d, X, **k),
}


@pytest.fixture
def axes():
    return Figure().add_subplot()


@pytest.fixture(scope="module")
def fitted(data):
    return AutoEncoder(epoch_num=10, early_stopping=True, verbose=0, device="cpu").fit(data[0])


def assert_nothing_is_cut_off(figure):
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()  # in inches
    width, height = figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= -0.02
    assert drawn.x1 <= width + 0.02
    assert drawn.y1 <= height + 0.02


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_every_plot_is_tried_here():
    assert set(PLOTS) == set(plots.__all__)


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize(
    "Detector",
    [AutoEncoder, *(pytest.param(D, marks=pytest.mark.slow) for D in (VAE, AutoEncoderEnsemble))],
)
def test_each_draws_to_the_axes_given_and_returns_them(Detector, plot, data, axes):
    X, _, y, _ = data
    detector = Detector(epoch_num=1, verbose=0, device="cpu").fit(X)
    assert PLOTS[plot](detector, X, y, ax=axes) is axes
    axes.figure.savefig(io.BytesIO())  # what fails only when drawn


@pytest.mark.slow
@pytest.mark.parametrize("plot", PLOTS)
def test_each_makes_a_figure_where_none_is_given(plot, fitted, data):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs pyplot")
    pyplot.switch_backend("agg")
    axes = PLOTS[plot](fitted, data[0], data[2])
    assert axes.figure.number in pyplot.get_fignums()
    assert_nothing_is_cut_off(axes.figure)
    pyplot.close(axes.figure)


@pytest.mark.parametrize("plot", PLOTS)
def test_a_missing_matplotlib_is_named_with_its_extra(plot, fitted, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pyod-ae-plugin\[plots\]"):
        PLOTS[plot](fitted, data[0], data[2])


def test_colours_differ_in_black_and_white():
    luminance = {
        name: np.dot(to_rgb(name), [0.2126, 0.7152, 0.0722])
        for name in (plots.BLUE, plots.ORANGE, "white", "black")
    }
    for first, second in combinations(luminance.values(), 2):
        assert abs(first - second) > 0.2


def test_the_curve_is_the_history(fitted, axes):
    lines = plots.plot_history(fitted, ax=axes).lines
    assert list(lines[0].get_ydata()) == fitted.history_["loss"]
    assert list(lines[1].get_ydata()) == fitted.history_["validation_loss"]
    assert texts(axes.get_legend()) == ["training rows", "rows held out"]


def test_the_histogram_counts_each_row_once(fitted, data, axes):
    X, _, y, _ = data
    plots.plot_scores(fitted, X, y, ax=axes)
    heights = [patch.get_height() for container in axes.containers for patch in container]
    assert sum(heights) == len(X)
    n_inliers = sum(patch.get_height() for patch in axes.containers[0])
    assert n_inliers == (y == 0).sum()
    assert axes.lines[0].get_xdata()[0] == fitted.threshold_
    assert axes.containers[1][0].get_hatch()  # in black and white, too


class HighestThird:
    """Labels a third of the rows, by a threshold that is no score."""

    def fit(self, X, y=None):
        self.thresh_, self.labels_ = 0.5, self.predict(X)
        return self

    def predict(self, X):
        highest = np.quantile(X, 2 / 3) < X
        return highest.astype(int)


def test_a_threshold_on_another_scale_is_not_drawn(data, axes):
    detector = AutoEncoder(contamination=HighestThird(), epoch_num=1, verbose=0, device="cpu")
    plots.plot_scores(detector.fit(data[0]), ax=axes)
    assert axes.get_title() == "600 rows, 200 called outliers by the thresholder"
    assert not axes.lines


def test_far_outliers_do_not_squeeze_the_others_into_one_bin(fitted, data, axes):
    X = np.vstack([data[0], np.full((2, 8), 1e30)])
    plots.plot_scores(fitted, X, ax=axes)
    assert "2 higher in the last bin" in axes.get_xlabel()
    assert sum(patch.get_height() for patch in axes.containers[0]) == len(X)
    assert axes.get_xlim()[1] < 1e3 * fitted.threshold_


def test_one_row_alone_has_a_histogram(fitted, data, axes):
    plots.plot_scores(fitted, data[0][:1], ax=axes)
    assert sum(patch.get_height() for patch in axes.containers[0]) == 1


def test_curves_name_the_figures_of_scikit_learn(fitted, data, axes):
    X, _, y, _ = data
    scores, labels = fitted.decision_function(X), fitted.predict(X)
    plots.plot_roc(fitted, X, y, ax=axes)
    assert f"AUC {roc_auc_score(y, scores):.3f}" in texts(axes.get_legend())[0]
    assert axes.lines[-1].get_ydata() == pytest.approx(recall_score(y, labels))
    axes.clear()
    plots.plot_precision_recall(fitted, X, y, ax=axes)
    assert f"{average_precision_score(y, scores):.3f}" in texts(axes.get_legend())[0]
    point = axes.lines[-1]
    assert point.get_xdata() == pytest.approx(recall_score(y, labels))
    assert point.get_ydata() == pytest.approx(precision_score(y, labels))


@pytest.mark.parametrize("plot", ["plot_roc", "plot_precision_recall"])
@pytest.mark.parametrize("y", [np.zeros(600), np.ones(600)])
def test_curves_need_both_classes(plot, y, fitted, data, axes):
    with pytest.raises(ValueError, match="inliers and outliers"):
        PLOTS[plot](fitted, data[0], y, ax=axes)


@pytest.mark.parametrize(
    "plot", ["plot_scores", "plot_roc", "plot_precision_recall", "plot_latent"]
)
@pytest.mark.parametrize("y", [np.zeros(3), np.full(600, 2), np.full(600, -1)])
def test_labels_are_0_and_1_for_each_row(plot, y, fitted, data, axes):
    with pytest.raises(ValueError, match="0 for inliers and 1 for outliers"):
        PLOTS[plot](fitted, data[0], y, ax=axes)


@pytest.mark.parametrize(
    ("n_latent", "label"), [(1, "Latent code"), (2, "Latent dimension 1"), (5, "Principal comp")]
)
def test_latent_spaces_of_any_dimension(n_latent, label, data, axes):
    detector = AutoEncoder(
        hidden_neuron_list=[8, n_latent], epoch_num=1, verbose=0, device="cpu"
    ).fit(data[0])
    plots.plot_latent(detector, data[0], ax=axes)
    assert axes.get_xlabel().startswith(label)
    drawn = [len(collection.get_offsets()) for collection in axes.collections]
    assert drawn == [int((detector.labels_ == k).sum()) for k in (0, 1)]


def test_a_row_is_beside_its_reconstruction_in_standard_deviations(fitted, data, axes):
    X = data[0]
    plots.plot_reconstruction(fitted, X, 3, max_features=4, ax=axes)
    reconstructed, given = (line.get_xdata() for line in axes.lines)
    names = [label.get_text() for label in axes.get_yticklabels()]
    order = [int(name.split()[1]) for name in names]
    mean, std = X.mean(0), X.std(0)
    assert np.allclose(given, ((X[3] - mean) / std)[order], atol=1e-5)
    expected = (fitted.reconstruct(X[3:4])[0] - mean) / std
    assert np.allclose(reconstructed, expected[order], atol=1e-4)
    gaps = np.abs(given - reconstructed)
    assert (np.diff(gaps) <= 0).all()


def test_images_lie_side_by_side(fitted, data, axes):
    X = data[0][:5]
    plots.plot_images(fitted, X, (2, 4), ax=axes)
    drawn = axes.images[0].get_array()
    assert drawn.shape == (3 * 4, 5 * 6)  # with a cell of room on all sides
    shades = (X - X.min()) / (X.max() - X.min())
    assert np.allclose(drawn[1:3, 1:5], shades[0].reshape(2, 4))
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        f"{score:.3g}" for score in fitted.decision_function(X)
    ]


def test_images_take_the_shape_that_was_fitted(data, axes):
    X = data[0]
    detector = AutoEncoder(
        network="conv", input_shape=(2, 4), epoch_num=1, verbose=0, device="cpu"
    ).fit(X)
    plots.plot_images(detector, X[:2], ax=axes)
    with pytest.raises(ValueError, match="images of 8 values"):
        plots.plot_images(detector, X[:2], (3, 3), ax=axes)


@pytest.mark.parametrize("plot", ["plot_reconstruction", "plot_explanation", "plot_top"])
def test_names_of_features_are_no_formulas(plot, data, axes):
    frame = pd.DataFrame(data[0][:, :2], columns=[r"$\frac$", "a_b$"])
    detector = AutoEncoder(epoch_num=1, verbose=0, device="cpu").fit(frame)
    PLOTS[plot](detector, frame, data[2], ax=axes)
    axes.figure.savefig(io.BytesIO())


def test_the_table_names_rows_by_the_index_and_features_by_name(axes):
    frame = pd.DataFrame(
        np.random.default_rng(0).normal(size=(200, 3)),
        columns=["a", "b", "<c>"],
        index=[f"row {i}" for i in range(200)],
    )
    frame.iloc[17, 2] = 9.0
    detector = AutoEncoder(verbose=0, device="cpu", contamination=TopN(1)).fit(frame)
    plots.plot_top(detector, frame, n=4, ax=axes)
    cells = {
        place: cell.get_text().get_text() for place, cell in axes.tables[0].get_celld().items()
    }
    assert cells[1, 1] == "row 17"
    assert cells[1, 3] == "outlier"
    assert cells[1, 4].startswith("<c> = 9")
    assert max(row for row, _ in cells) == 4
    assert cells[2, 3] == ""


@pytest.mark.parametrize("size", [None, (4, 3)])
def test_texts_of_the_table_lie_in_their_cells(size, data):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs pyplot")
    pyplot.switch_backend("agg")
    names = [f"a rather long name of the feature {j} of these rows" for j in range(8)]
    frame = pd.DataFrame(data[0], columns=names)
    detector = AutoEncoder(epoch_num=1, verbose=0, device="cpu", score_head="euclidean").fit(frame)
    axes = None if size is None else Figure(figsize=size).add_subplot()
    axes = plots.plot_top(detector, frame, ax=axes)
    assert_nothing_is_cut_off(axes.figure)
    for cell in axes.tables[0].get_celld().values():
        text, room = cell.get_text().get_window_extent(), cell.get_window_extent()
        assert room.x0 <= text.x0 <= text.x1 <= room.x1
        assert room.y0 <= text.y0 <= text.y1 <= room.y1
    pyplot.close("all")
