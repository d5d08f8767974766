"""On a real GPU: the CPU's scores, the same bits again, full memory, processes, PyOD's suites.

``benchmarks/gpu_day.sh`` runs this file alone, since some of it fills the memory of the card or
counts what is in it.
"""

import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pyod.models.lof import LOF
from pyod.models.lscp import LSCP
from torch import nn

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, create_detector
from pyod_ae_plugin.benchmarking.datasets import Dataset
from pyod_ae_plugin.benchmarking.evaluation import AdBenchProtocol, run
from pyod_ae_plugin.detectors.base import recipe_of
from pyod_ae_plugin.detectors.fit import Group, fit_model
from pyod_ae_plugin.detectors.inputs import as_rows

pytestmark = pytest.mark.gpu

DEVICE = "cuda"


class OwnNetwork(nn.Module):
    """A network that the engine does not know, so that it runs as it is."""

    def __init__(self, n_features):
        super().__init__()
        self.encoder, self.norm = nn.Linear(n_features, 4), nn.BatchNorm1d(4)
        self.decoder = nn.Linear(4, n_features)

    def encode(self, x):
        return torch.sin(self.norm(self.encoder(x)))

    def decode(self, z):
        return self.decoder(z)


CONV = {"network": "conv", "input_shape": (2, 3), "hidden_neuron_list": [4, 2]}
CASES = {
    **{
        head: (AutoEncoder, {"score_head": head})
        for head in (
            "euclidean", "mahalanobis", "joint_mahalanobis", "nearest_neighbor", "kernel", "nll"
        )
    },
    **{
        f"VAE, {head}": (VAE, {"score_head": head})
        for head in ("joint_mahalanobis", "kernel", "elbo", "reconstruction_probability")
    },
    "ensemble": (AutoEncoderEnsemble, {}),
    "ensemble, kernel": (AutoEncoderEnsemble, {"score_head": "kernel"}),
    "wide": (AutoEncoder, {"hidden_neuron_list": [300, 2]}),
    "gaps": (AutoEncoder, {"missing": "mask"}),
    "dropout": (AutoEncoder, {"batch_norm": True, "dropout_rate": 0.2}),
    "conv": (AutoEncoder, CONV),
    "conv, batch norm": (AutoEncoder, {**CONV, "batch_norm": True, "dropout_rate": 0.2}),
    "variational_conv": (
        VAE,
        {
            "network": "variational_conv", "input_shape": (2, 3), "latent_dim": 2,
            "encoder_neuron_list": [4], "decoder_neuron_list": [4],
        },
    ),
    "own network": (AutoEncoder, {"network": OwnNetwork}),
}  # fmt: skip
EACH = pytest.mark.parametrize("case", CASES)
SOME = pytest.mark.parametrize("case", ["joint_mahalanobis", "kernel", "ensemble", "conv"])


def fitted(case, X, **params):
    Detector, own = CASES[case]
    few = {"n_estimators": 3} if Detector is AutoEncoderEnsemble else {}
    options = {"epoch_num": 3, "verbose": 0, "device": DEVICE, **few, **own, **params}
    return Detector(**options).fit(X)


def bits(detector):
    """A digest of all that a fit learned."""
    digest = hashlib.sha256(detector.decision_scores_.tobytes())
    for name, tensor in detector.scoring_module_.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def assert_near(scores, expected):
    """Scores differ by no more than float32 rounds a typical one in a few hundred operations."""
    size = np.maximum(np.abs(expected), np.median(np.abs(expected)))
    assert (np.abs(scores - expected) / size).max() < 1e-3


# --------------------------------------------------------------------------- accuracy and bits


@EACH
def test_scores_are_those_of_the_cpu(case, X):
    detector = fitted(case, X)
    on_cpu = pickle.loads(pickle.dumps(detector.set_params(device="cpu")))
    assert next(on_cpu.model.parameters()).device.type == "cpu"
    assert_near(detector.decision_function(X), on_cpu.decision_function(X))


@EACH
def test_a_row_has_one_score_however_many_are_beside_it(case, X):
    """Blocks of the kernel, recorded shapes and tiles are filled up with other rows."""
    detector, rows = fitted(case, X), np.tile(X, (3, 1))
    scores = detector.decision_function(rows)
    for n in (1, 2, 31, 33, 64, 65, 129, 300):
        assert np.array_equal(detector.decision_function(rows[:n]), scores[:n]), n
        x = torch.from_numpy(rows[:n]).to(DEVICE)
        assert np.array_equal(detector.score_tensor(x).cpu().numpy(), scores[:n]), n


@EACH
def test_a_fit_gives_the_same_bits_again(case, X):
    assert bits(fitted(case, X)) == bits(fitted(case, X))


FIT_AND_PRINT = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np, test_gpu
test_gpu.DEVICE = {device!r}
print(test_gpu.bits(test_gpu.fitted({case!r}, np.load(sys.argv[1]))))
"""


def start_fit(case, X, tmp_path):
    """Start a process that fits a detector and prints its bits."""
    np.save(tmp_path / "X.npy", X)
    code = FIT_AND_PRINT.format(folder=os.path.dirname(__file__), device=DEVICE, case=case)
    command = [sys.executable, "-c", code, str(tmp_path / "X.npy")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def printed(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output.strip()


@pytest.mark.slow
@SOME
def test_other_processes_give_the_same_bits_two_of_them_at_a_time(case, X, tmp_path):
    processes = [start_fit(case, X, tmp_path) for _ in range(2)]
    assert {printed(process) for process in processes} == {bits(fitted(case, X))}


@pytest.mark.parametrize("case", ["joint_mahalanobis", "wide", "conv", "own network"])
def test_what_users_set_for_products_and_convolutions_changes_no_bit(case, X):
    def everything():
        detector = fitted(case, X)
        found = [detector.transform(X), detector.reconstruct(X), detector.explain(X)]
        return bits(detector), [values.tobytes() for values in found]

    expected, cudnn = everything(), torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    torch.set_float32_matmul_precision("high")
    cudnn.benchmark, cudnn.deterministic = True, False
    try:
        assert everything() == expected
        assert torch.get_float32_matmul_precision() == "high"
        assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
    finally:
        torch.set_float32_matmul_precision("highest")
        cudnn.benchmark, cudnn.deterministic = before


@pytest.mark.parametrize("case", ["dropout", "conv, batch norm", "ensemble"])
def test_training_goes_on_with_more_rows(case, X):
    """The network goes on with its own dropout, in steps that are recorded anew."""
    twice = [fitted(case, X).partial_fit(X[:100]).partial_fit(X[100:]) for _ in range(2)]
    assert bits(twice[0]) == bits(twice[1])


# -------------------------------------------------------------------------------------- memory


HOLD_MEMORY = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def full_card():
    """Return a function that starts a process which holds all of the card's memory but n bytes."""
    processes = []

    def leave(n_bytes):
        torch.cuda.empty_cache()
        command = [sys.executable, "-c", HOLD_MEMORY, str(n_bytes)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, **pipes)
        processes.append(process)
        assert process.stdout.readline() == "held\n"

    yield leave
    for process in processes:
        process.communicate()


@pytest.mark.slow
def test_rows_are_scored_where_another_process_holds_the_memory(X, full_card):
    detector = fitted("wide", X, hidden_neuron_list=[4096, 2])
    rows = np.tile(X, (2000, 1))
    expected = detector.decision_function(rows)
    full_card(2**28)
    assert_near(detector.decision_function(rows), expected)


@pytest.mark.slow
def test_a_fit_that_needs_more_than_is_left_leaves_the_detector_as_it_was(X, full_card):
    detector = fitted("wide", X)
    before = bits(detector)
    full_card(2**27)
    detector.set_params(hidden_neuron_list=[2**14, 2**12, 2])
    with pytest.raises(torch.cuda.OutOfMemoryError):
        detector.fit(X)
    assert bits(detector) == before
    detector.set_params(**CASES["wide"][1]).fit(X)
    assert bits(detector) == before


@pytest.mark.slow
def test_rows_that_do_not_fit_the_card_are_trained_on(X, full_card):
    rows = np.tile(X, (20_000, 1)).astype(np.float32)  # 144 MB
    full_card(2**28)
    detector = AutoEncoder(epoch_num=1, verbose=0, device=DEVICE).fit(rows)
    assert np.isfinite(detector.decision_scores_).all()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["joint_mahalanobis", "conv"])
def test_three_hundred_fits_take_no_more_memory_than_fifty(case, X):
    def taken():
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    rows = X[:64]
    for _ in range(50):
        fitted(case, rows, epoch_num=1).decision_function(rows)
    allocated, reserved = taken()
    for _ in range(250):
        fitted(case, rows, epoch_num=1).decision_function(rows)
    allocated_later, reserved_later = taken()
    assert allocated_later <= allocated + 2**20
    assert reserved_later <= reserved + 2**25


def test_memory_that_a_kernel_still_reads_is_not_written_to(X):
    """Tiles are copied on a stream of their own into memory that others may have freed just now."""
    detector, rows = fitted("euclidean", X), np.ones((64, 6), np.float32)
    detector.decision_function(rows)
    source = torch.full((64, 6), 7.0, device=DEVICE)
    copy = torch.zeros_like(source)
    torch.cuda.synchronize()
    torch.cuda._sleep(10**8)  # a twentieth of a second
    copy.copy_(source)
    del source
    detector.decision_function(rows)
    assert bool((copy == 7).all())


# ------------------------------------------------------------------------- processes, devices


FORKS = """
import multiprocessing, sys
import numpy as np
from pyod_ae_plugin import AutoEncoder
X = np.random.default_rng(0).normal(size=(100, 4))
def fit(queue):
    try:
        AutoEncoder(epoch_num=1, verbose=0, device="cuda").fit(X)
        queue.put("fitted")
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")
def in_a_fork():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=fit, args=(queue,))
    process.start()
    answer = queue.get(timeout=60)
    process.join()
    return answer
assert in_a_fork() == "fitted"  # CUDA is not up here
detector = AutoEncoder(epoch_num=1, verbose=0, device="cuda").fit(X)
answer = in_a_fork()
assert answer.startswith("ValueError: device='cuda' cannot be used here"), answer
assert "spawn" in answer, answer
detector.decision_function(X)
"""


@pytest.mark.slow
def test_a_fork_uses_the_gpu_or_says_why_it_cannot():
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=180)


@pytest.mark.slow
def test_spawned_processes_score_with_a_detector_of_the_gpu(X):
    detector = fitted("euclidean", X)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        answers = pool.map(detector.decision_function, [X, X])
    for scores in answers:
        assert np.array_equal(scores, detector.decision_function(X))


TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@TWO
@SOME
def test_the_second_of_two_devices_is_used_alone(case, X):
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(0), torch.cuda.current_device()
    detector = fitted(case, X, device="cuda:1")
    assert next(detector.model.parameters()).device == torch.device("cuda:1")
    x = torch.from_numpy(X).to("cuda:1")
    scores = detector.score_tensor(x)
    assert scores.device == torch.device("cuda:1")
    assert_near(scores.cpu().numpy(), detector.decision_function(X))
    assert (torch.cuda.memory_allocated(0), torch.cuda.current_device()) == before
    assert bits(detector) == bits(fitted(case, X, device="cuda:0"))


@TWO
def test_rows_on_the_first_of_two_devices_are_scored_on_the_second(X):
    detector = fitted("euclidean", X, device="cuda:1")
    x = torch.from_numpy(X).to("cuda:0")
    assert np.array_equal(detector.decision_function(x), detector.decision_function(X))
    with pytest.raises(ValueError, match="x is on cuda:0, and the detector on cuda:1"):
        detector.score_tensor(x)


class NcclGroup(Group):
    """One process that averages by nccl with itself, as workers of a trainer do."""

    def share_training(self, options, n_rows, generator, seed):
        from dataclasses import replace

        return replace(options, average=dist.all_reduce), n_rows


@pytest.mark.skipif(not dist.is_nccl_available(), reason="this torch was built without nccl")
def test_one_process_trains_by_nccl_to_the_same_bits(X, tmp_path):
    alone = fitted("euclidean", X)
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("nccl", init_method=store, rank=0, world_size=1)
    try:
        recipe = recipe_of(alone, X.shape[1])
        together = fit_model(as_rows(X), recipe, group=NcclGroup())
    finally:
        dist.destroy_process_group()
    assert np.array_equal(together.decision_scores, alone.decision_scores_)


# ------------------------------------------------------------------- suites, other programs


QUICK = {"epoch_num": 3, "verbose": 0, "device": DEVICE}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pyod_s_ensembles_of_detectors_take_ours(X):
    pytest.importorskip("suod", reason="SUOD needs the extra ensembles")
    from pyod.models.suod import SUOD

    ours = [AutoEncoder(**QUICK), VAE(**QUICK)]
    for ensemble in (
        SUOD(ours, n_jobs=2, verbose=False, rp_flag_global=False, bps_flag=False),
        LSCP([LOF(n_neighbors=15), AutoEncoder(**QUICK)], random_state=0),
    ):
        scores = ensemble.fit(X).decision_function(X)
        assert scores.shape == (len(X),)
        assert np.isfinite(scores).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_adbench_s_loop(X):
    dataset = Dataset("toy", np.vstack([X, 5 * X[:30]]), np.repeat([0, 1], [300, 30]))
    names = ["AutoEncoder", "VAE", "AutoEncoderEnsemble"]

    def create(name, **params):
        few = {"n_estimators": 2} if name == "AutoEncoderEnsemble" else {}
        detector = create_detector(name, **{**params, **QUICK, **few})
        assert detector.device == DEVICE
        return detector

    results = list(run([dataset], names, create, AdBenchProtocol(), 1))
    assert [r.error for r in results] == [""] * 3
    assert all(r.roc_auc > 0.7 for r in results)


@pytest.mark.slow
def test_actors_of_ray_share_a_gpu(X, tmp_path):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    detector = fitted("euclidean", X)
    detector.save(tmp_path / "model")
    path = os.pathsep.join(path for path in sys.path if path)
    ray.init(
        "local",
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )

    @ray.remote(num_gpus=0.5, num_cpus=0.5)
    class Scorer:
        def __init__(self, folder):
            from pyod_ae_plugin import load_detector

            self._detector = load_detector(folder, device="cuda")

        def scores(self, X):
            return self._detector.decision_function(X)

    try:
        actors = [Scorer.remote(str(tmp_path / "model")) for _ in range(2)]
        for scores in ray.get([actor.scores.remote(X) for actor in actors], timeout=120):
            assert np.array_equal(scores, detector.decision_function(X))
    finally:
        ray.shutdown()


@pytest.mark.slow
@SOME
def test_a_model_of_the_gpu_is_exported(case, X, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    detector = fitted(case, X)
    detector.to_onnx(tmp_path / "model.onnx")
    provider = "CUDAExecutionProvider"
    here = [
        p for p in (provider, "CPUExecutionProvider") if p in onnxruntime.get_available_providers()
    ]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=here)
    scores, labels = session.run(None, {"X": X})
    assert_near(scores, detector.decision_function(X))
    assert (labels == detector.predict(X)).mean() > 0.99
    scores, _ = detector.to_torch_export().module()(torch.from_numpy(X))
    assert scores.device.type == "cpu"
    assert_near(scores.numpy(), detector.decision_function(X))
