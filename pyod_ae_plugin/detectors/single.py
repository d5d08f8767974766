"""What detectors of a single network share."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch

from pyod_ae_plugin.detectors.base import Plan
from pyod_ae_plugin.detectors.building import (
    NetworkFactory,
    build_network,
    check_takes,
    draws_privately,
    find_head,
    find_network,
)
from pyod_ae_plugin.detectors.incremental import IncrementalDetector
from pyod_ae_plugin.detectors.parameters import check_input_shape
from pyod_ae_plugin.engine.objectives import Corruption, Objective
from pyod_ae_plugin.engine.options import EarlyStopping, TrainingOptions
from pyod_ae_plugin.networks import Network


class SingleNetworkDetector(IncrementalDetector):
    """Base class of the detectors whose network is one of a registered kind.

    A subclass provides :meth:`_objective`.
    """

    def __init__(
        self,
        use_compile: bool,
        compile_mode: str,
        network: str | NetworkFactory,
        input_shape: Sequence[int] | None,
        early_stopping: bool,
        n_iter_no_change: int,
        tol: float,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.use_compile = use_compile
        self.compile_mode = compile_mode
        self.network = network
        self.input_shape = input_shape
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol

    def _check_params(self) -> None:
        super()._check_params()
        check_input_shape(self.input_shape)
        if self.input_shape is not None:
            check_takes(find_network(self.network), "input_shape", self.input_shape)

    @abc.abstractmethod
    def _objective(self) -> Objective:
        """What training minimises."""

    def _plan(self, n_features: int, seed: int, generator: torch.Generator) -> Plan:
        network = self._build_network(n_features, generator)
        return Plan(network, self._objective(), self._options())

    def _build_network(self, n_features: int, generator: torch.Generator) -> Network:
        return build_network(
            find_network(self.network), n_features, self._network_params(), generator
        )

    def _network_params(self) -> dict[str, Any]:
        """What a network factory may ask for."""
        return {**self.get_params(deep=False), "learn_variance": self._learns_variance()}

    def _draws_privately(self) -> bool:
        return draws_privately(find_network(self.network))

    def _learns_variance(self) -> bool:
        """Whether the decoder gives a variance: by default where the score head asks for it."""
        return "decode_distribution" in getattr(find_head(self.score_head), "required_methods", ())

    def _corruption(self) -> Corruption | None:
        mask, noise = self._corruption_shares()
        return Corruption([mask], [noise]) if mask or noise else None

    def _options(self) -> TrainingOptions:
        stopping = EarlyStopping(
            patience=self.n_iter_no_change,
            tol=self.tol,
            validation_fraction=self.validation_fraction,
        )
        return self._training_options(
            trim=[self._trim()],
            early_stopping=stopping if self.early_stopping else None,
            compile_mode=self.compile_mode if self.use_compile else None,
        )
