"""Score heads, against independent computations."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.distributions import Normal, kl_divergence

from pyod_ae_plugin import VAE, AutoEncoder
from pyod_ae_plugin.networks import AutoEncoderNetwork, mlp, stacked_mlp, variational_mlp
from pyod_ae_plugin.scoring import (
    CombinedHead,
    Elbo,
    Euclidean,
    JointMahalanobis,
    Kernel,
    Mahalanobis,
    NearestNeighbor,
    NegativeLogLikelihood,
    ReconstructionProbability,
)
from pyod_ae_plugin.scoring.distances import FullCovariance, LowRankCovariance


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def correlated(n, width, seed=0):
    """Rows with a covariance that is far from diagonal."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) * np.geomspace(1, 0.05, width)
    return torch.from_numpy(rng.normal(size=(n, width)) @ mixing + rng.normal(size=width))


def rebuilds_nothing():
    """Reconstruct every row as zeros, so that the residual is the row, negated."""
    return AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))


def rebuilds_zeros(n_features):
    """The same with a code of one zero."""
    network = mlp(n_features, [1], "identity", False, 0.0, seeded())
    for parameter in network.parameters():
        parameter.data.zero_()
    return network


def oas(x):
    """Covariance shrunk as equation 23 of Chen et al. (2010) says."""
    x = np.asarray(x, dtype=float)
    n, p = x.shape
    covariance = np.cov(x.T, bias=True).reshape(p, p)
    trace, trace_of_square = np.trace(covariance), np.trace(covariance @ covariance)
    shrinkage = ((1 - 2 / p) * trace_of_square + trace**2) / (
        (n + 1 - 2 / p) * (trace_of_square - trace**2 / p)
    )
    shrinkage = min(max(shrinkage, 0.01), 1)
    return (1 - shrinkage) * covariance + shrinkage * trace / p * np.eye(p)


def squared_distances(x, covariance):
    centred = np.asarray(x, dtype=float) - np.asarray(x, dtype=float).mean(0)
    return np.einsum("ij,jk,ik->i", centred, np.linalg.inv(covariance), centred)


@pytest.mark.parametrize("n", [2, 12, 40, 500])
def test_distance_is_that_of_the_oas_covariance(n):
    x = correlated(n, 6)
    distance = FullCovariance(6)
    distance.fit([x])
    assert np.allclose(distance(x.float()), squared_distances(x, oas(x)), rtol=1e-3)


def test_for_many_features_the_covariance_is_scikit_learn_s():
    x = correlated(150, 100)  # where scikit-learn drops 2 / n_features from the formula
    distance = FullCovariance(100)
    distance.fit([x])
    expected = OAS().fit(x.numpy()).mahalanobis(x.numpy())
    assert np.allclose(distance(x.float()), expected, rtol=0.02)


def test_covariance_is_shrunk_by_one_percent_at_least():
    x = correlated(20_000, 5)
    distance = FullCovariance(5)
    distance.fit([x])
    centred = x.numpy() - x.numpy().mean(0)
    covariance = np.cov(x.numpy().T, bias=True)
    shrunk = 0.99 * covariance + 0.01 * np.trace(covariance) / 5 * np.eye(5)
    expected = np.einsum("ij,jk,ik->i", centred, np.linalg.inv(shrunk), centred)
    assert np.allclose(distance(x.float()), expected, rtol=1e-3)


def test_constant_residuals_have_a_distance():
    distance = FullCovariance(3)
    distance.fit([torch.zeros(10, 3)])
    assert torch.equal(distance(torch.tensor([[3.0, 0.0, 4.0]])), torch.tensor([25.0]))


@pytest.mark.slow
def test_low_rank_distance_is_that_of_its_covariance():
    rng = np.random.default_rng(0)
    width, n = 600, 900
    factors = rng.normal(size=(width, 5)) * 3
    x = torch.from_numpy(rng.normal(size=(n, 5)) @ factors.T + rng.normal(size=(n, width)))
    distance = LowRankCovariance(width)
    distance.fit([x])
    true = factors @ factors.T + np.eye(width)
    fresh = rng.normal(size=(200, 5)) @ factors.T + rng.normal(size=(200, width))
    expected = np.einsum("ij,jk,ik->i", fresh, np.linalg.inv(true), fresh)
    got = distance(torch.from_numpy(fresh).float()).numpy()
    # 900 rows estimate a covariance of 600 features roughly; a diagonal one is ten times off
    assert np.median(np.abs(got / expected - 1)) < 0.25


def test_wide_rows_take_the_low_rank_form_and_few_rows_suffice():
    head = Mahalanobis(600)
    assert isinstance(head.residual_covariance, LowRankCovariance)
    rows = torch.randn(3, 600, generator=seeded())
    head.fit_to(rebuilds_nothing(), lambda: [rows], 0.0, seeded())
    assert torch.isfinite(head(rows)).all()


def test_outliers_have_no_say_in_the_metric():
    rows = torch.randn(1000, 4, generator=seeded())
    spoilt = rows.clone()
    spoilt[:200, 0] += 50
    clean, robust, blind = Mahalanobis(4), Mahalanobis(4), Mahalanobis(4)
    clean.fit_to(rebuilds_nothing(), lambda: [rows], 0.0, seeded())
    robust.fit_to(rebuilds_nothing(), lambda: [spoilt], 0.3, seeded())
    blind.fit_to(rebuilds_nothing(), lambda: [spoilt], 0.0, seeded())
    far = torch.tensor([[50.0, 0.0, 0.0, 0.0]])
    assert robust(far) > 0.8 * clean(far) > 4 * blind(far)


def test_joint_distance_adds_residual_and_code():
    network = variational_mlp(5, [8], [8], 3, "tanh", "identity", False, 0.0, None, seeded())
    rows = torch.randn(400, 5, generator=seeded())
    head = JointMahalanobis(5, 3)
    with torch.no_grad():
        head.fit_to(network, lambda: rows.split(100), 0.0, seeded())
        code = network.encode(rows)
        residual = network.decode(code) - rows
        got = head.score(network, rows)
    parts = [squared_distances(x, oas(x)) for x in (residual, code)]
    assert np.allclose(got, np.sqrt(parts[0] + parts[1]), rtol=1e-3)


@pytest.mark.parametrize("Covariance", [FullCovariance, LowRankCovariance])
def test_whitened_vectors_are_as_far_apart_as_the_metric_says(Covariance):
    x = correlated(400, 80)
    metric = Covariance(80)
    metric.fit([x])
    between = metric.center + (x[:50] - x[50:100]).float()  # the metric measures from the centre
    whitened = metric.whiten(x.float())
    got = (whitened[:50] - whitened[50:100]).square().sum(1)
    torch.testing.assert_close(got, metric(between), rtol=1e-3, atol=1e-3)


def neighbor_distances(head, residual, code):
    """The larger of the distances to the nearest references of either half, by scikit-learn."""
    x = torch.cat(
        [head.residual_covariance.whiten(residual), head.code_covariance.whiten(code)], dim=1
    )
    return np.max(
        [
            NearestNeighbors(n_neighbors=1).fit(half).kneighbors(x)[0][:, 0]
            for half in head.references.chunk(2)
        ],
        axis=0,
    )


@pytest.mark.parametrize("n", [1, 2, 7, 400, 5000])
def test_nearest_neighbor_is_scikit_learn_s(n):
    network = variational_mlp(5, [8], [8], 3, "tanh", "identity", False, 0.0, None, seeded())
    rows = torch.randn(n, 5, generator=seeded())
    fresh = torch.randn(100, 5, generator=seeded(1)) * 3
    head = NearestNeighbor(5, 3)
    with torch.no_grad():
        head.fit_to(network, lambda: rows.split(100), 0.0, seeded())
        code = network.encode(fresh)
        expected = neighbor_distances(head, network.decode(code) - fresh, code)
        got = head.score(network, fresh)
    assert np.allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_a_training_row_is_not_its_own_neighbor():
    network = mlp(3, [8, 2], "tanh", False, 0.0, seeded())
    rows = torch.randn(500, 3, generator=seeded())  # all of them are references
    head = NearestNeighbor(3, 2)
    with torch.no_grad():
        head.fit_to(network, lambda: [rows], 0.0, seeded())
        assert head.score(network, rows).min() > 0
        # two copies are near each other, unless they are in the same half
        head.fit_to(network, lambda: [rows.repeat(2, 1)], 0.0, seeded())
        near = (head.score(network, rows) < 0.01).float().mean().item()
    assert near == pytest.approx(0.5, abs=0.1)


def test_rows_that_training_left_out_are_nobody_s_neighbors():
    rows = torch.randn(1000, 4, generator=seeded())
    rows[:200, 0] += 50
    network, head = rebuilds_zeros(4), NearestNeighbor(4, 1)
    with torch.no_grad():
        head.fit_to(network, lambda: [rows], 0.2, seeded())
        scores = head.score(network, rows)
    assert scores[:200].min() > 3 * scores[200:].max()


def test_nearest_neighbor_finds_what_lies_in_the_middle_of_a_ring():
    angle = 6.2832 * torch.rand(2000, generator=seeded())
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    ring = ring + 0.02 * torch.randn(2000, 2, generator=seeded())
    middle = torch.zeros(1, 2)
    network = rebuilds_zeros(2)
    near, from_centre = NearestNeighbor(2, 1), JointMahalanobis(2, 1)
    with torch.no_grad():
        for head in (near, from_centre):
            head.fit_to(network, lambda: [ring], 0.0, seeded())
        assert near.score(network, middle) > near.score(network, ring).max()
        assert from_centre.score(network, middle) < from_centre.score(network, ring).min()


def test_copies_of_training_rows_do_not_stretch_the_scale():
    network = stacked_mlp(5, [8, 3], [2, 3], None, "tanh", seeded())
    rows = torch.randn(900, 5, generator=seeded())
    rows = torch.cat([rows, rows[:1].expand(100, -1)])  # scored 0
    head = CombinedHead(NearestNeighbor(5, 3, (2,)), 2, "average")
    with torch.no_grad():
        head.fit_to(network, lambda: [rows], 0.0, seeded())
        scores = head.score(network, rows)
    assert torch.isfinite(scores).all()
    assert scores[-100:].max() < scores[1:900].min()
    assert scores[1:900].std() > 0.1


def kernel_head(rows, trim=0.0):
    """A kernel head fitted with a network that reconstructs zeros, so that the residual is -row."""
    network, head = rebuilds_zeros(rows.shape[1]), Kernel(rows.shape[1])
    with torch.no_grad():
        head.fit_to(network, lambda: rows.split(100), trim, seeded())
    return network, head


def by_kernel_regression(point, others, bandwidth):
    """Independent of the head, in float64: the distance of a point to its reconstruction."""
    distances = np.square(others - point).sum(1)
    weights = np.exp(-(distances - distances.min()) / (2 * bandwidth**2))
    return np.linalg.norm(point - weights @ others / weights.sum())


def points_of(rows):
    rows = rows.double().numpy()
    return np.c_[rows, -3 * rows]


def test_kernel_regression_by_hand():
    rows, new = torch.randn(300, 3, generator=seeded()), torch.randn(20, 3, generator=seeded(1))
    network, head = kernel_head(rows)
    assert head.copied == 0
    bandwidth, known = head.bandwidth.item(), points_of(rows)
    expected = [by_kernel_regression(point, known, bandwidth) for point in points_of(new)]
    with torch.no_grad():
        assert np.allclose(head.score(network, new), expected, rtol=1e-3)
        own = head.score(network, rows)
    # a training row is reconstructed from the others
    expected = [
        by_kernel_regression(known[i], np.delete(known, i, axis=0), bandwidth) for i in range(300)
    ]
    assert np.allclose(own, expected, rtol=1e-3)


def test_the_bandwidth_rebuilds_training_rows_best():
    rows = torch.randn(200, 2, generator=seeded())
    network, head = kernel_head(rows)
    with torch.no_grad():
        best = head.score(network, rows).mean()
        for factor in (0.5, 2.0):
            other = copy.deepcopy(head)
            other.bandwidth *= factor
            assert other.score(network, rows).mean() > best


def test_a_new_copy_of_a_row_is_normal_where_training_rows_have_copies():
    rows = torch.randint(0, 12, (400, 2), generator=seeded()).float()
    network, head = kernel_head(rows)
    assert head.copied > 0.8
    with torch.no_grad():
        copies = head.score(network, rows)
        between = head.score(network, rows + 0.5)
    assert copies.median() < 0.5 * between.median()


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 5, 3000])
def test_kernel_regression_on_any_number_of_rows(n):
    rows = torch.randn(n, 4, generator=seeded())
    network, head = kernel_head(rows)
    with torch.no_grad():
        scores = head.score(network, torch.cat([rows, 5 + rows[:1]]))
        same = kernel_head(torch.ones(n, 4))
        assert same[1].score(same[0], torch.ones(2, 4)).abs().max() < 1e-3
    assert torch.isfinite(scores).all()
    assert scores[-1] > scores[:-1].median()


def test_members_share_a_space():
    """Rows, and the residuals of all members, each divided by the square root of their number."""
    rows = torch.randn(200, 5, generator=seeded())
    network = stacked_mlp(5, [8, 3], [2, 3], None, "tanh", seeded())
    head = Kernel(5, (2,))
    with torch.no_grad():
        head.fit_to(network, lambda: [rows], 0.0, seeded())
        residuals = network(rows) - rows
        own = head.score(network, rows)
    weight = 3 / math.sqrt(2)
    known = torch.cat([rows, weight * residuals[0], weight * residuals[1]], 1).double().numpy()
    expected = by_kernel_regression(known[7], np.delete(known, 7, axis=0), head.bandwidth.item())
    assert own[7].item() == pytest.approx(expected, rel=1e-3)


def gaussian_vae():
    return variational_mlp(
        4, [8], [8], 2, "tanh", "identity", False, 0.0, None, seeded(), learn_variance=True
    ).eval()


def log_likelihood(network, code, x):
    mean, logvar = network.decode_distribution(code)
    return Normal(mean, (0.5 * logvar).exp()).log_prob(x).sum(1)


def test_nll_is_that_of_torch_distributions():
    network, x = gaussian_vae(), torch.randn(30, 4)
    expected = -log_likelihood(network, network.encode(x), x)
    torch.testing.assert_close(NegativeLogLikelihood(4).score(network, x), expected)


def test_reconstruction_probability_and_elbo_by_hand():
    network, x = gaussian_vae(), torch.randn(30, 4)
    heads = ReconstructionProbability(4, 2), Elbo(4, 2)
    for head in heads:
        head.fit_to(network, lambda: [x], 0.0, seeded(5))
    mu, logvar = network.posterior(x)
    posterior = Normal(mu, (0.5 * logvar).exp())
    draws = heads[0].draws
    terms = [log_likelihood(network, mu + posterior.stddev * draw, x) for draw in draws]
    expected = -torch.stack(terms).mean(0)
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(heads[0].score(network, x), expected)
    torch.testing.assert_close(heads[1].score(network, x), expected + kl)


def test_draws_are_many_and_standard_normal():
    head = ReconstructionProbability(4, 500)
    head.fit_to(gaussian_vae(), list, 0.0, seeded())
    assert abs(head.draws.mean()) < 0.05
    assert abs(head.draws.std() - 1) < 0.05


HEADS = ["euclidean", "mahalanobis", "joint_mahalanobis", "nearest_neighbor", "kernel", "nll"]


@pytest.mark.slow
@pytest.mark.parametrize("Detector", [AutoEncoder, VAE])
@pytest.mark.parametrize("name", HEADS)
def test_a_detector_with_any_head_finds_outliers_and_repeats_itself(Detector, name, data):
    X_train, X_test, _, y_test = data
    detector = Detector(score_head=name, verbose=0, device="cpu").fit(X_train)
    scores = detector.decision_function(X_test)
    assert scores[y_test == 1].mean() > scores[y_test == 0].mean()
    assert np.array_equal(detector.decision_function(X_test[:7]), scores[:7])
    assert np.array_equal(detector.predict(X_train), detector.labels_)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reconstruction_probability", "elbo"])
def test_a_vae_s_own_heads(name, data):
    detector = VAE(score_head=name, verbose=0, device="cpu").fit(data[0])
    scores = detector.decision_function(data[1])
    assert np.array_equal(detector.decision_function(data[1][:7]), scores[:7])
    with pytest.raises(TypeError, match="needs a network with posterior"):
        AutoEncoder(score_head=name, verbose=0, device="cpu").fit(data[0])


def test_members_are_put_on_one_scale_and_combined():
    network = stacked_mlp(5, [8, 3], [2, 3, 1], None, "tanh", seeded())
    rows = torch.randn(501, 5, generator=seeded())
    by_name = {}
    with torch.no_grad():
        for name in ("average", "maximization", "median", "aom", "moa"):
            head = CombinedHead(Euclidean(5), 3, name)
            head.fit_to(network, lambda: rows.split(100), 0.0, seeded())
            by_name[name] = head.score(network, rows).numpy()
        residuals = (network.decode(network.encode(rows)) - rows).numpy()
    logs = np.log(np.linalg.norm(residuals, axis=2))
    scaled = (logs - np.median(logs, axis=1, keepdims=True)) / logs.std(axis=1, keepdims=True)
    assert np.allclose(by_name["average"], scaled.mean(0), atol=1e-4)
    assert np.allclose(by_name["maximization"], scaled.max(0), atol=1e-4)
    assert np.allclose(by_name["median"], np.median(scaled, axis=0), atol=1e-4)
    # three members make three buckets
    assert np.allclose(by_name["aom"], scaled.mean(0), atol=1e-4)
    assert np.allclose(by_name["moa"], scaled.max(0), atol=1e-4)
