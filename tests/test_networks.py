"""The networks: structure, initialisation, dropout, batch norm, and their inference form."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pyod_ae_plugin.engine.folded import score_function
from pyod_ae_plugin.networks import AutoEncoderNetwork, mlp, variational_mlp
from pyod_ae_plugin.networks.activations import ACTIVATIONS
from pyod_ae_plugin.networks.layers import BatchNorm, Dropout, Linear
from pyod_ae_plugin.scoring import Euclidean, ScoringModule, Standardize


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_mlp_is_mirrored_about_its_bottleneck():
    network = mlp(10, [6, 3], "relu", False, 0.0, seeded())
    widths = [(m.in_features, m.out_features) for m in network.modules() if type(m) is Linear]
    assert widths == [(10, 6), (6, 3), (3, 6), (6, 10)]


def test_variational_mlp_forks_into_mu_and_logvar():
    network = variational_mlp(10, [6, 4], [5], 2, "relu", "sigmoid", False, 0.0, None, seeded())
    mu, logvar = network.posterior(torch.randn(7, 10))
    assert mu.shape == logvar.shape == (7, 2)
    assert torch.equal(network.encode(torch.ones(1, 10)), network.posterior(torch.ones(1, 10))[0])
    assert network(torch.randn(7, 10)).min() >= 0  # the output activation


def test_logvar_is_clipped():
    network = variational_mlp(3, [4], [4], 2, "relu", "identity", False, 0.0, (-1, 0.5), seeded())
    _, logvar = network.posterior(torch.randn(50, 3) * 1e4)
    assert logvar.min() >= -1
    assert logvar.max() <= 0.5


def test_initial_weights_hang_on_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = mlp(5, [4, 2], "relu", True, 0.2, seeded())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = mlp(5, [4, 2], "relu", True, 0.2, seeded())
    other = mlp(5, [4, 2], "relu", True, 0.2, seeded(1))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.encoder[0].weight, other.encoder[0].weight)


def test_linear_weights_have_the_variance_of_lecun_s_initialisation():
    layer = Linear(200, 400, seeded())
    assert layer.weight.var().item() == pytest.approx(1 / 200, rel=0.02)
    assert layer.bias.abs().max() <= 200**-0.5


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_rate_and_keeps_the_mean(rate):
    x = torch.ones(400, 1003)
    dropped = Dropout(rate, seeded())(x)
    assert (dropped == 0).double().mean().item() == pytest.approx(rate, abs=0.003)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert np.allclose(dropped.unique(), [0, 1 / (1 - rate)], rtol=1e-3)


def test_dropout_is_independent_between_cells_and_steps():
    drop = Dropout(0.5, seeded())
    first, second = drop(torch.ones(2000, 8)) > 0, drop(torch.ones(2000, 8)) > 0
    assert (first == second).double().mean().item() == pytest.approx(0.5, abs=0.02)
    correlations = np.corrcoef(first.double().numpy().T) - np.eye(8)
    assert np.abs(correlations).max() < 0.1


def test_batch_norm_takes_one_row_in_training():
    norm = BatchNorm(3)
    assert torch.isfinite(norm(torch.randn(1, 3))).all()
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(3)(torch.randn(1, 3))


@pytest.mark.parametrize("variational", [False, True])
def test_inference_form_gives_the_same_without_norm_and_dropout(variational):
    if variational:
        network = variational_mlp(
            6, [8, 5], [5, 8], 2, "tanh", "identity", True, 0.3, None, seeded()
        )
    else:
        network = mlp(6, [8, 3], "elu", True, 0.3, seeded())
    for _ in range(20):
        network(torch.randn(32, 6) * 3 + 1)  # moves the running statistics
    network.eval()
    x = torch.randn(40, 6)
    expected = copy.deepcopy(network)(x)
    slim = network.for_inference()
    assert not any(isinstance(m, (BatchNorm, Dropout)) for m in slim.modules())
    torch.testing.assert_close(slim(x), expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_trains(name):
    network = mlp(4, [5, 2], name, False, 0.0, seeded())
    network(torch.randn(8, 4)).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_a_sequence_with_a_forward_of_its_own_keeps_it():
    class Doubled(nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    network = AutoEncoderNetwork(Doubled(nn.Linear(4, 2)), Doubled(nn.Linear(2, 4))).eval()
    x = torch.randn(5, 4)
    module = ScoringModule(Standardize(4), network.for_inference(), Euclidean(4)).eval()
    expected = torch.linalg.vector_norm(network(x) - x, dim=1)
    torch.testing.assert_close(module(x), expected)
    with torch.inference_mode():
        torch.testing.assert_close(score_function(module)(x), expected)
    torch.testing.assert_close(network.decode_distribution(network.encode(x))[0], network(x))
