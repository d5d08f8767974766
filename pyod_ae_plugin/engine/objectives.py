"""The objectives of training: a loss for each row of a batch, and their trimmed mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyod_ae_plugin.engine.options import Corruption
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.networks.layers import random_int16
from pyod_ae_plugin.scoring.likelihood import (
    decode_distribution,
    encode_distribution,
    kl_divergence,
    log_density,
    reparameterize,
)


class Objective(Protocol):
    """Loss of each row under a network.

    A gap in a row is NaN. It is hidden from the encoder and adds nothing to the loss.

    ``progress`` runs from 0 to 1 over the training; ``generator`` is the source of random numbers.
    In an ensemble rows are [n_members, n, n_features] and losses [n_members, n].
    """

    def __call__(
        self, network: Network, x: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        """Losses [n] of standardised rows [n, n_features]."""


class Corruptor:
    """Corrupts standardised rows: adds noise, and sets cells to zero, the mean of their feature.

    There is a :class:`~pyod_ae_plugin.engine.options.Corruption` for each member of an ensemble, or
    one for a single network.
    """

    def __init__(self, members: Sequence[Corruption]) -> None:
        shares = [round(member.mask * 2**16) - 2**15 for member in members]
        self._lowest_kept = torch.tensor(shares, dtype=torch.int32)  # of random 16-bit integers
        self._noise = torch.tensor([member.noise for member in members], dtype=torch.float32)
        self._masks = any(member.mask for member in members)
        self._adds_noise = any(member.noise for member in members)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        member_shape = (-1, 1, 1) if x.ndim == 3 else (-1, 1)
        # Only the first batch moves them to its device.
        self._lowest_kept = self._lowest_kept.to(x.device)
        self._noise = self._noise.to(x.device)
        if self._adds_noise:
            noise = torch.empty_like(x).normal_(generator=generator)
            x = torch.addcmul(x, noise, self._noise.view(member_shape))
        if self._masks:
            kept = random_int16(x, generator) >= self._lowest_kept.view(member_shape)
            x = x * kept
        return x


class Inputs(NamedTuple):
    """The inputs of network and loss from a batch of rows [*members, n, n_features]."""

    target: Tensor  # the rows to reconstruct, with 0 for gaps
    source: Tensor  # the encoder's input
    known: Tensor | None  # 1 for values and 0 for gaps; None if there are no gaps

    @classmethod
    def of(
        cls, x: Tensor, corrupt: Corruptor | None, has_gaps: bool, generator: torch.Generator
    ) -> Inputs:
        """The inputs of a batch; ``has_gaps`` if NaN in it stands for a gap."""
        known = None
        if has_gaps:
            known = x.isnan().logical_not().to(x.dtype)
            x = torch.nan_to_num(x)
        source = x if corrupt is None else corrupt(x, generator)
        if known is not None and corrupt is not None:
            source = source * known
        return cls(x, source, known)

    def hide(self, values: Tensor) -> Tensor:
        """Values of the decoder, with 0 for gaps, as in the rows to reconstruct."""
        return values if self.known is None else values * self.known


@dataclass(frozen=True, eq=False)
class ReconstructionLoss:
    """Mean squared reconstruction error of each row, or its negative log likelihood.

    The likelihood, if ``learn_variance``, is per feature and in nats, under the distribution of the
    network's ``decode_distribution``. If there is ``corrupt``, rows are corrupted before they are
    encoded; the network learns to reconstruct the original rows (denoising autoencoder, Vincent et
    al. 2008). Only with ``has_gaps`` may rows have gaps.
    """

    corrupt: Corruptor | None = None
    learn_variance: bool = False
    has_gaps: bool = False

    def __call__(
        self, network: Network, x: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        inputs = Inputs.of(x, self.corrupt, self.has_gaps, generator)
        code = network.encode(inputs.source)
        if self.learn_variance:
            mean, logvar = map(inputs.hide, decode_distribution(network, code))
            return -log_density(inputs.target, mean, logvar) / x.shape[-1]
        return (inputs.hide(network.decode(code)) - inputs.target).square().mean(-1)


class DrawnCodes:
    """Which latent dimensions each member of an ensemble draws from a posterior.

    A member that draws none is a plain autoencoder: it has no KL term, and its variances are 1.

    Parameters
    ----------
    n_drawn : sequence of int
        How many dimensions each member draws.
    n_latent : int
        Width of the latent codes.
    """

    dimensions: Tensor  # 1 where a member draws, [n_members, 1, n_latent]
    members: Tensor  # 1 if it draws any, [n_members, 1, 1]

    def __init__(self, n_drawn: Sequence[int], n_latent: int) -> None:
        self._n_drawn, self._n_latent = n_drawn, n_latent
        self._device: torch.device | None = None

    def to(self, device: torch.device) -> DrawnCodes:
        """Make the masks on a device, unless they are there; return itself."""
        if device != self._device:
            counts = torch.tensor(self._n_drawn, device=device).view(-1, 1, 1)
            self.dimensions = (torch.arange(self._n_latent, device=device) < counts).float()
            self.members = (counts > 0).float()
            self._device = device
        return self


@dataclass(frozen=True, eq=False)
class NegativeElbo:
    """Negative evidence lower bound of a VAE with a normal decoder, in nats.

    ``-log p(x | z) + beta * KL`` with ``z`` drawn once from the posterior by reparameterisation.
    With a ``capacity`` C, in nats, the second term is ``beta * |KL - C * progress|`` (Burgess et
    al. 2018). With ``kl_warmup``, a share of the training in [0, 1), ``beta`` is multiplied by
    ``min(progress / kl_warmup, 1)`` (Bowman et al. 2016). Rows are corrupted before they are
    encoded if there is ``corrupt``. A network without ``decode_distribution`` has a variance of 1.
    In an ensemble ``drawn`` tells the variational members from the plain ones. Only with
    ``has_gaps`` may rows have gaps.
    """

    beta: float = 1.0
    capacity: float | None = None
    corrupt: Corruptor | None = None
    kl_warmup: float = 0.0
    drawn: DrawnCodes | None = None
    has_gaps: bool = False

    def __call__(
        self, network: Network, x: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        inputs = Inputs.of(x, self.corrupt, self.has_gaps, generator)
        mu, logvar = encode_distribution(network, inputs.source)
        noise = torch.empty_like(mu).normal_(generator=generator)
        divergence = kl_divergence(mu, logvar)
        drawn = None if self.drawn is None else self.drawn.to(mu.device)
        if drawn is not None:
            noise, divergence = noise * drawn.dimensions, divergence * drawn.dimensions
        kl = divergence.sum(-1)
        if self.capacity is not None:
            kl = (kl - self.capacity * progress).abs()
        code = reparameterize(mu, logvar, noise)
        mean, logvar = map(inputs.hide, decode_distribution(network, code))
        if drawn is not None:
            logvar = logvar * drawn.members
        return self.kl_weight(progress) * kl - log_density(inputs.target, mean, logvar)

    def kl_weight(self, progress: float) -> float:
        """Weight of the KL term; on a GPU, ``progress`` and the weight are tensors."""
        if not self.kl_warmup:
            return self.beta
        share = progress / self.kl_warmup
        # Python's min would wait for the GPU
        return self.beta * (share.clamp(max=1) if isinstance(share, Tensor) else min(share, 1.0))


class TrimmedMean:
    """The mean [*members] of all but the highest losses [*members, n] of a batch.

    ``trim`` is the share left out, for each member or one for all; ``like`` has the shape, dtype
    and device of all losses.

    Examples
    --------
    >>> losses = torch.tensor([9.0, 1.0, 2.0, 3.0])
    >>> TrimmedMean(losses, [0.25])(losses)
    tensor(2.)
    """

    def __init__(self, like: Tensor, trim: Sequence[float]) -> None:
        n = like.shape[-1]
        kept = torch.tensor([[n - int(share * n)] for share in trim])
        self.n_kept = int(kept.max())  # by the member that keeps most
        self.leaves_out = int(kept.min()) < n
        self._in_order = int(kept.min()) < self.n_kept
        weights = (torch.arange(self.n_kept) < kept).to(like) / kept.to(like)
        weights = weights if like.ndim == 2 else weights[0]
        # [*members, n_kept], of the losses that lowest() returns
        self.weights = weights.expand(*like.shape[:-1], -1).contiguous()

    def lowest(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest ``n_kept`` losses of each member, and their indices."""
        values, indices = losses.topk(self.n_kept, largest=False, sorted=self._in_order)
        return values, indices

    def __call__(self, losses: Tensor) -> Tensor:
        if self.leaves_out:
            losses, _ = self.lowest(losses)
        return (losses * self.weights).sum(-1)
