"""Optimizers over all parameters of a network as one vector.

A step over one vector takes as many operations as a step over one parameter, and torch's
functional forms avoid the bookkeeping of its optimizer classes. For small networks these are most
of the cost of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from pyod_ae_plugin.networks import Network


class Optimizer(Protocol):
    """Updates a vector in place by its gradient."""

    def step(self, lr: float) -> None:
        """Make one step at a learning rate."""

    def state(self) -> dict[str, Tensor]:
        """The tensors, by name, that depend on earlier steps."""


class Adam:
    """Adam (Kingma & Ba 2015); with ``decoupled``, AdamW (Loshchilov & Hutter 2019)."""

    def __init__(
        self,
        vector: Tensor,
        weight_decay: float = 0.0,
        adam_eps: float = 1e-8,
        decoupled: bool = False,
    ) -> None:
        self._vector = vector
        self._mean = torch.zeros_like(vector)
        self._square = torch.zeros_like(vector)
        self._steps = torch.zeros((), device=vector.device)
        self._fuses = _can_fuse(vector)
        if self._fuses:
            # The functional forms call these after checks that take as long as a small step.
            update: Any = torch._fused_adamw_ if decoupled else torch._fused_adam_
        else:
            update = adamw if decoupled else adam
        options = {"beta1": 0.9, "beta2": 0.999, "weight_decay": weight_decay, "eps": adam_eps}
        self._update = partial(update, **options, amsgrad=False, maximize=False)

    def step(self, lr: float) -> None:
        """Make one step at a learning rate."""
        assert self._vector.grad is not None
        if self._fuses:
            self._steps += 1
        vector, grad, mean, square = self._vector, self._vector.grad, self._mean, self._square
        self._update([vector], [grad], [mean], [square], [], [self._steps], lr=lr)

    def state(self) -> dict[str, Tensor]:
        """The running means of gradient and squared gradient, and the number of steps."""
        return {"mean": self._mean, "square": self._square, "steps": self._steps}


class Sgd:
    """Stochastic gradient descent with momentum."""

    def __init__(
        self,
        vector: Tensor,
        weight_decay: float = 0.0,
        sgd_momentum: float = 0.0,
        sgd_nesterov: bool = False,
    ) -> None:
        self._vector = vector
        self._velocity = torch.zeros_like(vector) if sgd_momentum else None
        self._update: Any = partial(
            sgd,
            fused=_can_fuse(vector),
            weight_decay=weight_decay,
            momentum=sgd_momentum,
            nesterov=sgd_nesterov,
            dampening=0.0,
            maximize=False,
        )

    def step(self, lr: float) -> None:
        """Make one step at a learning rate."""
        self._update([self._vector], [self._vector.grad], [self._velocity], lr=lr)

    def state(self) -> dict[str, Tensor]:
        """The velocity, where there is momentum."""
        return {} if self._velocity is None else {"velocity": self._velocity}


OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], frozenset[str]]] = {
    "adam": (Adam, frozenset({"weight_decay", "adam_eps"})),
    "adamw": (partial(Adam, decoupled=True), frozenset({"weight_decay", "adam_eps"})),
    "sgd": (Sgd, frozenset({"weight_decay", "sgd_momentum", "sgd_nesterov"})),
}
"""Optimizers by name, each with the names of its options."""


def make_optimizer(name: str, vector: Tensor, options: Mapping[str, float]) -> Optimizer:
    """Return an optimizer with the options that it has; like PyOD, ignore the others."""
    make, names = OPTIMIZERS[name]
    return make(vector, **{key: value for key, value in options.items() if key in names})


def flatten_parameters(network: Network | nn.Module) -> Tensor:
    """Move the trainable parameters into one vector; they and their gradients become its views.

    The vector's ``grad`` holds the gradients, which accumulate until it is zeroed.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    vector = torch.cat([p.detach().reshape(-1) for p in parameters])
    vector.grad = torch.zeros_like(vector)
    start = 0
    for parameter in parameters:
        stop = start + parameter.numel()
        parameter.data = vector[start:stop].view(parameter.shape)
        parameter.grad = vector.grad[start:stop].view(parameter.shape)
        start = stop
    return vector


def _can_fuse(vector: Tensor) -> bool:
    return vector.device.type in ("cpu", "cuda")
