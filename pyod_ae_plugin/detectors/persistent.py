"""How detectors are saved, loaded and pickled."""

from __future__ import annotations

import abc
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pyod.models.base import BaseDetector
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyod_ae_plugin.engine.devices import available_device, seeded_global_rng
from pyod_ae_plugin.engine.fitting import scoring_module
from pyod_ae_plugin.engine.limits import AllocationLimit
from pyod_ae_plugin.engine.states import load_exactly
from pyod_ae_plugin.fitted import is_fitted_name
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.persistence import load_detector, save_detector
from pyod_ae_plugin.scoring import ScoreHead, ScoringModule, Standardize
from pyod_ae_plugin.thresholds import ThresholdRule

if TYPE_CHECKING:
    from typing_extensions import Self

# To build a module makes about three times the values that are kept of it.
_BUILT_PER_KEPT = 8
_LEAST_LIMIT = 2**24


class PersistentDetector(BaseDetector):  # type: ignore[misc]
    """Base class of detectors whose scoring module and fitted attributes can be kept.

    Rows and whatever else serves further training stay behind.
    """

    scoring_module_: ScoringModule
    device: str | torch.device | None
    contamination: Any
    threshold_: float

    def save(self, path: str | Path) -> None:
        """Save the fitted detector, without pickle.

        Parameters
        ----------
        path : str or Path
            One file if it ends in ``.safetensors``, else a folder. An older detector there is
            replaced.

        Raises
        ------
        ValueError
            If the folder holds anything else, or a parameter cannot be saved: a network factory
            without a name, a thresholder of others, or a ``RandomState``.

        See Also
        --------
        pyod_ae_plugin.load_detector : Loads it again.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(50, 3))
        >>> detector = AutoEncoder(epoch_num=2, verbose=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     detector.save(f"{folder}/model")
        ...     loaded = AutoEncoder.load(f"{folder}/model")
        >>> bool((loaded.decision_function(X) == detector.decision_scores_).all())
        True
        """
        check_is_fitted(self, "scoring_module_")
        save_detector(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a detector of this class; see :func:`pyod_ae_plugin.load_detector`.

        Parameters
        ----------
        path : str or Path
            The folder or file.

        Returns
        -------
        detector : object
            Of this class, as it was when saved, but for ``checkpoint``, which is None.

        Raises
        ------
        FileNotFoundError
            If there is no saved detector.
        ValueError
            If it is of another class, or :func:`~pyod_ae_plugin.load_detector` refuses it.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> from pyod_ae_plugin import AutoEncoder
        >>> X = np.random.default_rng(0).normal(size=(50, 3))
        >>> detector = AutoEncoder(epoch_num=2, verbose=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     detector.save(f"{folder}/model")
        ...     loaded = AutoEncoder.load(f"{folder}/model")
        >>> type(loaded).__name__
        'AutoEncoder'
        """
        detector = load_detector(path)
        if not isinstance(detector, cls):
            raise ValueError(
                f"{path} holds a {type(detector).__name__}, not a {cls.__name__}. "
                f"Use {type(detector).__name__}.load or pyod_ae_plugin.load_detector."
            )
        return detector

    def fitted_attributes(self) -> dict[str, Any]:
        """What fit learned, except the scoring module, by attribute name."""
        return {name: value for name, value in vars(self).items() if is_fitted_name(name)}

    def restore(
        self,
        attributes: Mapping[str, Any],
        module_state: Mapping[str, Tensor],
        device: torch.device | None = None,
    ) -> None:
        """Make this a fitted detector again, of what :func:`pyod_ae_plugin.load_detector` read.

        Parameters
        ----------
        attributes : mapping of str to object
            As ``fitted_attributes`` gave them.
        module_state : mapping of str to Tensor
            The state of the scoring module.
        device : torch.device or None, default=None
            Where it shall score; None is the parameter ``device`` if that is here, else the CPU.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            If the parameters are not usable, or the state is not that of such a module.
        MemoryError
            If the parameters ask for a module far larger than the state.
        """
        self._check_params()
        n_features = attributes["n_features_in_"]
        if module_state["standardize.scale"].shape != (n_features,):
            raise ValueError("the scaling is not that of n_features_in_ features")
        n_values = sum(tensor.numel() for tensor in module_state.values())
        with (
            seeded_global_rng(0, torch.device("cpu")),
            AllocationLimit(_BUILT_PER_KEPT * n_values + _LEAST_LIMIT),
        ):
            network = self._build_network(n_features, torch.Generator())
            head = self._build_head(network, n_features)
            module = scoring_module(Standardize(n_features), network, head)
        load_exactly(module, module_state)
        with torch.no_grad():
            module(torch.zeros(1, n_features))
        target = available_device(self.device) if device is None else device
        self.scoring_module_ = module.requires_grad_(False).to(target)
        self.__dict__.update(attributes)
        if isinstance(self.contamination, ThresholdRule):
            self.thresholder_ = copy.deepcopy(self.contamination)
            self.thresholder_.thresh_ = self.threshold_

    @abc.abstractmethod
    def _check_params(self) -> None:
        """Raise unless every parameter is usable."""

    @abc.abstractmethod
    def _build_network(self, n_features: int, generator: torch.Generator) -> Network:
        """A network as was fitted, to load weights into."""

    @abc.abstractmethod
    def _build_head(self, network: Network, n_features: int) -> ScoreHead:
        """A score head as was fitted, likewise."""

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # a copy: Python hands out the dict of the object
        state.pop("_stream", None)
        if "scoring_module_" in state:
            # Where it is unpickled there may be no such device.
            state["scoring_module_"] = copy.deepcopy(state["scoring_module_"]).cpu()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "scoring_module_" in state:
            self.scoring_module_.to(available_device(self.device))
