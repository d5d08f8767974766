"""The Triton kernel that computes a whole scoring module; this file imports triton.

Every width is padded to a power of two, and weights are padded with zeros. One integer holds all
widths, and another all activations, as hexadecimal digits. The lowest digit is that of the first
layer. Triton before 3.6 cannot unpack a tuple of constants. In products with tensors, constants
stand on the right: the interpreter of Triton 3.9 fails on others.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pyod_ae_plugin.networks.activations import ACTIVATIONS as KNOWN_ACTIVATIONS
from pyod_ae_plugin.scoring import heads, kernel, module

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 2):
    raise ImportError(f"The fused kernel needs triton 3.2 or later, not {triton.__version__}.")

RELU, LEAKY_RELU, ELU, SILU, GELU, SIGMOID, TANH, SOFTPLUS = (
    tl.constexpr(KNOWN_ACTIVATIONS[name].kernel_code)
    for name in ("relu", "leaky_relu", "elu", "silu", "gelu", "sigmoid", "tanh", "softplus")
)
HIGHEST_SCORE = tl.constexpr(module.HIGHEST_SCORE)
SMALLEST_SCORE = tl.constexpr(torch.finfo(torch.float32).tiny)
LOWEST_LOG_SCORE = tl.constexpr(heads.LOWEST_LOG_SCORE)
RESIDUAL_WEIGHT = tl.constexpr(kernel.RESIDUAL_WEIGHT)
SAME = tl.constexpr(kernel.SAME)
REFERENCES_AT_A_TIME = tl.constexpr(64)
# In full float32 a thread holds its rows of one factor and its columns of the other in registers.
# With more inputs than this they do not fit, and every multiplication would wait for memory.
_INPUTS_AT_A_TIME = tl.constexpr(16)
_ALL_NAN = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["n"])
def score_rows(
    rows,  # [n, N_FEATURES]
    scores,  # [n]
    scale,  # [2, width]: scale and shift of each feature
    matrices,  # [N_MEMBERS, MATRICES_SIZE]: weights, whitening, references
    vectors,  # [N_MEMBERS, VECTORS_SIZE]: biases, centers, half squared norms of references
    calibration,  # [2, N_MEMBERS]: location and scale of log scores
    n,
    N_FEATURES: tl.constexpr,
    N_MEMBERS: tl.constexpr,
    MATRICES_SIZE: tl.constexpr,
    VECTORS_SIZE: tl.constexpr,
    WIDTHS: tl.constexpr,  # their binary logarithms
    ACTIVATIONS: tl.constexpr,
    N_LAYERS: tl.constexpr,
    N_ENCODING: tl.constexpr,
    WHITENS: tl.constexpr,
    USES_CODE: tl.constexpr,
    N_REFERENCES: tl.constexpr,
    SMOOTHS: tl.constexpr,
    COMBINES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the scores of BLOCK rows."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    N_IN: tl.constexpr = 1 << (WIDTHS & 15)
    feature = tl.arange(0, N_IN)
    cells = rows + row[:, None] * N_FEATURES + feature[None, :]
    mask = (row < n)[:, None] & (feature < N_FEATURES)[None, :]
    x = tl.load(cells, mask=mask, other=0).to(tl.float32)
    z = x * tl.load(scale + feature)[None, :] + tl.load(scale + N_IN + feature)[None, :]
    score = tl.zeros([BLOCK], tl.float32)
    for member in range(N_MEMBERS):
        h, code, matrix, vector = _forward(
            z,
            matrices + member * MATRICES_SIZE,
            vectors + member * VECTORS_SIZE,
            WIDTHS,
            ACTIVATIONS,
            N_LAYERS,
            N_ENCODING,
            PRECISION,
        )
        # an activation may map the zeros of padding to other values
        residual = tl.where(feature[None, :] < N_FEATURES, h - z, 0.0)
        N_CODE: tl.constexpr = 1 << (WIDTHS >> (4 * N_ENCODING) & 15)
        if SMOOTHS:
            length = _smoothed_length(z, residual, matrix, vector, N_IN, N_REFERENCES, PRECISION)
        else:
            length = _length(
                residual,
                code,
                matrix,
                vector,
                N_IN,
                N_CODE,
                WHITENS,
                USES_CODE,
                N_REFERENCES,
                PRECISION,
            )
        if COMBINES:
            log_score = tl.log(tl.maximum(length, SMALLEST_SCORE, propagate_nan=_ALL_NAN))
            distance = log_score - tl.load(calibration + member)
            distance = tl.maximum(distance, LOWEST_LOG_SCORE, propagate_nan=_ALL_NAN)
            score += distance / tl.load(calibration + N_MEMBERS + member) / N_MEMBERS
        else:
            score += length
    # the comparison is false for NaN and infinity
    score = tl.where(score < HIGHEST_SCORE, score, HIGHEST_SCORE)
    tl.store(scores + row, score, mask=row < n)


@triton.jit
def _forward(
    h,
    matrix,
    vector,
    WIDTHS: tl.constexpr,
    ACTIVATIONS: tl.constexpr,
    N_LAYERS: tl.constexpr,
    N_ENCODING: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Reconstructions and codes of standardised rows, and pointers to the next parameters."""
    code = h
    for i in tl.static_range(N_LAYERS):
        h, matrix, vector = _layer(
            h, matrix, vector, WIDTHS >> (4 * i), ACTIVATIONS >> (4 * i) & 15, PRECISION
        )
        if i == N_ENCODING - 1:
            code = h
    return h, code, matrix, vector


@triton.jit
def _layer(
    h, matrix, vector, WIDTHS: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr
):
    N_IN: tl.constexpr = 1 << (WIDTHS & 15)
    N_OUT: tl.constexpr = 1 << (WIDTHS >> 4 & 15)
    bias = tl.load(vector + tl.arange(0, N_OUT))[None, :]
    bias = tl.broadcast_to(bias, [h.shape[0], N_OUT])
    h = _activated(_plus_product(bias, h, matrix, N_IN, N_OUT, PRECISION), ACTIVATION)
    return h, matrix + N_IN * N_OUT, vector + N_OUT


@triton.jit
def _activated(h, ACTIVATION: tl.constexpr):
    if ACTIVATION == RELU:
        h = tl.maximum(h, 0.0, propagate_nan=_ALL_NAN)
    elif ACTIVATION == LEAKY_RELU:
        h = tl.where(h > 0, h, 0.01 * h)
    elif ACTIVATION == ELU:
        h = tl.where(h > 0, h, tl.exp(h) - 1)
    elif ACTIVATION == SILU:
        h = h * tl.sigmoid(h)
    elif ACTIVATION == GELU:
        h = 0.5 * h * (1 + tl.erf(h * 0.7071067811865476))
    elif ACTIVATION == SIGMOID:
        h = tl.sigmoid(h)
    elif ACTIVATION == TANH:
        h = 2 * tl.sigmoid(2 * h) - 1
    elif ACTIVATION == SOFTPLUS:
        h = tl.maximum(h, 0.0, propagate_nan=_ALL_NAN) + tl.log(1 + tl.exp(-tl.abs(h)))
    return h


@triton.jit
def _length(
    residual,
    code,
    matrix,
    vector,
    N_IN: tl.constexpr,
    N_CODE: tl.constexpr,
    WHITENS: tl.constexpr,
    USES_CODE: tl.constexpr,
    N_REFERENCES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Length of the whitened residual and code, or their distance to the nearest references."""
    if WHITENS:
        residual, matrix, vector = _whitened(residual, matrix, vector, N_IN, PRECISION)
    square = tl.sum(residual * residual, 1)
    if USES_CODE:
        code, matrix, vector = _whitened(code, matrix, vector, N_CODE, PRECISION)
        square += tl.sum(code * code, 1)
    if N_REFERENCES > 0:
        # |x - r|^2 = |x|^2 + 2 (|r|^2 / 2 - x r)
        one = _nearest(residual, code, matrix, vector, N_IN, N_CODE, N_REFERENCES // 2, PRECISION)
        matrix += (N_IN + N_CODE) * (N_REFERENCES // 2)
        vector += N_REFERENCES // 2
        other = _nearest(residual, code, matrix, vector, N_IN, N_CODE, N_REFERENCES // 2, PRECISION)
        square += 2 * tl.maximum(one, other)
        square = tl.maximum(square, 0.0, propagate_nan=_ALL_NAN)
    return tl.sqrt(square)


@triton.jit
def _whitened(x, matrix, vector, WIDTH: tl.constexpr, PRECISION: tl.constexpr):
    x -= tl.load(vector + tl.arange(0, WIDTH))[None, :]
    zeros = tl.zeros([x.shape[0], WIDTH], tl.float32)
    x = _plus_product(zeros, x, matrix, WIDTH, WIDTH, PRECISION)
    return x, matrix + WIDTH * WIDTH, vector + WIDTH


@triton.jit
def _nearest(
    residual,
    code,
    matrix,
    vector,
    N_IN: tl.constexpr,
    N_CODE: tl.constexpr,
    N_REFERENCES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Smallest of |r|^2 / 2 - x r over references r, for rows x of residual and code."""
    N: tl.constexpr = REFERENCES_AT_A_TIME
    nearest = tl.full([residual.shape[0], N], float("inf"), tl.float32)
    for _ in range(N_REFERENCES // N):
        product = tl.zeros([residual.shape[0], N], tl.float32)
        product = _plus_product(product, residual, matrix, N_IN, N, PRECISION)
        product = _plus_product(product, code, matrix + N_IN * N, N_CODE, N, PRECISION)
        nearest = tl.minimum(nearest, tl.load(vector + tl.arange(0, N))[None, :] - product)
        matrix += (N_IN + N_CODE) * N
        vector += N
    return tl.min(nearest, 1)


@triton.jit
def _smoothed_length(
    z,
    residual,
    matrix,
    vector,
    N_IN: tl.constexpr,
    N_REFERENCES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Distance of (z, 3 residual) to its reconstruction by kernel regression on references.

    Softmax and mean are computed in one pass over the references. At each larger logit, the sums
    so far are scaled down (Milakov & Gimelshein 2018, Online normalizer calculation for softmax).
    """
    N: tl.constexpr = REFERENCES_AT_A_TIME
    BLOCK: tl.constexpr = z.shape[0]
    feature = tl.arange(0, N_IN)
    row = z - tl.load(vector + feature)[None, :]
    residual = residual * RESIDUAL_WEIGHT - tl.load(vector + N_IN + feature)[None, :]
    factor = tl.load(vector + 2 * N_IN)
    copied = tl.load(vector + 2 * N_IN + 1)
    vector += 2 * N_IN + 2
    square = tl.sum(row * row, 1) + tl.sum(residual * residual, 1)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    nearest = tl.full([BLOCK], float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    row_sum = tl.zeros([BLOCK, N_IN], tl.float32)
    residual_sum = tl.zeros([BLOCK, N_IN], tl.float32)
    for _ in range(N_REFERENCES // N):
        product = tl.zeros([BLOCK, N], tl.float32)
        product = _plus_product(product, row, matrix, N_IN, N, PRECISION)
        product = _plus_product(product, residual, matrix + N_IN * N, N_IN, N, PRECISION)
        lengths = square[:, None] + tl.load(vector + tl.arange(0, N))[None, :]
        copies = tl.load(vector + N_REFERENCES + tl.arange(0, N))[None, :]
        distances = lengths - 2 * product
        may_be_itself = (distances <= lengths * SAME) & (copies < 2)
        weight = tl.where(copies > 0, tl.where(may_be_itself, copied, 1.0), 0.0)
        logits = tl.where(weight > 0, tl.log(weight) - factor * distances, float("-inf"))
        larger = tl.maximum(largest, tl.max(logits, 1))
        finite = tl.where(larger > float("-inf"), larger, 0.0)
        weights = tl.exp(logits - finite[:, None])
        shrinkage = tl.exp(largest - finite)
        total = total * shrinkage + tl.sum(weights, 1)
        row_sum = row_sum * shrinkage[:, None]
        residual_sum = residual_sum * shrinkage[:, None]
        row_sum = _plus_product(row_sum, weights, matrix + 2 * N_IN * N, N, N_IN, PRECISION)
        residual_sum = _plus_product(
            residual_sum, weights, matrix + 3 * N_IN * N, N, N_IN, PRECISION
        )
        largest = larger
        nearest = tl.minimum(nearest, tl.min(tl.where(copies > 0, distances, float("inf")), 1))
        matrix += 4 * N_IN * N
        vector += N
    row -= row_sum / total[:, None]
    residual -= residual_sum / total[:, None]
    length = tl.sqrt(tl.sum(row * row, 1) + tl.sum(residual * residual, 1))
    # the total is 0 if every reference may be the row itself
    return tl.where(total == 0, tl.sqrt(tl.maximum(nearest, 0.0)), length)


@triton.jit
def _plus_product(
    start, x, matrix, N_IN: tl.constexpr, N_OUT: tl.constexpr, PRECISION: tl.constexpr
):
    """``start`` plus the product of rows and a matrix [N_IN, N_OUT]."""
    N_PARTS: tl.constexpr = N_IN // _INPUTS_AT_A_TIME if PRECISION == "ieee" else 1
    inputs = tl.arange(0, N_IN // N_PARTS)[:, None] * N_PARTS
    outputs = tl.arange(0, N_OUT)[None, :]
    for part in tl.static_range(N_PARTS):
        factor = tl.load(matrix + (inputs + part) * N_OUT + outputs)
        columns = _columns(x, N_IN, N_PARTS, part).to(factor.dtype)
        start = tl.dot(columns, factor, start, input_precision=PRECISION)
    return start


@triton.jit
def _columns(x, N_IN: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr):
    """Every STEP-th column, where STEP is a power of two up to 8.

    Neighbouring columns belong to one thread, so this moves no data between threads.
    """
    for bit in tl.static_range(3):
        if STEP >> bit > 1:
            even, odd = tl.split(tl.reshape(x, [x.shape[0], N_IN >> (bit + 1), 2]))
            x = odd if FIRST >> bit & 1 else even
    return x
