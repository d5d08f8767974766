"""Loss and gradient of a batch: in closed form where the network is known, else by autograd.

Training small networks takes less arithmetic than autograd's bookkeeping. Here a pass is a list of
operations, each with its derivative. Their results are in the same memory at every batch, and the
gradients of the parameters are written where the optimizer reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pyod_ae_plugin.engine.objectives import (
    DrawnCodes,
    Inputs,
    NegativeElbo,
    Objective,
    ReconstructionLoss,
    TrimmedMean,
)
from pyod_ae_plugin.engine.pipeline import Fork, Layers, Pipeline, read_pipeline
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.networks.activations import Activation, activation_of
from pyod_ae_plugin.networks.layers import StackedLinear

# ---------------------------------------------------------------------------------------
# Closed form or autograd
# ---------------------------------------------------------------------------------------

BatchGradient = Callable[[Tensor, float], Tensor]
"""Takes standardised rows and the progress of training, from 0 to 1. Overwrites the gradient by
that of the trimmed loss, and returns the loss, in an ensemble the sum over the members."""


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
    """Return the fastest function that computes the gradient of batches.

    ``trim`` and ``compile_mode`` are those of the training's options, and ``vector`` comes from
    ``flatten_parameters``. If ``stacked``, batches have the shape (n_members, n, n_features).
    """
    if compile_mode is not None:
        compiled: Objective = torch.compile(objective, mode=compile_mode)
        return gradient_by_autograd(network, compiled, trim, vector, generator)
    pipeline = read_pipeline(network)
    if (
        vector.device.type == "cpu"
        and pipeline is not None
        and isinstance(objective, (ReconstructionLoss, NegativeElbo))
        and has_closed_form(pipeline, objective, stacked)
    ):
        return _in_closed_form(pipeline, objective, trim, generator)
    return gradient_by_autograd(network, objective, trim, vector, generator)


def has_closed_form(pipeline: Pipeline | None, objective: Objective, stacked: bool) -> bool:
    """Whether the gradient of an objective is known for a network."""
    if pipeline is None:
        return False
    expected = ReconstructionLoss if pipeline.posterior is None else NegativeElbo
    return (
        type(objective) is expected
        and (pipeline.n_members is not None) == stacked
        and pipeline.is_elementwise
        and not pipeline.has_frozen_parameters
        # Only linear layers add to the gradient of an input that they share.
        and all(fork.starts_linear for fork in pipeline.forks)
    )


def gradient_by_autograd(
    network: Network,
    objective: Objective,
    trim: Sequence[float],
    vector: Tensor,
    generator: torch.Generator,
) -> BatchGradient:
    """The gradient of any differentiable objective."""
    means: dict[torch.Size, TrimmedMean] = {}

    def gradient(x: Tensor, progress: float) -> Tensor:
        losses = objective(network, x, progress, generator)
        if losses.shape not in means:
            means[losses.shape] = TrimmedMean(losses, trim)
        loss = means[losses.shape](losses).sum()
        assert vector.grad is not None
        vector.grad.zero_()
        loss.backward()
        return loss.detach()

    return gradient


def _in_closed_form(
    pipeline: Pipeline,
    objective: ReconstructionLoss | NegativeElbo,
    trim: Sequence[float],
    generator: torch.Generator,
) -> BatchGradient:
    """Run a pass made for the shape of the batch; an epoch has at most two shapes."""
    passes: dict[torch.Size, _Pass] = {}

    def gradient(x: Tensor, progress: float) -> Tensor:
        inputs = Inputs.of(x, objective.corrupt, objective.has_gaps, generator)
        if x.shape not in passes:
            passes[x.shape] = _Pass(pipeline, objective, trim, x, generator)
        return passes[x.shape](inputs, progress)

    return gradient


# ---------------------------------------------------------------------------------------
# A forward and a backward pass
# ---------------------------------------------------------------------------------------


class _Pass:
    """Forward and backward pass of batches of one shape."""

    def __init__(
        self,
        pipeline: Pipeline,
        objective: ReconstructionLoss | NegativeElbo,
        trim: Sequence[float],
        batch: Tensor,
        generator: torch.Generator,
    ) -> None:
        self._program = program = Program(batch)
        self._losses = torch.empty_like(batch[..., 0])
        self._flat_losses = self._losses.view(-1)
        self._mean = TrimmedMean(self._losses, trim)
        self._weights = torch.zeros_like(self._losses)
        weights = self._weights.unsqueeze(-1)
        terms, scale = _loss_terms(pipeline, objective, program, weights, generator)
        self._constant = sum(term.constant for term in terms)
        self._mean_weights = scale * self._mean.weights
        self._flat_mean_weights = self._mean_weights.view(-1)
        if not self._mean.leaves_out:
            self._weights.copy_(self._mean_weights)
        self._forward = [operation.forward for operation in program.operations]
        self._add = [term.forward for term in terms]
        self._backward = [term.backward for term in terms]
        self._backward += [operation.backward for operation in reversed(program.operations)]

    def __call__(self, inputs: Inputs, progress: float) -> Tensor:
        self._program.source.rows, self._program.known = inputs.source, inputs.known
        for forward in self._forward:
            forward()
        losses = self._flat_losses.fill_(self._constant)
        for add in self._add:
            add(inputs.target, progress, losses)
        if self._mean.leaves_out:
            lowest, indices = self._mean.lowest(self._losses)
            self._weights.zero_().scatter_(-1, indices, self._mean_weights)
            losses = lowest.view(-1)
        for backward in self._backward:
            backward()
        return torch.dot(losses, self._flat_mean_weights)


def _loss_terms(
    pipeline: Pipeline,
    objective: ReconstructionLoss | NegativeElbo,
    program: Program,
    weights: Tensor,
    generator: torch.Generator,
) -> tuple[list[Term], float]:
    """The terms of the loss, and the factor of their sum."""
    h = program.append(pipeline.encoder, program.source)
    hides_gaps = objective.has_gaps
    if isinstance(objective, ReconstructionLoss):
        if objective.learn_variance:
            density = _density_term(pipeline, program, h, weights, None, hides_gaps)
            return [density], 1 / program.source.width
        mean = program.append(pipeline.decoding, h)
        if hides_gaps:
            program.operations.append(HideGaps(program, mean))
        return [SquaredError(mean, weights)], 2 / program.source.width
    assert pipeline.posterior is not None
    mu, logvar = _append_fork(pipeline.posterior, program, h)
    code, drawn = program.new_buffer(mu.width), objective.drawn
    if drawn is not None:
        drawn = drawn.to(mu.rows.device)
    program.operations.append(Reparameterization(mu, logvar, code, drawn, generator))
    density = _density_term(pipeline, program, code, weights, drawn, hides_gaps)
    return [density, Divergence(mu, logvar, weights, objective)], 1.0


def _density_term(
    pipeline: Pipeline,
    program: Program,
    code: Buffer,
    weights: Tensor,
    drawn: DrawnCodes | None,
    hides_gaps: bool,
) -> Term:
    """The negative log density of rows; the variance is 1 where the decoder learned none."""
    h = program.append(pipeline.decoder, code)
    moments = (h,) if pipeline.output is None else _append_fork(pipeline.output, program, h)
    if hides_gaps:
        program.operations.append(HideGaps(program, *moments))
    if len(moments) == 1:
        return SquaredError(*moments, weights, _normal_constant(h.width))
    return GaussianError(*moments, weights, drawn)


def _append_fork(fork: Fork, program: Program, h: Buffer) -> tuple[Buffer, Buffer]:
    """Mean and log variance of a fork."""
    mean = program.append(fork.mean, h)
    clip: Layers = () if fork.clip is None else (nn.Hardtanh(*fork.clip),)
    return mean, program.append(fork.logvar + clip, h)


# ---------------------------------------------------------------------------------------
# Layers as operations
# ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class Buffer:
    """The rows [*members, n, width] that one operation writes and others read."""

    rows: Tensor
    grad: Tensor  # of the loss of the batch
    needs_grad: bool = True  # whether the rows depend on parameters
    last_reader: Operation | None = None  # the first to write the gradient of the rows

    @property
    def width(self) -> int:
        return self.rows.shape[-1]


class Operation(Protocol):
    """A step of the forward pass and its derivative."""

    def forward(self) -> None:
        """Write the rows of the result."""

    def backward(self) -> None:
        """Write the gradients of the parameters and of the source."""


class Program:
    """The operations on batches like a given one, in the order of the forward pass."""

    def __init__(self, batch: Tensor) -> None:
        self.source = Buffer(batch, batch, needs_grad=False)  # its rows are set at each batch
        self.known: Tensor | None = None  # set at each batch: 1 for values, 0 for gaps
        self.operations: list[Operation] = []

    def new_buffer(self, width: int) -> Buffer:
        """Memory for rows of a width."""
        rows = self.source.rows.new_empty(*self.source.rows.shape[:-1], width)
        return Buffer(rows, torch.empty_like(rows))

    def append(self, layers: Iterable[nn.Module], source: Buffer) -> Buffer:
        """Append the operations of linear and elementwise layers, and return their result."""
        overwritable = False
        for layer in layers:
            activation = activation_of(layer)
            if isinstance(layer, StackedLinear):
                result = self.new_buffer(layer.weight.shape[-1])
                self.operations.append(StackedAffine(layer, source, result))
            elif isinstance(layer, nn.Linear):
                result = self.new_buffer(layer.out_features)
                self.operations.append(Affine(layer, source, result))
            else:
                assert activation is not None
                result = source
                # No other operation reads the result of the linear layer before this one.
                if not (overwritable and activation.saved == "result"):
                    # The gradient of the source overwrites that of the result.
                    result = Buffer(torch.empty_like(source.rows), source.grad, source.needs_grad)
                self.operations.append(Elementwise(activation, layer, source, result))
            overwritable = activation is None
            source = result
        return source


class Affine:
    """The operation of :class:`torch.nn.Linear`."""

    def __init__(self, layer: nn.Linear, source: Buffer, result: Buffer) -> None:
        self._source, self._result = source, result
        self._weight, self._bias = layer.weight.detach(), layer.bias.detach()
        self._weight_t, self._grad_t = self._weight.t(), result.grad.t()
        self._weight_grad, self._bias_grad = layer.weight.grad, layer.bias.grad
        self._ones = result.grad.new_ones(len(result.grad))
        source.last_reader = self

    def forward(self) -> None:
        torch.addmm(self._bias, self._source.rows, self._weight_t, out=self._result.rows)

    def backward(self) -> None:
        source, grad = self._source, self._result.grad
        torch.mm(self._grad_t, source.rows, out=self._weight_grad)
        torch.mv(self._grad_t, self._ones, out=self._bias_grad)
        if not source.needs_grad:
            return
        if source.last_reader is self:
            torch.mm(grad, self._weight, out=source.grad)
        else:
            source.grad.addmm_(grad, self._weight)


class StackedAffine:
    """The operation of :class:`~pyod_ae_plugin.networks.layers.StackedLinear`."""

    def __init__(self, layer: StackedLinear, source: Buffer, result: Buffer) -> None:
        self._source, self._result = source, result
        self._weight, self._bias = layer.weight.detach(), layer.bias.detach()
        self._weight_t = self._weight.mT
        self._weight_grad, self._bias_grad = layer.weight.grad, layer.bias.grad
        source.last_reader = self

    def forward(self) -> None:
        torch.baddbmm(self._bias, self._source.rows, self._weight, out=self._result.rows)

    def backward(self) -> None:
        source, grad = self._source, self._result.grad
        torch.bmm(source.rows.mT, grad, out=self._weight_grad)
        torch.sum(grad, 1, keepdim=True, out=self._bias_grad)
        if not source.needs_grad:
            return
        if source.last_reader is self:
            torch.bmm(grad, self._weight_t, out=source.grad)
        else:
            source.grad.baddbmm_(grad, self._weight_t)


class Elementwise:
    """The operation of an elementwise activation."""

    def __init__(
        self, activation: Activation, layer: nn.Module, source: Buffer, result: Buffer
    ) -> None:
        self._out, self._derivative = activation.functions_of(layer)
        self._source, self._result = source, result
        self._saved = result if activation.saved == "result" else source
        source.last_reader = self

    def forward(self) -> None:
        self._out(self._source.rows, out=self._result.rows)

    def backward(self) -> None:
        if self._source.needs_grad:
            self._derivative(self._result.grad, self._saved.rows, grad_input=self._source.grad)


class HideGaps:
    """The operation that sets the decoder's values for gaps to 0."""

    def __init__(self, program: Program, *buffers: Buffer) -> None:
        self._program, self._buffers = program, buffers

    def forward(self) -> None:
        assert self._program.known is not None
        for buffer in self._buffers:
            buffer.rows.mul_(self._program.known)

    def backward(self) -> None:
        assert self._program.known is not None
        for buffer in self._buffers:
            buffer.grad.mul_(self._program.known)


class Reparameterization:
    """The operation ``reparameterize`` of new noise; adds to the gradients of ``Divergence``."""

    def __init__(
        self,
        mu: Buffer,
        logvar: Buffer,
        result: Buffer,
        drawn: DrawnCodes | None,
        generator: torch.Generator,
    ) -> None:
        self._mu, self._logvar, self._result = mu, logvar, result
        self._drawn, self._generator = drawn, generator
        self._offset = torch.empty_like(mu.rows)

    def forward(self) -> None:
        noise = self._offset.normal_(generator=self._generator)
        if self._drawn is not None:
            noise.mul_(self._drawn.dimensions)
        sigma = torch.mul(self._logvar.rows, 0.5, out=self._result.rows).exp_()
        torch.add(self._mu.rows, noise.mul_(sigma), out=self._result.rows)

    def backward(self) -> None:
        self._mu.grad.add_(self._result.grad)
        self._logvar.grad.addcmul_(self._result.grad, self._offset, value=0.5)


# ---------------------------------------------------------------------------------------
# Terms of the loss
#
# ``weights``, of shape (*members, n, 1), are the rows' weights in the loss of the batch. They are
# written between the forward and the backward pass.
# ---------------------------------------------------------------------------------------


class Term(Protocol):
    """A term of the loss of each row."""

    constant: float  # constant part of the term, which forward() leaves out

    def forward(self, x: Tensor, progress: float, losses: Tensor) -> None:
        """Add the terms of rows [*members, n, n_features] to losses [*members * n]."""

    def backward(self) -> None:
        """Write the gradients of the buffers that the term reads."""


class SquaredError:
    """Half the squared distance of a row from its reconstruction.

    With the right constant, that is the negative ``log_density`` with a variance of 1.
    """

    def __init__(self, mean: Buffer, weights: Tensor, constant: float = 0.0) -> None:
        self._mean, self._weights, self.constant = mean, weights, constant
        self._residual, self._squares = torch.empty_like(mean.rows), torch.empty_like(mean.rows)
        self._flat_squares = self._squares.flatten(0, -2)
        self._half = weights.new_full((mean.width,), 0.5)

    def forward(self, x: Tensor, progress: float, losses: Tensor) -> None:
        residual = torch.sub(self._mean.rows, x, out=self._residual)
        torch.mul(residual, residual, out=self._squares)
        losses.addmv_(self._flat_squares, self._half)

    def backward(self) -> None:
        torch.mul(self._residual, self._weights, out=self._mean.grad)


class GaussianError:
    """The negative ``log_density`` of a row; the log variances of plain members are 0."""

    def __init__(
        self, mean: Buffer, logvar: Buffer, weights: Tensor, drawn: DrawnCodes | None
    ) -> None:
        self._mean, self._logvar, self._weights = mean, logvar, weights
        self._drawn = drawn
        self._weighted, self._squares = torch.empty_like(mean.rows), torch.empty_like(mean.rows)
        self._doubled = torch.empty_like(mean.rows)
        self._flat_doubled = self._doubled.flatten(0, -2)
        self._half = weights.new_full((mean.width,), 0.5)
        self.constant = _normal_constant(mean.width)

    def forward(self, x: Tensor, progress: float, losses: Tensor) -> None:
        logvar = self._logvar.rows
        residual = torch.sub(self._mean.rows, x, out=self._squares)
        weighted = torch.neg(logvar, out=self._weighted).exp_().mul_(residual)
        torch.add(residual.mul_(weighted), logvar, out=self._doubled)
        losses.addmv_(self._flat_doubled, self._half)

    def backward(self) -> None:
        torch.mul(self._weighted, self._weights, out=self._mean.grad)
        half = self._weights * 0.5
        if self._drawn is not None:
            half *= self._drawn.members
        torch.addcmul(half, self._squares, half, value=-1, out=self._logvar.grad)


class Divergence:
    """The KL term of :class:`~pyod_ae_plugin.engine.objectives.NegativeElbo`."""

    constant = 0.0

    def __init__(
        self, mu: Buffer, logvar: Buffer, weights: Tensor, objective: NegativeElbo
    ) -> None:
        self._mu, self._logvar, self._weights = mu, logvar, weights
        self._kl_weight, self._capacity = objective.kl_weight, objective.capacity
        self._beta, self._drawn = objective.beta, objective.drawn
        self._excess, self._doubled = torch.empty_like(mu.rows), torch.empty_like(mu.rows)
        self._half = weights.new_full((mu.width,), 0.5)
        self._sign = torch.empty_like(weights)

    def forward(self, x: Tensor, progress: float, losses: Tensor) -> None:
        self._beta = self._kl_weight(progress)
        mu, logvar = self._mu.rows, self._logvar.rows
        excess = torch.expm1(logvar, out=self._excess)  # of the variance over the prior's
        doubled = torch.sub(excess, logvar, out=self._doubled).addcmul_(mu, mu)
        if self._drawn is not None:
            doubled.mul_(self._drawn.dimensions)
        doubled = doubled.flatten(0, -2)
        if self._capacity is None:
            losses.addmv_(doubled, self._half, alpha=self._beta)
        else:
            distance = torch.mv(doubled, self._half).sub_(self._capacity * progress)
            torch.sign(distance, out=self._sign.view(-1))
            losses.add_(distance.abs_(), alpha=self._beta)

    def backward(self) -> None:
        weights = self._weights * self._beta
        if self._capacity is not None:
            weights *= self._sign
        if self._drawn is not None:
            weights = weights * self._drawn.dimensions
        torch.mul(self._mu.rows, weights, out=self._mu.grad)
        torch.mul(self._excess, weights, out=self._logvar.grad).mul_(0.5)


def _normal_constant(width: int) -> float:
    """Negative log density of a row at its mean, with variances of 1, in nats."""
    return 0.5 * width * math.log(2 * math.pi)
