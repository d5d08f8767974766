"""Scoring and training on a real Ray, started on this machine."""

import contextlib
import copy
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from pyod_ae_plugin import AutoEncoder, AutoEncoderEnsemble, cli, load_detector
from pyod_ae_plugin.detectors.base import recipe_of
from pyod_ae_plugin.detectors.fit import fit_model
from pyod_ae_plugin.detectors.inputs import as_rows
from pyod_ae_plugin.integrations.ray import fit_dataset, score_dataset, write_parquet
from pyod_ae_plugin.integrations.ray.worker import RowsGroup

ray = pytest.importorskip("ray", reason="needs the extra ray")
ray_data = pytest.importorskip("ray.data")

pytestmark = pytest.mark.slow

NAMES = list("abcdef")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster of this machine; its workers import this package from where it is here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        start()
    yield
    ray.shutdown()


def start():
    ray.init(
        "local",  # another cluster of this machine is left alone
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False


@pytest.fixture(autouse=True)
def no_workers_of_failed_runs():
    """What a run before raised holds its workers, and the CPUs that this one would wait for."""
    gc.collect()


@pytest.fixture(scope="module")
def rows():
    X = np.random.default_rng(0).normal(size=(1500, 6))
    X[:20] += 5
    return X


@pytest.fixture(scope="module")
def detector(rows):
    table = pd.DataFrame(rows, columns=NAMES)
    return AutoEncoder(device="cpu", epoch_num=5, verbose=0).fit(table)


@pytest.fixture
def files(tmp_path, rows):
    """Parquet files with a key and the features in another order."""
    folder = tmp_path / "rows"
    folder.mkdir()
    table = pd.DataFrame(rows, columns=NAMES)[NAMES[::-1]].assign(key=np.arange(1500) * 7)
    for i, start in enumerate(range(0, 1500, 300)):
        table[start : start + 300].to_parquet(folder / f"{i}.parquet")
    return folder


def assert_scored(scored, detector, rows):
    """That keys, scores and labels are those of the rows, bit for bit and in their order."""
    assert list(scored["key"]) == [7 * i for i in range(1500)]
    assert (scored["score"].to_numpy() == detector.decision_function(rows)).all()
    assert (scored["label"].to_numpy() == detector.predict(rows)).all()
    assert list(scored.columns) == ["key", "score", "label"]


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_killed_worker_is_replaced_and_no_row_lost_or_doubled(files, detector, rows, tmp_path):
    def slowed(batch):
        time.sleep(0.3)
        return batch

    dataset = ray_data.read_parquet(str(files))
    slow = dataset.map_batches(slowed, batch_size=100, num_cpus=0)
    scored = score_dataset(detector, slow, workers=1, batch_size=100)
    writing = threading.Thread(target=write_parquet, args=(scored, str(tmp_path / "scores")))
    writing.start()
    victim = process("Scorer")
    time.sleep(1)
    assert writing.is_alive()
    os.kill(victim, signal.SIGKILL)
    assert process("Scorer", other_than=victim) != victim
    writing.join()
    assert_scored(pd.read_parquet(tmp_path / "scores"), detector, rows)


def process(name, other_than=None):
    """The id of a process of this cluster, once there is one of that name."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for found in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if found.pid != other_than and name in " ".join(found.cmdline()):
                    return found.pid
        time.sleep(0.1)
    raise AssertionError(f"there is no process {name}")


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_the_command_scores_on_ray(files, detector, rows, tmp_path, monkeypatch, capsys):
    detector.save(tmp_path / "model")
    arguments = [files, "--model", tmp_path / "model", "-o", tmp_path / "scores", "--engine", "ray"]
    monkeypatch.setattr(sys, "argv", ["pyod-ae", "score", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    n_outliers = detector.predict(rows).sum()
    assert f"Scored 1,500 rows: {n_outliers} outliers." in capsys.readouterr().out
    assert_scored(pd.read_parquet(tmp_path / "scores"), detector, rows)


@pytest.mark.parametrize(
    "message", ["nan.parquet: Input X contains NaN", "empty.parquet: the table is empty."]
)
def test_the_command_says_in_a_line_what_is_wrong_and_leaves_nothing(
    message, rows, tmp_path, monkeypatch, capsys
):
    AutoEncoder(device="cpu", epoch_num=1, verbose=0).fit(rows).save(tmp_path / "model")
    name = message.partition(":")[0]
    table = pd.DataFrame(rows[:3] * np.nan, columns=NAMES)
    table[: 0 if "empty" in message else 3].to_parquet(tmp_path / name)
    arguments = [name, "--model", "model", "-o", "scores", "--engine", "ray"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pyod-ae", "score", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"pyod-ae: {message}")
    assert {path.name for path in tmp_path.iterdir()} == {"model", name}


@pytest.mark.parametrize("command", ["fit", "score"])
@pytest.mark.parametrize("output", ["table", "table/new", "model", "link"])
def test_the_command_writes_nothing_over_what_it_reads(
    command, output, detector, rows, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    detector.save("model")
    (tmp_path / "table").mkdir()
    pd.DataFrame(rows, columns=NAMES).to_parquet("table/1.parquet")
    (tmp_path / "link").symlink_to("table")
    options = ["--model", "model"] if command == "score" else []
    if (command, output) == ("fit", "model"):
        pytest.skip("a model may be replaced")
    arguments = ["table", *options, "-o", output, "--engine", "ray"]
    monkeypatch.setattr(sys, "argv", ["pyod-ae", command, *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "which is read" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "table").iterdir()] == ["1.parquet"]
    load_detector("model")


@pytest.mark.filterwarnings("ignore:Use 'expr'")  # that takes no part of a tensor
def test_numpy_arrays_and_empty_blocks(rows):
    plain = AutoEncoder(device="cpu", epoch_num=2, verbose=0).fit(rows.astype("float32"))
    dataset = ray_data.from_numpy([rows[:700].astype("float32"), rows[700:].astype("float32")])
    some = dataset.filter(lambda row: row["data"][0] > 2)
    scores = score_dataset(plain, some, workers=1).to_pandas()["score"]
    expected = plain.decision_function(rows[rows[:, 0] > 2].astype("float32"))
    assert (scores.to_numpy() == expected).all()


def test_columns_that_are_wrong_are_named(detector, rows):
    with pytest.raises(ValueError, match="no column 'a'; there are \\['data'\\]"):
        score_dataset(detector, ray_data.from_numpy(rows))
    taken = ray_data.from_pandas(pd.DataFrame(rows, columns=NAMES).assign(score=0))
    with pytest.raises(ValueError, match="'score' already"):
        score_dataset(detector, taken)


def new_detector():
    return AutoEncoder(device="cpu", epoch_num=30, batch_size=100, verbose=0)


@pytest.fixture(scope="module")
def fitted(rows, tmp_path_factory):
    """Fitted by two workers, one of which is killed, to blocks of which the second comes first."""

    def delay(block):
        time.sleep(2 if len(block) == 1000 else 0)
        return block

    storage = tmp_path_factory.mktemp("storage")
    table = pd.DataFrame(rows, columns=NAMES)
    blocks = ray_data.from_pandas([table[:1000], table[1000:]])
    late = blocks.map_batches(delay, batch_size=None, batch_format="pandas", num_cpus=0)
    detector, options = new_detector(), {"storage": str(storage), "checkpoint_every": 3}
    fitting = threading.Thread(target=fit_dataset, args=(detector, late), kwargs=options)
    fitting.start()
    while not list(storage.glob("*/checkpoint_*/training-1.safetensors")):
        assert fitting.is_alive()
        time.sleep(0.01)
    os.kill(process("RayTrainWorker"), signal.SIGKILL)
    assert fitting.is_alive()
    fitting.join()
    return detector


class ThreadsGroup(RowsGroup):
    """Threads in place of workers; ``values`` has a place for each, in which they pass objects."""

    def __init__(self, rank, values, barrier):
        self.rank, self.size, self.device = rank, len(values), torch.device("cpu")
        self.values, self.barrier = values, barrier

    def all_gather(self, value):
        self.values[self.rank] = value
        self.barrier.wait()
        values = copy.deepcopy(self.values)  # what comes from another process is a copy
        self.barrier.wait()
        return values

    def gather(self, value):
        values = self.all_gather(value)
        return values if self.rank == 0 else [value]

    def broadcast(self, value):
        return self.all_gather(value)[0]

    def checkpoint(self, recipe, fingerprint):
        return None

    def _average(self, tensor):
        tensor.copy_(sum(self.all_gather(tensor.clone())) / self.size)


def test_a_killed_worker_changes_no_bit_of_what_the_workers_train(fitted, rows):
    values, barrier = [None, None], threading.Barrier(2)
    recipe = replace(recipe_of(new_detector(), 6), verbose=0)

    def fit(rank):
        X = rows[750 * rank : 750 * (rank + 1)]
        return fit_model(as_rows(X), recipe, group=ThreadsGroup(rank, values, barrier))

    with ThreadPoolExecutor(2) as threads:
        expected, _ = threads.map(fit, range(2))
    assert (fitted.decision_scores_ == expected.decision_scores).all()
    assert fitted.history_ == expected.history


def test_two_workers_fit_an_ordinary_detector_as_good_as_a_local_one(fitted, rows, tmp_path):
    local, other = (
        new_detector().set_params(random_state=seed).fit(pd.DataFrame(rows, columns=NAMES))
        for seed in (42, 43)
    )
    outliers = np.arange(1500) < 20
    assert roc_auc_score(outliers, fitted.decision_scores_) > 0.99
    assert len(fitted.history_["loss"]) == len(local.history_["loss"])
    of_seeds = spearmanr(other.decision_scores_, local.decision_scores_).statistic
    assert spearmanr(fitted.decision_scores_, local.decision_scores_).statistic > of_seeds - 0.1
    table = pd.DataFrame(rows, columns=NAMES)
    assert (fitted.decision_function(table) == fitted.decision_scores_).all()
    assert (fitted.predict(table) == fitted.labels_).all()
    assert fitted.labels_.sum() == 150
    theirs, ours = (d.scoring_module_.standardize for d in (fitted, local))
    assert torch.allclose(theirs.scale, ours.scale, rtol=1e-12)
    fitted.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert (loaded.decision_function(table) == fitted.decision_scores_).all()


def test_what_a_worker_finds_fault_with_is_raised_and_not_tried_again(rows):
    faulty = rows.copy()
    faulty[-1, 2] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        fit_dataset(new_detector(), ray_data.from_numpy(faulty), workers=1)


def test_members_of_an_ensemble_are_shared_out(rows):
    ensemble = AutoEncoderEnsemble(3, device="cpu", epoch_num=5, verbose=0)
    fit_dataset(ensemble, ray_data.from_numpy(rows), spread="members")
    assert len(next(ensemble.model.parameters())) == 3
    assert roc_auc_score(np.arange(1500) < 20, ensemble.decision_scores_) > 0.99
    assert (ensemble.decision_function(rows) == ensemble.decision_scores_).all()
    with pytest.raises(ValueError, match="at least 2 members"):
        fit_dataset(new_detector(), ray_data.from_numpy(rows), spread="members")


def test_one_worker_fits_what_a_local_fit_does(rows, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "rows.npy", rows)
    params = {"n_estimators": 2, "max_samples": 1400, "batch_size": 32, "held_out_threshold": True}
    arguments = ["rows.npy", "-o", "model", "--detector", "AutoEncoderEnsemble"]
    arguments += ["--engine", "ray", "--workers", "1", "-p", "device=cpu"]
    for name, value in params.items():
        arguments += ["-p", f"{name}={str(value).lower()}"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pyod-ae", "fit", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "Fitted AutoEncoderEnsemble to 1,500 rows of 6 features" in capsys.readouterr().out
    remote = load_detector(tmp_path / "model")
    local = AutoEncoderEnsemble(device="cpu", verbose=0, **params).fit(rows)
    assert (remote.decision_scores_ == local.decision_scores_).all()
    assert remote.threshold_ == local.threshold_


def test_too_few_rows_and_what_cannot_be_saved_are_refused_before_anything_starts(rows):
    with pytest.raises(ValueError, match="2 workers need at least 4 rows, got 3"):
        fit_dataset(new_detector(), ray_data.from_numpy(rows[:3]))
    with pytest.raises(ValueError, match="network"):
        fit_dataset(AutoEncoder(network=lambda n: None), ray_data.from_numpy(rows))


def test_without_ray_the_error_names_the_extra_and_nothing_else_needs_it(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((3, 2)))
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "sys.argv = ['pyod-ae', 'score', 'rows.npy', '--model', 'm', '-o', 'out',"
        " '--engine', 'ray']\n"
        "import pyod_ae_plugin.integrations.ray.files\n"
        "from pyod_ae_plugin.cli import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "pyod-ae: Ray is needed: pip install 'pyod-ae-plugin[ray]'."
