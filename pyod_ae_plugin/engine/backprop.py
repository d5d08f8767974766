"""Forward and backward passes of fully connected layers, in memory that is laid out once.

Training small networks takes less arithmetic than autograd's bookkeeping. Here the operations of
a pass stand in a list, each with its derivative; what they hand on lies in the same memory at
every batch, and the derivatives of the parameters are written where the optimizer reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks.layers import Linear, StackedLinear

aten: Any = torch.ops.aten


class Value:
    """Rows that one operation hands to others.

    Attributes
    ----------
    rows : Tensor of shape (*members, n, width)
        The rows of the batch.
    grad : Tensor of shape (*members, n, width)
        The derivative of the loss of the batch.
    needs_grad : bool
        Whether parameters had a part in the rows; else the gradient is left out.
    last_user : Operation or None
        The last operation that is given the value, and so the first in the backward pass.
    """

    def __init__(self, rows: Tensor, grad: Tensor, needs_grad: bool = True) -> None:
        self.rows, self.grad, self.needs_grad = rows, grad, needs_grad
        self.last_user: Operation | None = None

    @property
    def width(self) -> int:
        return self.rows.shape[-1]


class Operation(Protocol):
    """A step of the forward pass and its derivative."""

    def forward(self) -> None:
        """Fill the rows of what the operation returns."""

    def backward(self) -> None:
        """Fill the gradients of parameters and of what the operation was given."""


class Affine:
    """What :class:`torch.nn.Linear` does."""

    def __init__(self, layer: nn.Linear, given: Value, result: Value) -> None:
        self._given, self._result = given, result
        self._weight, self._bias = layer.weight.detach(), layer.bias.detach()
        self._weight_t, self._grad_t = self._weight.t(), result.grad.t()
        self._weight_grad, self._bias_grad = layer.weight.grad, layer.bias.grad
        self._ones = result.grad.new_ones(len(result.grad))
        given.last_user = self

    def forward(self) -> None:
        torch.addmm(self._bias, self._given.rows, self._weight_t, out=self._result.rows)

    def backward(self) -> None:
        given, grad = self._given, self._result.grad
        torch.mm(self._grad_t, given.rows, out=self._weight_grad)
        torch.mv(self._grad_t, self._ones, out=self._bias_grad)
        if not given.needs_grad:
            return
        if given.last_user is self:
            torch.mm(grad, self._weight, out=given.grad)
        else:
            given.grad.addmm_(grad, self._weight)


class StackedAffine:
    """What :class:`~pyod_ae_plugin.networks.layers.StackedLinear` does."""

    def __init__(self, layer: StackedLinear, given: Value, result: Value) -> None:
        self._given, self._result = given, result
        self._weight, self._bias = layer.weight.detach(), layer.bias.detach()
        self._weight_t = self._weight.mT
        self._weight_grad, self._bias_grad = layer.weight.grad, layer.bias.grad
        given.last_user = self

    def forward(self) -> None:
        torch.baddbmm(self._bias, self._given.rows, self._weight, out=self._result.rows)

    def backward(self) -> None:
        given, grad = self._given, self._result.grad
        torch.bmm(given.rows.mT, grad, out=self._weight_grad)
        torch.sum(grad, 1, keepdim=True, out=self._bias_grad)
        if not given.needs_grad:
            return
        if given.last_user is self:
            torch.bmm(grad, self._weight_t, out=given.grad)
        else:
            given.grad.baddbmm_(grad, self._weight_t)


class Elementwise(NamedTuple):
    """An activation ``function(x, out=)`` and its ``derivative(grad, witness, grad_input=)``.

    The witness is what the function returned, if ``of_result``, or else what it was given.
    """

    function: Callable[..., Tensor]
    derivative: Callable[..., Tensor]
    of_result: bool = False


_elu_backward = aten.elu_backward.grad_input
_ELEMENTWISE: dict[type[nn.Module], Callable[[Any], Elementwise]] = {
    nn.ELU: lambda layer: Elementwise(
        partial(aten.elu.out, alpha=layer.alpha),
        lambda grad, x, grad_input: _elu_backward(
            grad, layer.alpha, 1, 1, False, x, grad_input=grad_input
        ),
    ),
    nn.GELU: lambda layer: Elementwise(
        partial(aten.gelu.out, approximate=layer.approximate),
        partial(aten.gelu_backward.grad_input, approximate=layer.approximate),
    ),
    nn.Hardtanh: lambda layer: Elementwise(
        partial(torch.clamp, min=layer.min_val, max=layer.max_val),
        partial(aten.hardtanh_backward.grad_input, min_val=layer.min_val, max_val=layer.max_val),
        of_result=True,
    ),
    nn.LeakyReLU: lambda layer: Elementwise(
        partial(aten.leaky_relu.out, negative_slope=layer.negative_slope),
        partial(
            aten.leaky_relu_backward.grad_input,
            negative_slope=layer.negative_slope,
            self_is_result=False,
        ),
    ),
    nn.ReLU: lambda layer: Elementwise(
        partial(torch.clamp_min, min=0),
        partial(aten.threshold_backward.grad_input, threshold=0),
        of_result=True,
    ),
    nn.Sigmoid: lambda layer: Elementwise(
        torch.sigmoid, aten.sigmoid_backward.grad_input, of_result=True
    ),
    nn.SiLU: lambda layer: Elementwise(aten.silu.out, aten.silu_backward.grad_input),
    nn.Softplus: lambda layer: Elementwise(
        partial(aten.softplus.out, beta=layer.beta, threshold=layer.threshold),
        partial(aten.softplus_backward.grad_input, beta=layer.beta, threshold=layer.threshold),
    ),
    nn.Tanh: lambda layer: Elementwise(torch.tanh, aten.tanh_backward.grad_input, of_result=True),
}


class Activation:
    """What an elementwise activation does."""

    def __init__(self, activation: Elementwise, given: Value, result: Value) -> None:
        self._function, self._derivative, of_result = activation
        self._given, self._result = given, result
        self._witness = result if of_result else given
        given.last_user = self

    def forward(self) -> None:
        self._function(self._given.rows, out=self._result.rows)

    def backward(self) -> None:
        if self._given.needs_grad:
            self._derivative(self._result.grad, self._witness.rows, grad_input=self._given.grad)


_LINEAR = (Linear, nn.Linear)
KNOWN_LAYERS = {*_LINEAR, StackedLinear, nn.Identity, *_ELEMENTWISE}


class Tape:
    """The operations on batches of one shape, in the order of the forward pass.

    Parameters
    ----------
    batch : Tensor of shape (*members, n, n_features)
        A batch, of which shape, dtype and device are taken.

    Attributes
    ----------
    given : Value
        What the first operation is given; its rows are set at each batch.
    operations : list of Operation
    """

    def __init__(self, batch: Tensor) -> None:
        self.given = Value(batch, batch, needs_grad=False)
        self.operations: list[Operation] = []

    def value(self, width: int) -> Value:
        """Memory for rows of a width."""
        rows = self.given.rows.new_empty(*self.given.rows.shape[:-1], width)
        return Value(rows, torch.empty_like(rows))

    def through(self, layers: Iterable[nn.Module], value: Value) -> Value:
        """What comes of a value by layers, which are all in :data:`KNOWN_LAYERS`."""
        unshared: Value | None = None
        for layer in layers:
            given = value
            if isinstance(layer, StackedLinear):
                unshared = value = self.value(layer.weight.shape[-1])
                self.operations.append(StackedAffine(layer, given, value))
            elif isinstance(layer, nn.Linear):
                unshared = value = self.value(layer.out_features)
                self.operations.append(Affine(layer, given, value))
            elif not isinstance(layer, nn.Identity):
                activation = _ELEMENTWISE[type(layer)](layer)
                # What came of a linear layer is no other operation's, and may be overwritten.
                if not (activation.of_result and given is unshared):
                    # The gradient of what it was given is made in place of that of its result.
                    value = Value(torch.empty_like(given.rows), given.grad, given.needs_grad)
                unshared = None
                self.operations.append(Activation(activation, given, value))
        return value
