"""Folded scoring on a CPU: the scores of a scoring module from fewer and cheaper operations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pyod_ae_plugin.engine.cuda.dispatch import gpu_score_function
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.pipeline import Layers, Pipeline, is_linear, read_scoring
from pyod_ae_plugin.engine.snapshots import Snapshot
from pyod_ae_plugin.engine.workers import computed_in_worker
from pyod_ae_plugin.networks.activations import activation_of
from pyod_ae_plugin.networks.layers import StackedLinear
from pyod_ae_plugin.scoring import (
    CombinedHead,
    JointMahalanobis,
    Kernel,
    Mahalanobis,
    ScoreHead,
    ScoringModule,
    Standardize,
)
from pyod_ae_plugin.scoring.distances import Affine, Whitening
from pyod_ae_plugin.scoring.kernel import residual_weight
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

# Matrix kernels treat the last few rows of a matrix separately and round them differently. In a
# tile whose height is a multiple of this, every row meets the same arithmetic.
ALIGNMENT = 64
# A few rows are computed in a tile of such a height, where that does not change their scores.
_LOW, _TRIED_ROWS = (4, 8, 16), 4 * ALIGNMENT

# Numbers between the beginnings of tiles are a multiple of this, as torch aligns memory.
_ALIGNED = 16

TileFunction = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Tensor], Tensor]
"""Takes a tile and the memory for the result."""


def score_function(module: ScoringModule, precision: Precision = "float32") -> TileFunction:
    """Return the fastest function that scores tiles: folded, of the GPU, or the module itself.

    On a CPU, standardisation is folded into two linear layers: the first takes raw rows, and the
    last subtracts the standardised row in its bias, which gives the residual. A Mahalanobis metric
    is folded into the last layer, too. Members of an ensemble are passed one after the other. The
    scores are the module's up to rounding in float32. ``precision`` is that of matrix products on a
    GPU. The function may be called from any thread, in inference mode.
    """
    if module.standardize.scale.is_cuda:
        return gpu_score_function(module, precision)
    folded = _folded_function(module)
    if folded is None:
        return module
    return partial(_score_with_gaps, folded, module) if module.fills_gaps else folded


def _folded_function(module: ScoringModule) -> FoldedScore | None:
    """The folded function of a module, for rows without gaps, if there is one."""
    earlier = _folded.get(module)
    if earlier is not None and earlier.is_of(module):
        return earlier
    pipeline = read_scoring(module)
    if pipeline is None or not can_be_folded(pipeline, module):
        return None
    _folded[module] = folded = FoldedScore(module, pipeline)
    return folded


def _score_with_gaps(folded: FoldedScore, module: ScoringModule, x: Tensor) -> Tensor:
    """Scores of a tile, of rows with gaps by the module, so that none depends on other rows."""
    has_gap = x.isnan().any(1)
    scores = folded(x)
    return torch.where(has_gap, module(x), scores) if bool(has_gap.any()) else scores


def can_be_folded(pipeline: Pipeline | None, module: ScoringModule) -> bool:
    """Whether standardisation can become part of a network's linear layers.

    It can if rows are standardised in float32, encoder and decoder each begin with a linear layer
    and the decoder ends with one, and the head scores residuals in the plain way. The head of an
    ensemble must become part of the function.
    """
    if pipeline is None:
        return False
    ends = (*pipeline.encoding[:1], *pipeline.decoding[:1], *pipeline.decoding[-1:])
    return (
        module.standardize.scale.dtype is torch.float32
        and len(ends) == 3
        and all(map(is_linear, ends))
        and (
            type(module.head).score is ScoreHead.score
            if pipeline.n_members is None
            else _is_folded(module.head)
        )
    )


class FoldedScore:
    """A folded function that detects changes of its module.

    Parameters
    ----------
    module : ScoringModule
    pipeline : Pipeline
        What the network of the module computes.
    """

    def __init__(self, module: ScoringModule, pipeline: Pipeline) -> None:
        self._snapshot = Snapshot(module)
        self._standardize = module.standardize
        fold = partial(_fold, module.standardize, pipeline, module.head)
        self._function = computed_in_worker(fold)
        self._heights: dict[int, int] = {}

    def __call__(self, x: Tensor) -> Tensor:
        return self._function(x)

    def is_of(self, module: ScoringModule) -> bool:
        """Whether the folded module is unchanged."""
        return self._snapshot.is_of(module)

    @property
    def lowest_height(self) -> int:
        """Rows of the lowest tile in which a row has, in this thread, the score of higher tiles.

        It is 0 if no tile lower than ``ALIGNMENT`` does. That depends on the matrix kernels of
        the machine and on how many threads they use here, so it is determined with some rows. They
        are near the mean and far from it, since few scores show another order of summation.
        """
        n_threads = torch.get_num_threads()
        if n_threads not in self._heights:
            generator = torch.Generator().manual_seed(0)
            z = torch.randn(_TRIED_ROWS, self._standardize.n_features, generator=generator)
            x = self._standardize.inverse(z * torch.logspace(-2, 3, _TRIED_ROWS)[:, None])
            expected = computed_in_worker(lambda: self._scored(x, ALIGNMENT))
            low = (height for height in _LOW if torch.equal(self._scored(x, height), expected))
            self._heights[n_threads] = next(low, 0)
        return self._heights[n_threads]

    @torch.inference_mode()
    def _scored(self, x: Tensor, height: int) -> Tensor:
        return torch.cat([self._function(tile) for tile in x.split(height)])


# A module that is scored row by row is folded once.
_folded: WeakKeyDictionary[ScoringModule, FoldedScore] = WeakKeyDictionary()


def _fold(standardize: Standardize, pipeline: Pipeline, head: ScoreHead) -> TileFunction:
    whitening = _whitening(head)
    with torch.no_grad():
        if whitening is not None:
            return _folded_to_lengths(standardize, pipeline, whitening, head)
        if type(head) is Kernel:
            return _folded_to_points(standardize, pipeline, head)
        return _folded_to_residuals(standardize, pipeline, head)


def _is_folded(head: ScoreHead) -> bool:
    """Whether a head becomes part of the function, rather than being called by it."""
    return type(head) is Kernel or _whitening(head) is not None


def _whitening(head: ScoreHead) -> Whitening | None:
    """The metric of a head, or of the members' head, whose score is a length in it; else None."""
    if type(head) is CombinedHead:
        head = head.head
    # of a subclass nothing is known
    if type(head) is Mahalanobis or type(head) is JointMahalanobis:
        return head.whitening()
    return None


# ----------------------------------------------------------------------------- chains of layers


class _Chain(NamedTuple):
    """The layers of a network up to the last linear one, from raw rows on."""

    steps: list[Step]
    widths: tuple[int, ...]  # of the result of each step
    n_encoding: int  # number of steps up to the latent code
    code_bias: Tensor | None  # what the code lacks, as the next layer adds it
    weight: Tensor  # of the last layer, [n_in, n_features]
    bias: Tensor  # of the last layer, with what its input lacks

    @classmethod
    def of(cls, standardize: Standardize, pipeline: Pipeline, member: int | None) -> _Chain:
        encoders = _stages(pipeline.encoding, member)
        *decoders, last = _stages(pipeline.decoding, member)
        steps: list[Step] = []
        deferred: Tensor | None = standardize.shift
        deferred_biases = []
        for stage in (*encoders, *decoders):
            weight = stage.weight if steps else stage.weight * standardize.scale.unsqueeze(1)
            bias = stage.full_bias(deferred)
            defers = _can_defer_bias(stage.following)
            steps.append(_step(weight, bias, stage.following, defers))
            deferred = bias if defers else None
            deferred_biases.append(deferred)
        return cls(
            steps=steps,
            widths=tuple(stage.weight.shape[1] for stage in (*encoders, *decoders)),
            n_encoding=len(encoders),
            code_bias=deferred_biases[len(encoders) - 1],
            weight=last.weight,
            bias=last.full_bias(deferred),
        )

    def hidden(
        self, rows: Tensor, results: Sequence[Tensor], see_code: Callable[[Tensor], object]
    ) -> Tensor:
        """The input of the last layer; ``see_code`` gets the code in between."""
        h = rows
        for i, (step, result) in enumerate(zip(self.steps, results, strict=True), 1):
            h = step(h, result)
            if i == self.n_encoding:
                see_code(h)
        return h


class _Stage(NamedTuple):
    """A linear layer and the layers between it and the next one."""

    weight: Tensor  # [n_in, n_out]
    bias: Tensor
    following: list[nn.Module]

    def full_bias(self, deferred_bias: Tensor | None) -> Tensor:
        """The bias, including the deferred bias of the layer before."""
        if deferred_bias is None:
            return self.bias
        return torch.addmv(self.bias, self.weight.t(), deferred_bias)


def _stages(layers: Layers, member: int | None) -> list[_Stage]:
    """The linear layers of a network, or of a member of stacked ones."""
    stages: list[_Stage] = []
    for layer in layers:
        if isinstance(layer, StackedLinear):
            stages.append(_Stage(layer.weight[member], layer.bias[member, 0], []))
        elif isinstance(layer, nn.Linear):
            stages.append(_Stage(layer.weight.t(), layer.bias, []))
        else:
            stages[-1].following.append(layer)
    return stages


def _can_defer_bias(following: Sequence[nn.Module]) -> bool:
    """Whether the next linear layer can add a layer's bias, which spares a pass over the tile.

    It can if nothing is between them, or ReLUs, since max(h + b, 0) = max(h, -b) + b.
    """
    return all(type(layer) is nn.ReLU for layer in following)


def _step(weight: Tensor, bias: Tensor, following: Sequence[nn.Module], defers: bool) -> Step:
    """A linear layer and the layers after it, without the bias if that is deferred."""
    if not following:
        return lambda h, result: torch.mm(h, weight, out=result)
    if defers:
        lowest = -bias
        return lambda h, result: torch.mm(h, weight, out=result).clamp_min_(lowest)

    others = [_in_place(layer) for layer in following]

    def step(h: Tensor, result: Tensor) -> Tensor:
        h = torch.addmm(bias, h, weight, out=result)
        for other in others:
            h = other(h)
        return h

    return step


def _in_place(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A layer that writes its result over its input, if it is elementwise."""
    activation = activation_of(layer)
    if activation is None or activation.out is None:
        return layer
    parameters = {name: getattr(layer, name) for name in activation.parameters}
    compute = partial(activation.out, **parameters)
    return lambda h: compute(h, out=h)


# ------------------------------------------------------------------------------- whole functions


def _folded_to_residuals(
    standardize: Standardize, pipeline: Pipeline, head: ScoreHead
) -> TileFunction:
    """Residuals by the chain of a network, and their scores by the head."""
    scale, shift = standardize.scale, standardize.shift
    chain = _Chain.of(standardize, pipeline, None)
    bias, code_bias, n_features = chain.bias - shift, chain.code_bias, len(scale)
    n_latent = chain.widths[chain.n_encoding - 1] if head.uses_code else 0

    def score(x: Tensor) -> Tensor:
        tiles = _scratch.tiles(len(x), (n_features, n_latent), (*chain.widths, n_features))
        rows, code, *results, residual = tiles

        def keep(h: Tensor) -> None:
            if not head.uses_code:
                return
            if code_bias is None:
                code.copy_(h)
            else:
                torch.add(h, code_bias, out=code)

        h = chain.hidden(rows.copy_(x), results, keep)
        torch.addcmul(bias, rows, scale, value=-1, out=residual).addmm_(h, chain.weight)
        row = torch.addcmul(shift, rows, scale) if head.uses_row else rows
        scores = head(residual, *head.other_inputs(code, row))
        return torch.nan_to_num(scores, nan=HIGHEST_SCORE)

    return score


def _folded_to_points(standardize: Standardize, pipeline: Pipeline, head: Kernel) -> TileFunction:
    """Row and residuals of all members as a point, and its distance from its kernel regression."""
    scale, shift, n_features = standardize.scale, standardize.shift, standardize.n_features
    chains = [_Chain.of(standardize, pipeline, i) for i in _members(pipeline)]
    center, *centers = head.center.split(n_features)
    weight = residual_weight(len(chains))
    row_bias, weighted_scale = shift - center, weight * scale
    lasts = [
        (weight * (chain.bias - shift) - center, weight * chain.weight)
        for chain, center in zip(chains, centers, strict=True)
    ]
    separate = (n_features, len(head.center))
    fast_scores = head.fast_scores()

    def score(x: Tensor) -> Tensor:
        rows, points, *results = _scratch.tiles(len(x), separate, chains[0].widths)
        row, *residuals = points.split(n_features, dim=1)
        torch.addcmul(row_bias, rows.copy_(x), scale, out=row)
        for chain, (bias, last), residual in zip(chains, lasts, residuals, strict=True):
            h = chain.hidden(rows, results, lambda code: None)
            torch.addcmul(bias, rows, weighted_scale, value=-1, out=residual).addmm_(h, last)
        return torch.nan_to_num(fast_scores(points), nan=HIGHEST_SCORE)

    return score


def _folded_to_lengths(
    standardize: Standardize, pipeline: Pipeline, whitening: Whitening, head: ScoreHead
) -> TileFunction:
    """Whitened residuals and codes by the chain of each member, and scores from their lengths."""
    chains = [_Chain.of(standardize, pipeline, i) for i in _members(pipeline)]
    lengths_of = [
        _lengths(standardize, chain, whitening, i)
        for i, chain in zip(_members(pipeline), chains, strict=True)
    ]
    n_whitened = sum(affine.weight.shape[-1] for affine in whitening if affine is not None)
    separate = (standardize.n_features, n_whitened)

    def score(x: Tensor) -> Tensor:
        rows, whitened, *results = _scratch.tiles(len(x), separate, chains[0].widths)
        rows.copy_(x)
        scores = [lengths(rows, results, whitened) for lengths in lengths_of]
        combined = (
            head.combined(torch.stack(scores)) if isinstance(head, CombinedHead) else scores[0]
        )
        return torch.nan_to_num(combined, nan=HIGHEST_SCORE)

    return score


def _members(pipeline: Pipeline) -> Sequence[int | None]:
    """The numbers of the members; None is a single network."""
    return [None] if pipeline.n_members is None else range(pipeline.n_members)


def _of_member(affine: Affine, member: int | None) -> Affine:
    """The map of a member, or of a single network, in float64."""
    center, weight = affine if member is None else (affine.center[member], affine.weight[member])
    return Affine(center[0].double(), weight.double())


def _lengths(
    standardize: Standardize, chain: _Chain, whitening: Whitening, member: int | None
) -> Callable[[Tensor, list[Tensor], Tensor], Tensor]:
    """Return a function from raw float32 rows to the lengths of whitened residual and code.

    The whitened residual is linear in the last hidden values and the raw row, and the whitened code
    is linear in the code.
    """
    scale, shift = standardize.scale.double(), standardize.shift.double()
    residual = _of_member(whitening.residual, member)
    of_hidden = (chain.weight.double() @ residual.weight).float()
    of_row = (-scale.unsqueeze(1) * residual.weight).float()
    constant = ((chain.bias.double() - shift - residual.center) @ residual.weight).float()
    n_residual = residual.weight.shape[1]
    code = whitening.code
    if code is not None:
        center, code_weight = _of_member(code, member)
        deferred = 0.0 if chain.code_bias is None else chain.code_bias.double()
        code_bias = ((deferred - center) @ code_weight).float()
        code_weight = code_weight.float()

    def lengths(rows: Tensor, results: list[Tensor], whitened: Tensor) -> Tensor:
        def whiten(h: Tensor) -> None:
            if code is not None:
                torch.addmm(code_bias, h, code_weight, out=whitened[:, n_residual:])

        h = chain.hidden(rows, results, whiten)
        of_residual = whitened[:, :n_residual]
        torch.addmm(constant, rows, of_row, out=of_residual).addmm_(h, of_hidden)
        found: Tensor = torch.linalg.vector_norm(whitened, dim=1)
        return found

    return lengths


class _Scratch(threading.local):
    """Memory for tiles that each thread keeps from call to call.

    The operating system clears new memory page by page, which can take as long as the computation
    that writes to it.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)
        self._shape: tuple[object, ...] = ()
        self._tiles: list[Tensor] = []

    def tiles(self, n: int, separate: Sequence[int], alternating: Sequence[int]) -> list[Tensor]:
        """Uninitialised tiles [n, width], valid until the next call.

        ``alternating`` tiles share two places, so that they take less of the cache: writing to one
        overwrites the one before the last.
        """
        widths = (*separate, *alternating)
        if (n, separate, alternating) != self._shape:
            turns = [max(alternating[::2]), max(alternating[1::2], default=0)]
            places = [-(-n * width // _ALIGNED) * _ALIGNED for width in (*separate, *turns)]
            if len(self._memory) < sum(places):
                self._memory = torch.empty(sum(places))
            *first, even, odd = self._memory[: sum(places)].split(places)
            memory = [*first, *(odd if i % 2 else even for i in range(len(alternating)))]
            self._tiles = [m[: n * w].view(n, w) for m, w in zip(memory, widths, strict=True)]
            self._shape = (n, separate, alternating)
        return self._tiles


_scratch = _Scratch()
