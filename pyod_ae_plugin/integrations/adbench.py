"""Detectors behind the interface that ADBench has for models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any, ClassVar

import numpy as np
from pyod.models.base import BaseDetector

from pyod_ae_plugin.plugins.manager import create_detector, create_supported

Array = np.ndarray[Any, Any]


class AdBenchModel:
    """A detector as ADBench's pipeline creates, fits and asks it.

    A subclass has ``detector_name`` and ``params``, the detector's name and keywords;
    :func:`~pyod_ae_plugin.integrations.adbench.adbench_model` makes one.

    Parameters
    ----------
    seed : int
        The detector's ``random_state``, if it has one and was not given another. ADBench's are of
        NumPy.
    model_name : str, default="Customized"
        ADBench's name for it.

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
        """Create the detector for rows of so many features."""
        settings = {"random_state": seed, "verbose": 0, **cls.params}
        create = partial(create_detector, cls.detector_name, **cls.params)
        return create_supported(create, n_features, **settings)

    def fit(self, X_train: Array, y_train: Array) -> AdBenchModel:
        """Create the detector and fit it; only one that cannot do without labels is given them.

        Parameters
        ----------
        X_train : ndarray of shape (n_samples, n_features)
        y_train : ndarray of shape (n_samples,)
            1 for known outliers, 0 for all other rows.

        Returns
        -------
        self
        """
        self.detector_ = self.create(X_train.shape[1], self.seed)
        if _needs_labels(self.detector_):
            self.detector_.fit(X_train, y_train)
        else:
            self.detector_.fit(X_train)
        return self

    def predict_score(self, X: Array) -> Array:
        """Score rows: [n_samples, n_features] to [n_samples], the larger, the more abnormal."""
        scores: Array = self.detector_.decision_function(X)
        return scores


def adbench_model(name: str, **params: Any) -> type[AdBenchModel]:
    """Make a class of a registered detector that ADBench's ``RunPipeline.run(clf=...)`` takes.

    ADBench creates a model anew for each data set and seed. ADBench itself is not needed to call
    this function.

    Parameters
    ----------
    name : str
        One of :func:`~pyod_ae_plugin.detector_names`.
    **params
        Keywords of the detector. A ``random_state`` among them takes the place of ADBench's seed.

    Returns
    -------
    type
        A subclass of :class:`AdBenchModel`.

    Raises
    ------
    ValueError
        If no detector has this name.
    TypeError
        If the detector does not take one of the keywords.

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
    # ADBench prints errors and goes on without figures, so what is wrong shall show here.
    model.create(n_features=1, seed=0)
    return model


def _needs_labels(detector: BaseDetector) -> bool:
    y = signature(detector.fit).parameters.get("y")
    return y is not None and y.default is Parameter.empty
