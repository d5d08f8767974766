"""Loss and gradient of a batch, in closed form where that is known, else by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyod_ae_plugin.engine.backprop import KNOWN_LAYERS, Tape, Value
from pyod_ae_plugin.engine.objectives import NegativeElbo, Objective, ReconstructionLoss
from pyod_ae_plugin.engine.terms import (
    Divergence,
    GaussianError,
    Reparameterization,
    SquaredError,
    Term,
    normal_constant,
)
from pyod_ae_plugin.engine.trimming import TrimmedMean
from pyod_ae_plugin.networks import AutoEncoderNetwork, Network, VariationalNetwork
from pyod_ae_plugin.networks.layers import GaussianOutput, StackedLinear, as_layers

BatchGradient = Callable[[Tensor, float], Tensor]
"""Writes the gradient of the trimmed loss of standardised rows, at a point of training from 0 to
1, over that of the batch before. Returns the loss, in an ensemble the sum of the members'."""


def batch_gradient(
    network: Network,
    objective: Objective,
    trim: Sequence[float],
    vector: Tensor,
    generator: torch.Generator,
    *,
    stacked: bool = False,
    compile_mode: str | None = None,
) -> BatchGradient:
    """Return what computes the gradient of batches fastest.

    Parameters
    ----------
    network : torch.nn.Module
    objective : Objective
    trim : sequence of float
        Share of the highest-loss rows of a batch that have no part in the gradient; one for each
        member of an ensemble.
    vector : Tensor of shape (n_parameters,)
        What :func:`~pyod_ae_plugin.engine.optimizers.flatten_parameters` made of the network.
    generator : torch.Generator
        Feeds whatever the objective draws.
    stacked : bool, default=False
        Whether batches have the shape (n_members, n, n_features).
    compile_mode : str or None, default=None
        Mode of :func:`torch.compile`, which needs autograd; None does not compile.
    """
    if compile_mode is not None:
        compiled: Objective = torch.compile(objective, mode=compile_mode)
        return _ByAutograd(network, compiled, trim, vector, generator)
    if vector.device.type == "cpu" and is_known(network, objective, stacked):
        return _InClosedForm(network, objective, trim, generator)
    return _ByAutograd(network, objective, trim, vector, generator)


def is_known(network: Network, objective: Objective, stacked: bool) -> bool:
    """Whether all that the gradient hangs on is known, and nothing hooked in."""
    if (type(network), type(objective)) not in _KNOWN_PAIRS:
        return False
    modules = [*network.modules()]
    linear = [m for m in modules if isinstance(m, (nn.Linear, StackedLinear))]
    forks = [m for m in modules if isinstance(m, (VariationalNetwork, GaussianOutput))]
    parameters = [*network.parameters()]
    return (
        all(type(m) in _KNOWN_MODULES for m in modules)
        and all(m.bias is not None and isinstance(m, StackedLinear) == stacked for m in linear)
        and all(map(_forks_to_linear, forks))
        and all(p.requires_grad for p in parameters)
        and len(parameters) == len([*network.named_parameters(remove_duplicate=False)])
        and not any(map(_is_hooked, (*modules, *parameters)))
    )


_KNOWN_PAIRS = {(AutoEncoderNetwork, ReconstructionLoss), (VariationalNetwork, NegativeElbo)}
_KNOWN_MODULES = {
    AutoEncoderNetwork,
    VariationalNetwork,
    nn.Sequential,
    GaussianOutput,
    *KNOWN_LAYERS,
}
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_post_accumulate_grad_hooks",
)


def _forks_to_linear(fork: VariationalNetwork | GaussianOutput) -> bool:
    """Whether both modules that are given the same rows begin with a layer that adds gradients."""
    first = fork.mu if isinstance(fork, VariationalNetwork) else fork.mean
    heads = (as_layers(first), as_layers(fork.logvar))
    return all(head and isinstance(head[0], (nn.Linear, StackedLinear)) for head in heads)


def _is_hooked(what: nn.Module | nn.Parameter) -> bool:
    return any(getattr(what, hooks, None) for hooks in _HOOKS)


class _ByAutograd:
    """Works for whatever can be differentiated."""

    def __init__(
        self,
        network: Network,
        objective: Objective,
        trim: Sequence[float],
        vector: Tensor,
        generator: torch.Generator,
    ) -> None:
        self._network, self._objective, self._generator = network, objective, generator
        self._trim, self._vector = trim, vector
        self._means: dict[torch.Size, TrimmedMean] = {}

    def __call__(self, x: Tensor, progress: float) -> Tensor:
        losses = self._objective(self._network, x, progress, self._generator)
        if losses.shape not in self._means:
            self._means[losses.shape] = TrimmedMean(losses, self._trim)
        loss = self._means[losses.shape](losses).sum()
        assert self._vector.grad is not None
        self._vector.grad.zero_()
        loss.backward()
        return loss.detach()


class _InClosedForm:
    """Runs a plan made for the shape of the batch, of which an epoch has two at most."""

    def __init__(
        self,
        network: Network,
        objective: Any,
        trim: Sequence[float],
        generator: torch.Generator,
    ) -> None:
        self._network, self._objective, self._generator = network, objective, generator
        self._trim = trim
        self._plans: dict[torch.Size, _Plan] = {}

    def __call__(self, x: Tensor, progress: float) -> Tensor:
        corrupt = self._objective.corrupt
        given = x if corrupt is None else corrupt(x, self._generator)
        plan = self._plans.get(x.shape)
        if plan is None:
            plan = _Plan(self._network, self._objective, self._trim, x, self._generator)
            self._plans[x.shape] = plan
        return plan(x, given, progress)


class _Plan:
    """Forward and backward pass of batches of one shape."""

    def __init__(
        self,
        network: Network,
        objective: Any,
        trim: Sequence[float],
        batch: Tensor,
        generator: torch.Generator,
    ) -> None:
        self._tape = tape = Tape(batch)
        self._losses = torch.empty_like(batch[..., 0])
        self._flat_losses = self._losses.view(-1)
        self._mean = TrimmedMean(self._losses, trim)
        self._weights = torch.zeros_like(self._losses)
        weights = self._weights.unsqueeze(-1)
        terms: list[Term]
        if isinstance(objective, NegativeElbo):
            terms, scale = _elbo_terms(network, objective, tape, weights, generator), 1.0
        else:
            terms, scale = _reconstruction_terms(network, objective, tape, weights)
        self._constant = sum(term.constant for term in terms)
        self._mean_weights = scale * self._mean.weights
        self._flat_mean_weights = self._mean_weights.view(-1)
        if not self._mean.leaves_out:
            self._weights.copy_(self._mean_weights)
        self._forward = [step.forward for step in tape.operations]
        self._add = [term.forward for term in terms]
        self._backward = [term.backward for term in terms]
        self._backward += [step.backward for step in reversed(tape.operations)]

    def __call__(self, x: Tensor, given: Tensor, progress: float) -> Tensor:
        self._tape.given.rows = given
        for forward in self._forward:
            forward()
        losses = self._flat_losses.fill_(self._constant)
        for add in self._add:
            add(x, progress, losses)
        if self._mean.leaves_out:
            lowest, indices = self._mean.lowest(self._losses)
            self._weights.zero_().scatter_(-1, indices, self._mean_weights)
            losses = lowest.view(-1)
        for backward in self._backward:
            backward()
        return torch.dot(losses, self._flat_mean_weights)


def _reconstruction_terms(
    network: AutoEncoderNetwork, objective: ReconstructionLoss, tape: Tape, weights: Tensor
) -> tuple[list[Term], float]:
    """The terms of the loss, and by what their sum is multiplied."""
    code = tape.through(as_layers(network.encoder), tape.given)
    if objective.learn_variance:
        return [_likelihood_term(network.decoder, tape, code, weights)], 1 / tape.given.width
    mean = tape.through(as_layers(network.decoder), code)
    return [SquaredError(mean, weights)], 2 / tape.given.width


def _elbo_terms(
    network: VariationalNetwork,
    objective: NegativeElbo,
    tape: Tape,
    weights: Tensor,
    generator: torch.Generator,
) -> list[Term]:
    h = tape.through(as_layers(network.encoder), tape.given)
    mu = tape.through(as_layers(network.mu), h)
    clip = [] if network.logvar_clip is None else [nn.Hardtanh(*network.logvar_clip)]
    logvar = tape.through([*as_layers(network.logvar), *clip], h)
    code = tape.value(mu.width)
    tape.operations.append(Reparameterization(mu, logvar, code, generator))
    return [
        _likelihood_term(network.decoder, tape, code, weights),
        Divergence(mu, logvar, weights, objective),
    ]


def _likelihood_term(decoder: nn.Module, tape: Tape, code: Value, weights: Tensor) -> Term:
    """Negative log density under :func:`~pyod_ae_plugin.networks.layers.output_distribution`."""
    *hidden, output = decoder if isinstance(decoder, nn.Sequential) else [decoder]
    h = tape.through(as_layers(nn.Sequential(*hidden)), code)
    mean = tape.through(as_layers(output), h)
    if isinstance(output, GaussianOutput):
        clip = nn.Hardtanh(*GaussianOutput.CLIP)
        logvar = tape.through([*as_layers(output.logvar), clip], h)
        return GaussianError(mean, logvar, weights)
    return SquaredError(mean, weights, normal_constant(mean.width))
