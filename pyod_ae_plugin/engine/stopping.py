"""Early stopping: the best epoch, and whether to look for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pyod_ae_plugin.engine.options import EarlyStopping
from pyod_ae_plugin.engine.states import copied

# No weights have such a name: the dots in names of modules are single ones.
_NUMBERS = "..numbers"


class Best:
    """The weights of the best epoch so far, and whether to go on looking for better ones."""

    def __init__(self, stopping: EarlyStopping | None) -> None:
        self._stopping = stopping
        self._loss = math.inf
        self._epochs_since = 0
        self.weights: dict[str, Tensor] = {}

    @property
    def keeps_going(self) -> bool:
        return self._stopping is None or self._epochs_since < self._stopping.patience

    def judge(self, validation_loss: float, weights: Mapping[str, Tensor]) -> None:
        assert self._stopping is not None
        if validation_loss < self._loss - self._stopping.tol:
            self._loss = validation_loss
            self._epochs_since = 0
            self.weights = copied(weights)
        else:
            self._epochs_since += 1

    def state(self) -> dict[str, Tensor]:
        numbers = torch.tensor([self._loss, self._epochs_since], dtype=torch.float64)
        return {_NUMBERS: numbers, **self.weights}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        loss, epochs_since = state[_NUMBERS].tolist()
        self._loss, self._epochs_since = loss, int(epochs_since)
        self.weights = {name: value for name, value in state.items() if name != _NUMBERS}
