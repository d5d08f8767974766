"""Scores of a scoring module from one Triton kernel, which keeps activations in registers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyod_ae_plugin.engine.pipeline import Layers, read_scoring
from pyod_ae_plugin.networks.activations import activation_of
from pyod_ae_plugin.networks.layers import StackedLinear
from pyod_ae_plugin.scoring import (
    CombinedHead,
    Euclidean,
    JointMahalanobis,
    Kernel,
    Mahalanobis,
    NearestNeighbor,
    ScoreHead,
    ScoringModule,
)
from pyod_ae_plugin.scoring.distances import FullCovariance

Precision = Literal["float32", "tf32", "bfloat16"]

_MIN_WIDTH, _MAX_WIDTH = 16, 128
_HEADS = (Euclidean, Mahalanobis, JointMahalanobis, NearestNeighbor, Kernel)
_NO_ACTIVATION = 0


class FusedScore:
    """Computes the scores [n], float32, of raw rows [n, n_features] in one kernel launch.

    The rows may have any real or boolean dtype. A call does not wait for the device. The weights
    are copied when the object is made.
    """

    def __init__(
        self, kernel: ModuleType, parameters: Sequence[Tensor], options: Mapping[str, Any]
    ) -> None:
        self._kernel, self._parameters, self._options = kernel, parameters, options

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Score rows, and write the scores to ``out`` if given."""
        scores = torch.empty(len(x), device=x.device) if out is None else out
        rows = x.contiguous()
        rows = rows.view(torch.uint8) if x.dtype is torch.bool else rows
        grid = (-(-len(x) // self._options["BLOCK"]),)
        with torch.cuda.device_of(x):
            self._kernel.score_rows[grid](rows, scores, *self._parameters, len(x), **self._options)
        return scores


def fused_score_function(
    module: ScoringModule, precision: Precision = "float32"
) -> FusedScore | None:
    """Return a function that scores rows in one kernel launch, or None if the module has another.

    The kernel supports:

    - networks that :func:`~pyod_ae_plugin.engine.pipeline.read_pipeline` knows, of linear layers
      and elementwise activations that are at most 128 wide;
    - features that are standardised in float32;
    - the heads 'euclidean', 'mahalanobis', 'joint_mahalanobis' and 'nearest_neighbor', also
      averaged over the members of an ensemble, and 'kernel' of a single network.

    It runs on a GPU or in Triton's interpreter, with triton 3.2 or later. The scores are those of
    the module up to rounding. ``precision`` is that of the factors in matrix products; their sums
    are float32.
    """
    device = module.standardize.scale.device
    kernel = _kernel_for(device)
    path = kernel_path(module)
    if kernel is None or path is None or path.max_width(precision) > _MAX_WIDTH:
        return None
    return FusedScore(kernel, *kernel_arguments(module, path, kernel, precision))


def kernel_arguments(
    module: ScoringModule, path: KernelPath, kernel: ModuleType, precision: Precision
) -> tuple[list[Tensor], dict[str, Any]]:
    """Tensors and constants that the kernel takes for a module."""
    with torch.no_grad():
        parameters = _parameters(module, path, kernel.REFERENCES_AT_A_TIME.value)
    if precision == "bfloat16":
        parameters[1] = parameters[1].bfloat16()
    options = _options(path, precision)
    options |= {"MATRICES_SIZE": parameters[1].shape[1], "VECTORS_SIZE": parameters[2].shape[1]}
    return parameters, options


def _kernel_for(device: torch.device) -> ModuleType | None:
    """The Python module with the kernel; None if the kernel does not run on the device."""
    try:
        from triton.runtime import JITFunction

        from pyod_ae_plugin.engine.cuda import fused_kernel
    except ImportError:
        return None
    compiled = isinstance(fused_kernel.score_rows, JITFunction)
    return None if compiled and device.type != "cuda" else fused_kernel


class _Stage(NamedTuple):
    """A linear layer of each member, and the activation that follows it."""

    weight: Tensor  # [n_members, n_in, n_out]
    bias: Tensor  # [n_members, n_out]
    activation: int  # its code in the kernel


class KernelPath(NamedTuple):
    """What the kernel computes from a standardised row."""

    n_features: int
    stages: list[_Stage]
    n_encoding: int  # stages up to the code
    head: ScoreHead  # of the members, if there are several
    combines: bool

    @property
    def widths(self) -> list[int]:
        """Padded widths of the input and of each stage's output."""
        widths = [*(stage.weight.shape[1] for stage in self.stages), self.n_features]
        return [max(_power_of_two(width), _MIN_WIDTH) for width in widths]

    @property
    def n_references(self) -> int:
        head = self.head
        return head.references.shape[-2] if isinstance(head, (NearestNeighbor, Kernel)) else 0

    def max_width(self, precision: Precision) -> int:
        """The largest number of values, padded, that registers hold for a row at a time."""
        widths = self.widths
        if isinstance(self.head, Kernel):  # row, residual, and the reconstructions of both
            return max(*widths, 2 * widths[0])
        # In full float32, residual and code stay in registers while references are read.
        if self.n_references and precision == "float32":
            return max(*widths, _power_of_two(widths[0] + widths[self.n_encoding]))
        return max(widths)


def kernel_path(module: ScoringModule) -> KernelPath | None:
    """Return what the kernel computes for a module; None if it does not support the module."""
    head = module.head
    pipeline = read_scoring(module)
    if pipeline is None or module.standardize.scale.dtype is not torch.float32:
        return None
    combines = type(head) is CombinedHead and head.combination == "average"
    member_head = head.head if isinstance(head, CombinedHead) and combines else head
    if type(member_head) not in _HEADS or combines != (pipeline.n_members is not None):
        return None  # also for 'kernel' in an ensemble, which needs all residuals at once
    encoding, decoding = _stages(pipeline.encoding), _stages(pipeline.decoding)
    if not encoding or not decoding:
        return None
    stages = [*encoding, *decoding]
    return KernelPath(module.standardize.n_features, stages, len(encoding), member_head, combines)


def _stages(layers: Layers) -> list[_Stage] | None:
    """The linear layers, each with at most one activation; None if there are other layers."""
    stages: list[_Stage] = []
    for layer in layers:
        if isinstance(layer, StackedLinear):
            stages.append(_Stage(layer.weight, layer.bias.squeeze(1), _NO_ACTIVATION))
        elif isinstance(layer, nn.Linear):
            stages.append(_Stage(layer.weight.t()[None], layer.bias[None], _NO_ACTIVATION))
        else:
            code = _kernel_code(layer)
            if code is None or not stages or stages[-1].activation != _NO_ACTIVATION:
                return None
            stages[-1] = stages[-1]._replace(activation=code)
    return stages


def _kernel_code(layer: nn.Module) -> int | None:
    """The kernel's code of an activation; None if its parameters are not those of the kernel."""
    activation = activation_of(layer)
    if activation is None or not activation.has_default_parameters(layer):
        return None
    return activation.kernel_code


def _parameters(module: ScoringModule, path: KernelPath, references_at_a_time: int) -> list[Tensor]:
    """The tensor arguments of the kernel, in order."""
    head, widths = path.head, path.widths
    width, n_code = widths[0], widths[path.n_encoding]
    matrices = [
        _padded(stage.weight, n_in, n_out)
        for stage, (n_in, n_out) in zip(path.stages, pairwise(widths), strict=True)
    ]
    vectors = [_padded(s.bias, n_out) for s, n_out in zip(path.stages, widths[1:], strict=True)]
    n_members = len(matrices[0])
    for name, n in (("residual_covariance", width), ("code_covariance", n_code)):
        metric = getattr(head, name, None)
        if isinstance(metric, FullCovariance):
            matrices.append(_padded(_by_member(metric.whitening, n_members), n, n))
            vectors.append(_padded(_by_member(metric.center, n_members), 1, n))
    if isinstance(head, NearestNeighbor):
        references = _by_member(head.references, n_members)
        residuals, codes = references.tensor_split([path.n_features], dim=2)
        joint = torch.cat([_padded(residuals, -1, width), _padded(codes, -1, n_code)], dim=2)
        # in blocks [width + n_code, references_at_a_time]
        matrices.append(joint.unflatten(1, (-1, references_at_a_time)).mT)
        vectors.append(0.5 * references.square().sum(2))
    if isinstance(head, Kernel):
        matrices.append(_blocks(head.references, width, references_at_a_time))
        center, squares = head.center.view(1, 2, -1), head.references.square().sum(1)
        scalars = torch.stack([0.5 / head.bandwidth.square(), head.copied])[None]
        vectors += [_padded(center, width), scalars, torch.stack([squares, head.copies])[None]]
    standardize = module.standardize
    scale = _padded(torch.stack([standardize.scale, standardize.shift]), width)
    calibration = scale
    if isinstance(module.head, CombinedHead):
        calibration = torch.cat([module.head.location, module.head.scale])
    return [scale, _joined(matrices), _joined(vectors), calibration]


def _blocks(references: Tensor, width: int, at_a_time: int) -> Tensor:
    """References of a :class:`Kernel`, block by block: the parts of row and residual, each padded.

    A block holds both parts as [width, at_a_time], for products, and then both as
    [at_a_time, width], for sums. The result is [1, n_blocks, 4, width * at_a_time].
    """
    parts = _padded(references.unflatten(1, (2, -1)), width).unflatten(0, (-1, at_a_time))
    parts = parts.movedim(2, 1)  # [n_blocks, 2, at_a_time, width]
    return torch.cat([parts.mT.flatten(2), parts.flatten(2)], dim=1)[None]


def _by_member(x: Tensor, n_members: int) -> Tensor:
    return x.reshape(n_members, *x.shape[-2:])


def _padded(x: Tensor, *sizes: int) -> Tensor:
    """Pad the last dimensions with zeros to these sizes; -1 leaves a dimension as it is."""
    pairs = zip(reversed(sizes), reversed(x.shape), strict=False)
    ends = [0 if size == -1 else size - own for size, own in pairs]
    return nn.functional.pad(x, [n for end in ends for n in (0, end)])


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _options(path: KernelPath, precision: Precision) -> dict[str, Any]:
    """The constants that the kernel is compiled with, and the number of warps for a block."""
    full = precision == "float32"
    # An H100 reads 3.4e12 bytes a second, and does 67e12 float32 operations outside of tensor
    # cores. In full float32, 30-64-32-64-30 is therefore bound by its 8,000 multiplications a row;
    # padding all layers to the widest would double them, so each has its own width. A thread
    # computes 4 x 8 cells of the widest layer: few loads of factors, and enough registers.
    block = 32 if full else 128
    n_warps = max(path.max_width(precision) // 32, 1) if full else 8
    return {
        "N_FEATURES": path.n_features,
        "N_MEMBERS": len(path.stages[0].weight),
        "WIDTHS": _digits(width.bit_length() - 1 for width in path.widths),
        "ACTIVATIONS": _digits(stage.activation for stage in path.stages),
        "N_LAYERS": len(path.stages),
        "N_ENCODING": path.n_encoding,
        "WHITENS": not isinstance(path.head, Euclidean),
        "SMOOTHS": isinstance(path.head, Kernel),
        "USES_CODE": path.head.uses_code,
        "N_REFERENCES": path.n_references,
        "COMBINES": path.combines,
        "PRECISION": "ieee" if full else "tf32",
        "BLOCK": block,
        "num_warps": n_warps,
        "num_stages": 1 if full else 2,
    }


def _power_of_two(width: int) -> int:
    """The smallest power of two that is not smaller than a width."""
    return 1 << (width - 1).bit_length()


def _digits(values: Iterable[int]) -> int:
    """The integer with these hexadecimal digits, the lowest first."""
    return sum(value << (4 * i) for i, value in enumerate(values))
