"""The activations that the package knows, each described once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """One activation function."""

    name: str | None  # as a parameter of a detector; None where it cannot be asked for by name
    module: type[nn.Module]
    # out(x, out=result); None if the activation is not elementwise, or changes nothing
    out: Callable[..., Tensor] | None = None
    derivative: Callable[..., Tensor] | None = None  # derivative(grad, saved, grad_input=result)
    saved: Literal["input", "result"] = "input"  # what the derivative is computed from
    kernel_code: int | None = None  # its number in the Triton kernel, from 1
    parameters: tuple[str, ...] = ()  # attributes of a layer that out and derivative take
    settings: Mapping[str, Any] = field(default_factory=dict)  # with which make() creates a layer

    def make(self) -> nn.Module:
        """Create a layer."""
        return self.module(**self.settings)

    def has_default_parameters(self, layer: nn.Module) -> bool:
        """Whether a layer computes what the layers of :meth:`make` compute."""
        default = self.make()
        return all(getattr(layer, name) == getattr(default, name) for name in self.parameters)

    def functions_of(self, layer: nn.Module) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """Return ``out`` and ``derivative`` with the parameters of a layer."""
        if self.out is None or self.derivative is None:
            raise TypeError(f"{self.module.__name__} is not elementwise.")
        parameters = {name: getattr(layer, name) for name in self.parameters}
        return partial(self.out, **parameters), partial(self.derivative, **parameters)


def _elu_derivative(grad: Tensor, x: Tensor, *, alpha: float, grad_input: Tensor) -> Tensor:
    result: Tensor = aten.elu_backward.grad_input(
        grad, alpha, 1, 1, False, x, grad_input=grad_input
    )
    return result


_relu_derivative = partial(aten.threshold_backward.grad_input, threshold=0)
_leaky_relu_derivative = partial(aten.leaky_relu_backward.grad_input, self_is_result=False)

# fmt: off
_ALL = (
    Activation("identity", nn.Identity),
    # In place: the derivative needs only the result, so memory is saved and nothing is lost.
    Activation("relu", nn.ReLU, partial(torch.clamp_min, min=0), _relu_derivative,
               saved="result", kernel_code=1, settings={"inplace": True}),
    Activation("leaky_relu", nn.LeakyReLU, aten.leaky_relu.out, _leaky_relu_derivative,
               kernel_code=2, parameters=("negative_slope",)),
    Activation("elu", nn.ELU, aten.elu.out, _elu_derivative,
               kernel_code=3, parameters=("alpha",)),
    Activation("silu", nn.SiLU, aten.silu.out, aten.silu_backward.grad_input,
               kernel_code=4),
    Activation("gelu", nn.GELU, aten.gelu.out, aten.gelu_backward.grad_input,
               kernel_code=5, parameters=("approximate",)),
    Activation("sigmoid", nn.Sigmoid, torch.sigmoid, aten.sigmoid_backward.grad_input,
               saved="result", kernel_code=6),
    Activation("tanh", nn.Tanh, torch.tanh, aten.tanh_backward.grad_input,
               saved="result", kernel_code=7),
    Activation("softplus", nn.Softplus, aten.softplus.out, aten.softplus_backward.grad_input,
               kernel_code=8, parameters=("beta", "threshold")),
    Activation("softmax", nn.Softmax, settings={"dim": -1}),
    # Clips log variances.
    Activation(None, nn.Hardtanh, aten.hardtanh.out, aten.hardtanh_backward.grad_input,
               saved="result", parameters=("min_val", "max_val")),
)
# fmt: on

ACTIVATIONS = {a.name: a for a in sorted(_ALL, key=lambda a: a.name or "") if a.name is not None}
"""The activations that a detector's parameters name."""

_BY_MODULE = {a.module: a for a in _ALL}


def activation_of(layer: nn.Module) -> Activation | None:
    """Return the activation that a layer is, by its exact class, or None."""
    return _BY_MODULE.get(type(layer))
