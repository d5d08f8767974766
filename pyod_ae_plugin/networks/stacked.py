"""Autoencoders side by side: the members of an ensemble as one stack of matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from pyod_ae_plugin.networks.autoencoder import AutoEncoderNetwork
from pyod_ae_plugin.networks.layers import ACTIVATIONS, StackedLinear


def stacked_mlp(
    n_features: int,
    hidden_neuron_lists: Sequence[Sequence[int]],
    hidden_activation_name: str,
    generator: torch.Generator,
) -> AutoEncoderNetwork:
    """Fully connected autoencoders, each as :func:`~pyod_ae_plugin.networks.mlp` makes one.

    Parameters
    ----------
    n_features : int
        Width of a row.
    hidden_neuron_lists : sequence of sequences of int
        For each member the widths of its encoder's layers; as many for one as for another.
    hidden_activation_name : str
        An activation that maps zero to zero.
    generator : torch.Generator
        Source of the initial weights.

    Returns
    -------
    AutoEncoderNetwork
        Maps rows [n, n_features], or [n_members, n, n_features], to [n_members, n, n_features].

    Examples
    --------
    >>> network = stacked_mlp(5, [[4, 2], [3, 1]], "relu", torch.Generator().manual_seed(0))
    >>> network.encode(torch.zeros(3, 5)).shape, network(torch.zeros(3, 5)).shape
    (torch.Size([2, 3, 2]), torch.Size([2, 3, 5]))
    """
    every = [n_features] * len(hidden_neuron_lists)
    encoder_widths = [every, *zip(*hidden_neuron_lists, strict=True)]

    def stack(widths: Sequence[Sequence[int]]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [StackedLinear(n_in, n_out, generator), ACTIVATIONS[hidden_activation_name]()]
        return nn.Sequential(*layers[:-1])

    return AutoEncoderNetwork(stack(encoder_widths), stack(encoder_widths[::-1]))


def joined(first: nn.Module, second: nn.Module) -> nn.Module:
    """One stack of the members of two stacks of equal widths; the first is changed in place.

    Parameters
    ----------
    first, second : torch.nn.Module
        As :func:`~pyod_ae_plugin.networks.stacked_mlp` makes them, with the same activation.

    Returns
    -------
    torch.nn.Module
        The first, with the members of the second behind its own.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> two, three = (stacked_mlp(5, [[4, 2]] * n, "relu", generator) for n in (2, 3))
    >>> joined(two, three)(torch.zeros(7, 5)).shape
    torch.Size([5, 7, 5])
    """
    others = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        parameter.data = torch.cat([parameter.data, others[name].data])
    return first
