"""The fused kernel, against the module that it stands for: on a GPU, else by Triton's interpreter.

Without a GPU it is also compiled for some, by the compiler and assembler that come with Triton.
"""

import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from pyod_ae_plugin.engine import tiles
from pyod_ae_plugin.engine.cuda import dispatch
from pyod_ae_plugin.engine.cuda.fused import FusedScore, fused_score_function
from pyod_ae_plugin.engine.cuda.graphs import RecordedTiles
from pyod_ae_plugin.networks import AutoEncoderNetwork, mlp, stacked_mlp, variational_mlp
from pyod_ae_plugin.networks.activations import ACTIVATIONS
from pyod_ae_plugin.scoring import (
    CombinedHead,
    Euclidean,
    JointMahalanobis,
    Kernel,
    Mahalanobis,
    Moments,
    NearestNeighbor,
    NegativeLogLikelihood,
    ScoringModule,
    Standardize,
)
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE
from pyod_ae_plugin.scoring.standardize import spread_of

pytest.importorskip("triton", reason="the fused kernel is written in triton, which is missing")

pytestmark = [
    pytest.mark.slow,
    # NumPy tells what triton's interpreter does to rows that overflow.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEADS = {
    "euclidean": lambda d, k, members: Euclidean(d, members),
    "mahalanobis": lambda d, k, members: Mahalanobis(d, members),
    "joint_mahalanobis": JointMahalanobis,
    "nearest_neighbor": NearestNeighbor,
    "kernel": lambda d, k, members: Kernel(d, members),
}
OF_MEMBERS = sorted(set(HEADS) - {"kernel"})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def raw_rows(n, d, seed=0, device=DEVICE):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)) * 3 + 1).to(device)


def fitted(network, head, d, device=DEVICE):
    """A scoring module with statistics of some rows."""
    rows = raw_rows(120, d, seed=1, device="cpu")
    standardize, moments = Standardize(d), Moments(d)
    moments.update(rows)
    standardize.fit(moments, spread_of(rows))
    network = network.eval().for_inference()
    with torch.no_grad():
        head.fit_to(network, lambda: [standardize(rows)], 0.1, seeded())
    return ScoringModule(standardize, network, head).eval().to(device)


def autoencoder(d=6, widths=(8, 3), activation="relu"):
    return mlp(d, list(widths), activation, False, 0.0, seeded())


def module_with(head="euclidean", d=6, widths=(8, 3), activation="relu", device=DEVICE):
    network = autoencoder(d, widths, activation)
    return fitted(network, HEADS[head](d, widths[-1], ()), d, device)


def assert_alike(module, x, precision="float32", tolerance=2e-5):
    score = fused_score_function(module, precision)
    with torch.inference_mode():
        expected = module(x)
        got = score(x)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("d", [1, 3, 30, 100])
@pytest.mark.parametrize("widths", [(2,), (8, 3), (40, 20, 5), (100, 17, 64, 2)])
def test_any_depth_and_width(d, widths):
    assert_alike(module_with(d=d, widths=widths), raw_rows(37, d))


@pytest.mark.parametrize("n", [1, 31, 32, 65])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_and_any_number_of_rows(head, n):
    assert_alike(module_with(head), raw_rows(n, 6), tolerance=1e-4)


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"softmax"}))
def test_every_activation(activation):
    assert_alike(module_with("joint_mahalanobis", activation=activation), raw_rows(9, 6) * 3)


@pytest.mark.parametrize("output", ["identity", "sigmoid", "softplus"])
@pytest.mark.parametrize("learn_variance", [False, True])
def test_a_variational_network_goes_by_its_posterior_mean(output, learn_variance):
    network = variational_mlp(
        6, [9, 5], [7], 2, "silu", output, False, 0.0, None, seeded(), learn_variance
    )
    for name in ("euclidean", "nearest_neighbor"):
        assert_alike(fitted(network, HEADS[name](6, 2, ()), 6), raw_rows(9, 6), tolerance=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_rows_of_every_dtype(dtype):
    x = raw_rows(9, 6).clamp_min(0).to(getattr(torch, dtype))
    assert_alike(module_with(), x)
    assert_alike(module_with(), x.T.contiguous().T)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 1e300])
def test_bad_rows_alone_get_the_highest_score(head, bad):
    module, x = module_with(head), raw_rows(9, 6)
    with torch.inference_mode():
        expected = module(x)
        x[4, 2] = bad
        scores = fused_score_function(module)(x)
    assert scores[4] == HIGHEST_SCORE == module(x)[4]
    others = torch.arange(9) != 4
    torch.testing.assert_close(scores[others], expected[others], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_lower_precision_is_near(head):
    # the interpreter takes the bits of a bfloat16 for an integer, so that one is left to a GPU
    assert_alike(module_with(head, d=30, widths=(64, 32)), raw_rows(37, 30), "tf32", 1e-2)


@pytest.mark.parametrize("head", OF_MEMBERS)
@pytest.mark.parametrize("variational", [None, [True, False, True]])
def test_an_ensemble_by_the_average_of_its_members(head, variational):
    network = stacked_mlp(6, [8, 3], [2, 3, 1], variational, "tanh", seeded())
    combined = CombinedHead(HEADS[head](6, 3, (3,)), 3, "average")
    assert_alike(fitted(network, combined, 6), raw_rows(9, 6), tolerance=1e-3)


def test_scores_go_where_they_are_wanted():
    module, x, out = module_with(), raw_rows(9, 6), torch.zeros(9, device=DEVICE)
    assert fused_score_function(module)(x, out=out) is out
    torch.testing.assert_close(out, module(x).detach(), rtol=1e-5, atol=1e-5)


def test_no_rows_have_no_scores():
    assert fused_score_function(module_with())(raw_rows(0, 6)).shape == (0,)


def hooked():
    module = module_with()
    module.network.encoder.register_forward_hook(lambda layer, args, output: output * 2)
    return module


def in_float64():
    module = module_with()
    module.standardize = module.standardize.double()
    return module


def with_layers(*layers):
    return fitted(AutoEncoderNetwork(nn.Sequential(*layers), nn.Linear(6, 6)), Euclidean(6), 6)


def of_members(combination, head=None):
    network = stacked_mlp(6, [8, 3], [2, 3], None, "tanh", seeded())
    return fitted(network, CombinedHead(head or Euclidean(6), 2, combination), 6)


class OtherNetwork(AutoEncoderNetwork):
    """May do otherwise."""


NOT_APPLICABLE = {
    "hook": hooked,
    "float64": in_float64,
    "wide rows": lambda: module_with(d=129),
    "wide layer": lambda: module_with(widths=(129, 3)),
    "softmax": lambda: module_with(activation="softmax"),
    "other slope": lambda: with_layers(nn.Linear(6, 6), nn.LeakyReLU(0.3)),
    "no bias": lambda: with_layers(nn.Linear(6, 6, bias=False)),
    "no linear layer": lambda: with_layers(nn.ReLU()),
    "dropout": lambda: with_layers(nn.Linear(6, 6), nn.Dropout()),
    "two activations": lambda: with_layers(nn.Linear(6, 6), nn.ReLU(), nn.Sigmoid()),
    "other network": lambda: fitted(
        OtherNetwork(nn.Linear(6, 6), nn.Linear(6, 6)), Euclidean(6), 6
    ),
    "other head": lambda: fitted(autoencoder(), NegativeLogLikelihood(6), 6),
    "maximum of members": lambda: of_members("maximization"),
    "many numbers against references": lambda: module_with("nearest_neighbor", 100, (50,)),
}


@pytest.mark.parametrize("reason", NOT_APPLICABLE)
def test_none_where_it_does_not_apply(reason):
    assert fused_score_function(NOT_APPLICABLE[reason]()) is None


def test_none_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton.runtime", None)
    assert fused_score_function(module_with()) is None


def test_triton_is_imported_when_it_is_asked_for():
    code = "import sys, pyod_ae_plugin.engine.cuda.fused; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_takes_part_in_the_loop_over_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "_COPIED_BYTES", 64 * 4 * 6)  # 64 rows
    module = module_with(d=6)
    score, rows = fused_score_function(module), raw_rows(150, 6)
    expected = score(rows)
    parts = tiles.mapped_in_turn(score, 150, lambda stop, n: rows[max(stop - n, 0) : stop], module)
    mapped = torch.cat([scores for _, _, scores in parts])
    # Triton's interpreter multiplies by NumPy, which may round a row by its place in a matrix.
    torch.testing.assert_close(mapped, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(tiles.map_resident(score, rows, module), expected)


def test_a_kernel_that_cannot_be_used_is_told_of_and_done_without(monkeypatch):
    module = module_with()
    assert isinstance(dispatch._new_function(module, "float32"), FusedScore)

    def fails(self, x, out=None):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(FusedScore, "__call__", fails)
    with pytest.warns(RuntimeWarning, match=r"cannot be used here .*C compiler"):
        assert isinstance(dispatch._new_function(module, "float32"), RecordedTiles)


def test_functions_that_are_kept_do_not_keep_the_module():
    for make in (module_with, NOT_APPLICABLE["other network"]):
        module = make()
        function, gone = dispatch._new_function(module, "float32"), weakref.ref(module)
        x = raw_rows(3, module.standardize.n_features)
        torch.testing.assert_close(function(x), module(x), rtol=1e-4, atol=1e-4)
        del module
        gc.collect()
        assert gone() is None


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
sys.path.insert(0, sys.argv[1])
import test_triton
from pyod_ae_plugin.engine.cuda import fused, fused_kernel

capability, head, precision = int(sys.argv[2]), sys.argv[3], sys.argv[4]
module = test_triton.module_with(head, d=30, widths=(64, 32), device="cpu")
path = fused.kernel_path(module)
parameters, options = fused.kernel_arguments(module, path, fused_kernel, precision)
hardware = {name: options.pop(name) for name in ("num_warps", "num_stages")}
kinds = ["*fp32", "*fp32", *("*bf16" if p.element_size() == 2 else "*fp32" for p in parameters)]
names = fused_kernel.score_rows.arg_names
signature = dict(zip(names, [*kinds, "i32"], strict=False))
signature |= dict.fromkeys(options, "constexpr")
assert set(signature) == set(names)
constants = {(names.index(name),): value for name, value in options.items()}
source = ASTSource(fused_kernel.score_rows, signature, constants)
compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=hardware)
assert compiled.asm["cubin"].startswith(b"\\x7fELF")
print(compiled.metadata.shared)
"""
# Bytes that a block may have of the memory that its threads share, by compute capability.
SHARED_MEMORY = {80: 163 * 2**10, 90: 227 * 2**10, 100: 227 * 2**10}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "head", "precision"),
    [(80, "kernel", "float32"), (90, "joint_mahalanobis", "float32"), (100, "kernel", "bfloat16")],
)
def test_it_compiles_for_gpus_that_are_not_here(capability, head, precision, tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    folder = os.path.dirname(__file__)
    command = [sys.executable, "-c", COMPILE, folder, str(capability), head, precision]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= SHARED_MEMORY[capability]


@pytest.mark.gpu
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-4), ("tf32", 2e-2), ("bfloat16", 0.2)]
)
def test_on_a_gpu(head, precision, tolerance):
    module = module_with(head, d=30, widths=(64, 32), device="cuda")
    assert_alike(module, raw_rows(5000, 30).cuda(), precision, tolerance)
    score, x = fused_score_function(module, precision), raw_rows(333, 30).float().cuda()
    expected, out = score(x), torch.zeros(333, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        score(x, out=out)
    graph.replay()
    assert torch.equal(out, expected)
