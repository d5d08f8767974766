"""The scoring module: from a raw row to its anomaly score."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.heads import ScoreHead
from pyod_ae_plugin.scoring.standardize import MAX_STANDARDIZED, Standardize

HIGHEST_SCORE = torch.finfo(torch.float32).max


class ScoringModule(nn.Module):
    """Standardises a row, encodes and decodes it, and scores the residual.

    Rows ``(n, n_features)`` of any real or boolean dtype get scores ``(n,)``, float32. These are
    always finite: a row for which float32 overflows gets ``HIGHEST_SCORE``, the largest float32.

    Parameters
    ----------
    standardize : Standardize
        Maps raw rows to standardised ones.
    network : torch.nn.Module
        With ``encode`` (rows to latent codes) and ``decode`` (latent codes to rows).
    head : ScoreHead
        Scores standardised rows by the network.
    fills_gaps : bool, default=False
        Whether NaN in a row stands for a gap. If so, it is filled by what the network reconstructs
        from the other values of the row, and hardly counts in the score. If not, the row gets
        ``HIGHEST_SCORE``.

    Examples
    --------
    >>> from pyod_ae_plugin.networks import AutoEncoderNetwork
    >>> from pyod_ae_plugin.scoring import Euclidean
    >>> keep_nothing = AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))
    >>> module = ScoringModule(Standardize(2), keep_nothing, Euclidean(2))
    >>> module(torch.tensor([[3.0, 4.0], [1e30, 0.0]]))
    tensor([5.0000e+00, 3.4028e+38])
    """

    def __init__(
        self,
        standardize: Standardize,
        network: Network,
        head: ScoreHead,
        *,
        fills_gaps: bool = False,
    ) -> None:
        super().__init__()
        self.standardize = standardize
        self.network: Network = network
        self.head = head
        self.fills_gaps = fills_gaps
        matrix_widths = {_n_outputs(p) for p in network.parameters() if p.ndim in (2, 3)}
        leaves = [m for m in network.modules() if not any(True for _ in m.children())]
        layer_widths = _measured_widths(network, leaves, standardize.n_features)
        # Distinct numbers of outputs of layers for one row, all members together, ascending.
        self.widths = tuple(sorted(matrix_widths | layer_widths or {1}))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.score_standardized(self.standardize(x))
        return torch.nan_to_num(scores, nan=HIGHEST_SCORE)

    def score_standardized(self, z: Tensor) -> Tensor:
        """Scores [n] of standardised rows [n, n_features], as the head gives them."""
        return self.head.score(self.network, self.filled(z))

    def filled(self, z: Tensor) -> Tensor:
        """Standardised rows [n, n_features] without gaps, if they are to be filled."""
        if not self.fills_gaps:
            return z
        is_gap = z.isnan()
        filled = self.network.decode(self.network.encode(z.masked_fill(is_gap, 0.0)))
        return torch.where(is_gap, filled if filled.ndim == z.ndim else filled.mean(0), z)

    def encode(self, x: Tensor) -> Tensor:
        """Latent codes [n, n_latent] of raw rows, those of members side by side.

        Values are limited to 1e15 standard deviations from the mean, so that codes are finite.
        """
        code: Tensor = self.network.encode(self.standardize_in_range(x))
        return code if code.ndim == 2 else code.movedim(0, 1).flatten(1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Reconstructions [n, n_features] of raw rows, in the data's own units, float64.

        Those of an ensemble's members are averaged. Values are limited as by :meth:`encode`.
        """
        reconstruction = self.network.decode(self.network.encode(self.standardize_in_range(x)))
        return self.standardize.inverse(
            reconstruction if reconstruction.ndim == 2 else reconstruction.mean(0)
        )

    def standardize_in_range(self, x: Tensor) -> Tensor:
        """Standardise raw rows [n, n_features], and limit them to where codes are finite."""
        z: Tensor = self.standardize(x)
        return self.filled(z.clamp(-MAX_STANDARDIZED, MAX_STANDARDIZED))


def _measured_widths(network: Network, layers: list[nn.Module], n_features: int) -> set[int]:
    """Numbers of outputs of layers for one row; those of a convolution depend on its input."""
    widths = set()
    device = next((p.device for p in network.parameters()), torch.device("cpu"))

    def note(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            widths.add(output.numel())

    hooks = [layer.register_forward_hook(note) for layer in layers]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()
            network.decode(network.encode(torch.zeros(1, n_features, device=device)))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return widths


def _n_outputs(weight: Tensor) -> int:
    """Outputs of a layer with weights [out, in], or [members, in, out] in an ensemble."""
    return weight.shape[0] if weight.ndim == 2 else weight.shape[0] * weight.shape[2]
