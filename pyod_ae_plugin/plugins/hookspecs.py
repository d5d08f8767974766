"""The hooks that a plugin may implement.

A plugin is a module or object that has any of the functions below, each marked with
:data:`hookimpl`. Its distribution announces it under the entry-point group ``pyod_ae_plugin``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pyod.models.base import BaseDetector
    from torch import nn

PROJECT = "pyod_ae_plugin"

hookspec = pluggy.HookspecMarker(PROJECT)

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Decorator that marks a function as the implementation of one of these hooks."""


@hookspec
def pyod_ae_detectors() -> Mapping[str, Callable[..., BaseDetector]]:  # type: ignore[empty-body]
    """Provide detectors by name: classes, or functions that take the keywords of a class.

    Returns
    -------
    mapping of str to callable
        Each takes the keyword arguments of a detector and returns the detector.

    Examples
    --------
    >>> from pyod_ae_plugin import AutoEncoder, hookimpl
    >>> @hookimpl
    ... def pyod_ae_detectors():
    ...     return {"ShortFit": lambda **params: AutoEncoder(epoch_num=5, **params)}
    >>> pyod_ae_detectors()["ShortFit"](verbose=0).epoch_num
    5
    """


@hookspec
def pyod_ae_networks() -> Mapping[str, Callable[..., nn.Module]]:  # type: ignore[empty-body]
    """Provide network factories by name, for a detector's ``network=``.

    A factory is called with ``n_features``. If its signature names them, it also gets parameters of
    the detector (such as ``hidden_neuron_list``) and ``generator``, a :class:`torch.Generator`.
    It returns a module with the methods ``encode`` (rows [n, n_features] to latent codes
    [n, n_latent]) and ``decode`` (latent codes to rows). A VAE's network also has ``posterior``
    (rows to mu and logvar, each [n, n_latent]).

    Returns
    -------
    mapping of str to callable
        Each returns a network, a :class:`torch.nn.Module`.

    Examples
    --------
    >>> from torch import nn
    >>> from pyod_ae_plugin import hookimpl
    >>> from pyod_ae_plugin.networks import AutoEncoderNetwork
    >>> def linear(n_features, latent_dim=2):
    ...     encoder, decoder = nn.Linear(n_features, latent_dim), nn.Linear(latent_dim, n_features)
    ...     return AutoEncoderNetwork(encoder, decoder)
    >>> @hookimpl
    ... def pyod_ae_networks():
    ...     return {"linear": linear}
    """


@hookspec
def pyod_ae_score_heads() -> Mapping[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Provide score heads by name, for a detector's ``score_head=``.

    A factory, usually the class itself, is called with ``n_features``. If its signature names them,
    it also gets ``n_latent`` (width of the latent code) and ``members`` (``(n_members,)`` for an
    ensemble, else ``()``). It returns a :class:`pyod_ae_plugin.scoring.ScoreHead`.

    Returns
    -------
    mapping of str to callable
        Each returns a score head.

    Examples
    --------
    >>> from pyod_ae_plugin import hookimpl
    >>> from pyod_ae_plugin.scoring import ScoreHead
    >>> class LargestResidual(ScoreHead):
    ...     def forward(self, residual):
    ...         return residual.abs().amax(-1)
    >>> @hookimpl
    ... def pyod_ae_score_heads():
    ...     return {"largest": LargestResidual}
    """
