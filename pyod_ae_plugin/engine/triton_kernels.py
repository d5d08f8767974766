"""Scores of a scoring module from one Triton kernel, which keeps all activations on the chip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from pyod_ae_plugin.networks import AutoEncoderNetwork, VariationalNetwork
from pyod_ae_plugin.networks.layers import ACTIVATIONS, Linear, StackedLinear, is_hooked
from pyod_ae_plugin.scoring import (
    CombinedHead,
    Euclidean,
    JointMahalanobis,
    Mahalanobis,
    NearestNeighbor,
    ScoreHead,
    ScoringModule,
    Standardize,
)
from pyod_ae_plugin.scoring.covariance import FullCovariance

Precision = Literal["float32", "tf32", "bfloat16"]

_NARROWEST, _WIDEST = 16, 128
_HEADS = (Euclidean, Mahalanobis, JointMahalanobis, NearestNeighbor)
_ACTIVATION_NAMES = {type(make()): name for name, make in ACTIVATIONS.items()}


class FusedScore:
    """Scores [n], float32, of raw rows [n, n_features], however many, by one kernel launch.

    Nothing waits for the device. It knows the weights as they were when it was made.
    """

    def __init__(
        self, kernel: ModuleType, parameters: Sequence[Tensor], options: Mapping[str, Any]
    ) -> None:
        self._kernel, self._parameters, self._options = kernel, parameters, options

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Score rows; the scores are written to ``out`` if that is given."""
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
    """Return a function that scores rows in one kernel launch, or None where there is none.

    There is one for a network of this package whose layers are linear or elementwise and at most
    128 wide, features standardised in float32, and the four heads that measure residual and code,
    also for each member of an ensemble whose scores are averaged; not where a hook would be
    passed over. It takes triton 3.2 or later and a GPU, or else triton's interpreter.

    Parameters
    ----------
    module : ScoringModule
    precision : {'float32', 'tf32', 'bfloat16'}, default='float32'
        Of the factors in matrix products; sums are float32.

    Returns
    -------
    FusedScore or None
        Gives the module's scores up to rounding, for rows of any real or boolean dtype.
    """
    device = module.standardize.scale.device
    kernel = _kernel_for(device)
    path = _path(module)
    if kernel is None or path is None or path.widest(precision) > _WIDEST:
        return None
    with torch.no_grad():
        parameters = _parameters(module, path, kernel.REFERENCES_AT_A_TIME.value)
    if precision == "bfloat16":
        parameters[1] = parameters[1].bfloat16()
    options = _options(path, precision, kernel.ACTIVATION_NAMES)
    options |= {"MATRICES_SIZE": parameters[1].shape[1], "VECTORS_SIZE": parameters[2].shape[1]}

    return FusedScore(kernel, parameters, options)


def _kernel_for(device: torch.device) -> ModuleType | None:
    """The module of the kernel, if that runs on the device."""
    try:
        from triton.runtime import JITFunction

        from pyod_ae_plugin.engine import fused_kernel
    except ImportError:
        return None
    compiled = isinstance(fused_kernel.score_rows, JITFunction)
    return None if compiled and device.type != "cuda" else fused_kernel


class _Stage(NamedTuple):
    """A linear layer of each member, and the activation behind it."""

    weight: Tensor  # [n_members, n_in, n_out]
    bias: Tensor  # [n_members, n_out]
    activation: str


class _Path(NamedTuple):
    """What a row passes from its standardised values to its score."""

    n_features: int
    stages: list[_Stage]
    n_encoding: int  # stages up to the code
    head: ScoreHead  # of the members, if there are several
    combines: bool

    @property
    def widths(self) -> list[int]:
        """Widths before, between and behind the layers, as they are padded."""
        widths = [*(stage.weight.shape[1] for stage in self.stages), self.n_features]
        return [max(_power_of_two(width), _NARROWEST) for width in widths]

    @property
    def n_references(self) -> int:
        head = self.head
        return head.references.shape[-2] if isinstance(head, NearestNeighbor) else 0

    def widest(self, precision: Precision) -> int:
        """The most numbers of a row, padded, that are in registers at a time."""
        widths = self.widths
        # In full float32 residual and code both lie there while references pass by.
        if self.n_references and precision == "float32":
            return max(*widths, _power_of_two(widths[0] + widths[self.n_encoding]))
        return max(widths)


def _path(module: ScoringModule) -> _Path | None:
    """The way of a row through a module, if it is one that the kernel knows."""
    standardize, network, head = module.standardize, module.network, module.head
    known = (
        type(module) is ScoringModule
        and type(standardize) is Standardize
        and standardize.scale.dtype is torch.float32
        and isinstance(network, (AutoEncoderNetwork, VariationalNetwork))
    )
    layers = network.layers() if known and not is_hooked(module) else None
    combines = type(head) is CombinedHead and head.combination == "average"
    of_member = head.head if isinstance(head, CombinedHead) and combines else head
    if layers is None or type(of_member) not in _HEADS:
        return None
    encoding, decoding = (_stages(part, of_members=combines) for part in layers)
    if not encoding or not decoding:
        return None
    stages = [*encoding, *decoding]
    return _Path(standardize.n_features, stages, len(encoding), of_member, combines)


def _stages(layers: Sequence[nn.Module], of_members: bool) -> list[_Stage] | None:
    stages: list[_Stage] = []
    for layer in layers:
        name = _activation_name(layer)
        if of_members and type(layer) is StackedLinear:
            stages.append(_Stage(layer.weight, layer.bias.squeeze(1), "identity"))
        elif not of_members and _is_affine(layer):
            stages.append(_Stage(layer.weight.t()[None], layer.bias[None], "identity"))
        elif stages and stages[-1].activation == "identity" and name is not None:
            stages[-1] = stages[-1]._replace(activation=name)
        elif name != "identity":
            return None
    return stages


def _is_affine(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return type(layer) in (Linear, nn.Linear) and layer.bias is not None


def _activation_name(layer: nn.Module) -> str | None:
    """The name of an elementwise activation with the settings that it has by that name."""
    name = _ACTIVATION_NAMES.get(type(layer))
    if name is None or name == "softmax":
        return None
    return name if _settings(layer) == _settings(ACTIVATIONS[name]()) else None


def _settings(layer: nn.Module) -> dict[str, Any]:
    own = {"training", "inplace"}
    return {k: v for k, v in vars(layer).items() if not k.startswith("_") and k not in own}


def _parameters(module: ScoringModule, path: _Path, references_at_a_time: int) -> list[Tensor]:
    """The tensors that the kernel reads, in the order of its arguments."""
    head, widths = path.head, path.widths
    width, n_code = widths[0], widths[path.n_encoding]
    matrices = [
        _padded(stage.weight, n_in, n_out)
        for stage, (n_in, n_out) in zip(path.stages, pairwise(widths), strict=True)
    ]
    vectors = [_padded(s.bias, n_out) for s, n_out in zip(path.stages, widths[1:], strict=True)]
    n_members = len(matrices[0])
    for name, n in (("of_residual", width), ("of_code", n_code)):
        metric = getattr(head, name, None)
        if isinstance(metric, FullCovariance):
            matrices.append(_padded(_by_member(metric.whitening, n_members), n, n))
            vectors.append(_padded(_by_member(metric.center, n_members), 1, n))
    if isinstance(head, NearestNeighbor):
        references = _by_member(head.references, n_members)
        of_residual, of_code = references.tensor_split([path.n_features], dim=2)
        joint = torch.cat([_padded(of_residual, -1, width), _padded(of_code, -1, n_code)], dim=2)
        # block by block, each of them [width + n_code, references_at_a_time]
        matrices.append(joint.unflatten(1, (-1, references_at_a_time)).mT)
        vectors.append(0.5 * references.square().sum(2))
    standardize = module.standardize
    scale = _padded(torch.stack([standardize.scale, standardize.shift]), width)
    calibration = scale
    if isinstance(module.head, CombinedHead):
        calibration = torch.cat([module.head.location, module.head.scale])
    return [scale, _joined(matrices), _joined(vectors), calibration]


def _by_member(x: Tensor, n_members: int) -> Tensor:
    return x.reshape(n_members, *x.shape[-2:])


def _padded(x: Tensor, *sizes: int) -> Tensor:
    """The tensor with zeros behind its last dimensions; -1 leaves one as it is."""
    pairs = zip(reversed(sizes), reversed(x.shape), strict=False)
    ends = [0 if size == -1 else size - own for size, own in pairs]
    return nn.functional.pad(x, [n for end in ends for n in (0, end)])


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _options(
    path: _Path, precision: Precision, activation_names: tuple[str, ...]
) -> dict[str, Any]:
    """The constants that the kernel is compiled with, and how many warps share a block of rows."""
    full = precision == "float32"
    # An H100 reads 3.4e12 bytes a second, and multiplies 67e12 float32 outside of tensor cores.
    # In full float32, 30-64-32-64-30 is thus bound by its 8,000 multiplications a row, so every
    # layer has a width of its own; padding all to the widest would double them. A thread computes
    # 4 x 8 cells of the widest layer, enough to load few factors and not to run out of registers.
    block = 32 if full else 128
    n_warps = max(path.widest(precision) // 32, 1) if full else 8
    return {
        "N_FEATURES": path.n_features,
        "N_MEMBERS": len(path.stages[0].weight),
        "WIDTHS": _digits(width.bit_length() - 1 for width in path.widths),
        "ACTIVATIONS": _digits(activation_names.index(s.activation) for s in path.stages),
        "N_LAYERS": len(path.stages),
        "N_ENCODING": path.n_encoding,
        "WHITENS": not isinstance(path.head, Euclidean),
        "USES_CODE": path.head.uses_code,
        "N_REFERENCES": path.n_references,
        "COMBINES": path.combines,
        "PRECISION": "ieee" if full else "tf32",
        "BLOCK": block,
        "num_warps": n_warps,
        "num_stages": 1 if full else 2,
    }


def _power_of_two(width: int) -> int:
    """The least power of two that is not less."""
    return 1 << (width - 1).bit_length()


def _digits(values: Iterable[int]) -> int:
    """One integer with these hexadecimal digits, the first the lowest."""
    return sum(value << (4 * i) for i, value in enumerate(values))
