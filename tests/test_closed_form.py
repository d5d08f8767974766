"""Gradients in closed form, against autograd's of the same objectives."""

import copy

import pytest
import torch
from torch import nn

from pyod_ae_plugin.engine.closed_form import (
    Divergence,
    GaussianError,
    Program,
    Reparameterization,
    batch_gradient,
    has_closed_form,
)
from pyod_ae_plugin.engine.objectives import (
    Corruptor,
    DrawnCodes,
    NegativeElbo,
    ReconstructionLoss,
)
from pyod_ae_plugin.engine.optimizers import flatten_parameters
from pyod_ae_plugin.engine.options import Corruption, TrainingOptions
from pyod_ae_plugin.engine.pipeline import read_pipeline
from pyod_ae_plugin.engine.training import Training
from pyod_ae_plugin.networks import AutoEncoderNetwork, mlp, stacked_mlp, variational_mlp
from pyod_ae_plugin.networks.activations import ACTIVATIONS
from pyod_ae_plugin.networks.layers import GaussianOutput, Linear
from pyod_ae_plugin.scoring.likelihood import kl_divergence, log_density, reparameterize

ELEMENTWISE = sorted(ACTIVATIONS.keys() - {"softmax"})
TOLERANCES = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=seeded(seed))


def autoencoder(activation="tanh", widths=(8, 5, 2), **options):
    return mlp(6, widths, activation, False, 0.0, seeded(), **options)


def vae(activation="silu", output="identity", clip=(-30.0, 20.0), learn_variance=True):
    return variational_mlp(
        6, [8, 5], [7, 4], 3, activation, output, False, 0.0, clip, seeded(), learn_variance
    )


def expected(network, objective, x, trim, progress):
    """Loss and gradient by autograd, the lowest losses of each member picked one by one."""
    losses = objective(network, x, progress, seeded(5))
    losses = losses if losses.ndim == 2 else losses.unsqueeze(0)
    means = [
        member.sort().values[: len(member) - int(share * len(member))].mean()
        for member, share in zip(losses, trim, strict=True)
    ]
    loss = torch.stack(means).sum()
    parameters = [*network.parameters()]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def assert_agrees(network, objective, x, trim=(0.0,), progress=0.3):
    for dtype, tolerance in TOLERANCES.items():
        typed, batch = copy.deepcopy(network).to(dtype), x.to(dtype)
        loss, gradient = expected(typed, objective, batch, trim, progress)
        vector = flatten_parameters(typed)
        assert has_closed_form(read_pipeline(typed), objective, stacked=x.ndim == 3)
        compute = batch_gradient(typed, objective, trim, vector, seeded(5), stacked=x.ndim == 3)
        torch.testing.assert_close(compute(batch, progress), loss, **tolerance)
        torch.testing.assert_close(vector.grad, gradient, **tolerance)


@pytest.mark.parametrize("trim", [0.0, 0.4])
@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_activations(activation, trim):
    assert_agrees(autoencoder(activation), ReconstructionLoss(), rows(33, 6), [trim])


@pytest.mark.parametrize(
    "layer",
    [
        nn.ELU(0.5),
        nn.GELU("tanh"),
        nn.LeakyReLU(0.3),
        nn.Softplus(2.0, 1.0),
        nn.Hardtanh(-0.2, 0.3),
        nn.ReLU(),
    ],
)
def test_options_of_activations(layer):
    network = AutoEncoderNetwork(
        nn.Sequential(Linear(6, 5, seeded()), layer), nn.Sequential(layer, nn.Linear(5, 6))
    )
    assert_agrees(network, ReconstructionLoss(), rows(20, 6))


@pytest.mark.parametrize("widths", [[3], [8, 3], [8, 1], [9, 7, 5, 2]])
def test_depths(widths):
    assert_agrees(autoencoder(widths=widths), ReconstructionLoss(), rows(17, 6), [0.25])


def test_layers_in_any_order():
    encoder = nn.Sequential(nn.Tanh(), nn.Sequential(nn.Linear(6, 4), nn.SiLU()), nn.Identity())
    decoder = nn.Sequential(nn.Tanh(), nn.Linear(4, 6), nn.Sigmoid(), nn.Tanh(), nn.SiLU())
    network = AutoEncoderNetwork(encoder, decoder)
    assert_agrees(network, ReconstructionLoss(), rows(10, 6), [0.1])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_small_batches(n):
    assert_agrees(autoencoder("silu"), ReconstructionLoss(), rows(n, 6), [0.4])
    assert_agrees(vae(), NegativeElbo(), rows(n, 6), [0.4])


@pytest.mark.parametrize("trim", [0.0, 0.4])
def test_corruption_draws_what_the_objective_draws(trim):
    corrupt = ReconstructionLoss(Corruptor([Corruption(0.3, 0.2)]))
    network = autoencoder("relu")
    vector = flatten_parameters(network)
    x = rows(40, 6)
    loss, gradient = expected(network, corrupt, x, [trim], 0.3)
    got = batch_gradient(network, corrupt, [trim], vector, seeded(5))(x, 0.3)
    torch.testing.assert_close(got, loss)
    torch.testing.assert_close(vector.grad, gradient)


@pytest.mark.parametrize("trim", [[0.0, 0.0], [0.3, 0.3], [0.0, 0.4], [0.2, 0.5]])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_stacked_members(trim, activation):
    network = stacked_mlp(6, [8, 3], [3, 2], None, activation, seeded())
    assert_agrees(network, ReconstructionLoss(), rows(2, 40, 6), trim)


@pytest.mark.parametrize("trim", [[0.0, 0.0], [0.2, 0.5]])
@pytest.mark.parametrize("capacity", [None, 0.1])
def test_plain_and_variational_members(trim, capacity):
    network = stacked_mlp(6, [8, 3], [3, 2], [False, True], "silu", seeded())
    objective = NegativeElbo(1.5, capacity, drawn=DrawnCodes([0, 2], 3))
    assert_agrees(network, objective, rows(2, 40, 6), trim)


def test_a_plain_member_has_the_gradient_of_an_autoencoder():
    """Beside variational ones: up to the factor between a mean and half a sum of squares."""
    network = stacked_mlp(6, [8, 3], [3, 2], [False, True], "silu", seeded())
    alone = stacked_mlp(6, [8, 3], [3], None, "silu", seeded())
    own = {name.replace("encoder.2", "mu"): p for name, p in alone.named_parameters()}
    own = {name.replace("decoder.2", "decoder.2.mean"): p for name, p in own.items()}
    for name, parameter in own.items():
        parameter.data = dict(network.named_parameters())[name].data[:1].clone()
    x = rows(2, 40, 6)
    NegativeElbo(drawn=DrawnCodes([0, 2], 3))(network, x, 1.0, seeded()).mean(1).sum().backward()
    ReconstructionLoss()(alone, x[:1], 1.0, seeded()).mean(1).sum().backward()
    for name, parameter in network.named_parameters():
        expected = 3 * own[name].grad[0] if name in own else torch.zeros(())
        got = parameter.grad[0]
        torch.testing.assert_close(got, expected.expand(got.shape), rtol=1e-4, atol=1e-6)


def test_what_a_member_does_not_have_gets_no_gradient():
    network = stacked_mlp(6, [8, 3], [3, 2], None, "silu", seeded())
    vector = flatten_parameters(network)
    corrupt = ReconstructionLoss(Corruptor([Corruption(mask=0.3), Corruption(noise=0.2)]))
    batch_gradient(network, corrupt, [0.1, 0.4], vector, seeded(), stacked=True)(
        rows(2, 40, 6), 0.5
    )
    to_code, from_code = network.encoder[2], network.decoder[0]
    assert (to_code.weight.grad[1, :, 2:] == 0).all()
    assert (to_code.bias.grad[1, :, 2:] == 0).all()
    assert (to_code.weight.grad[1, :, :2] != 0).all()
    assert (from_code.weight.grad[1, 2:] == 0).all()


def test_a_variational_member_does_not_draw_what_it_does_not_have():
    network = stacked_mlp(6, [8, 3], [3, 2], [False, True], "silu", seeded())
    vector = flatten_parameters(network)
    objective = NegativeElbo(drawn=DrawnCodes([0, 2], 3))
    batch_gradient(network, objective, [0.1, 0.4], vector, seeded(), stacked=True)(
        rows(2, 40, 6), 0.5
    )
    assert (network.decoder[0].weight.grad[1, 2:] == 0).all()
    assert (network.logvar.weight.grad[1, :, 2:] == 0).all()
    assert (network.logvar.weight.grad[1, :, :2] != 0).all()
    assert (network.logvar.weight.grad[0] == 0).all()
    assert (network.decoder[2].logvar.weight.grad[0] == 0).all()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_reconstruction_with_a_learned_variance(scale):
    objective = ReconstructionLoss(learn_variance=True)
    assert_agrees(autoencoder(learn_variance=True), objective, scale * rows(33, 6), [0.3])
    assert_agrees(autoencoder(), objective, rows(33, 6), [0.3])
    assert_agrees(autoencoder(learn_variance=True), ReconstructionLoss(), rows(33, 6))


@pytest.mark.parametrize("trim", [0.0, 0.4])
@pytest.mark.parametrize("capacity", [None, 0.1, 3.0])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("learn_variance", [False, True])
def test_elbo(learn_variance, beta, capacity, trim):
    network = vae(learn_variance=learn_variance)
    assert_agrees(network, NegativeElbo(beta, capacity), rows(33, 6), [trim])


@pytest.mark.parametrize("capacity", [None, 3.0])
@pytest.mark.parametrize("progress", [0.01, 0.3, 0.9])
def test_elbo_with_a_warm_up(progress, capacity):
    objective = NegativeElbo(2.5, capacity, kl_warmup=0.5)
    assert_agrees(vae(), objective, rows(33, 6), [0.4], progress)


@pytest.mark.parametrize("output", ["sigmoid", "tanh", "softplus"])
def test_elbo_behind_an_output_activation(output):
    assert_agrees(vae("relu", output), NegativeElbo(), rows(20, 6), [0.2])


@pytest.mark.parametrize("clip", [None, (-0.1, 0.1)])
def test_clamps_that_bite_pass_no_gradient(clip):
    network, x = vae(clip=clip), 40 * rows(50, 6)
    with torch.no_grad():
        _, logvar = network.posterior(x)
        _, spread = network.decode_distribution(network.encode(x))
    assert (spread.abs() == GaussianOutput.CLIP[1]).any()
    assert clip is None or (logvar.abs() == 0.1).any()
    x = x / 10 if clip is None else x  # exp of a free log variance soon leaves float32
    assert_agrees(network, NegativeElbo(), x, [0.2])


CASES = {
    "plain": (lambda: autoencoder("relu"), ReconstructionLoss(), {}),
    "corrupt": (autoencoder, ReconstructionLoss(Corruptor([Corruption(0.2, 0.3)])), {}),
    "stacked": (
        lambda: stacked_mlp(6, [8, 3], [3, 2], None, "silu", seeded()),
        ReconstructionLoss(Corruptor([Corruption(mask=0.3), Corruption(noise=0.2)])),
        {"n_members": 2, "trim": [0.1, 0.4], "rows_per_member": 70},
    ),
    "stacked, one variational": (
        lambda: stacked_mlp(6, [8, 3], [3, 2], [False, True], "silu", seeded()),
        NegativeElbo(
            corrupt=Corruptor([Corruption(mask=0.3), Corruption()]), drawn=DrawnCodes([0, 2], 3)
        ),
        {"n_members": 2, "trim": [0.1, 0.4], "rows_per_member": 70},
    ),
    "vae": (vae, NegativeElbo(capacity=2.0, corrupt=Corruptor([Corruption(0.1, 0.0)])), {}),
    "KL warm-up": (vae, NegativeElbo(2.0, kl_warmup=0.7), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_training_runs_agree(case):
    make, objective, options = CASES[case]
    options = TrainingOptions(**{"epochs": 4, "trim": [0.3], "lr": 1e-3, **options})
    known, other = make(), make()

    def unknown(*arguments):
        return objective(*arguments)

    histories = []
    for network, loss in ((known, objective), (other, unknown)):
        training = Training(network, loss, rows(101, 6).__getitem__, 101, options, seeded(2))
        histories.append([epoch.loss for epoch in training.epochs()])
    assert histories[0] == pytest.approx(histories[1], rel=1e-4)
    for ours, autograds in zip(known.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, autograds, rtol=1e-3, atol=1e-4)


def test_heads_that_hand_back_no_sum_are_left_to_autograd():
    network = vae()
    network.logvar = nn.Sequential(nn.Tanh(), nn.Linear(5, 3))
    assert not has_closed_form(read_pipeline(network), NegativeElbo(), stacked=False)
    assert not has_closed_form(read_pipeline(vae()), ReconstructionLoss(), stacked=False)
    assert not has_closed_form(read_pipeline(autoencoder()), NegativeElbo(), stacked=False)
    assert not has_closed_form(read_pipeline(autoencoder()), ReconstructionLoss(), stacked=True)


def program_and_buffers(*widths):
    program = Program(rows(20, 6))
    buffers = [program.new_buffer(width) for width in widths]
    for seed, buffer in enumerate(buffers, 3):
        buffer.rows.copy_(rows(20, buffer.width, seed=seed))
    return program, buffers


def losses_of(term, x):
    losses = torch.full((20,), term.constant)
    term.forward(x, 0.0, losses)
    return losses


def test_terms_are_the_densities_and_divergences_of_scoring():
    x, weights = rows(20, 6), torch.ones(20, 1)
    _, (mean, logvar) = program_and_buffers(6, 6)
    expected = -log_density(x, mean.rows, logvar.rows)
    torch.testing.assert_close(losses_of(GaussianError(mean, logvar, weights, None), x), expected)
    _, (mu, logvar) = program_and_buffers(3, 3)
    divergence = Divergence(mu, logvar, weights, NegativeElbo())
    expected = kl_divergence(mu.rows, logvar.rows).sum(-1)
    torch.testing.assert_close(losses_of(divergence, x), expected)


def test_draws_are_those_of_reparameterize():
    _, (mu, logvar, code) = program_and_buffers(3, 3, 3)
    Reparameterization(mu, logvar, code, None, seeded()).forward()
    noise = torch.empty(20, 3).normal_(generator=seeded())
    torch.testing.assert_close(code.rows, reparameterize(mu.rows, logvar.rows, noise))


def test_autograd_writes_what_the_closed_form_does():
    seen = []
    network, x = autoencoder("silu"), rows(33, 6)
    loss, gradient = expected(network, ReconstructionLoss(), x, [0.3], 0.3)
    network.encoder.register_forward_hook(lambda *_: seen.append(1))
    vector = flatten_parameters(network)
    compute = batch_gradient(network, ReconstructionLoss(), [0.3], vector, seeded())
    for _ in range(2):  # the second is not added to the first
        torch.testing.assert_close(compute(x, 0.3), loss)
        torch.testing.assert_close(vector.grad, gradient)
    assert len(seen) == 2


def test_a_batch_leaves_nothing_to_the_next():
    network = vae()
    vector = flatten_parameters(network)
    generator = seeded()
    compute = batch_gradient(network, NegativeElbo(), [0.4], vector, generator)
    fresh = batch_gradient(network, NegativeElbo(), [0.4], vector, seeded(3))
    x = rows(30, 6)
    compute(1e3 * rows(30, 6, seed=7), 0.1)
    compute(rows(31, 6), 0.1)
    generator.manual_seed(3)
    losses, gradients = [], []
    for each in (compute, fresh):
        losses.append(each(x, 0.5))
        gradients.append(vector.grad.clone())
    assert torch.equal(*losses)
    assert torch.equal(*gradients)
