"""Rows and scores on a device: score_tensor, tiles, memory that runs out, to a GPU and back."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.engine import tiles, training
from pyod_ae_plugin.engine.cuda import dispatch
from pyod_ae_plugin.engine.cuda.fused import FusedScore
from pyod_ae_plugin.engine.cuda.graphs import RecordedTiles
from pyod_ae_plugin.engine.folded import score_function
from pyod_ae_plugin.engine.rows import training_batches
from pyod_ae_plugin.scoring import ScoreHead, Standardize

DETECTORS = [AutoEncoder, VAE, AutoEncoderEnsemble]


def fitted(Detector, X, device="cpu", **params):
    few = {"n_estimators": 3} if Detector is AutoEncoderEnsemble else {}
    return Detector(epoch_num=3, verbose=0, device=device, **few, **params).fit(X)


@pytest.mark.parametrize("Detector", DETECTORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32])
def test_a_tensor_is_scored_as_its_array_is(Detector, dtype, X):
    detector = fitted(Detector, X)
    x = (torch.from_numpy(X) * 3).to(dtype).requires_grad_(dtype.is_floating_point)
    scores = detector.score_tensor(x)
    assert scores.dtype is torch.float32
    assert not scores.requires_grad
    assert np.array_equal(scores, detector.decision_function(x.detach().numpy()))
    for function in (detector.decision_function, detector.transform, detector.predict):
        assert np.array_equal(function(x.detach()), function(x.detach().numpy()))


def test_a_tensor_with_bad_rows_gives_them_alone_the_highest_score(X):
    detector = fitted(AutoEncoder, X)
    x = torch.from_numpy(X)
    expected = detector.score_tensor(x)
    x[3, 1], x[7, 0] = torch.nan, torch.inf
    scores = detector.score_tensor(x)
    good = torch.ones(len(x), dtype=torch.bool)
    good[[3, 7]] = False
    assert torch.equal(scores[good], expected[good])
    assert (scores[~good] == torch.finfo(torch.float32).max).all()


def test_tensors_that_do_not_fit_are_refused(X):
    detector = fitted(AutoEncoder, X)
    for x in (torch.ones(3, 5), torch.ones(6), torch.ones(0, 6)):
        with pytest.raises(ValueError, match=r"fitted to 6 features; expected \[n, 6\]"):
            detector.score_tensor(x)
    with pytest.raises(TypeError, match="real numbers"):
        detector.score_tensor(torch.ones(3, 6, dtype=torch.complex64))
    elsewhere = torch.ones(3, 6, device="meta")
    with pytest.raises(ValueError, match="x is on meta, and the detector on cpu"):
        detector.score_tensor(elsewhere)
    with pytest.raises(ValueError, match="fitted to 6 features"):
        detector.decision_function(elsewhere[:, :5])


def tile_before(rows):
    return lambda stop, height: rows[max(stop - height, 0) : stop]


def test_tiles_become_lower_where_memory_runs_out(X):
    detector = fitted(AutoEncoder, X)
    module, heights = detector.scoring_module_, []
    rows = torch.from_numpy(np.tile(X, (20, 1)))

    def short_of_memory(tile):
        heights.append(len(tile))
        if len(tile) > 500:
            raise torch.cuda.OutOfMemoryError
        return module(tile)

    parts = tiles.mapped_in_turn(short_of_memory, len(rows), tile_before(rows), module)
    got = torch.cat([scores for _, _, scores in parts])
    assert heights[0] > 500
    assert heights[-1] == max(h for h in heights if h <= 500)
    assert np.allclose(got, detector.decision_function(rows.numpy()))


def test_memory_that_does_not_even_hold_a_low_tile_is_reported(X):
    module = fitted(AutoEncoder, X).scoring_module_

    def out_of_memory(tile):
        raise torch.cuda.OutOfMemoryError("all taken")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="all taken"):
        list(tiles.mapped_in_turn(out_of_memory, len(X), tile_before(torch.from_numpy(X)), module))


@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_batches_are_the_rows_of_their_indices_standardised(shape, X):
    rows, standardize = torch.from_numpy(X), Standardize(6)
    standardize.scale, standardize.shift = torch.full((6,), 2.0), torch.arange(6.0)
    indices = torch.randint(300, shape, dtype=torch.int32)
    got = training_batches(rows, standardize, torch.device("cpu"), 4.0)(indices)
    expected = (rows[indices] * 2 + torch.arange(6.0)).float()
    assert expected.max() > 4
    torch.testing.assert_close(got, expected.clamp(-4, 4))


class Branching(ScoreHead):
    """A head of a plugin, which waits for a value; no graph can."""

    def forward(self, residual):
        length = residual.square().sum(-1)
        return length.sqrt() if float(length.sum()) > 0 else length


def test_a_plugin_s_head_is_not_recorded(X):
    module = fitted(AutoEncoder, X, missing="mask").scoring_module_
    assert isinstance(dispatch._new_function(module, "float32"), RecordedTiles)
    module.head = Branching(6)
    assert not isinstance(dispatch._new_function(module, "float32"), RecordedTiles)


# ------------------------------------------------------------------------------ on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("Detector", DETECTORS)
def test_rows_on_a_gpu_are_scored_there(Detector, X):
    detector = fitted(Detector, X, "cuda")
    x = torch.from_numpy(X).cuda()
    scores = detector.score_tensor(x)
    assert scores.is_cuda
    expected = detector.decision_function(X)
    assert np.allclose(scores.cpu(), expected, rtol=1e-4)
    assert np.allclose(detector.decision_function(x), expected, rtol=1e-4)
    assert np.array_equal(detector.predict(x), detector.predict(X))
    assert np.allclose(detector.transform(x), detector.transform(X), atol=1e-4)
    assert np.allclose(detector.reconstruct(x), detector.reconstruct(X), atol=1e-3)
    if Detector is VAE:
        for on_gpu, on_host in (
            (detector.latent(x), detector.latent(X)),
            (detector.reconstruct(x, 8), detector.reconstruct(X, 8)),
        ):
            assert np.allclose(on_gpu, on_host, atol=1e-3)
        assert detector.sample(3000, random_state=0).std() < 2
    with pytest.raises(ValueError, match="NaN or infinity"):
        detector.decision_function(torch.full_like(x, torch.nan))


@pytest.mark.gpu
@pytest.mark.parametrize("protocol", ["__dlpack__", "__cuda_array_interface__"])
def test_arrays_of_others_on_a_gpu_are_taken(protocol, X):
    """An array that offers nothing but one protocol, as those of CuPy offer both."""
    tensor = torch.from_numpy(X).cuda()
    names = {
        "__dlpack__": ["__dlpack__", "__dlpack_device__"],
        "__cuda_array_interface__": ["__cuda_array_interface__"],
    }[protocol]
    Other = type("Other", (), {name: getattr(tensor, name) for name in names})
    detector = fitted(AutoEncoder, X, "cuda")
    assert np.array_equal(detector.decision_function(Other()), detector.decision_function(tensor))


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu(X):
    detector = fitted(AutoEncoder, X, "cuda")
    x = torch.from_numpy(X).cuda()
    detector.score_tensor(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        detector.score_tensor(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
@pytest.mark.parametrize("n", [1, 100, 300_001])
def test_tiles_stream_to_a_gpu_in_order(n, dtype, X):
    detector = fitted(AutoEncoder, X, "cuda", score_head="euclidean")
    rows = (np.random.default_rng(0).normal(size=(n, 6)) * 100).astype(dtype)
    expected = detector.scoring_module_(torch.from_numpy(rows).cuda()).cpu()
    assert np.allclose(detector.decision_function(rows), expected, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("way", ["fused", "recorded"])
def test_a_gpu_gives_the_scores_of_the_plain_module(way, precision, X, monkeypatch):
    if way == "recorded":
        monkeypatch.setattr(dispatch, "fused_score_function", lambda *_: None)
    detector = fitted(AutoEncoder, X, "cuda", precision=precision)
    x = torch.from_numpy(np.tile(X, (40, 1))).cuda()
    function = score_function(detector.scoring_module_, precision)
    assert isinstance(function, FusedScore if way == "fused" else RecordedTiles)
    expected = detector.scoring_module_(x)
    tolerance = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 2e-1}[precision]
    torch.testing.assert_close(detector.score_tensor(x), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["fused", "recorded"])
def test_a_gpu_sees_changed_weights_and_hooks(way, X, monkeypatch):
    if way == "recorded":
        monkeypatch.setattr(dispatch, "fused_score_function", lambda *_: None)
    detector = fitted(AutoEncoder, X, "cuda")
    module, x = detector.scoring_module_, torch.from_numpy(X).cuda()
    before = detector.score_tensor(x)
    with torch.no_grad():
        next(module.network.parameters()).mul_(2)
    changed = detector.score_tensor(x)
    assert not torch.allclose(changed, before)
    torch.testing.assert_close(changed, module(x), rtol=1e-4, atol=1e-4)
    module.network.decoder.register_forward_hook(lambda layer, given, output: output * 2)
    torch.testing.assert_close(detector.score_tensor(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["fused", "recorded"])
def test_threads_share_a_gpu(way, X, monkeypatch):
    if way == "recorded":
        monkeypatch.setattr(dispatch, "fused_score_function", lambda *_: None)
    detector = fitted(AutoEncoder, X, "cuda")
    tables = [X * factor for factor in range(1, 9)]
    alone = [detector.decision_function(table) for table in tables]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(detector.decision_function, tables))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


TRAININGS = {
    "AutoEncoder": (AutoEncoder, {}),
    "batch norm, dropout, noise": (
        AutoEncoder,
        {"batch_norm": True, "dropout_rate": 0.2, "corruption": {"mask": 0.2, "noise": 0.2}},
    ),
    "SGD": (AutoEncoder, {"optimizer_name": "sgd", "optimizer_params": {"sgd_momentum": 0.9}}),
    "early stopping": (AutoEncoder, {"early_stopping": True}),
    "VAE": (VAE, {"capacity": 2.0, "kl_warmup": 0.6}),
    "ensemble": (AutoEncoderEnsemble, {"n_estimators": 3}),
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", TRAININGS)
def test_recorded_steps_train_to_the_same_bits(case, X, monkeypatch):
    Detector, params = TRAININGS[case]
    params = {"epoch_num": 5, "batch_size": 70, "verbose": 0, "device": "cuda", **params}
    recorded = Detector(**params).fit(X)
    monkeypatch.setattr(training, "can_be_recorded", lambda *_: False)
    eager = Detector(**params).fit(X)
    assert recorded.history_ == eager.history_
    weights = zip(recorded.model.parameters(), eager.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.gpu
def test_rows_too_many_for_a_gpu_come_batch_by_batch(X, monkeypatch):
    resident = fitted(AutoEncoder, X, "cuda").decision_scores_
    monkeypatch.setattr("pyod_ae_plugin.engine.rows._free_memory", lambda device: 0)
    assert np.allclose(fitted(AutoEncoder, X, "cuda").decision_scores_, resident, rtol=1e-4)
