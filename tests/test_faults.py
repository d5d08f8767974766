"""What goes wrong outside the code: training that diverges, disks, memory, processes, signals."""

import contextlib
import copy
import io
import itertools
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from each import DETECTORS, EACH
from joblib.externals.loky.process_executor import TerminatedWorkerError
from pluggy import PluginValidationError
from pyod.models.suod import SUOD
from safetensors import safe_open
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from pyod_ae_plugin import (
    VAE,
    AutoEncoder,
    AutoEncoderEnsemble,
    cli,
    create_detector,
    detector_names,
    load_detector,
)
from pyod_ae_plugin.engine import tiles, training
from pyod_ae_plugin.networks import AutoEncoderNetwork, mlp
from pyod_ae_plugin.plugins import hookimpl, hookspecs
from pyod_ae_plugin.plugins.manager import PluginWarning, find, plugin_manager
from pyod_ae_plugin.tables import reading

# ------------------------------------------------------------------ training that diverges

# By plain gradient descent the loss is NaN at 10, for the VAE and the ensemble also at 1.
DIVERGING = {"optimizer_name": "sgd", "lr": 10, "on_divergence": "restart", "epoch_num": 8}


def global_draws(n_features):
    """A network that draws from torch's global generator."""
    encoder = nn.Sequential(nn.Linear(n_features, 8), nn.Dropout(0.3), nn.Linear(8, 2))
    return AutoEncoderNetwork(encoder, nn.Linear(2, n_features))


DIVERGING_CASES = {
    "AutoEncoder": (AutoEncoder, {}),
    "VAE": (VAE, {"capacity": 2.0}),
    "ensemble": (AutoEncoderEnsemble, {"n_estimators": 3}),
    "early stopping": (AutoEncoder, {"early_stopping": True}),
    "batch norm, dropout, noise": (
        AutoEncoder,
        {"lr": 100, "batch_norm": True, "dropout_rate": 0.2, "corruption": {"noise": 0.2}},
    ),
    "momentum": (AutoEncoder, {"optimizer_params": {"sgd_momentum": 0.9}}),
    "global randomness": (AutoEncoder, {"network": global_draws}),
}


@pytest.mark.parametrize("case", DIVERGING_CASES)
def test_a_diverging_fit_starts_anew_at_a_lower_learning_rate(quick, case, X):
    Detector, own = DIVERGING_CASES[case]
    params = {**DIVERGING, **own}
    with pytest.warns(ConvergenceWarning) as caught:
        restarted = quick(Detector, **params).fit(X)
    rates = [params["lr"] / 10**i for i in range(len(caught) + 1)]
    for i, warning in enumerate(caught):
        message = str(warning.message)
        assert "Training diverged: " in message
        assert "loss" in message
        assert "epoch" in message
        assert f"at a learning rate of {rates[i]:g}." in message
        assert f"at {rates[i + 1]:g}, restart {i + 1} of 3" in message
    assert restarted.lr_ == rates[-1]
    at_once = quick(Detector, **{**params, "lr": rates[-1]}).fit(X)
    assert at_once.lr_ == rates[-1]
    assert np.array_equal(restarted.decision_scores_, at_once.decision_scores_)
    assert restarted.history_ == at_once.history_
    assert restarted.lr == params["lr"]  # the parameter is as it was passed


@EACH
def test_after_three_restarts_divergence_is_an_error(quick, Detector, X):
    detector = quick(Detector).fit(X)
    before = dict(vars(detector))
    detector.set_params(**DIVERGING).set_params(lr=1e12)
    with (
        pytest.warns(ConvergenceWarning) as caught,
        pytest.raises(FloatingPointError, match=r"learning rate of 1e\+09\. Lower it"),
    ):
        detector.fit(X)
    assert len(caught) == 3
    assert np.array_equal(detector.decision_function(X), before["decision_scores_"])
    assert (detector.lr_, detector.history_) == (before["lr_"], before["history_"])


@EACH
def test_divergence_is_an_error_by_default_and_leaves_no_checkpoint(quick, Detector, X, tmp_path):
    path = tmp_path / "training.safetensors"
    detector = quick(Detector, optimizer_name="sgd", lr=3, epoch_num=8, checkpoint=path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) in epoch \d of 8"):
            detector.fit(X)
    assert not path.exists()  # the next fit, at another rate, would refuse it
    detector.set_params(lr=0.01).fit(X)


@EACH
def test_a_fit_that_learns_warns_of_nothing_and_says_its_learning_rate(quick, Detector, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = quick(Detector, on_divergence="restart").fit(data[0])
    assert detector.lr_ == 2e-3
    assert quick(Detector, lr=1e-3).fit(data[0]).lr_ == 1e-3


@pytest.mark.slow
@EACH
def test_a_network_that_rebuilds_nothing_is_warned_about(quick, Detector, X):
    # The whitening score heads would hide it: they measure residuals in their own units.
    with pytest.warns(ConvergenceWarning, match=r"times the squared error.*Lower it \(lr=0\.1\)"):
        detector = quick(Detector, lr=1.0, epoch_num=None).fit(X)
    with pytest.warns(ConvergenceWarning, match=r"restart \d of 3"):
        detector.set_params(on_divergence="restart").fit(X)
    residuals = detector.reconstruct(X) - X
    assert np.median(np.square(residuals)) < 1


def test_a_restart_begins_with_the_weights_of_a_network_that_is_handed_out_again(quick, X):
    trained = mlp(6, [8, 2], "silu", False, 0.0, torch.Generator().manual_seed(0))
    first = copy.deepcopy(trained)
    with pytest.warns(ConvergenceWarning):
        restarted = quick(AutoEncoder, network=lambda n_features: trained, **DIVERGING).fit(X)
    params = {**DIVERGING, "lr": restarted.lr_}
    at_once = quick(AutoEncoder, network=lambda n_features: first, **params).fit(X)
    assert np.array_equal(restarted.decision_scores_, at_once.decision_scores_)


@pytest.mark.parametrize("Detector", [AutoEncoder, AutoEncoderEnsemble])
def test_a_restarted_fit_goes_on_from_its_checkpoint(quick, Detector, X, tmp_path, monkeypatch):
    path = tmp_path / "training.safetensors"
    params = {**DIVERGING, "lr": 3}  # NaN in a later epoch
    if Detector is AutoEncoderEnsemble:
        params |= {"lr": 1, "n_estimators": 3}
    with pytest.warns(ConvergenceWarning):
        whole = quick(Detector, **params).fit(X)
    an_epoch = training.Training._epoch

    def breaks_off(self):
        if self.lr < params["lr"] and len(self.history) == 4:
            raise RuntimeError("the machine went down")
        return an_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_epoch", breaks_off)
        with pytest.warns(ConvergenceWarning), pytest.raises(RuntimeError, match="went down"):
            quick(Detector, checkpoint=path, **params).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it goes on at the lower rate, not from the beginning
        resumed = quick(Detector, checkpoint=path, **params).fit(X)
    assert np.array_equal(resumed.decision_scores_, whole.decision_scores_)
    assert (resumed.lr_, resumed.history_) == (whole.lr_, whole.history_)
    assert not path.exists()


def test_a_diverged_checkpoint_does_not_poison_the_restart(quick, X, tmp_path, monkeypatch):
    path = tmp_path / "training.safetensors"
    an_epoch, there = training.Training._epoch, []

    def looks(self):
        there.append((self.lr, len(self.history), path.exists()))
        return an_epoch(self)

    monkeypatch.setattr(training.Training, "_epoch", looks)
    with pytest.warns(ConvergenceWarning):
        quick(AutoEncoder, checkpoint=path, **{**DIVERGING, "lr": 3}).fit(X)
    assert (3.0, 1, True) in there  # a checkpoint of an epoch before the loss was NaN
    assert (0.3, 0, False) in there


@EACH
def test_batches_and_later_rows_are_learned_from_after_a_restart(quick, Detector, X):
    with pytest.warns(ConvergenceWarning):
        fitted = quick(Detector, **DIVERGING).fit(X)
    with pytest.warns(ConvergenceWarning):
        by_batches = quick(Detector, **DIVERGING).fit_batches([X[:100], X[100:]])
    assert np.array_equal(fitted.decision_scores_, by_batches.decision_scores_)
    detector = quick(Detector, **{**DIVERGING, "lr": 0.01}).partial_fit(X)
    with pytest.warns(ConvergenceWarning):
        detector.set_params(lr=100).partial_fit(X[:100])
    assert detector.lr_ < 100
    assert np.isfinite(detector.history_["loss"]).all()


def test_members_that_are_added_restart_alone(quick, X):
    detector = quick(AutoEncoderEnsemble, n_estimators=3, warm_start=True).fit(X)
    before = [parameter[:3].clone() for parameter in detector.model.parameters()]
    with pytest.warns(ConvergenceWarning):
        detector.set_params(n_estimators=5, **DIVERGING).fit(X)
    after = [parameter[:3] for parameter in detector.model.parameters()]
    assert all(itertools.starmap(torch.equal, zip(before, after, strict=True)))


def test_the_learning_rate_that_was_used_is_saved(quick, X, tmp_path):
    with pytest.warns(ConvergenceWarning):
        detector = quick(AutoEncoder, **DIVERGING).fit(X)
    detector.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert (loaded.lr_, loaded.lr, loaded.on_divergence) == (detector.lr_, 10, "restart")


# ------------------------------------------------------------------------------- full disks

NEEDS_FORK = pytest.mark.skipif(sys.platform != "linux", reason="forks and limits as Linux does")
ROOM = 4_000  # bytes: for an identity or a few scores, but not for a model


def on_a_full_disk(limit, work, *arguments):
    """What a function returns, or says when it fails, where no file may grow past a limit."""
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        return work(*arguments)
    except OSError as error:
        return str(error)


class Disk:
    """A folder, and a way to call functions while its disk is full.

    That is one that is mounted for the purpose, which takes root; or a limit on the size of files,
    which fails in the same places and takes nobody.
    """

    def __init__(self, folder, *, mounted):
        self.folder, self._mounted = folder, mounted

    def run_full(self, work, *arguments, limit=ROOM):
        filler, process = self.folder / "filler", multiprocessing.get_context("fork")
        if self._mounted:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(2**16))
            # down to whole pages
            os.truncate(filler, filler.stat().st_size - -(-limit // 4096) * 4096)
            limit = None
        try:
            with process.Pool(1) as pool:
                done = pool.apply_async(on_a_full_disk, (limit, work, *arguments))
                return done.get(timeout=60)
        finally:
            filler.unlink(missing_ok=True)

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture(params=["limit", "mounted"])
def disk(request, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limit":
        yield Disk(folder, mounted=False)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield Disk(folder, mounted=True)
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@NEEDS_FORK
def test_a_full_disk_while_saving_leaves_the_old_model_whole(quick, disk, X):
    detector = quick(AutoEncoder).fit(X)
    said = disk.run_full(detector.save, disk.folder / "model")
    assert re.search("No space left|File too large", said)
    assert disk.names() == []
    detector.save(disk.folder / "model")
    files = {path.name: path.read_bytes() for path in (disk.folder / "model").iterdir()}
    said = disk.run_full(quick(AutoEncoder).fit(X + 1).save, disk.folder / "model")
    assert re.search("No space left|File too large", said)
    assert disk.names() == ["model"]
    assert {p.name: p.read_bytes() for p in (disk.folder / "model").iterdir()} == files
    loaded = load_detector(disk.folder / "model")
    assert np.array_equal(loaded.decision_function(X), detector.decision_scores_)


@pytest.mark.slow
@NEEDS_FORK
def test_a_full_disk_ends_a_fit_whose_checkpoint_it_cannot_hold(quick, disk, X, monkeypatch):
    path = disk.folder / "training.safetensors"
    detector = quick(AutoEncoder, epoch_num=8, checkpoint=path)
    said = disk.run_full(detector.fit, X)
    assert f"The checkpoint {path} could not be written: " in said
    assert "Make room and fit again" in said
    assert disk.names() == []

    an_epoch = training.Training._epoch

    def breaks_off(self):
        if len(self.history) == 3:
            raise RuntimeError("the machine went down")
        return an_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_epoch", breaks_off)
        with pytest.raises(RuntimeError, match="went down"):
            detector.fit(X)
    older = path.read_bytes()
    assert "could not be written" in disk.run_full(detector.fit, X)
    assert path.read_bytes() == older
    assert disk.names() == [path.name]
    whole, resumed = quick(AutoEncoder, epoch_num=8).fit(X), detector.fit(X)
    assert np.array_equal(resumed.decision_scores_, whole.decision_scores_)


def command(*arguments):
    """Run ``pyod-ae``, on batches of 100 rows; return its exit status and what it says."""
    reading.BATCH_ROWS = 100
    sys.argv = ["pyod-ae", *map(str, arguments)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            cli.main()
    except SystemExit as exit:
        return exit.code or 0, said.getvalue()
    return 0, said.getvalue()


@pytest.fixture
def score_command(quick, tmp_path, X, monkeypatch):
    """Make the command that scores a table to a file; and what that file shall hold."""
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(reading, "BATCH_ROWS", 100)
    detector = quick(AutoEncoder).fit(X)
    detector.save(tmp_path / "model")
    np.save(tmp_path / "rows.npy", X)

    def score_command(output):
        return ("score", tmp_path / "rows.npy", "--model", tmp_path / "model", "-o", output)

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    for ending in (".csv", ".npy"):
        assert command(*score_command(undisturbed / f"scores{ending}"))[0] == 0
    return score_command, undisturbed


@pytest.mark.slow
@NEEDS_FORK
@pytest.mark.parametrize("ending", [".csv", ".npy"])
@pytest.mark.parametrize("room", [0, ROOM], ids=["for nothing", "for parts"])
def test_scoring_goes_on_after_a_full_disk(room, ending, disk, score_command):
    make_command, undisturbed = score_command
    output = disk.folder / f"scores{ending}"
    status, said = disk.run_full(command, *make_command(output), limit=room)
    assert status == 1
    assert said.count("\n") == 1  # and no traceback
    assert f"pyod-ae: {output}: the scores could not be written: " in said
    assert "run the same command again" in said
    assert not output.exists()
    assert command(*make_command(output))[0] == 0
    assert output.read_bytes() == (undisturbed / output.name).read_bytes()
    assert disk.names() == [output.name]


# --------------------------------------------------------------- signals to this process


SLOWLY = """
import signal, sys, time
import torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of nohup ignores it
torch.set_num_threads(1)
from pyod_ae_plugin import cli, filetasks
from pyod_ae_plugin.tables import reading
reading.BATCH_ROWS = 100
score, n_calls = filetasks.Opened.score, []
def slowly(self, X):
    n_calls.append(len(X))
    if len(n_calls) == 2:
        print("scoring", flush=True)
        time.sleep(60)
    return score(self, X)
filetasks.Opened.score = slowly
cli.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_scoring_goes_on_after_a_signal(sent, score_command, tmp_path):
    make_command, undisturbed = score_command
    output = tmp_path / "scores.csv"
    arguments = map(str, make_command(output))
    with subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "scoring\n"
        process.send_signal(sent)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    assert "Traceback" not in said
    assert not output.exists()
    kept = list((tmp_path / ".scores.csv.parts").glob("*.npy"))
    assert [len(np.load(path)) for path in kept] == [100]
    assert command(*make_command(output))[0] == 0
    assert output.read_bytes() == (undisturbed / output.name).read_bytes()
    assert not list(tmp_path.glob(".scores*"))


@pytest.mark.slow
@NEEDS_FORK
@EACH
def test_a_killed_fit_goes_on_to_the_same_bits(quick, Detector, X, tmp_path):
    path = tmp_path / "training.safetensors"
    detector = quick(Detector, epoch_num=30, checkpoint=path)
    process = multiprocessing.get_context("fork").Process(target=detector.fit, args=(X,))
    process.start()
    while process.is_alive() and not path.exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with safe_open(path, framework="pt") as file:
        assert 0 < len(file.get_tensor("history")) < 30
    whole = quick(Detector, epoch_num=30).fit(X)
    assert np.array_equal(detector.fit(X).decision_scores_, whole.decision_scores_)
    assert detector.history_ == whole.history_


# -------------------------------------------------------------------------- other processes


@pytest.mark.slow
def test_workers_that_are_killed_are_reported_and_replaced(quick, X):
    class Killed(AutoEncoder):
        def decision_function(self, X, batch_size=None):
            os.kill(os.getpid(), signal.SIGKILL)

        def fit(self, X, y=None):
            os.kill(os.getpid(), signal.SIGKILL)

    detector = quick(AutoEncoder).fit(X)
    killed = Killed(**detector.get_params())
    killed.__dict__.update(vars(detector))

    def in_workers(*detectors):
        with joblib.Parallel(n_jobs=2) as parallel:
            return parallel(joblib.delayed(d.decision_function)(X) for d in detectors)

    suod = {"n_jobs": 2, "bps_flag": False, "rp_flag_global": False, "verbose": False}
    with pytest.raises(TerminatedWorkerError, match="unexpectedly terminated"):
        SUOD([quick(AutoEncoder), killed], **suod).fit(X)
    for scores in in_workers(detector, detector):
        assert np.array_equal(scores, detector.decision_scores_)
    ensemble = SUOD([quick(AutoEncoder), quick(VAE)], **suod).fit(X)
    member = ensemble.model_.base_estimators[0]
    assert np.array_equal(member.decision_scores_, detector.decision_scores_)
    with pytest.raises(TerminatedWorkerError, match="unexpectedly terminated"):
        in_workers(detector, killed)
    assert np.array_equal(detector.decision_function(X), detector.decision_scores_)


def test_the_error_of_a_diverging_fit_comes_through_from_workers(quick, X):
    with pytest.raises(FloatingPointError, match=r"Training diverged.*Lower it") as caught:
        quick(AutoEncoder, optimizer_name="sgd", lr=1e6).fit(X)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.slow
@NEEDS_FORK
def test_a_forked_process_does_not_wait_for_threads_that_it_does_not_have(quick, two_threads, data):
    rows = np.tile(data[0], (20, 1))  # enough for two threads
    detectors = [quick(Detector, epoch_num=1).fit(data[0]) for Detector in DETECTORS]
    expected = [detector.decision_function(rows) for detector in detectors]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        for detector, scores in zip(detectors, expected, strict=True):
            got = pool.apply_async(detector.decision_function, (rows,)).get(timeout=60)
            assert np.array_equal(got, scores)


@pytest.mark.slow
def test_a_spawned_process_scores_as_this_one_does(quick, X):
    detectors = [quick(Detector).fit(X) for Detector in DETECTORS]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for detector in detectors:
            scores = pool.apply_async(detector.decision_function, (X,)).get(timeout=60)
            assert np.array_equal(scores, detector.decision_scores_)


# ---------------------------------------------------------------------------------- threads


@pytest.mark.slow
@EACH
def test_threads_that_use_one_detector_get_what_they_would_get_alone(quick, Detector, X):
    detector = quick(Detector).fit(X)
    names = ["decision_function", "predict", "transform", "reconstruct", "explain"]
    methods = [getattr(detector, name) for name in names]
    given = [X[i * 30 : i * 30 + 20 + i] * (1 + i) for i in range(8)]
    alone = [[method(rows) for method in methods] for rows in given]
    start = threading.Barrier(8)

    def use(rows):
        start.wait()
        return [[method(rows) for method in methods] for _ in range(2)]

    with ThreadPoolExecutor(8) as pool:
        for expected, rounds in zip(alone, pool.map(use, given), strict=True):
            for got in rounds:
                assert all(itertools.starmap(np.array_equal, zip(got, expected, strict=True)))


@EACH
def test_threads_that_fit_with_one_seed_get_what_they_would_get_alone(
    quick, Detector, X, two_threads
):
    alone = quick(Detector).fit(X).decision_scores_
    start = threading.Barrier(4)

    def fit(_):
        start.wait()
        return quick(Detector).fit(X).decision_scores_

    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(alone, scores) for scores in pool.map(fit, range(4)))
    assert torch.get_num_threads() == 2


def test_threads_that_begin_during_a_fit_compute_with_the_usual_number(quick, two_threads, X):
    n_threads = []

    def factory(n_features):
        network = mlp(n_features, [4, 2], "silu", False, 0.0, torch.Generator())

        def begins_a_thread(module, given):
            own = torch.get_num_threads()
            with ThreadPoolExecutor(1) as pool:
                n_threads.append((own, pool.submit(torch.get_num_threads).result()))

        network.encoder.register_forward_pre_hook(begins_a_thread)
        return network

    quick(AutoEncoder, network=factory, epoch_num=1).fit(X)
    assert (1, 2) in n_threads  # steps are small: one thread is enough for them


# ---------------------------------------------------------------------------------- plugins

HOOKS = [name for name in vars(hookspecs) if name.startswith("pyod_ae_")]


def raising(error):
    def hook():
        raise error

    return hook


class Lazy(UserDict):
    """A mapping that raises when it is looked at."""

    def keys(self):
        raise RuntimeError("lazy on purpose")


FAULTY_HOOKS = {
    "raises": (raising(ZeroDivisionError("on purpose")), "ZeroDivisionError: on purpose"),
    "an assertion": (raising(AssertionError("on purpose")), "AssertionError: on purpose"),
    "no mapping": (lambda: 5, "TypeError: 'int' object is not iterable"),
    "a list of names": (lambda: ["own"], "ValueError"),
    "raises when looked at": (Lazy, "RuntimeError: lazy on purpose"),
    "no name": (lambda: {3: AutoEncoder}, "provides 3: "),
    "no callable": (lambda: {"own": None}, "provides 'own': None"),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("fault", FAULTY_HOOKS)
def test_a_faulty_hook_is_warned_about_and_stops_nothing(quick, fault, hook, X):
    function, reason = FAULTY_HOOKS[fault]
    implementation = hookimpl(lambda: function())
    # not hashable, which is no fault, but unusual
    plugin = types.SimpleNamespace(**{hook: implementation})
    plugin_manager().register(plugin, name="faulty one")
    asks = {
        "pyod_ae_detectors": lambda: create_detector("AutoEncoder"),
        "pyod_ae_networks": lambda: quick(AutoEncoder, epoch_num=1).fit(X),
        "pyod_ae_score_heads": lambda: quick(AutoEncoder, epoch_num=1).fit(X),
    }
    try:
        with pytest.warns(PluginWarning, match=f"'faulty one'.*{reason}"):
            asks[hook]()
        with pytest.warns(PluginWarning), pytest.raises(ValueError, match=r"Unknown .* 'own'"):
            find(hook, "own", "thing")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PluginWarning)
            assert {"AutoEncoder", "VAE", "pyod.IForest"} <= set(detector_names())
            assert find_ours(hook)
    finally:
        plugin_manager().unregister(name="faulty one")


def find_ours(hook):
    ours = {"pyod_ae_detectors": "VAE", "pyod_ae_networks": "mlp", "pyod_ae_score_heads": "elbo"}
    return find(hook, ours[hook], "thing")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_asks_for_more_than_there_is_is_refused_when_it_is_registered(hook):
    manager = plugin_manager()
    plugin = types.SimpleNamespace(**{hook: hookimpl(lambda wanted: {})})
    try:
        with pytest.raises(PluginValidationError, match="wanted"):
            manager.register(plugin, name="demanding one")
        assert find_ours(hook)
    finally:
        manager.unregister(name="demanding one")


# ------------------------------------------------------------------------------------- GPUs


@EACH
def test_a_detector_of_a_device_that_is_not_here_scores_on_the_cpu(quick, Detector, X, tmp_path):
    detector = quick(Detector).fit(X)
    detector.set_params(device="cuda:77" if torch.cuda.is_available() else "cuda:0")
    detector.save(tmp_path / "model")
    joblib.dump(detector, tmp_path / "model.joblib")
    for loaded in (
        load_detector(tmp_path / "model"),
        pickle.loads(pickle.dumps(detector)),
        joblib.load(tmp_path / "model.joblib"),
    ):
        assert next(loaded.model.parameters()).device.type == "cpu"
        assert np.array_equal(loaded.decision_function(X), detector.decision_scores_)
        assert loaded.device == detector.device
        with pytest.raises(ValueError, match="cannot be used here"):
            loaded.fit(X)  # trained where it was asked for, or nowhere
        assert np.array_equal(loaded.decision_function(X), detector.decision_scores_)


def test_memory_that_runs_out_in_training_leaves_the_detector_as_it_was(quick, X):
    def factory(n_features):
        network = mlp(n_features, [4, 2], "silu", False, 0.0, torch.Generator())

        def needs_too_much(module, given):
            if len(given[0]) > 40:
                raise torch.cuda.OutOfMemoryError("all taken")

        network.encoder.register_forward_pre_hook(needs_too_much)
        return network

    detector = quick(AutoEncoder, network=factory, batch_size=32).fit(X[:40])
    before = dict(vars(detector))
    detector.set_params(batch_size=200)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="all taken"):
        detector.fit(X)
    assert {**vars(detector), "batch_size": 32} == before


def test_memory_that_runs_out_while_a_network_is_checked_is_not_taken_for_its_fault(quick, X):
    class Large(AutoEncoderNetwork):
        def encode(self, x):
            raise torch.cuda.OutOfMemoryError("all taken")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="all taken"):
        quick(network=lambda n: Large(nn.Linear(n, 2), nn.Linear(2, n))).fit(X)


LOADS_WITHOUT_GPU = """
import pickle, sys
import numpy as np, torch
from pyod_ae_plugin import load_detector
assert not torch.cuda.is_available()
folder = sys.argv[1]
X, expected = np.load(folder + "/X.npy"), np.load(folder + "/scores.npy")
with open(folder + "/model.pickle", "rb") as file:
    for detector in (load_detector(folder + "/model"), pickle.load(file)):
        assert np.allclose(detector.decision_function(X), expected, rtol=1e-3)
"""


@pytest.mark.slow
@pytest.mark.gpu
@EACH
@pytest.mark.parametrize("device", ["cuda", "cuda:0", None])
def test_a_model_of_a_gpu_that_is_hidden_later_scores_on_the_cpu(
    quick, device, Detector, X, tmp_path
):
    detector = quick(Detector, device=device).fit(X)
    assert next(detector.model.parameters()).is_cuda
    detector.save(tmp_path / "model")
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(detector))
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "scores.npy", detector.decision_function(X))
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    code = [sys.executable, "-c", LOADS_WITHOUT_GPU, str(tmp_path)]
    subprocess.run(code, env=hidden, check=True)


@pytest.mark.gpu
def test_tiles_become_lower_where_a_gpu_is_really_full(quick, X):
    detector = quick(AutoEncoder, device="cuda", hidden_neuron_list=[2048, 2]).fit(X)
    module, heights = detector.scoring_module_, []
    rows = torch.from_numpy(np.tile(X, (400, 1)))

    def reconstruct(tile):
        values = module.reconstruct(tile)
        heights.append(len(tile))
        return values

    expected = tiles.map_rows(reconstruct, rows, module)
    usual = max(heights)
    heights.clear()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    # room for the copied rows and an eighth of a layer's values
    room = torch.cuda.memory_reserved() + 2**25 + usual * 2048 * 4 // 8
    torch.cuda.set_per_process_memory_fraction(min(room / total, 1.0))
    try:
        got = tiles.map_rows(reconstruct, rows, module)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert max(heights) < usual
    assert np.allclose(got, expected, atol=1e-4)
