"""Standardisation, score head and scoring module, against independent computations."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import StandardScaler

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.engine.folded import score_function
from pyod_ae_plugin.networks import mlp, variational_mlp
from pyod_ae_plugin.scoring import Euclidean, Mahalanobis, Moments, ScoringModule, Standardize
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE
from pyod_ae_plugin.scoring.standardize import spread_of


def fitted(X, tile_rows=64):
    standardize, moments = Standardize(X.shape[1]), Moments(X.shape[1])
    for tile in torch.from_numpy(X).split(tile_rows):
        moments.update(tile)
    standardize.fit(moments, spread_of(torch.from_numpy(X)))
    return standardize


@pytest.mark.parametrize("offset", [0.0, 5.0, 1e9])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_standardises_as_scikit_learn_does(offset, scale):
    X = (np.random.default_rng(0).normal(size=(500, 4)) + offset) * scale
    expected = StandardScaler().fit_transform(X)
    got = fitted(X)(torch.from_numpy(X)).numpy()
    assert np.allclose(got, expected, atol=3e-6)


@pytest.mark.slow
@settings(deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 30), st.integers(1, 4)),
        # of such values no standard deviation is subnormal
        elements=st.floats(-1e6, 1e6).map(lambda x: x if abs(x) > 1e-290 else 0.0),
    ),
    st.integers(1, 40),
)
def test_standardised_rows_have_mean_zero_and_a_variance_of_at_most_one(X, tile_rows):
    z = fitted(X, tile_rows)(torch.from_numpy(X)).double()
    assert torch.isfinite(z).all()
    assert z.mean(0).abs().max() < 1e-4
    variance = z.var(0, correction=0)
    assert (variance < 1.001).all()
    # it is 1 but for constants, and for two values that are alike but in few rows
    few = torch.from_numpy(np.array([len(np.unique(column)) < 3 for column in X.T]))
    assert (((variance - 1).abs() < 1e-3) | few).all()


def units(X, **options):
    standardize, moments = Standardize(X.shape[1]), Moments(X.shape[1])
    rows = torch.from_numpy(X)
    spread = spread_of(rows)
    moments.update(rows.double().clamp(spread.lowest, spread.highest))
    standardize.fit(moments, spread, **options)
    return (1 / standardize.scale).double().numpy()


def test_neighbouring_values_of_a_discrete_feature_are_no_farther_apart_than_normal_rows():
    rng = np.random.default_rng(0)
    rare, common = rng.random(2000) < 0.002, rng.random(2000) < 0.5
    counts, grid = rng.poisson(0.05, 2000), 0.25 * rng.poisson(0.05, 2000)
    X = np.column_stack([rare, common, counts, grid, rng.normal(size=2000)]).astype(float)
    got = units(X)
    assert got[[0, 1, 2, 3]] == pytest.approx([0.5**0.5, 0.5**0.5, 0.5**0.5, 0.25 * 0.5**0.5])
    assert got[4] == pytest.approx(X[:, 4].std())


def test_many_values_are_not_discrete_however_near_they_are():
    X = np.arange(400.0)[:, None] % 40
    X[0] = 39.999
    assert units(X) == pytest.approx(X.std(0), rel=1e-5)


@pytest.mark.parametrize("robust", [False, True])
def test_an_absurd_value_hardly_moves_the_unit(robust):
    X = np.random.default_rng(0).normal(size=(1000, 3))
    X[:, 1] *= X[:, 2] > 1  # nearly all values are equal
    before = units(X, robust=robust)
    X[5, :2] = 1e9
    assert units(X, robust=robust) == pytest.approx(before, rel=0.4)


def test_robust_units_are_those_of_a_normal_distribution():
    X = np.random.default_rng(0).normal(size=(4000, 2)) * [1, 100]
    assert units(X, robust=True) == pytest.approx([1, 100], rel=0.05)
    X[:, 0] **= 3  # its quartiles are the cubes of those that were
    assert units(X, robust=True)[0] == pytest.approx(0.6745**3 / 0.6745, rel=0.1)


def test_constant_features_are_centred_and_not_scaled_but_by_powers_of_two():
    X = np.column_stack([np.full(50, 0.1), np.full(50, 1e12), np.zeros(50), np.arange(50.0)])
    standardize = fitted(X)
    assert torch.equal(standardize(torch.from_numpy(X))[:, :3], torch.zeros(50, 3))
    changed = X[:1] + np.array([2.0, 2.0, 2.0, 0.0])
    # 0.1 is measured in eighths, so that a change from 0.1 to 0.2 is no small one
    assert np.allclose(standardize(torch.from_numpy(changed))[0, :3], [16.0, 2.0, 2.0])
    restored = standardize.inverse(standardize(torch.from_numpy(changed)))
    assert np.allclose(restored, changed, atol=1e-6)


def test_rounding_of_huge_constants_does_not_look_huge():
    X = 1e20 + np.random.default_rng(0).integers(0, 3, size=(300, 2)) * 16384.0
    z = fitted(X)(torch.from_numpy(X))
    assert 0.1 < z.abs().max() < 3
    X = np.full((5000, 2), 1e20)
    X[0] = np.nextafter(1e20, np.inf)
    assert fitted(X)(torch.from_numpy(X)).abs().max() <= 1


@pytest.mark.parametrize("magnitude", [1e-300, 1e-30, 1e30, 1e300])
def test_extreme_magnitudes_stay_finite(magnitude):
    X = np.random.default_rng(0).normal(size=(100, 2)) * magnitude
    z = fitted(X)(torch.from_numpy(X))
    assert np.allclose(z, StandardScaler().fit_transform(X / magnitude), atol=1e-5)


def test_arithmetic_is_float32_only_where_that_costs_nothing():
    near, far = np.random.default_rng(0).normal(size=(2, 100, 2))
    assert fitted(near).scale.dtype is torch.float32
    assert fitted(far + 1e6).scale.dtype is torch.float64


def test_inverse_gives_the_data_back():
    X = np.random.default_rng(0).normal(size=(100, 3)) * [1e-3, 1, 1e6] + 50
    standardize = fitted(X)
    assert np.allclose(standardize.inverse(standardize(torch.from_numpy(X))), X, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float16", "float32"])
def test_every_dtype_gives_what_float64_gives(dtype):
    X = np.random.default_rng(0).integers(0, 2, size=(60, 3)).astype(dtype)
    standardize = fitted(X)
    assert torch.equal(
        standardize(torch.from_numpy(X)), standardize(torch.from_numpy(X.astype(np.float64)))
    )


def test_euclidean_is_the_length_of_the_residual():
    residual = torch.randn(20, 5)
    assert np.allclose(Euclidean(5)(residual), np.linalg.norm(residual.numpy(), axis=1))


def make_module(variational, activation="relu", output="identity"):
    generator = torch.Generator().manual_seed(0)
    if variational:
        network = variational_mlp(
            6, [9, 5], [5, 9], 2, activation, output, False, 0.0, None, generator
        )
    else:
        network = mlp(6, [8, 3], activation, False, 0.0, generator)
    standardize = fitted(np.random.default_rng(1).normal(size=(90, 6)) * 3 + 1)
    return ScoringModule(standardize, network.eval().for_inference(), Euclidean(6)).eval()


@pytest.mark.parametrize("variational", [False, True])
def test_score_is_the_distance_of_row_and_reconstruction_in_standard_units(variational):
    module = make_module(variational)
    x = torch.randn(33, 6, dtype=torch.float64)
    z, rebuilt = module.standardize(x), module.standardize(module.reconstruct(x))
    torch.testing.assert_close(module(x), (z - rebuilt).square().sum(1).sqrt())


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("output", ["identity", "tanh"])
@pytest.mark.parametrize("variational", [False, True])
def test_the_fast_function_gives_the_scores_of_the_module(variational, output, activation):
    module = make_module(variational, activation, output)
    score = score_function(module)
    with torch.inference_mode():
        for n in (128, 128, 64, 192):
            x = torch.randn(n, 6, dtype=torch.float64) * 5 + 1
            torch.testing.assert_close(score(x), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("head", ["mahalanobis", "joint_mahalanobis", "nearest_neighbor", "kernel"])
@pytest.mark.parametrize("Detector", [AutoEncoder, VAE, AutoEncoderEnsemble])
def test_the_fast_function_gives_the_scores_of_each_head(Detector, head, activation, X):
    detector = Detector(
        score_head=head, hidden_activation_name=activation, epoch_num=2, verbose=0, device="cpu"
    ).fit(X)
    module = detector.scoring_module_
    folds = Detector is not AutoEncoderEnsemble or head != "nearest_neighbor"
    assert (score_function(module) is not module) == folds
    with torch.inference_mode():
        new = 3 * torch.randn(128, X.shape[1], dtype=torch.float64) + 1
        for x in (new, torch.from_numpy(X[:128])):
            torch.testing.assert_close(score_function(module)(x), module(x), rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("Detector", [AutoEncoder, AutoEncoderEnsemble])
@pytest.mark.parametrize("n_copies", [0, 1, 4])
def test_the_fast_function_knows_rows_that_are_references(Detector, n_copies):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    X[:n_copies] = X[0]
    X[100:130] = rng.integers(0, 2, size=(30, 4))
    detector = Detector(novelty=True, epoch_num=2, verbose=0, device="cpu").fit(X)
    module, x = detector.scoring_module_, torch.from_numpy(X)
    with torch.inference_mode():
        torch.testing.assert_close(score_function(module)(x), module(x), rtol=1e-4, atol=1e-4)


def test_a_head_derived_from_one_that_is_folded_scores_in_its_own_way():
    class Doubled(Mahalanobis):
        def forward(self, residual):
            return 2 * super().forward(residual)

    module = make_module(False)
    module.head = Doubled(6)
    x = torch.randn(64, 6)
    with torch.inference_mode():
        torch.testing.assert_close(score_function(module)(x), module(x))


def test_the_fast_function_sees_changed_weights_and_obeys_hooks():
    module = make_module(False)
    x = torch.randn(64, 6, dtype=torch.float64)
    layers = module.network.encoder
    before = module(x)
    layers[2].weight.data.mul_(3)
    hooked = [layers[1], module.network.encoder, module.network]
    for i, part in enumerate(hooked):
        hook = part.register_forward_hook(lambda layer, args, output: output * 2)
        with torch.inference_mode():
            torch.testing.assert_close(score_function(module)(x), module(x), rtol=1e-5, atol=1e-5)
        assert i == 2 or not torch.allclose(module(x), before)  # the network itself is not called
        hook.remove()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e25, 1e300])
def test_the_fast_function_gives_bad_rows_alone_the_highest_score(bad):
    module = make_module(False)
    x = torch.randn(64, 6, dtype=torch.float64)
    with torch.inference_mode():
        expected = module(x)
        x[5, 2] = bad
        scores = score_function(module)(x)
    assert scores[5] == HIGHEST_SCORE
    others = torch.arange(64) != 5
    torch.testing.assert_close(scores[others], expected[others], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_threads_score_in_memory_of_their_own():
    module = make_module(False)
    tiles = [torch.randn(640, 6) for _ in range(8)]
    with torch.inference_mode():
        expected = [score_function(module)(tile) for tile in tiles]

    @torch.inference_mode()
    def agrees(i):
        return all(torch.equal(score_function(module)(tiles[i]), expected[i]) for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(agrees, range(8)))


@pytest.mark.parametrize("far", [1e25, 1e30, 1e200])
def test_overflow_gets_the_highest_score(far):
    module = make_module(False)
    scores = module(torch.tensor([[far, 0, 0, 0, 0, 0], [0.0] * 6], dtype=torch.float64))
    assert scores[0] == HIGHEST_SCORE
    assert scores[1] < 100
