"""Which networks are known, and to whom: closed form, recording, folded scoring, fused kernel."""

import pytest
import torch
from torch import nn

from pyod_ae_plugin.engine.closed_form import has_closed_form
from pyod_ae_plugin.engine.cuda.fused import kernel_path
from pyod_ae_plugin.engine.cuda.graphs import can_be_recorded
from pyod_ae_plugin.engine.folded import can_be_folded
from pyod_ae_plugin.engine.objectives import NegativeElbo, ReconstructionLoss
from pyod_ae_plugin.engine.pipeline import read_pipeline, read_scoring
from pyod_ae_plugin.engine.rows import ResidentBatches
from pyod_ae_plugin.networks import (
    AutoEncoderNetwork,
    VariationalNetwork,
    mlp,
    stacked_mlp,
    variational_mlp,
)
from pyod_ae_plugin.networks.layers import GaussianOutput, StackedLinear
from pyod_ae_plugin.scoring import CombinedHead, Euclidean, ScoringModule, Standardize


def seeded():
    return torch.Generator().manual_seed(0)


def autoencoder(activation="tanh", widths=(8, 5, 2), batch_norm=False, dropout=0.0, **options):
    return mlp(6, widths, activation, batch_norm, dropout, seeded(), **options)


def vae(learn_variance=True, output="identity"):
    return variational_mlp(
        6, [8, 5], [7, 4], 3, "silu", output, False, 0.0, (-30.0, 20.0), seeded(), learn_variance
    )


def stacked():
    return stacked_mlp(6, [8, 3], [2, 3], None, "relu", seeded())


def altered(change, network=None):
    network = network or autoencoder()
    change(network)
    return network


def with_layers(*layers):
    return AutoEncoderNetwork(nn.Sequential(*layers), nn.Linear(6, 6))


def tied():
    network = autoencoder(widths=[6])
    network.decoder[0].weight = network.encoder[0].weight
    return network


def used_twice():
    layer = nn.Linear(6, 6)
    return AutoEncoderNetwork(layer, nn.Sequential(nn.Tanh(), layer))


class Subclass(AutoEncoderNetwork):
    def encode(self, x):
        return super().encode(x) + 1


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


class Sine(nn.Module):
    def forward(self, x):
        return x.sin()


def nothing(*_):
    """A hook."""


CLOSED_FORM, RECORDED, FOLDED, FUSED = "closed form", "recorded", "folded", "fused"
ALL, NOBODY = {CLOSED_FORM, RECORDED, FOLDED, FUSED}, set()

# Networks, and who may take the fast path.
NETWORKS = {
    "autoencoder": (autoencoder, ALL),
    "learned variance": (lambda: autoencoder(learn_variance=True), ALL),
    "vae": (vae, ALL),
    "vae with a variance of 1": (lambda: vae(learn_variance=False), ALL),
    "nested": (lambda: with_layers(nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Identity()), ALL),
    "shared activation": (
        lambda: with_layers(nn.Linear(6, 6), a := nn.ReLU(), nn.Linear(6, 6), a),
        ALL,
    ),
    # Folded scoring needs a linear layer at the end.
    "output activation": (lambda: vae(output="sigmoid"), ALL - {FOLDED}),
    # The members of a stack are scored by the kernel, not by folded layers.
    "stacked": (stacked, ALL - {FOLDED}),
    # Frozen parameters matter to training in closed form only.
    "frozen": (
        lambda: altered(lambda n: n.encoder[0].bias.requires_grad_(False)),
        ALL - {CLOSED_FORM},
    ),
    # What is not elementwise is called as it is by folded scoring and by a recorded step.
    "softmax": (lambda: autoencoder("softmax"), {RECORDED, FOLDED}),
    "batch norm": (lambda: autoencoder(batch_norm=True), {RECORDED, FOLDED}),
    "dropout": (lambda: autoencoder(dropout=0.2), {RECORDED, FOLDED}),
    # The kernel takes activations with their usual settings, one after each linear layer.
    "another slope": (lambda: with_layers(nn.Linear(6, 6), nn.LeakyReLU(0.3)), ALL - {FUSED}),
    "two activations": (lambda: with_layers(nn.Linear(6, 6), nn.ReLU(), nn.Tanh()), ALL - {FUSED}),
    "activation first": (lambda: with_layers(nn.Tanh(), nn.Linear(6, 6)), {CLOSED_FORM, RECORDED}),
    "no layers": (
        lambda: AutoEncoderNetwork(nn.Identity(), nn.Linear(6, 6)),
        {CLOSED_FORM, RECORDED},
    ),
    # A fork's branches must add gradients in closed form.
    "activation after a fork": (
        lambda: altered(
            lambda n: setattr(n, "logvar", nn.Sequential(nn.Tanh(), nn.Linear(5, 3))), vae()
        ),
        ALL - {CLOSED_FORM},
    ),
    "subclass": (lambda: Subclass(nn.Linear(6, 2), nn.Linear(2, 6)), NOBODY),
    "sequence": (lambda: AutoEncoderNetwork(Doubled(nn.Linear(6, 2)), nn.Linear(2, 6)), NOBODY),
    "layer": (lambda: with_layers(nn.Linear(6, 6), Sine()), NOBODY),
    "torch's dropout": (lambda: with_layers(nn.Linear(6, 6), nn.Dropout()), NOBODY),
    "no bias": (lambda: AutoEncoderNetwork(nn.Linear(6, 2, bias=False), nn.Linear(2, 6)), NOBODY),
    "tied": (tied, NOBODY),
    "layer used twice": (used_twice, NOBODY),
    "fork inside of a decoder": (
        lambda: AutoEncoderNetwork(
            nn.Linear(6, 2),
            nn.Sequential(GaussianOutput(nn.Linear(2, 6), nn.Linear(2, 6)), nn.Linear(6, 6)),
        ),
        NOBODY,
    ),
    "forward hook": (
        lambda: altered(lambda n: n.encoder[0].register_forward_hook(nothing)),
        NOBODY,
    ),
    "forward pre-hook": (
        lambda: altered(lambda n: n.decoder.register_forward_pre_hook(nothing)),
        NOBODY,
    ),
    "backward hook": (lambda: altered(lambda n: n.register_full_backward_hook(nothing)), NOBODY),
    "backward pre-hook": (
        lambda: altered(lambda n: n.encoder[1].register_full_backward_pre_hook(nothing)),
        NOBODY,
    ),
    "hook of a parameter": (
        lambda: altered(lambda n: n.decoder[0].weight.register_hook(nothing)),
        NOBODY,
    ),
    "hook after accumulation": (
        lambda: altered(lambda n: n.decoder[0].bias.register_post_accumulate_grad_hook(nothing)),
        NOBODY,
    ),
    "hook of an identity": (
        lambda: altered(
            lambda n: n.encoder[1].register_forward_hook(nothing),
            with_layers(nn.Linear(6, 6), nn.Identity()),
        ),
        NOBODY,
    ),
    "hook of an output": (
        lambda: altered(
            lambda n: n.decoder[-1].register_forward_hook(nothing), autoencoder(learn_variance=True)
        ),
        NOBODY,
    ),
    "parametrized": (
        lambda: altered(lambda n: nn.utils.parametrizations.weight_norm(n.encoder[0])),
        NOBODY,
    ),
    "replaced forward": (
        lambda: altered(lambda n: setattr(n.encoder[1], "forward", torch.sin)),
        NOBODY,
    ),
    "replaced encode": (lambda: altered(lambda n: setattr(n, "encode", n.encode)), NOBODY),
}


def is_stacked(network):
    return any(isinstance(module, StackedLinear) for module in network.modules())


def scoring_module(network):
    head = CombinedHead(Euclidean(6), 2, "average") if is_stacked(network) else Euclidean(6)
    return ScoringModule(Standardize(6), network, head).eval()


def known_to(network):
    """Who takes the fast path for a network."""
    pipeline = read_pipeline(network)
    objective = NegativeElbo() if isinstance(network, VariationalNetwork) else ReconstructionLoss()
    module = scoring_module(network)
    decisions = {
        CLOSED_FORM: has_closed_form(pipeline, objective, is_stacked(network)),
        RECORDED: can_be_recorded(pipeline, ResidentBatches(torch.zeros(3, 6))),
        FOLDED: can_be_folded(read_scoring(module), module),
        FUSED: kernel_path(module) is not None,
    }
    return {consumer for consumer, decision in decisions.items() if decision}


@pytest.mark.parametrize("case", NETWORKS)
def test_who_takes_the_fast_path(case):
    make, expected = NETWORKS[case]
    assert known_to(make()) == expected


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_full_backward_pre_hook,
    ],
)
def test_hooks_for_all_modules(register):
    hook = register(nothing)
    try:
        assert known_to(autoencoder()) == NOBODY
    finally:
        hook.remove()
    assert known_to(autoencoder()) == ALL


@pytest.mark.parametrize("part", ["", "standardize", "head"])
def test_hooks_on_other_parts_of_a_scoring_module(part):
    module = scoring_module(autoencoder())
    assert read_scoring(module) is not None
    hook = module.get_submodule(part).register_forward_hook(nothing)
    assert read_scoring(module) is None
    assert kernel_path(module) is None
    hook.remove()
    assert read_scoring(module) is not None


def test_a_score_head_with_a_replaced_method():
    module = scoring_module(autoencoder())
    module.head.score = lambda network, z: -z.sum(-1)
    assert read_scoring(module) is None


def test_a_scoring_module_of_another_class():
    class Other(ScoringModule):
        def forward(self, x):
            return -super().forward(x)

    assert read_scoring(Other(Standardize(6), autoencoder(), Euclidean(6))) is None


def test_what_a_pipeline_says():
    network = vae()
    pipeline = read_pipeline(network)
    *hidden, output = network.decoder
    assert pipeline.encoding == (*network.encoder, network.mu)
    assert pipeline.decoding == (*hidden, output.mean)
    assert pipeline.posterior.logvar == (network.logvar,)
    assert pipeline.posterior.clip == (-30.0, 20.0)
    assert pipeline.output.logvar == (output.logvar,)
    assert pipeline.output.clip == GaussianOutput.CLIP
    assert pipeline.n_members is None
    assert read_pipeline(stacked()).n_members == 2
