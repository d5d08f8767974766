"""Contributions of features to scores: integrated gradients of a scoring module."""

from __future__ import annotations

import torch
from torch import Tensor

from pyod_ae_plugin.scoring.module import HIGHEST_SCORE, ScoringModule

_N_NODES = 16


def contributions(module: ScoringModule, x: Tensor) -> Tensor:
    """Contributions of the features of raw rows to their scores.

    Feature j of a row contributes ``z_j`` times the mean of ``d score / d z_j`` on the straight
    line from the mean training row, 0 in standard units, to the row [1]_. By the fundamental
    theorem of calculus contributions sum to the score less the score of the mean training row.
    If the score head is additive, a sum of feature terms, the terms of the mean row are added, so
    that contributions sum to the score.
    The mean is computed by Gauss-Legendre quadrature with 16 nodes [2]_. Its error, about 1% of
    the sum for scores with kinks, is distributed in proportion to the sizes of the contributions.
    If float32 overflows, the score is distributed in proportion to ``abs(z_j)``.

    The largest residual may belong to another feature than the abnormal one: if an abnormal value
    affects the latent code, the network reconstructs other features badly, too.

    Parameters
    ----------
    module : ScoringModule
        Its score head must be differentiable, as any head made of torch's operations is.
    x : Tensor of shape (n, n_features)
        Raw rows of any real or boolean dtype.

    Returns
    -------
    Tensor of shape (n, n_features)
        Finite, float64.

    Raises
    ------
    TypeError
        If the scores have no gradient.

    References
    ----------
    .. [1] Sundararajan, M., Taly, A., & Yan, Q. (2017). Axiomatic Attribution for Deep Networks.
           ICML. Equation 1.
    .. [2] Golub, G. H., & Welsch, J. H. (1969). Calculation of Gauss Quadrature Rules.
           Mathematics of Computation 23(106).

    Examples
    --------
    >>> from torch import nn
    >>> from pyod_ae_plugin.networks import AutoEncoderNetwork
    >>> from pyod_ae_plugin.scoring import Euclidean, Standardize
    >>> keep_nothing = AutoEncoderNetwork(nn.Identity(), nn.Threshold(float("inf"), 0.0))
    >>> module = ScoringModule(Standardize(2), keep_nothing, Euclidean(2))
    >>> contributions(module, torch.tensor([[3.0, -4.0]]))  # 9 / 5 and 16 / 5, of a length of 5
    tensor([[1.8000, 3.2000]], dtype=torch.float64)
    """
    with torch.inference_mode(False):  # inference tensors cannot be differentiated
        z = module.standardize(x)
        with torch.no_grad():
            scores = _scores(module, z)
            mean_row = torch.zeros_like(z[:1])
            excess = (scores - _scores(module, mean_row)).unsqueeze(-1)
            terms = module.head.feature_terms(module.network, mean_row)
        gradient = torch.zeros_like(z, dtype=torch.float64)
        for node, weight in zip(*_quadrature(_N_NODES), strict=True):
            gradient += weight * _gradient(module, node * z)
        if module.fills_gaps:  # a gap is nowhere on the line
            z = z.nan_to_num(0.0, torch.inf, -torch.inf)
    parts = gradient * z
    parts = parts + _shares(parts) * (excess - parts.sum(-1, keepdim=True))
    usable = parts.isfinite().all(-1) & (scores < HIGHEST_SCORE)
    parts = torch.where(usable.unsqueeze(-1), parts, _shares(z.double()) * excess)
    return parts if terms is None else parts + terms


def _scores(module: ScoringModule, z: Tensor) -> Tensor:
    return torch.nan_to_num(module.score_standardized(z), nan=HIGHEST_SCORE).double()


def _gradient(module: ScoringModule, z: Tensor) -> Tensor:
    with torch.enable_grad():
        z.requires_grad_()
        scores = module.score_standardized(z)
        if not scores.requires_grad:
            raise TypeError(
                f"Scores of the score head {type(module.head).__name__} have no gradient, which "
                "explanations need. Compute them by operations of torch, without no_grad(), "
                "detach(), item() or NumPy."
            )
        (gradient,) = torch.autograd.grad(scores.sum(), z)
    return gradient


def _shares(x: Tensor) -> Tensor:
    """Absolute values [n, d] as shares of their sum in each row; finite."""
    size = x.abs().nan_to_num().clamp_max(torch.finfo(torch.float32).max)
    return size / size.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)


def _quadrature(n: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1], from the Jacobi matrix."""
    k = torch.arange(1, n, dtype=torch.float64)
    off_diagonal = k / (4 * k.square() - 1).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes, vectors = torch.linalg.eigh(jacobi)
    return ((nodes + 1) / 2).tolist(), vectors[0].square().tolist()
