"""Settings that users make for all of torch: detectors compute as without them, and leave them."""

import contextlib
import copy
import pickle
import threading
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from pyod_ae_plugin import VAE, AutoEncoderEnsemble, load_detector
from pyod_ae_plugin.engine.cuda import dispatch
from pyod_ae_plugin.engine.devices import default_settings
from pyod_ae_plugin.networks import AutoEncoderNetwork


@contextlib.contextmanager
def made_and_undone(make, setting, default):
    make(setting)
    try:
        yield
    finally:
        make(default)


def default_dtype(dtype):
    return made_and_undone(torch.set_default_dtype, dtype, torch.float32)


def default_device():
    """A device other than the detector's; on meta nothing can be computed."""
    return made_and_undone(torch.set_default_device, "meta", None)


SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": default_device,
    "device in a block": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "deterministic": lambda: made_and_undone(torch.use_deterministic_algorithms, True, False),
    "matmul precision": lambda: made_and_undone(
        torch.set_float32_matmul_precision, "medium", "highest"
    ),
    "no denormals": lambda: made_and_undone(torch.set_flush_denormal, True, False),
}
if hasattr(torch.backends.mkldnn, "matmul"):  # since torch 2.9
    SETTINGS["tf32 products"] = lambda: made_and_undone(
        partial(setattr, torch.backends.cuda.matmul, "fp32_precision"), "tf32", "none"
    )
    SETTINGS["bfloat16 products"] = lambda: made_and_undone(
        partial(setattr, torch.backends, "fp32_precision"), "bf16", "none"
    )


@contextlib.contextmanager
def all_settings():
    with contextlib.ExitStack() as stack:
        for name in ("float64", "device", "autocast", "inference_mode", "no denormals"):
            stack.enter_context(SETTINGS[name]())
        yield


def precisions():
    """The settings for products of float32."""
    backends = torch.backends
    if not hasattr(backends.mkldnn, "matmul"):  # before torch 2.9
        return torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    owners = (backends, backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv)
    return [owner.fp32_precision for owner in owners]


def seen():
    """What the user sees of the settings."""
    return (
        torch.empty(0).dtype,
        torch.empty(0).device,
        torch.is_autocast_enabled("cpu"),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        precisions(),
        float(np.float64(5e-324)) * 1.0,
    )


class OwnNetwork(nn.Module):
    """A network that creates tensors in its constructor, in encode and in decode."""

    def __init__(self, n_features):
        super().__init__()
        self.encoder, self.norm = nn.Linear(n_features, 4), nn.BatchNorm1d(4)
        self.decoder = nn.Linear(4, n_features)
        self.gain = nn.Parameter(torch.linspace(0.5, 1, n_features))
        self.register_buffer("shift", torch.tensor([0.1, 0.2, 0.3, 0.4]))

    def encode(self, x):
        return torch.tanh(self.norm(self.encoder(x))) + self.shift * torch.arange(0.0, 4.0)

    def decode(self, z):
        return self.decoder(z) * self.gain + torch.full((1,), 0.1) + torch.zeros(1)


def everything(make, X, folder):
    """Bits of all that a detector computes, by name."""
    rows, detector = X[:20], make().fit(X)
    gives = {
        name: getattr(detector, name)(rows)
        for name in (
            "decision_function", "predict", "predict_proba", "predict_confidence", "transform",
            "reconstruct", "explain", "predict_with_rejection",
        )
    }  # fmt: skip
    gives["score_batches"] = np.concatenate(list(detector.score_batches([rows, X[20:]])))
    gives["score_tensor"] = detector.score_tensor(torch.from_numpy(rows)).numpy().copy()
    gives["names"] = detector.get_feature_names_out()
    others = {
        "fit": detector,
        "fit_batches": make().fit_batches([X[:30], X[30:]]),
        "partial_fit": make().partial_fit(X[:30]).partial_fit(X[30:]),
        "pickle": pickle.loads(pickle.dumps(detector)),
        "copy": copy.deepcopy(detector),
    }
    if isinstance(getattr(detector, "network", "mlp"), str):
        detector.save(folder / "model")
        others["load"] = load_detector(folder / "model")
    if isinstance(detector, VAE):
        gives["sample"] = detector.sample(5, random_state=0)
        gives["latent"] = np.stack(detector.latent(rows))
        gives["draws"] = np.stack(detector.reconstruct(rows, n_draws=3))
    if isinstance(detector, AutoEncoderEnsemble):
        more = copy.deepcopy(detector).set_params(warm_start=True, n_estimators=3)
        others["warm_start"] = more.fit(X)
    for name, other in others.items():
        gives[f"{name}: scores"] = other.decision_scores_
        gives[f"{name}: explain"] = other.explain(rows)
        for key, tensor in other.scoring_module_.state_dict().items():
            gives[f"{name}: {key}"] = tensor.numpy().copy()
    return gives, list(others.values())


def check_alike(make, X, setting, folder):
    expected, _ = everything(make, X, folder)
    with setting():
        before = seen()
        given, detectors = everything(make, X, folder)
        assert seen() == before
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        assert given[name].dtype == value.dtype, name
        assert np.array_equal(given[name], value), name
    for detector in detectors:  # outside they are as any other
        detector.explain(X)
        detector.partial_fit(X)


def few(names, fast):
    """All names, those that are not among the fast ones marked as slow."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("setting", few(SETTINGS, {"float64"}))
def test_a_setting_changes_no_bit(quick, setting, X, tmp_path):
    check_alike(quick, X[:60], SETTINGS[setting], tmp_path)


VARIANTS = {
    "VAE": {"Detector": VAE, "encoder_neuron_list": [8], "decoder_neuron_list": [8]},
    "ensemble": {"Detector": AutoEncoderEnsemble},
    "own network": {"network": OwnNetwork, "held_out_threshold": True},
    "conv": {"network": "conv", "input_shape": (2, 3), "hidden_neuron_list": [4, 2]},
    "variational_conv": {
        "Detector": VAE, "network": "variational_conv", "input_shape": (2, 3), "latent_dim": 2,
        "encoder_neuron_list": [4], "decoder_neuron_list": [4],
    },
    "by autograd": {
        "batch_norm": True, "dropout_rate": 0.2, "early_stopping": True,
        "corruption": {"mask": 0.2, "noise": 0.1},
    },
    **{head: {"score_head": head} for head in ("joint_mahalanobis", "nll")},
    **{head: {"Detector": VAE, "score_head": head} for head in ("elbo",
                                                                "reconstruction_probability")},
}  # fmt: skip


@pytest.mark.parametrize("variant", few(VARIANTS, {"own network"}))
def test_all_settings_at_once_change_no_bit(quick, variant, X, tmp_path):
    check_alike(lambda: quick(**VARIANTS[variant]), X[:60], all_settings, tmp_path)


@pytest.mark.slow
def test_settings_change_no_export(quick, X, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    detector = quick().fit(X)

    def exported():
        detector.to_onnx(tmp_path / "model.onnx")
        return detector.to_torch_export().module()

    expected = exported()(torch.from_numpy(X))
    file = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"X": X})
    with all_settings():
        program = exported()
    assert all(map(torch.equal, program(torch.from_numpy(X)), expected))
    again = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"X": X})
    assert all(map(np.array_equal, again, file))


def test_other_threads_see_the_users_settings_during_a_fit(quick, X):
    seen_elsewhere = []

    def network(n_features):
        assert torch.zeros(1).dtype == torch.float32
        thread = threading.Thread(target=lambda: seen_elsewhere.append(seen()))
        thread.start()
        thread.join()
        return OwnNetwork(n_features)

    with default_dtype(torch.float64):
        quick(network=network).fit(X)
    assert [dtype for dtype, *_ in seen_elsewhere] == [torch.float64]


def test_the_precision_is_set_back_when_the_last_thread_leaves():
    entered, left = threading.Event(), threading.Event()

    def compute():
        with default_settings():
            entered.set()
            left.wait(60)

    with SETTINGS["matmul precision"]():
        before = torch.get_float32_matmul_precision()
        thread = threading.Thread(target=compute)
        with default_settings():
            thread.start()
            entered.wait(60)
        full = torch.rand(70, 70)
        product = full @ full
        left.set()
        thread.join()
        assert torch.get_float32_matmul_precision() == before == "medium"
    assert torch.allclose(product, (full.double() @ full.double()).float(), rtol=1e-5)


def test_settings_are_left_as_they_were_by_an_error(quick, X):
    detector = quick().fit(X)
    with all_settings():
        before = seen()
        with pytest.raises(ValueError, match="cannot encode and decode"):
            quick(network=lambda n: AutoEncoderNetwork(nn.Linear(n, 2), nn.Linear(3, n))).fit(X)
        with pytest.raises(ValueError, match="features"):
            detector.decision_function(X[:, :2])
        assert seen() == before


def test_batches_are_made_under_the_users_settings(quick, X):
    made = []

    def batches():
        with torch.autocast("cpu", dtype=torch.bfloat16):  # open while a batch is used
            for rows in (X[:150], X[150:]):
                made.append(seen()[:3])
                yield torch.from_numpy(rows)

    expected = quick().fit_batches([X[:150], X[150:]])
    with default_dtype(torch.float64):
        detector = quick().fit_batches(batches())
        scores = np.concatenate(list(detector.score_batches(batches())))
    assert made == [(torch.float64, torch.device("cpu"), True)] * 4
    assert np.array_equal(detector.decision_scores_, expected.decision_scores_)
    assert np.array_equal(scores, expected.decision_scores_)


def test_features_of_denormal_numbers_count_where_torch_flushes_them(quick, X):
    tiny = np.c_[X, X[:, 0] * 1e-310]
    expected = quick().fit(tiny).decision_scores_
    with SETTINGS["no denormals"]():
        assert np.array_equal(quick().fit(tiny).decision_scores_, expected)


def test_a_network_of_another_type_is_refused_with_a_remedy(quick, X):
    def network(n_features):
        return OwnNetwork(n_features).double()

    with pytest.raises(ValueError, match=r"float32 rows .*torch\.float64: return network\.float"):
        quick(network=network).fit(X)


def test_values_keep_the_type_that_they_have():
    with default_dtype(torch.float64), default_settings():
        assert torch.tensor(np.ones(2)).dtype == torch.float64
        assert torch.as_tensor(np.float64(0.1)).dtype == torch.float64
        assert torch.full((2,), True).dtype == torch.bool
        assert torch.arange(3).dtype == torch.int64
        assert torch.tensor([1, 2]).dtype == torch.int64
        assert torch.zeros(2, dtype=torch.float16).dtype == torch.float16
        assert torch.arange(0.5, 2).dtype == torch.float32
        assert torch.full((2,), np.float64(0.1)).dtype == torch.float32
        assert torch.tensor([0.1]).equal(torch.tensor([0.1], dtype=torch.float32))


def on_a_gpu():
    """Whether a GPU would round the factors of matrix products."""
    if hasattr(torch.backends.mkldnn, "matmul"):  # since torch 2.9
        return torch.backends.cuda.matmul.fp32_precision == "tf32"
    return torch.get_float32_matmul_precision() != "highest"


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("setting", sorted(SETTINGS.keys() & {"matmul precision", "tf32 products"}))
def test_a_gpu_s_products_have_the_precision_that_is_asked_for(setting, precision):
    """Settings by kind of operation are read, too, after which older settings cannot be."""
    with SETTINGS[setting](), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CUDA is not available")  # by autocast
        before = seen()
        for outer in (contextlib.nullcontext(), default_settings()):
            with outer, dispatch._matrix_products(precision):
                assert on_a_gpu() == (precision == "tf32")
                with default_settings():  # as another thread would enter
                    assert on_a_gpu() == (precision == "tf32")
            assert seen() == before
        with default_settings():
            for _ in range(3):
                with dispatch._matrix_products("tf32"):
                    pass
                assert not on_a_gpu()
        assert seen() == before
