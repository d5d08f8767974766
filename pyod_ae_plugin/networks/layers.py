"""The layers of encoders and decoders; they draw from a private generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` initialised from a private generator.

    Weights are drawn from U(-sqrt(3 / fan_in), sqrt(3 / fan_in)), of variance 1 / fan_in (LeCun et
    al. 1998, Efficient BackProp), biases from U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)). PyOD's
    weights have twice the variance (He et al. 2015). With smaller weights a network first
    reconstructs little, so that trimming begins with the rows farthest from the mean.
    """

    def __init__(self, in_features: int, out_features: int, generator: torch.Generator) -> None:
        # nn.Linear's own __init__ would draw from the global generator.
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        draw_weights(self, in_features, generator)


def draw_weights(layer: nn.Module, fan_in: float, generator: torch.Generator) -> None:
    """Initialise a layer whose outputs each have ``fan_in`` inputs, as :class:`Linear` does."""
    bound = 1 / math.sqrt(fan_in)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            largest = math.sqrt(3) * bound if name == "weight" else bound
            parameter.uniform_(-largest, largest, generator=generator)


class StackedLinear(nn.Module):
    """Linear layers of several members side by side, as one batched matrix product.

    Maps [n_members, n, in_features], or [n, in_features] with the same rows for all members, to
    [n_members, n, out_features]. A member may use fewer of its inputs and outputs. The weights that
    it lacks start at zero, and stay zero where the inputs it does not use are zero and nothing
    depends on the outputs it does not use.

    Examples
    --------
    >>> layer = StackedLinear([3, 3], [2, 1], torch.Generator().manual_seed(0))
    >>> layer(torch.ones(5, 3))[1, :, 1]
    tensor([0., 0., 0., 0., 0.], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        in_widths: Sequence[int],
        out_widths: Sequence[int],
        generator: torch.Generator,
        *,
        in_features: int | None = None,
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        n_members = len(in_widths)
        n_in, n_out = in_features or max(in_widths), out_features or max(out_widths)
        self.weight = nn.Parameter(torch.zeros(n_members, n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_members, 1, n_out))
        for i, (n_in, n_out) in enumerate(zip(in_widths, out_widths, strict=True)):
            if n_out == 0:
                continue
            layer = Linear(n_in, n_out, generator)
            with torch.no_grad():
                self.weight[i, :n_in, :n_out] = layer.weight.T
                self.bias[i, :, :n_out] = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            x = x.expand(len(self.weight), -1, -1)
        return torch.baddbmm(self.bias, x, self.weight)


class GaussianOutput(nn.Module):
    """The last layer of a decoder that also learns the variance of each feature.

    Maps [n, width] to the mean [n, n_features]; :meth:`distribution` also gives the log variance.
    """

    # Bounds of the log variance, in squared standard deviations of a feature. Without a lower
    # bound, a feature that can be reconstructed exactly would dominate the loss.
    CLIP = (-6.0, 6.0)

    def __init__(self, mean: nn.Module, logvar: nn.Module) -> None:
        super().__init__()
        self.mean = mean
        self.logvar = logvar

    def forward(self, h: Tensor) -> Tensor:
        mean: Tensor = self.mean(h)
        return mean

    def distribution(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [n, n_features]."""
        return self.mean(h), self.logvar(h).clamp(*self.CLIP)


class Dropout(nn.Module):
    """Inverted dropout whose mask comes from a private generator.

    The rate is rounded to a multiple of 2**-16; see :func:`random_int16`.
    """

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self.dropped = min(round(rate * 2**16), 2**16 - 1)
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = (random_int16(x, self.generator) >= self.dropped - 2**15).to(x.dtype)
        return x * kept.mul_(2**16 / (2**16 - self.dropped))


def draw_from(layers: Iterable[nn.Module], generator: torch.Generator) -> None:
    """Let layers draw from a generator; those of a copied network have a copy of theirs."""
    for layer in layers:
        if isinstance(layer, Dropout):
            layer.generator = generator


def random_int16(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform 16-bit integers in a tensor's shape, drawn faster than as many uniform floats."""
    words = torch.empty((like.numel() + 3) // 4, dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[: like.numel()].view(like.shape)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm of rows [n, num_features] or images [n, num_features, height, width].

    Where a batch has a single value of each feature, it is normalised by the running statistics.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == self.num_features:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept images too, for which torch has another class with the same arithmetic."""


HiddenLayers = Callable[[int], list[nn.Module]]
"""Makes the layers that follow a linear layer or convolution with a number of outputs."""


def hidden_layers(
    activation: Callable[[], nn.Module],
    batch_norm: bool,
    dropout_rate: float,
    generator: torch.Generator,
    width: int,
) -> list[nn.Module]:
    """Norm, activation and dropout after a layer with ``width`` outputs or output channels."""
    layers: list[nn.Module] = [BatchNorm(width)] if batch_norm else []
    layers.append(activation())
    return [*layers, Dropout(dropout_rate, generator)] if dropout_rate > 0 else layers


def output_distribution(decoder: nn.Module, code: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance that a decoder gives; the variance is 1 where it learned none."""
    *hidden, output = decoder if type(decoder) is nn.Sequential else [decoder]
    for layer in hidden:
        code = layer(code)
    if isinstance(output, GaussianOutput):
        return output.distribution(code)
    mean = output(code)
    return mean, torch.zeros_like(mean)


def inference_stack(stack: nn.Module) -> nn.Module:
    """Return the stack as it is evaluated: batch norm folded into the linear layers, no dropout.

    Only a plain sequence is rewritten; any other module is returned as it is.
    """
    if type(stack) is not nn.Sequential:
        return stack
    layers: list[nn.Module] = []
    for layer in stack:
        if isinstance(layer, BatchNorm) and layers and isinstance(layers[-1], Linear):
            layers[-1] = fuse_linear_bn_eval(layers[-1], layer)
        elif not isinstance(layer, (Dropout, nn.Identity)):
            layers.append(layer)
    return nn.Sequential(*layers)
