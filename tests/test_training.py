"""Objectives, optimizers and the training loop, against independent computations."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from pyod_ae_plugin.engine.objectives import NegativeElbo, ReconstructionLoss
from pyod_ae_plugin.engine.objectives import kl_divergence as our_kl
from pyod_ae_plugin.engine.optimizers import OPTIMIZERS, flatten_parameters
from pyod_ae_plugin.engine.options import EarlyStopping, TrainingOptions, default_batch_size
from pyod_ae_plugin.engine.training import Training
from pyod_ae_plugin.networks import mlp, variational_mlp


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_vae():
    return variational_mlp(5, [8], [8], 3, "tanh", "identity", False, 0.0, None, seeded())


def training(network, objective, rows, options, generator):
    """A training on rows as they are."""
    return Training(network, objective, rows.__getitem__, len(rows), options, generator)


def run(network, rows, objective=None, seed=0, **options):
    """Train on rows as they are; return the epochs."""
    options = TrainingOptions(**{"epochs": 3, **options})
    objective = objective or ReconstructionLoss()
    return list(training(network, objective, rows, options, seeded(seed)).epochs())


def test_kl_is_that_of_torch_distributions():
    mu, logvar = torch.randn(100, 4), torch.randn(100, 4)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(our_kl(mu, logvar), expected)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_elbo_is_log_likelihood_less_kl(beta):
    network, x = small_vae(), torch.randn(20, 5)
    got = NegativeElbo(beta)(network, x, 0.5, seeded(3))
    mu, logvar = network.posterior(x)
    posterior = Normal(mu, (0.5 * logvar).exp())
    z = posterior.mean + posterior.stddev * torch.empty(20, 3).normal_(generator=seeded(3))
    log_likelihood = Normal(network.decode(z), 1.0).log_prob(x).sum(1)
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(got, -log_likelihood + beta * kl)


def test_capacity_is_an_annealed_target_of_the_kl():
    network, x = small_vae(), torch.randn(20, 5)
    kl = our_kl(*network.posterior(x)).sum(1)
    without = NegativeElbo(0.0)(network, x, 0.25, seeded())
    got = NegativeElbo(2.0, capacity=8.0)(network, x, 0.25, seeded())
    torch.testing.assert_close(got - without, 2 * (kl - 8.0 * 0.25).abs(), rtol=1e-4, atol=1e-4)


def test_the_kl_term_has_a_gradient():
    network = small_vae()
    (NegativeElbo(1.0)(network, torch.randn(9, 5), 1.0, seeded()).mean()).backward()
    with_kl = network.logvar.weight.grad.clone()
    network.zero_grad()
    (NegativeElbo(0.0)(network, torch.randn(9, 5), 1.0, seeded()).mean()).backward()
    assert not torch.allclose(with_kl, network.logvar.weight.grad)


def test_kl_training_pulls_the_posterior_to_the_prior():
    rows = torch.randn(400, 5)
    kls = []
    for beta in (0.01, 10.0):
        network = small_vae()
        run(network, rows, NegativeElbo(beta), epochs=30, lr=1e-2)
        with torch.no_grad():
            kls.append(our_kl(*network.posterior(rows)).sum(1).mean().item())
    assert kls[1] < 0.1 < kls[0]


REFERENCES = {
    "adam": (torch.optim.Adam, {"weight_decay": 0.01, "adam_eps": 1e-3}, {"eps": 1e-3}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.01}, {}),
    "sgd": (
        torch.optim.SGD,
        {"weight_decay": 0.01, "sgd_momentum": 0.9, "sgd_nesterov": True},
        {"momentum": 0.9, "nesterov": True},
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_step_as_torchs_do(name):
    reference_class, params, renamed = REFERENCES[name]
    ours, theirs = (mlp(6, [5, 3], "tanh", False, 0.0, seeded()) for _ in range(2))
    vector = flatten_parameters(ours)
    optimizer = OPTIMIZERS[name][0](vector, **params)
    reference = reference_class(theirs.parameters(), lr=0.01, weight_decay=0.01, **renamed)
    for step in range(5):
        x = torch.randn(16, 6, generator=seeded(step))
        vector.grad.zero_()
        reference.zero_grad()
        for network in (ours, theirs):
            (network(x) - x).square().mean().backward()
        optimizer.step(0.01)
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_and_shared_parameters_survive_flattening():
    network = mlp(4, [3], "tanh", False, 0.0, seeded())
    network.encoder[0].bias.requires_grad_(False)
    frozen = network.encoder[0].bias.clone()
    network.decoder[0].weight = nn.Parameter(network.encoder[0].weight.T.clone())
    run(network, torch.randn(50, 4))
    assert torch.equal(network.encoder[0].bias, frozen)


def test_training_is_reproducible_and_hangs_on_the_seed():
    rows = torch.randn(100, 6)
    networks = [mlp(6, [5, 2], "relu", True, 0.2, seeded()) for _ in range(3)]
    losses = [
        [e.loss for e in run(n, rows, seed=s)] for n, s in zip(networks, (0, 0, 1), strict=True)
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("n", [1, 2, 31, 33, 65])
def test_every_row_is_used_once_an_epoch(n):
    seen = []

    def remember(network, x, progress, generator):
        seen.append(x.clone())
        return ReconstructionLoss()(network, x, progress, generator)

    rows = torch.arange(n * 2.0).view(n, 2)
    options = TrainingOptions(epochs=2, batch_size=32)
    network = mlp(2, [2], "relu", False, 0.0, seeded())
    list(training(network, remember, rows, options, seeded()).epochs())
    assert max(len(batch) for batch in seen) <= 32
    for half in (seen[: len(seen) // 2], seen[len(seen) // 2 :]):
        assert torch.equal(torch.cat(half)[:, 0].sort().values, rows[:, 0])


def test_trimmed_rows_have_no_part_in_the_gradient():
    rows = torch.randn(100, 4)
    rows[:20] *= 1e4
    spoilt, kept = (mlp(4, [3], "tanh", False, 0.0, seeded()) for _ in range(2))
    # the same gradients, although the order of summation differs
    run(spoilt, rows, batch_size=100, trim=[0.2], lr=1e-3)
    run(kept, rows[20:], batch_size=80, lr=1e-3)
    for a, b in zip(spoilt.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_early_stopping_stops_and_returns_to_the_best_epoch():
    rows = torch.randn(60, 8)
    stopping = EarlyStopping(validation_fraction=0.5, patience=3, tol=0.0)
    network = mlp(8, [64, 32], "relu", False, 0.0, seeded())
    states = []
    options = TrainingOptions(epochs=500, lr=0.01, early_stopping=stopping)
    epochs = []
    for epoch in training(network, ReconstructionLoss(), rows, options, seeded()).epochs():
        epochs.append(epoch)
        states.append([p.detach().clone() for p in network.parameters()])
    losses = [epoch.validation_loss for epoch in epochs]
    best = losses.index(min(losses))
    assert len(epochs) == best + 1 + 3 < 500
    for a, b in zip(network.parameters(), states[best], strict=True):
        assert torch.equal(a, b)


def test_early_stopping_needs_two_rows():
    stopping = EarlyStopping(3, 0.0, 0.1)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        run(mlp(2, [2], "relu", False, 0.0, seeded()), torch.zeros(1, 2), early_stopping=stopping)


def test_divergence_names_the_epoch_and_the_remedy():
    network = mlp(3, [4], "relu", False, 0.0, seeded())
    with pytest.raises(FloatingPointError, match=r"epoch \d+ of 40.*Lower it \(lr="):
        run(network, torch.randn(64, 3), epochs=40, optimizer="sgd", lr=1e10)


def test_batch_size_grows_with_the_data():
    sizes = [default_batch_size(n) for n in (1, 100, 2_000, 10_000, 10**7)]
    assert sizes == [32, 32, 64, 256, 1024]


def test_small_steps_take_one_thread_and_give_the_others_back():
    seen, n_threads = [], torch.get_num_threads()

    def remember(network, x, progress, generator):
        seen.append(torch.get_num_threads())
        return ReconstructionLoss()(network, x, progress, generator)

    torch.set_num_threads(2)
    try:
        for widths in ([8, 2], [512, 256]):
            network = mlp(6, widths, "relu", False, 0.0, seeded())
            run(network, torch.randn(300, 6), remember, batch_size=100, epochs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)
    assert seen == [1, 1, 1, 2, 2, 2]
