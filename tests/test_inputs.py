"""What may be given as X, y and parameters, and what is said of what may not."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.pipeline import make_pipeline
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import pyod_ae_plugin
from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, create_detector
from pyod_ae_plugin.cli import app
from pyod_ae_plugin.plots import plot_roc
from pyod_ae_plugin.thresholds import MeanStd


def loader(*arrays, **options):
    return DataLoader(TensorDataset(*map(torch.from_numpy, arrays)), batch_size=100, **options)


def callers(detector):
    """Every kind of way in which rows reach a detector, by name."""
    return {
        "fit": detector.fit,
        "partial_fit": detector.partial_fit,
        "fit_batches": lambda X: detector.fit_batches([X]),
        "decision_function": detector.decision_function,
        "score_batches": lambda X: list(detector.score_batches([X])),
        "predict": detector.predict,
        "predict_proba": detector.predict_proba,
        "explain": detector.explain,
        "transform": detector.transform,
        "check_drift": detector.check_drift,
        "report": detector.report,
    }


def refused(detector, X, message, error=(TypeError, ValueError)):
    """Assert that all of them refuse X with a message, and that the detector stays as it was."""
    scores = detector.decision_scores_
    for name, call in callers(detector).items():
        with pytest.raises(error, match=message):
            pytest.fail(f"{name} takes it: {call(X)!r}"[:200])
    assert detector.decision_scores_ is scores


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_tensors_with_gradients_and_of_any_type_are_rows(quick, X, dtype):
    rows = torch.from_numpy(X).to(dtype).requires_grad_()
    plain = rows.detach().double().numpy()
    expected = quick().fit(plain)
    for detector in (quick().fit(rows), quick().fit_batches([rows[:100], rows[100:]])):
        scores = detector.decision_scores_
        assert np.allclose(scores, expected.decision_scores_, rtol=1e-4)
        assert np.array_equal(detector.decision_function(rows), scores)
        assert np.array_equal(detector.predict_proba(rows), detector.predict_proba(plain))
    assert rows.grad is None


def test_a_list_of_tensors_is_a_list_of_rows(quick, X):
    expected = quick().fit(X)
    rows = list(torch.from_numpy(X).requires_grad_())
    assert np.array_equal(quick().fit(rows).decision_scores_, expected.decision_scores_)
    assert np.array_equal(expected.predict_proba(rows), expected.predict_proba(X))


@pytest.mark.slow
def test_tensors_without_values_on_the_host_say_what_to_pass(quick, X):
    detector = quick().fit(X)
    refused(detector, torch.empty(300, 6, device="meta"), "holds no values")
    refused(detector, torch.from_numpy(X).to_sparse(), r"to_dense\(\)")


def test_a_loader_of_rows_gives_batches(quick, X):
    expected = quick().fit(X)
    for batches in (loader(X), DataLoader(torch.from_numpy(X), batch_size=100)):
        detector = quick().fit_batches(batches)
        assert np.array_equal(detector.decision_scores_, expected.decision_scores_)
        scores = np.concatenate(list(detector.score_batches(batches)))
        assert np.array_equal(scores, expected.decision_scores_)
    for batch in loader(X):
        detector.partial_fit(batch)


def test_a_loader_is_no_table(quick, X):
    detector = quick().fit(X)
    for name, call in callers(detector).items():
        for batches in (loader(X), loader(X).dataset, iter(loader(X)), (rows for rows in X)):
            with pytest.raises(TypeError, match="fit_batches and score_batches take"):
                pytest.fail(f"{name} takes it: {call(batches)!r}"[:200])


def test_a_loader_of_rows_and_labels_says_how_to_pass_the_rows(quick, X):
    batches, expected = loader(X, np.zeros(300)), quick().fit(X)
    for use in (quick().fit_batches, lambda batches: list(expected.score_batches(batches))):
        with pytest.raises(TypeError, match=r"\(rows for rows, _ in loader\)"):
            use(batches)
    detector = quick().fit_batches(rows for rows, _ in batches)
    assert np.array_equal(detector.decision_scores_, expected.decision_scores_)


def test_masked_values_are_refused_with_a_remedy(quick, X):
    detector, masked = quick().fit(X), np.ma.masked_greater(X, 2)
    for rows in (masked, list(masked), tuple(masked)):
        refused(detector, rows, "masked values.*filled", ValueError)
    filled = masked.filled(masked.mean(axis=0))
    assert np.isfinite(detector.decision_function(filled)).all()
    said = pytest.warns(UserWarning, match="masked element")  # by NumPy
    with said, pytest.raises(ValueError, match="NaN"):
        detector.fit([[np.ma.masked, 1.0], [1.0, 2.0]])


def test_a_mask_that_masks_nothing_is_no_matter(quick, X):
    detector = quick().fit(X)
    same = quick().fit(np.ma.array(X))
    assert np.array_equal(same.decision_scores_, detector.decision_scores_)


@pytest.mark.parametrize("kind", ["Float64", "object"])
def test_missing_values_of_pandas_are_refused(quick, X, kind):
    table = pd.DataFrame(X).astype(kind)
    detector = quick().fit(table)
    table.iloc[3, 2] = pd.NA
    refused(detector, table, "NaN|Fill missing values")


@pytest.mark.parametrize("Detector", [AutoEncoder, VAE, AutoEncoderEnsemble])
def test_sequences_and_images_say_how_to_make_rows_of_them(quick, Detector, X):
    detector = quick(Detector, contamination=0.3).fit(X)
    for cells in (X.reshape(300, 3, 2), X.reshape(100, 3, 3, 2)):
        of_image = str(cells.shape[1:]).replace("(", r"\(").replace(")", r"\)")
        message = rf"X\.reshape\(len\(X\), -1\).*input_shape={of_image}"
        refused(detector, cells, message)
        refused(detector, cells.tolist(), message)
        refused(detector, torch.from_numpy(cells), message)
    assert Detector(epoch_num=1, verbose=0).fit(cells.reshape(len(cells), -1)).n_features_in_ == 18


def test_sequences_in_cells_and_lists_say_how_to_make_rows_of_them(quick, X):
    detector, sequences = quick().fit(X), [np.arange(3.0), np.arange(4.0)]
    ragged = np.empty(2, dtype=object)
    ragged[:] = sequences
    for rows in (sequences, ragged):
        refused(detector, rows, "one length.*reshape")
    with pytest.raises(ValueError, match=r"one length.*reshape"):
        detector.fit(pd.DataFrame({"a": sequences}))
    refused(detector, list(map(torch.from_numpy, sequences)), "of 2 tensors")
    refused(detector, list(torch.zeros(9, 3, 2)), r"torch\.stack\(X\)\.flatten\(1\)")


@pytest.mark.slow
@pytest.mark.filterwarnings("error:y should not be presented")
@pytest.mark.filterwarnings("ignore:Function fit_predict is deprecated")
def test_labels_given_to_a_fit_are_ignored_with_a_warning(quick, X):
    y, expected = np.r_[np.ones(30), np.zeros(270)], quick().fit(X)
    fits = {
        "fit": lambda detector, y: detector.fit(X, y),
        "partial_fit": lambda detector, y: detector.partial_fit(X, y),
        "fit_predict": lambda detector, y: detector.fit_predict(X, y) is not None and detector,
        "fit_transform": lambda detector, y: detector.fit_transform(X, y) is not None and detector,
        "pipeline": lambda detector, y: make_pipeline(detector).fit(X, y)[-1],
    }
    for name, fit in fits.items():
        for labels in (y, list(y), torch.from_numpy(y), pd.Series(y)):
            with pytest.warns(UserWarning, match=r"AutoEncoder ignores it.*X\[y == 0\]") as said:
                detector = fit(quick(), labels)
            assert sum("ignores it" in str(one.message) for one in said) == 1, name
            assert np.array_equal(detector.decision_scores_, expected.decision_scores_)
        for nothing in (None, [None], [None] * 300):
            fit(quick(), nothing)


def test_the_warning_about_labels_points_to_the_line_of_the_caller(quick, X):
    with pytest.warns(UserWarning, match="AutoEncoder ignores it") as said:
        quick().fit(X, np.zeros(300))
    assert said[0].filename == __file__


@pytest.mark.parametrize(
    "y", [[None] * 300, ["a", 1] * 150, [pd.NA] * 300, [None, 1] * 150, [0.5] * 300, [None]]
)
def test_what_is_no_label_is_refused_by_reports_and_plots(quick, X, y):
    detector = quick().fit(X)
    with pytest.raises(ValueError, match="y must hold 300 labels, 0 for inliers and 1"):
        detector.report(X, y)
    with pytest.raises(ValueError, match="y must hold 300 labels, 0 for inliers and 1"):
        plot_roc(detector, X, y)


@pytest.mark.parametrize("Detector", [AutoEncoder, VAE, AutoEncoderEnsemble])
@pytest.mark.parametrize(
    ("contamination", "remedy"),
    [
        (0, "novelty=True"),
        (0.0, "novelty=True"),
        (0.7, r"Quantile\(0.3\)"),
        (-1, "MeanStd"),
        (50, "MeanStd"),
        (float("nan"), "MeanStd"),
        ("auto", r"pyod_ae_plugin\.thresholds.*pyod\.models\.thresholds.*'auto'"),
        ("0.1", "MeanStd"),
        (None, "MeanStd"),
        (MeanStd, "MeanStd"),
    ],
)
def test_a_contamination_that_is_none_names_those_there_are(Detector, contamination, remedy, X):
    with pytest.raises(ValueError, match=rf"contamination must be in \(0, 0.5\].*{remedy}"):
        Detector(contamination=contamination, verbose=0).fit(X)
    with pytest.raises(ValueError, match=rf"contamination must be in \(0, 0.5\].*{remedy}"):
        Detector(verbose=0).set_params(contamination=contamination).fit(X)


@pytest.mark.parametrize(
    ("name", "keyword", "meant"),
    [
        ("AutoEncoder", "epochs", "epoch_num"),
        ("VAE", "latent_dims", "latent_dim"),
        ("AutoEncoderEnsemble", "n_estimator", "n_estimators"),
        ("pyod.IForest", "n_estimator", "n_estimators"),
    ],
)
def test_a_wrong_keyword_is_told_the_right_one(name, keyword, meant, tmp_path, X):
    message = (
        rf"{name} has no parameter '{keyword}'\. Did you mean '{meant}'.* are: .*contamination"
    )
    with pytest.raises(TypeError, match=message):
        create_detector(name, **{keyword: 3})
    if "." in name:
        return
    Detector = getattr(pyod_ae_plugin, name)
    with pytest.raises(TypeError, match=message):
        Detector(**{keyword: 3})
    np.save(tmp_path / "rows.npy", X)
    arguments = ["fit", str(tmp_path / "rows.npy"), "--detector", name, "-p", f"{keyword}=3"]
    failed = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "model")])
    assert re.search(message, str(failed.exception))


def test_a_keyword_like_no_other_is_told_them_all():
    with pytest.raises(TypeError, match=r"'learning_rate'\. Its parameters are: .*\blr\b"):
        VAE(learning_rate=1)


@pytest.mark.parametrize(
    "Detector",
    [AutoEncoder, *(pytest.param(D, marks=pytest.mark.slow) for D in (VAE, AutoEncoderEnsemble))],
)
def test_rows_that_float32_cannot_tell_apart_are_warned_about(quick, Detector, X):
    for rows, n in ((X + 1e9, 6), (X * 1e-25, 6), (np.c_[X, X[:, 0] + 1e9], 1)):
        detector = quick(Detector, preprocessing=False)
        with pytest.warns(UserWarning, match=rf"told apart by {n} of.*preprocessing=True"):
            detector.fit(rows)
        assert np.ptp(quick(Detector).fit(rows).decision_scores_) > 0.1  # with preprocessing


def test_rows_far_from_those_of_the_fit_that_is_continued_are_warned_about(quick, X):
    detector = quick().fit(X)
    with pytest.warns(UserWarning, match=r"told apart by 6 of.*Fit anew"):
        detector.partial_fit(X + 1e9)


def test_rows_that_float32_tells_apart_and_constants_are_not_warned_about(quick, X):
    quick(preprocessing=False).fit(np.c_[X * 0.1 + 100, np.full((300, 2), 1e9), np.zeros(300)])
