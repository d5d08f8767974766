"""Which features make a row abnormal: explain and plot_explanation."""

import pickle
import sys

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, load_detector
from pyod_ae_plugin.networks import AutoEncoderNetwork
from pyod_ae_plugin.plots import plot_explanation
from pyod_ae_plugin.scoring import (
    Euclidean,
    Mahalanobis,
    ScoreHead,
    ScoringModule,
    Standardize,
    contributions,
)

HEADS = ["euclidean", "mahalanobis", "joint_mahalanobis", "nearest_neighbor", "kernel"]
DETECTORS = [
    *((AutoEncoder, head) for head in [*HEADS, "nll"]),
    *((VAE, head) for head in [*HEADS, "nll", "reconstruction_probability", "elbo"]),
    *((AutoEncoderEnsemble, head) for head in HEADS),
]
# One head of each suffices where time counts.
ALL = pytest.mark.parametrize(
    ("Detector", "head"),
    [
        pytest.param(Detector, head, marks=[] if head == "nearest_neighbor" else pytest.mark.slow)
        for Detector, head in DETECTORS
    ],
)


def factors(n, n_features, seed):
    """Rows that three factors make, with a little noise."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(0).normal(size=(3, n_features))
    return rng.normal(size=(n, 3)) @ loadings + 0.3 * rng.normal(size=(n, n_features))


def fitted(Detector, head, X, **params):
    if Detector is AutoEncoderEnsemble:
        params["n_estimators"] = 4
    return Detector(score_head=head, device="cpu", verbose=0, **params).fit(X)


def rebuilds_nothing():
    return AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))


# --------------------------------------------------------------------------- what they are


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("novelty", [False, True])
def test_the_corrupted_feature_contributes_most(Detector, head, novelty):
    X, rows = factors(400, 8, seed=1), factors(160, 8, seed=2)
    corrupted = np.arange(160) % 8
    sign = np.where(np.arange(160) % 16 < 8, 1, -1)
    rows[np.arange(160), corrupted] += 8 * sign * X.std(0)[corrupted]
    top = fitted(Detector, head, X, novelty=novelty).explain(rows).argmax(1)
    assert np.mean(top == corrupted) >= 0.95


@ALL
def test_contributions_sum_to_the_score_or_what_it_is_above_that_of_the_mean_row(Detector, head):
    X = factors(300, 6, seed=1)
    detector = fitted(Detector, head, X, epoch_num=2)
    parts = detector.explain(X)
    assert parts.shape == X.shape
    additive = head in ("euclidean", "nll") and Detector is not AutoEncoderEnsemble
    baseline = 0 if additive else detector.decision_function(X.mean(0, keepdims=True))
    scores = detector.decision_function(X)
    assert np.allclose(parts.sum(1) + baseline, scores, rtol=1e-4, atol=1e-3)


def test_without_a_network_they_are_those_of_the_quadratic_form():
    # of d^2 = z' P z the part z_j (P z)_j; of d, which doubles where z does, that over d
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4))).float()
    rows -= rows.mean(0)
    head = Mahalanobis(4)
    head.fit_to(rebuilds_nothing(), lambda: [rows], 0.0, torch.Generator())
    precision = (
        (head.residual_covariance.whitening @ head.residual_covariance.whitening.T).double().numpy()
    )
    z = rows[:50].double().numpy()
    distance = np.sqrt(np.einsum("ij,jk,ik->i", z, precision, z))
    module = ScoringModule(Standardize(4), rebuilds_nothing(), head)
    expected = z * (z @ precision) / distance[:, None]
    assert np.allclose(contributions(module, rows[:50]), expected, atol=1e-4)


def test_they_are_integrals_along_the_line_from_the_mean_row(X):
    detector = AutoEncoder(score_head="euclidean", epoch_num=3, device="cpu", verbose=0).fit(X)
    module = detector.scoring_module_
    z = module.standardize(torch.from_numpy(X[:1]))

    def gradient(t, j):
        point = (t * z).requires_grad_()
        module.head.score(module.network, point).sum().backward()
        return point.grad[0, j].item()

    # float32 gradients are no smoother than the tolerance
    expected = [z[0, j].item() * quad(gradient, 0, 1, (j,), epsabs=1e-5)[0] for j in range(6)]
    residual = module.network(torch.zeros_like(z))[0].detach()
    of_mean_row = residual.square() / residual.norm()
    assert np.allclose(detector.explain(X[:1])[0], of_mean_row + torch.tensor(expected), atol=1e-4)


def test_the_mean_row_has_nothing_to_explain(X):
    detector = AutoEncoder(epoch_num=1, device="cpu", verbose=0).fit(X - X.mean(0))
    assert np.allclose(detector.explain(np.zeros((1, 6))), 0, atol=1e-5)


# ------------------------------------------------------------------------------- any rows


@pytest.mark.parametrize(
    ("Detector", "n_features"),
    [
        (AutoEncoder, 1),
        pytest.param(AutoEncoder, 600, marks=pytest.mark.slow),
        pytest.param(VAE, 600, marks=pytest.mark.slow),
        (AutoEncoderEnsemble, 5),
    ],
)
def test_a_row_s_contributions_are_its_own(Detector, n_features):
    X = np.random.default_rng(0).normal(size=(150, n_features))
    detector = fitted(Detector, "nearest_neighbor", X[:100], epoch_num=1)
    parts = detector.explain(X)
    assert np.array_equal(detector.explain(X[::-1])[::-1], parts)
    for n in (1, 65):
        assert np.array_equal(detector.explain(X[:n]), parts[:n])


@pytest.mark.slow
def test_wide_rows_are_explained():
    X = factors(150, 700, seed=1)
    row = factors(1, 700, seed=2)
    row[0, 321] += 30 * X[:, 321].std()
    for head in HEADS:
        assert fitted(AutoEncoder, head, X, epoch_num=5).explain(row).argmax() == 321


@ALL
def test_extreme_rows_have_finite_contributions(Detector, head):
    X = np.random.default_rng(0).normal(size=(100, 4))
    X[:, 3] = 1.0
    rows = np.tile(X[:1], (5, 1))
    rows[range(5), [0, 1, 2, 3, 0]] = [1e10, -1e30, 1e300, 5.0, 1e19]
    parts = fitted(Detector, head, X, epoch_num=1).explain(rows)
    assert np.isfinite(parts).all()
    assert list(np.abs(parts).argmax(1)[1:3]) == [1, 2]


def test_a_single_training_row_is_explained():
    detector = AutoEncoder(device="cpu", verbose=0).fit([[1.0, 2.0]])
    assert np.isfinite(detector.explain([[1.0, 2.0], [5.0, 2.0]])).all()


class Counting(AutoEncoderNetwork):
    """Notes how many rows it is given at a time."""

    def __init__(self, n_features):
        super().__init__(nn.Linear(n_features, 1), nn.Linear(1, n_features))
        self.heights = []

    def encode(self, x):
        self.heights.append(len(x))
        return super().encode(x)


@pytest.mark.slow
def test_rows_are_explained_tile_by_tile():
    X = np.random.default_rng(0).normal(size=(2000, 300))
    detector = AutoEncoder(network=Counting, epoch_num=1, device="cpu", verbose=0).fit(X)
    detector.model.heights.clear()
    detector.explain(X)
    assert max(detector.model.heights) < 2000


# ------------------------------------------------------------------------------ detectors


def test_loaded_and_pickled_detectors_explain_alike(X, tmp_path):
    detector = AutoEncoder(epoch_num=2, device="cpu", verbose=0).fit(X)
    detector.save(tmp_path / "model")
    for twin in (load_detector(tmp_path / "model"), pickle.loads(pickle.dumps(detector))):
        assert np.array_equal(twin.explain(X), detector.explain(X))


@pytest.mark.parametrize("Detector", [AutoEncoder, VAE, AutoEncoderEnsemble])
def test_explaining_changes_nothing(Detector, X):
    detector = fitted(Detector, "nearest_neighbor", X, epoch_num=2)
    before, rows = detector.decision_function(X), X.copy()
    detector.explain(X)
    assert np.array_equal(X, rows)
    assert np.array_equal(detector.decision_function(X), before)
    assert all(p.grad is None and not p.requires_grad for p in detector.model.parameters())


def test_bad_rows_are_refused(X):
    detector = AutoEncoder(epoch_num=1, device="cpu", verbose=0)
    with pytest.raises(ValueError, match="not fitted"):
        detector.explain(X)
    detector.fit(X)
    with pytest.raises(ValueError, match="6 features"):
        detector.explain(X[:, :5])
    with pytest.raises(ValueError, match="NaN"):
        detector.explain(np.full((1, 6), np.nan))


class Detached(ScoreHead):
    def forward(self, residual):
        return residual.detach().abs().sum(-1)


def test_a_head_without_gradients_is_named():
    module = ScoringModule(Standardize(2), rebuilds_nothing(), Detached(2))
    with pytest.raises(TypeError, match=r"Detached have no gradient.*without no_grad"):
        contributions(module, torch.ones(1, 2))


def test_a_head_that_has_never_heard_of_explanations_is_explained():
    class MeanAbsolute(ScoreHead):
        def forward(self, residual):
            return residual.abs().mean(-1)

    module = ScoringModule(Standardize(2), rebuilds_nothing(), MeanAbsolute(2))
    parts = contributions(module, torch.tensor([[3.0, -1.0]]))
    assert torch.allclose(parts, torch.tensor([[1.5, 0.5]], dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.parametrize("Detector", [AutoEncoder, VAE, AutoEncoderEnsemble])
def test_explanations_on_a_gpu_are_those_of_a_cpu(Detector, X):
    detector = fitted(Detector, "nearest_neighbor", X).set_params(device="cuda").fit(X)
    on_gpu = detector.explain(X)
    assert np.allclose(detector.explain(torch.from_numpy(X).cuda()), on_gpu)
    detector.scoring_module_.cpu()
    # the nearest training row may be another one where two are almost as near
    assert np.median(np.abs(detector.explain(X) - on_gpu)) < 1e-2


# ----------------------------------------------------------------------------------- plots


@pytest.fixture
def axes():
    figure = pytest.importorskip("matplotlib.figure", reason="needs matplotlib").Figure()
    return figure.add_subplot()


@pytest.fixture
def detector(X):
    return AutoEncoder(epoch_num=2, device="cpu", verbose=0).fit(X)


def test_bars_are_the_contributions_largest_first(detector, X, axes):
    assert plot_explanation(detector, X, 3, max_features=4, ax=axes) is axes
    parts = detector.explain(X[3:4])[0]
    order = np.argsort(-np.abs(parts))
    lengths = [bar.get_width() for bar in axes.patches]
    assert np.allclose(lengths, [*parts[order[:4]], parts[order[4:]].sum()])
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[0] == f"feature {order[0]} = {X[3, order[0]]:.4g}"
    assert labels[-1] == "2 others"
    assert axes.yaxis_inverted()  # the first bar is on top


@pytest.mark.parametrize("head", ["euclidean", "mahalanobis"])
def test_the_title_names_the_score_and_a_baseline_where_there_is_one(X, axes, head):
    detector = AutoEncoder(score_head=head, epoch_num=1, device="cpu", verbose=0).fit(X)
    title = plot_explanation(detector, X, 3, ax=axes).get_title()
    assert title.startswith(f"Score {detector.decision_scores_[3]:.4g}")
    assert ("baseline" in title) == (head == "mahalanobis")


def test_features_that_make_a_row_more_normal_have_another_colour(X, axes):
    module = ScoringModule(Standardize(2), rebuilds_nothing(), Euclidean(2))
    module.standardize.shift = torch.tensor([-1.0, 0.0])
    detector = AutoEncoder(epoch_num=1, device="cpu", verbose=0).fit(X[:, :2])
    detector.scoring_module_ = ScoringModule(module.standardize, Shifted(), Mahalanobis(2))
    plot_explanation(detector, [[2.0, 1.0]], ax=axes)
    up, down = axes.patches
    assert up.get_width() > 0 > down.get_width()
    assert up.get_facecolor() != down.get_facecolor()


class Shifted(nn.Module):
    """Reconstruct every row as (-3, 1): towards 1 in the second feature a row is more normal."""

    def encode(self, x):
        return x

    def decode(self, z):
        return torch.tensor([-3.0, 1.0]).expand_as(z)


def test_names_of_features_are_on_the_axis(X, axes):
    pd = pytest.importorskip("pandas", reason="needs pandas")
    frame = pd.DataFrame(X, columns=[f"sensor {i}" for i in range(6)], index=range(100, 400))
    detector = AutoEncoder(epoch_num=1, device="cpu", verbose=0).fit(frame)
    plot_explanation(detector, frame, 5, ax=axes)
    labels = sorted(text.get_text() for text in axes.get_yticklabels())
    assert labels == [f"sensor {j} = {X[5, j]:.4g}" for j in range(6)]


def test_a_new_figure_is_made_where_none_is_given(detector, X):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs matplotlib")
    pyplot.switch_backend("agg")
    axes = plot_explanation(detector, X)
    assert axes.figure.number in pyplot.get_fignums()
    pyplot.close(axes.figure)


def test_without_matplotlib_the_extra_is_named(detector, X, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pyod-ae-plugin\[plots\]"):
        plot_explanation(detector, X)
