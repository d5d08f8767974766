"""Rows with missing values: refused, or hidden from the network."""

import numpy as np
import pytest
import torch
from each import EACH
from sklearn.metrics import roc_auc_score

from pyod_ae_plugin import AutoEncoder, load_detector
from pyod_ae_plugin.engine.closed_form import batch_gradient, gradient_by_autograd
from pyod_ae_plugin.engine.objectives import (
    Corruptor,
    DrawnCodes,
    NegativeElbo,
    ReconstructionLoss,
)
from pyod_ae_plugin.engine.optimizers import flatten_parameters
from pyod_ae_plugin.engine.options import Corruption
from pyod_ae_plugin.networks import mlp, stacked_mlp, variational_mlp
from pyod_ae_plugin.scoring.standardize import Moments, spread_of

SHORT = {"epoch_num": 3, "verbose": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def tables():
    """Rows near a plane in 8 dimensions, complete and with a tenth of the cells missing."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 8)) + 0.1 * rng.normal(size=(600, 8))
    G = X.copy()
    G[rng.random(X.shape) < 0.1] = np.nan
    return X, G


# ------------------------------------------------------------------------------- what users see


@pytest.mark.parametrize("novelty", [False, True], ids=["outlier", "novelty"])
@EACH
def test_rows_with_gaps_are_scored_each_by_itself(Detector, novelty, tables, tmp_path):
    _, G = tables
    detector = Detector(missing="mask", novelty=novelty, **SHORT).fit(G)
    scores = detector.decision_function(G)
    assert np.isfinite(scores).all()
    assert np.array_equal(detector.predict(G), detector.labels_)
    one_by_one = [detector.decision_function(row[None])[0] for row in G[:20]]
    assert np.array_equal(one_by_one, scores[:20])
    detector.save(tmp_path / "model")
    assert np.array_equal(load_detector(tmp_path / "model").decision_function(G), scores)


@EACH
def test_nothing_changes_for_complete_rows(Detector, tables):
    X, _ = tables
    plain, masking = Detector(**SHORT).fit(X), Detector(missing="mask", **SHORT).fit(X)
    assert np.array_equal(plain.decision_scores_, masking.decision_scores_)


def test_a_complete_row_has_one_score_beside_rows_with_gaps(tables):
    X, G = tables
    detector = AutoEncoder(missing="mask", **SHORT).fit(G)
    mixed = np.concatenate([X[:50], G[:50]])
    assert np.array_equal(
        detector.decision_function(mixed)[:50], detector.decision_function(X)[:50]
    )


@EACH
def test_a_missing_value_hardly_counts_and_the_others_do(Detector, tables):
    X, G = tables
    detector = Detector(missing="mask", verbose=0, device="cpu").fit(G)
    rows = X[:100].copy()
    rows[:, 3] = np.nan
    normal = detector.decision_function(rows)
    assert np.median(normal) < np.quantile(detector.decision_scores_, 0.7)
    rows[:, 5] += 10 * X[:, 5].std()
    assert (detector.decision_function(rows) > normal).all()


@EACH
def test_outliers_are_found_among_rows_with_gaps(Detector, tables):
    X, _ = tables
    rng = np.random.default_rng(1)
    outliers = rng.normal(size=(30, 8)) * X.std(axis=0)
    both = np.concatenate([X, outliers])
    both[rng.random(both.shape) < 0.1] = np.nan
    y = np.repeat([0, 1], [len(X), len(outliers)])
    detector = Detector(missing="mask", verbose=0, device="cpu").fit(both)
    assert roc_auc_score(y, detector.decision_scores_) > 0.95


def test_a_gap_contributes_nothing_and_is_reconstructed(tables):
    X, _ = tables
    detector = AutoEncoder(missing="mask", verbose=0, device="cpu").fit(X)
    rows = X[:50].copy()
    rows[:, 2] = np.nan
    assert (detector.explain(rows)[:, 2] == 0).all()
    correlation = np.corrcoef(detector.reconstruct(rows)[:, 2], X[:50, 2])[0, 1]
    assert correlation > 0.95
    assert np.isfinite(detector.transform(rows)).all()


def test_more_gaps_are_drift(tables):
    _, G = tables
    detector = AutoEncoder(missing="mask", **SHORT).fit(G)
    assert not detector.check_drift(G).drifted
    rows = G.copy()
    rows[:200, 4] = np.nan
    assert detector.check_drift(rows).drifted_features == ["x4"]


def test_batches_and_streams_may_have_gaps(tables):
    _, G = tables
    at_once = AutoEncoder(missing="mask", **SHORT).fit(G)
    in_batches = AutoEncoder(missing="mask", **SHORT).fit_batches(np.split(G, 3))
    assert np.array_equal(at_once.decision_scores_, in_batches.decision_scores_)
    stream = AutoEncoder(missing="mask", **SHORT).partial_fit(G[:300]).partial_fit(G[300:])
    assert np.isfinite(stream.decision_scores_).all()


@pytest.mark.parametrize(
    "given",
    [
        lambda G: G.astype(np.float32),
        lambda G: np.ma.masked_invalid(G),
        lambda G: torch.from_numpy(G),
        lambda G: np.where(np.isnan(G), None, G),
    ],
    ids=["float32", "masked", "tensor", "None"],
)
def test_gaps_come_in_several_forms(given, tables):
    _, G = tables
    detector = AutoEncoder(missing="mask", **SHORT).fit(given(G))
    np.testing.assert_allclose(
        detector.decision_function(given(G)), detector.decision_function(G), rtol=1e-3
    )


@pytest.mark.parametrize("options", [{"network": "conv", "input_shape": (2, 4)}, {"trim": 0.0}])
def test_networks_without_a_closed_form_hide_gaps_too(options, tables):
    _, G = tables
    detector = AutoEncoder(missing="mask", **options, **SHORT).fit(G)
    assert np.isfinite(detector.decision_scores_).all()


# ---------------------------------------------------------------------------------- what is refused


def test_by_default_gaps_are_refused_with_place_and_remedy(tables):
    X, _ = tables
    rows = X.copy()
    rows[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"NaN, 1 in all, the first in row 7, column 3.*'mask'"):
        AutoEncoder(**SHORT).fit(rows)
    with pytest.raises(ValueError, match=r"row 7, column 3"):
        AutoEncoder(**SHORT).fit(X).decision_function(rows)


def test_infinity_is_no_gap(tables):
    X, G = tables
    rows = G.copy()
    rows[7, 3] = np.inf
    with pytest.raises(ValueError, match=r"inf in row 7, column 3"):
        AutoEncoder(missing="mask", **SHORT).fit(rows)
    with pytest.raises(ValueError, match=r"inf in row 7, column 3"):
        AutoEncoder(missing="mask", **SHORT).fit(X).decision_function(rows)


def test_a_feature_without_any_value_is_refused(tables):
    _, G = tables
    rows = G.copy()
    rows[:, 6] = np.nan
    with pytest.raises(ValueError, match=r"no value .* the first of them at index 6"):
        AutoEncoder(missing="mask", **SHORT).fit(rows)


# --------------------------------------------------------------------------------------- the maths


def test_moments_are_those_of_the_values_that_are_there(tables):
    _, G = tables
    moments = Moments(8)
    for part in np.split(G, 5):
        moments.update(torch.from_numpy(part))
    assert np.array_equal(moments.n, (~np.isnan(G)).sum(axis=0))
    np.testing.assert_allclose(moments.mean, np.nanmean(G, axis=0))
    np.testing.assert_allclose(moments.std, np.nanstd(G, axis=0))
    others = Moments(8)
    others.update(torch.from_numpy(G))
    others.merge(moments)
    np.testing.assert_allclose(others.std, np.nanstd(G, axis=0))


def test_moments_of_a_tile_without_a_value_are_those_of_the_others():
    moments = Moments(1)
    for tile in ([[torch.nan]], [[2.0], [4.0]], [[torch.nan]], [[6.0]]):
        moments.update(torch.tensor(tile))
    assert moments.mean.item() == 4
    np.testing.assert_allclose(moments.std.item(), np.std([2, 4, 6]))


def test_the_spread_of_a_feature_is_that_of_its_values(tables):
    _, G = tables
    spread = spread_of(torch.from_numpy(G))
    for j, column in enumerate(G.T):
        alone = spread_of(torch.from_numpy(column[~np.isnan(column)])[:, None])
        assert [field[j] for field in spread] == [field[0] for field in alone]


def test_the_loss_of_a_row_is_that_of_its_values():
    network = mlp(4, [3, 2], "tanh", False, 0.0, torch.Generator().manual_seed(0))
    x = torch.randn(5, 4)
    x[:, 1] = torch.nan
    loss = ReconstructionLoss(has_gaps=True)(network, x, 0.0, torch.Generator())
    hidden = x.nan_to_num(0.0)
    residual = network.decode(network.encode(hidden)) - hidden
    expected = residual[:, [0, 2, 3]].square().sum(1) / 4
    torch.testing.assert_close(loss, expected)


def _cases():
    corrupt = Corruptor([Corruption(mask=0.3, noise=0.1)])
    generator = torch.Generator().manual_seed(0)
    plain = mlp(6, [5, 2], "silu", False, 0.0, generator)
    learning = mlp(6, [5, 2], "silu", False, 0.0, generator, learn_variance=True)
    yield "autoencoder", plain, ReconstructionLoss(corrupt, has_gaps=True), None
    yield "learned variance", learning, ReconstructionLoss(None, True, has_gaps=True), None
    vae = variational_mlp(
        6, [5], [5], 2, "silu", "identity", False, 0.0, (-4, 4), generator, learn_variance=True
    )
    yield "vae", vae, NegativeElbo(0.5, has_gaps=True), None
    stacked = stacked_mlp(6, [5, 2], [2, 1], [False, True], "silu", generator)
    drawn = DrawnCodes([0, 1], 2)
    yield "ensemble", stacked, NegativeElbo(drawn=drawn, has_gaps=True), 2


@pytest.mark.parametrize("case", range(4))
def test_the_closed_form_hides_gaps_as_autograd_does(case):
    name, network, objective, n_members = list(_cases())[case]
    shape = (40, 6) if n_members is None else (n_members, 40, 6)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x[torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.2] = torch.nan
    vector, trim = flatten_parameters(network), [0.25] * (n_members or 1)
    results = []
    for make in (batch_gradient, gradient_by_autograd):
        generator = torch.Generator().manual_seed(3)
        stacked = {"stacked": n_members is not None} if make is batch_gradient else {}
        loss = make(network, objective, trim, vector, generator, **stacked)(x, 0.5)
        results.append((loss.clone(), vector.grad.clone()))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(results[0][1]).all(), name
