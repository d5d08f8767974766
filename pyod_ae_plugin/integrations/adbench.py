"""Detectors with the interface of models in ADBench."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any, ClassVar

import numpy as np
from pyod.models.base import BaseDetector

from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plugins.manager import create_detector, create_supported


class AdBenchModel:
    """Base class of models for ADBench's pipeline.

    A subclass sets ``detector_name`` and ``params``, the name and the keyword arguments of a
    detector; :func:`~pyod_ae_plugin.integrations.adbench.adbench_model` returns one.

    Parameters
    ----------
    seed : int
        ``random_state`` of the detector, if it has this parameter and ``params`` does not set it.
        NumPy integers, which ADBench passes, are converted.
    model_name : str, default="Customized"
        Name of the model in ADBench.

    Attributes
    ----------
    detector_ : BaseDetector
        The fitted detector.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin.integrations.adbench import AdBenchModel
    >>> class ShortFit(AdBenchModel):
    ...     detector_name, params = "AutoEncoder", {"epoch_num": 2, "device": "cpu"}
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> ShortFit(seed=1).fit(X, np.zeros(200)).predict_score(X).shape
    (200,)
    """

    detector_name: ClassVar[str]
    params: ClassVar[Mapping[str, Any]]

    def __init__(self, seed: int | np.integer[Any], model_name: str = "Customized") -> None:
        self.seed = int(seed)
        self.model_name = model_name

    @classmethod
    def create(cls, n_features: int, seed: int) -> BaseDetector:
        """Create the detector for rows of ``n_features`` features."""
        create = partial(create_detector, cls.detector_name, **cls.params)
        params = {"random_state": seed, "verbose": 0, **cls.params}
        return create_supported(create, n_features, **params)

    def fit(self, X_train: Array, y_train: Array) -> AdBenchModel:
        """Create and fit the detector. It gets the labels only if its ``fit`` requires them."""
        self.detector_ = self.create(X_train.shape[1], self.seed)
        y = signature(self.detector_.fit).parameters.get("y")
        needs_labels = y is not None and y.default is Parameter.empty
        self.detector_.fit(X_train, *([y_train] if needs_labels else []))
        return self

    def predict_score(self, X: Array) -> Array:
        """Score rows [n_samples, n_features]; of the scores [n_samples] larger is more abnormal."""
        scores: Array = self.detector_.decision_function(X)
        return scores


def adbench_model(name: str, **params: Any) -> type[AdBenchModel]:
    """Make a model class of a registered detector, for ADBench's ``RunPipeline.run(clf=...)``.

    ADBench creates a new model for each data set and seed. This function does not need ADBench.

    Parameters
    ----------
    name : str
        One of :func:`~pyod_ae_plugin.detector_names`.
    **params
        Keyword arguments of the detector. ``random_state`` overrides ADBench's seed.

    Returns
    -------
    type
        A subclass of :class:`AdBenchModel`.

    Raises
    ------
    ValueError
        If no detector has this name.
    TypeError
        If the detector does not accept one of the keyword arguments.

    References
    ----------
    .. [1] Han, S., Hu, X., Huang, H., Jiang, M., Zhao, Y. ADBench: Anomaly detection benchmark.
       NeurIPS 2022. The interface is that of ADBench 0.1.11.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod_ae_plugin.integrations.adbench import adbench_model
    >>> Model = adbench_model("AutoEncoder", epoch_num=2, device="cpu")
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> model = Model(seed=np.int64(1), model_name="Customized")
    >>> model.fit(X_train=X, y_train=np.zeros(200)).predict_score(X).shape
    (200,)
    """
    attributes = {"detector_name": name, "params": params}
    model: type[AdBenchModel] = type(name, (AdBenchModel,), attributes)
    # ADBench prints errors and goes on without results, so create one here to raise them now.
    model.create(n_features=1, seed=0)
    return model
