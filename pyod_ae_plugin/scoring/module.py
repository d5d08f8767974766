"""The one module that a fitted detector is: raw row in, anomaly score out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.heads import ScoreHead
from pyod_ae_plugin.scoring.standardize import FARTHEST, Standardize

HIGHEST_SCORE = torch.finfo(torch.float32).max


class ScoringModule(nn.Module):
    """Standardise a row, encode and decode it, and score what comes of it.

    Parameters
    ----------
    standardize : Standardize
        Maps raw rows to standardised ones.
    network : torch.nn.Module
        Has ``encode`` (rows to latent codes) and ``decode`` (latent codes to rows).
    head : ScoreHead
        Scores standardised rows by the network, most heads by the residual.

    Attributes
    ----------
    widths : tuple of int
        How many numbers the layers of the network make of a row, those of all members together,
        ascending.
    has_single_column : bool
        Whether a weight matrix of the network has one input or one output.
    rounds_alike : bool
        Whether the network is made of nothing but linear layers and ReLUs, whose arithmetic for
        a cell is the same wherever the cell lies.

    Notes
    -----
    Shapes:

    - Input: ``(n, n_features)`` of any real or boolean dtype
    - Output: ``(n,)``, float32, always finite: a row so far out that float32 overflows gets
      ``HIGHEST_SCORE``, the largest float32 there is

    Examples
    --------
    >>> from pyod_ae_plugin.networks import AutoEncoderNetwork
    >>> from pyod_ae_plugin.scoring import Euclidean
    >>> keep_nothing = AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))
    >>> module = ScoringModule(Standardize(2), keep_nothing, Euclidean(2))
    >>> module(torch.tensor([[3.0, 4.0], [1e30, 0.0]]))
    tensor([5.0000e+00, 3.4028e+38])
    """

    def __init__(self, standardize: Standardize, network: Network, head: ScoreHead) -> None:
        super().__init__()
        self.standardize = standardize
        self.network: Network = network
        self.head = head
        weights = [p for p in network.parameters() if p.ndim >= 2]
        of_matrices = {_n_outputs(weight) for weight in weights if weight.ndim <= 3}
        leaves = [m for m in network.modules() if not any(True for _ in m.children())]
        of_layers = _measured_widths(network, leaves, standardize.n_features)
        self.widths = tuple(sorted(of_matrices | of_layers or {1}))
        self.has_single_column = any(1 in weight.shape[-2:] for weight in weights)
        self.rounds_alike = all(isinstance(m, (nn.Linear, nn.ReLU)) for m in leaves)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.head.score(self.network, self.standardize(x))
        return torch.nan_to_num(scores, nan=HIGHEST_SCORE)

    def encode(self, x: Tensor) -> Tensor:
        """Latent codes [n, n_latent] of raw rows [n, n_features], those of members in a row.

        A value farther than 1e15 standard deviations from the mean counts as that far,
        so that codes are finite.
        """
        code: Tensor = self.network.encode(self.standardized_within_reach(x))
        return code if code.ndim == 2 else code.movedim(0, 1).flatten(1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Reconstructions [n, n_features] of raw rows, in the data's own units, float64.

        Those of an ensemble's members are averaged. Values far out count as in :meth:`encode`.
        """
        rebuilt = self.network.decode(self.network.encode(self.standardized_within_reach(x)))
        return self.standardize.inverse(rebuilt if rebuilt.ndim == 2 else rebuilt.mean(0))

    def standardized_within_reach(self, x: Tensor) -> Tensor:
        """Standardised rows whose codes are finite, however far out the raw rows [n, d] are."""
        z: Tensor = self.standardize(x)
        return z.clamp(-FARTHEST, FARTHEST)


def _measured_widths(network: Network, layers: list[nn.Module], n_features: int) -> set[int]:
    """How many numbers layers make of a row; of a convolution, its weights do not tell."""
    widths = set()
    device = next((p.device for p in network.parameters()), torch.device("cpu"))

    def note(module: nn.Module, given: object, made: object) -> None:
        if isinstance(made, Tensor):
            widths.add(made.numel())

    hooks = [layer.register_forward_hook(note) for layer in layers]
    training = network.training
    try:
        with torch.no_grad():
            network.eval().decode(network.encode(torch.zeros(1, n_features, device=device)))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return widths


def _n_outputs(weight: Tensor) -> int:
    """Outputs of a layer by its weights, [out, in], or [members, in, out] in an ensemble."""
    return weight.shape[0] if weight.ndim == 2 else weight.shape[0] * weight.shape[2]
