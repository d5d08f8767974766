"""What a VAE says of rows besides their scores, and what sets it apart from an autoencoder."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from torch import distributions, nn

from pyod_ae_plugin import VAE, AutoEncoder, load_detector
from pyod_ae_plugin.engine.objectives import NegativeElbo
from pyod_ae_plugin.scoring import likelihood

UNITS = np.array([1.0, 1e3, 1e-2, 5.0, 1.0])


def vae(**params):
    return VAE(**{"verbose": 0, "device": "cpu", **params})


class Cluster:
    """A normal cluster that lies along a plane, in features of unlike units."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        plane = rng.normal(size=(2, 5))
        self.mean = np.array([0.0, 1e4, 0.0, -20.0, 3.0])
        self.cov = (plane.T @ plane + 0.1 * np.eye(5)) * np.outer(UNITS, UNITS)

    def draw(self, n, seed):
        return np.random.default_rng(seed).multivariate_normal(self.mean, self.cov, n)

    def is_inside(self, rows):
        """Whether rows are in the ellipsoid that holds 99% of the cluster."""
        off = rows - self.mean
        return np.einsum("ij,jk,ik->i", off, np.linalg.inv(self.cov), off) < chi2.ppf(0.99, 5)


@pytest.fixture(scope="module")
def cluster():
    return Cluster()


@pytest.fixture(scope="module")
def rows(cluster):
    return cluster.draw(1000, 1)


@pytest.fixture(scope="module")
def detector(rows):
    """A VAE trained for long enough to know the distribution, not only what is abnormal."""
    return vae(latent_dim=4, novelty=True, epoch_num=100).fit(rows)


@pytest.fixture(scope="module")
def default(rows):
    return vae().fit(rows)


def posterior(detector, X):
    """Mean and log variance of codes, in float64 of NumPy."""
    module = detector.scoring_module_
    with torch.no_grad():
        z = module.standardize(torch.from_numpy(np.asarray(X)))
        return (part.double().numpy() for part in module.network.posterior(z))


def decoded(detector, code):
    """Mean and standard deviation of rows, in the data's units."""
    module = detector.scoring_module_
    with torch.no_grad():
        mean, logvar = module.network.decode_distribution(torch.from_numpy(code).float())
        scale = module.standardize.scale.numpy()
        return module.standardize.inverse(mean).numpy(), np.exp(0.5 * logvar.numpy()) / scale


# Reconstructions and codes


@pytest.mark.slow
def test_reconstruction_moments_are_those_of_drawn_rows(default, rows):
    X, rng = rows[:4], np.random.default_rng(0)
    mean, std = default.reconstruct(X, n_draws=4000)
    mu, logvar = posterior(default, X)
    for i in range(4):
        code = mu[i] + np.exp(0.5 * logvar[i]) * rng.normal(size=(20_000, mu.shape[1]))
        means, spread = decoded(default, code)
        drawn = rng.normal(means, spread)
        assert (np.abs(mean[i] - drawn.mean(0)) < 0.05 * std[i]).all()
        assert np.allclose(std[i], drawn.std(0), rtol=0.04)


def test_reconstruction_moments_of_few_draws_by_hand(default, rows):
    X = rows[:50]
    mean, std = default.reconstruct(X, n_draws=3)
    draws = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).numpy()
    mu, logvar = posterior(default, X)
    means, spreads = zip(
        *(decoded(default, mu + np.exp(0.5 * logvar) * draw) for draw in draws), strict=True
    )
    assert np.allclose(mean, np.mean(means, axis=0), rtol=1e-5, atol=1e-5 * UNITS)
    variance = np.var(means, axis=0) + np.mean(np.square(spreads), axis=0)
    assert np.allclose(std, np.sqrt(variance), rtol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_a_row_has_one_answer(activation, rows):
    fitted = vae(epoch_num=1, hidden_activation_name=activation).fit(rows)
    whole = (*fitted.reconstruct(rows, n_draws=5), *fitted.latent(rows))
    again = (*fitted.reconstruct(rows, n_draws=5), *fitted.latent(rows))
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))
    for i in (0, 500, 999):
        alone = (*fitted.reconstruct(rows[[i]], n_draws=5), *fitted.latent(rows[[i]]))
        assert all(np.array_equal(a[[i]], b) for a, b in zip(whole, alone, strict=True))


def test_without_draws_the_posterior_mean_is_decoded(default, rows):
    mu, _ = posterior(default, rows)
    expected, _ = decoded(default, mu)
    assert np.allclose(default.reconstruct(rows), expected, rtol=1e-5, atol=1e-5 * UNITS)


def test_latent_is_the_posterior(default, rows):
    mu, sigma = default.latent(rows)
    expected_mu, logvar = posterior(default, rows)
    assert np.array_equal(mu, default.transform(rows))
    assert np.allclose(mu, expected_mu, atol=1e-6)
    assert np.allclose(sigma, np.exp(0.5 * logvar), rtol=1e-5)


def test_a_network_without_a_variance_is_taken_to_have_1():
    class Plain(nn.Module):
        def __init__(self, n_features):
            super().__init__()
            self.mu, self.logvar = nn.Linear(n_features, 2), nn.Linear(n_features, 2)
            self.decode = nn.Linear(2, n_features)

        def posterior(self, x):
            return self.mu(x), self.logvar(x)

        def encode(self, x):
            return self.mu(x)

    X = Cluster().draw(200, 0)
    fitted = vae(network=Plain, epoch_num=2).fit(X)
    _, std = fitted.reconstruct(X, n_draws=1)
    assert np.allclose(std, X.std(0), rtol=1e-5)
    assert (fitted.sample(2000, 0).std(0) > X.std(0)).all()


@pytest.mark.parametrize("n", [0, -1, 2.5, "3"])
def test_counts_are_checked(n, default, rows):
    for call in (lambda: default.sample(n), lambda: default.reconstruct(rows, n)):
        with pytest.raises((ValueError, TypeError), match=r"n_(samples|draws)"):
            call()


def test_rows_are_checked(default, rows):
    damaged = rows[:3].copy()
    damaged[1, 1] = np.nan
    for call in (default.latent, lambda X: default.reconstruct(X, n_draws=2)):
        with pytest.raises(ValueError, match="NaN"):
            call(damaged)
        with pytest.raises(ValueError, match="features"):
            call(rows[:, :4])
    for call in (vae().sample, lambda: vae().latent(rows), lambda: vae().reconstruct(rows, 2)):
        with pytest.raises(NotFittedError):
            call()


# Samples


@pytest.mark.slow
def test_samples_have_the_moments_of_the_cluster(detector, cluster):
    drawn = detector.sample(20_000, random_state=0)
    std = np.sqrt(np.diag(cluster.cov))
    assert drawn.shape == (20_000, 5)
    assert drawn.dtype == np.float64
    assert (np.abs(drawn.mean(0) - cluster.mean) < 0.1 * std).all()
    assert np.allclose(drawn.std(0), std, rtol=0.1)
    correlation = cluster.cov / np.outer(std, std)
    assert np.allclose(np.corrcoef(drawn.T), correlation, atol=0.06)


@pytest.mark.slow
def test_samples_have_the_moments_of_a_mixture():
    """Of two clusters that touch; see docs/vae.md on clusters that lie apart."""
    rng = np.random.default_rng(0)
    weight, centres, scales = 0.3, np.array([[-1.5, 0, 1], [1, 1, -1]]), np.array([0.5, 1.0])
    of_second = rng.random(1500) > weight
    X = (
        centres[of_second.astype(int)]
        + rng.normal(size=(1500, 3)) * scales[of_second.astype(int), None]
    )
    mean = weight * centres[0] + (1 - weight) * centres[1]
    within = weight * scales[0] ** 2 + (1 - weight) * scales[1] ** 2
    apart = np.subtract(*centres)
    cov = within * np.eye(3) + weight * (1 - weight) * np.outer(apart, apart)
    drawn = vae(latent_dim=3, trim=0, epoch_num=60).fit(X).sample(20_000, random_state=1)
    assert np.allclose(drawn.mean(0), mean, atol=0.12)
    assert np.allclose(np.cov(drawn.T), cov, atol=0.25)


def test_samples_follow_the_random_state(default):
    first = default.sample(20, random_state=3)
    assert np.array_equal(first, default.sample(20, random_state=3))
    assert not np.array_equal(first, default.sample(20, random_state=4))
    assert not np.array_equal(default.sample(20), default.sample(20))
    state = np.random.RandomState(0)
    assert not np.array_equal(*(default.sample(20, random_state=state) for _ in range(2)))
    assert default.sample(random_state=0).shape == (1, 5)


def test_no_global_randomness_is_touched(default, rows):
    np_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    default.sample(5)
    default.reconstruct(rows, n_draws=2)
    assert np.array_equal(np.random.get_state()[1], np_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_samples_come_in_parts(default, monkeypatch):
    monkeypatch.setattr(likelihood, "_CELLS_AT_ONCE", 64 * 7)
    drawn = default.sample(100, random_state=0)
    assert np.isfinite(drawn).all()
    assert len(np.unique(drawn[:, 0])) == 100


# KL per latent dimension


@pytest.mark.parametrize("trim", [0.0, 0.4])
def test_kl_is_that_of_the_rows_that_are_kept(trim, rows):
    fitted = vae(latent_dim=6, trim=trim, beta=0.5).fit(rows)
    mu, logvar = posterior(fitted, rows)
    error = np.square((fitted.reconstruct(rows) - rows) / rows.std(0)).sum(1)
    kept = np.argsort(error)[: len(rows) - int(trim * len(rows))]
    q = distributions.Normal(torch.from_numpy(mu[kept]), torch.from_numpy(logvar[kept] / 2).exp())
    expected = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).mean(0)
    assert fitted.kl_.shape == (6,)
    assert np.allclose(fitted.kl_, expected, rtol=1e-4, atol=1e-7)
    assert np.array_equal(fitted.active_units_, mu[kept].var(0) > 0.01)


def test_no_more_than_so_many_rows_are_looked_at():
    X = np.random.default_rng(0).normal(size=(40_000, 3))
    X[:, 2] = X[:, 0]
    fitted = vae(latent_dim=2, trim=0, epoch_num=1).fit(X)
    mu, logvar = posterior(fitted, X[::3])
    expected = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).mean(0)
    assert np.allclose(fitted.kl_, expected, rtol=1e-4)


def collapsing():
    """Independent features: there is nothing to code."""
    X = np.random.default_rng(0).normal(size=(300, 4))
    return vae(beta=8.0), X


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "fit_batches", "partial_fit"])
def test_a_collapsed_posterior_is_reported(method):
    fitted, X = collapsing()
    with pytest.warns(ConvergenceWarning, match="Posterior collapse") as caught:
        getattr(fitted, method)([X] if method == "fit_batches" else X)
    assert caught[0].filename == __file__
    assert not fitted.active_units_.any()
    assert (fitted.kl_ < 0.01).all()
    mu, sigma = fitted.latent(X)
    assert (mu.std(0) < 0.2).all()
    assert np.allclose(sigma.mean(0), 1, atol=0.1)


def test_an_ordinary_fit_does_not_warn(data, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = vae(verbose=2, epoch_num=20).fit(data[0])
    n_active = fitted.active_units_.sum()
    assert 0 < n_active <= 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (f"Active latent dimensions: {n_active} of 3, KL={fitted.kl_.sum():.2f} nats")


@pytest.mark.slow
def test_unused_dimensions_are_told_from_used_ones(detector):
    """Of four latent dimensions a plane takes two; some of the others may carry noise."""
    assert (np.sort(detector.kl_)[-2:] > 0.5).all()
    assert detector.active_units_[np.argsort(detector.kl_)[-2:]].all()
    assert (np.sort(detector.kl_)[:2] < 0.3).all()


def test_batches_give_the_same(rows):
    params = {"epoch_num": 2, "latent_dim": 3}
    whole, batches = vae(**params).fit(rows), vae(**params).fit_batches(np.split(rows, 4))
    assert np.array_equal(whole.kl_, batches.kl_)
    assert np.array_equal(whole.sample(5, 0), batches.sample(5, 0))


def test_all_of_it_is_kept_in_a_file(default, rows, tmp_path):
    default.save(tmp_path / "model.safetensors")
    loaded = load_detector(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.kl_, default.kl_)
    assert np.array_equal(loaded.active_units_, default.active_units_)
    assert loaded.active_units_.dtype == bool
    assert np.array_equal(loaded.sample(9, 0), default.sample(9, 0))
    assert np.array_equal(loaded.reconstruct(rows, 3), default.reconstruct(rows, 3))


# Annealing


def test_the_kl_warms_up(rows):
    objective = NegativeElbo(beta=3.0, kl_warmup=0.4)
    assert [objective.kl_weight(p) for p in (0.1, 0.2, 0.4, 1.0)] == pytest.approx(
        [0.75, 1.5, 3, 3]
    )
    with_tensors = [objective.kl_weight(torch.tensor(p)) for p in (0.1, 0.2, 0.4, 1.0)]
    assert [float(weight) for weight in with_tensors] == pytest.approx([0.75, 1.5, 3, 3])
    network = vae(epoch_num=1).fit(rows).model
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))

    def loss(beta, progress=0.1, **params):
        generator = torch.Generator().manual_seed(1)
        return NegativeElbo(beta, **params)(network, x, progress, generator)

    mu, logvar = network.posterior(x)
    kl = distributions.kl_divergence(
        distributions.Normal(mu, logvar.mul(0.5).exp()), distributions.Normal(0.0, 1.0)
    ).sum(-1)
    torch.testing.assert_close(loss(3.0, kl_warmup=0.4), loss(0.0) + 0.75 * kl)
    by_capacity = loss(0.0) + 0.75 * (kl - 0.2).abs()
    torch.testing.assert_close(loss(3.0, kl_warmup=0.4, capacity=2.0), by_capacity)


@pytest.mark.parametrize(
    "network",
    [
        {},
        {
            "network": "variational_conv",
            "input_shape": (1, 5),
            "encoder_neuron_list": [4],
            "decoder_neuron_list": [4],
        },
    ],
    ids=["closed form", "autograd"],
)
def test_a_warm_up_is_in_time_with_the_steps(network, rows):
    """The epochs of a warm-up alone are those of a smaller beta, if they are one epoch."""
    params = {"batch_size": 1000, "epoch_num": 4, "trim": 0.0, **network}
    warm = vae(beta=2.0, kl_warmup=0.5, **params).fit(rows).history_["loss"]
    cold = [vae(beta=beta, **params).fit(rows).history_["loss"][0] for beta in (1.0, 2.0)]
    assert warm[0] == cold[0]  # of four steps the first is at a quarter: half of beta
    assert warm[0] < cold[1]


@pytest.mark.slow
def test_a_warm_up_keeps_a_code_in_use():
    """Where the KL term at its full weight shuts the code off before the decoder reads it."""
    X = Cluster().draw(600, 3)
    params = {"beta": 3.0, "novelty": True, "latent_dim": 2, "random_state": 0}
    warm = vae(kl_warmup=0.8, **params).fit(X)
    assert warm.kl_.sum() > vae(**params).fit(X).kl_.sum()


@pytest.mark.parametrize("share", [1.0, -0.1, "half"])
def test_a_warm_up_is_a_share(share, rows):
    with pytest.raises(ValueError, match="kl_warmup"):
        vae(kl_warmup=share).fit(rows)


# What sets it apart from an autoencoder, on clustered data


@pytest.mark.slow
def test_neighbouring_codes_decode_to_neighbouring_rows():
    rng = np.random.default_rng(0)
    centres, planes = 4 * rng.normal(size=(3, 5)), rng.normal(size=(3, 2, 5))
    of = rng.integers(3, size=1000)
    X = centres[of] + np.einsum("ni,nij->nj", rng.normal(size=(1000, 2)), planes[of])
    X += 0.2 * rng.normal(size=X.shape)
    params = {"novelty": True, "epoch_num": 100, "verbose": 0, "device": "cpu"}
    plain = AutoEncoder(hidden_neuron_list=(64, 2), **params).fit(X)
    variational = VAE(latent_dim=2, **params).fit(X)

    def steps(detector):
        """How far decoded rows move, by their own spread, when codes move a tenth of theirs."""
        code = detector.transform(X)
        moved = code + 0.1 * code.std(0) * np.random.default_rng(1).normal(size=code.shape)
        decode = detector.model.decode
        with torch.no_grad():
            rows, ends = (decode(torch.from_numpy(c).float()).numpy() for c in (code, moved))
        return np.linalg.norm(ends - rows, axis=1) / np.sqrt(rows.var(0).sum())

    # the code is used: rows are reconstructed
    assert np.square((variational.reconstruct(X) - X) / X.std(0)).mean() < 0.2
    assert steps(variational).mean() < 0.8 * steps(plain).mean()
    assert np.quantile(steps(variational), 0.99) < 0.8 * np.quantile(steps(plain), 0.99)


@pytest.mark.slow
def test_samples_fall_inside_the_cluster(detector, cluster, rows):
    plain = AutoEncoder(hidden_neuron_list=(64, 4), novelty=True, verbose=0, device="cpu")
    module = plain.fit(rows).scoring_module_
    codes = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        of_plain = module.standardize.inverse(module.network.decode(codes)).numpy()
    inside = cluster.is_inside(detector.sample(5000, random_state=0)).mean()
    assert inside > 0.96
    assert inside > cluster.is_inside(of_plain).mean() + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("curved", [False, True])
def test_members_of_a_cluster_where_it_is_sparse_are_not_flagged_more(curved):
    """A part of the cluster that has a twentieth of its density; see docs/vae.md on its edge."""
    mixing = np.random.default_rng(0).normal(size=(4, 6)) / 2

    def draw(n, density, seed):
        rng = np.random.default_rng(seed)
        t = rng.normal(size=(3 * n, 2))
        is_inner = np.linalg.norm(t - [0.5, 0], axis=1) < 0.5
        kept = ~is_inner | (rng.random(3 * n) < density)
        t, is_inner = t[kept][:n], is_inner[kept][:n]
        bent = np.sin(1.5 * t) if curved else np.zeros((n, 2))
        return np.hstack([t, bent]) @ mixing + 0.1 * rng.normal(size=(n, 6)), is_inner

    X, _ = draw(1000, 0.05, 1)
    new, is_inner = draw(5000, 1.0, 2)
    same = {"score_head": "euclidean", "contamination": 0.05, "novelty": True}
    plain = AutoEncoder(hidden_neuron_list=(64, 2), verbose=0, device="cpu", **same).fit(X)
    flagged = vae(latent_dim=2, **same).fit(X).predict(new)[is_inner].mean()
    assert flagged <= plain.predict(new)[is_inner].mean()
    assert flagged < 0.05
