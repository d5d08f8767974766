"""save and load_detector: what comes back, and what is refused."""

import errno
import inspect
import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from pyod.utils import persistence as pyod_persistence
from safetensors.torch import save_file
from sklearn.base import clone

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, load_detector
from pyod_ae_plugin.storage import read_model, write_model
from pyod_ae_plugin.thresholds import MeanStd


@pytest.fixture
def fitted(X):
    return AutoEncoder(
        epoch_num=2,
        verbose=0,
        device="cpu",
        hidden_neuron_list=[5, 2],
        batch_norm=True,
        optimizer_params={"weight_decay": 1e-4},
    ).fit(X + 1e7)  # far from zero, so that the scaling is float64


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
@pytest.mark.parametrize("Detector", [AutoEncoder, VAE])
def test_what_is_loaded_is_what_was_saved(Detector, X, tmp_path, name):
    detector = Detector(epoch_num=2, verbose=0, device="cpu", batch_norm=True).fit(X)
    detector.save(tmp_path / "deep" / name)
    loaded = load_detector(str(tmp_path / "deep" / name))
    assert type(loaded) is Detector
    for method in ("decision_function", "predict", "transform", "reconstruct", "predict_proba"):
        assert np.array_equal(getattr(loaded, method)(X), getattr(detector, method)(X))
    for name in ("decision_scores_", "labels_"):
        assert np.array_equal(getattr(loaded, name), getattr(detector, name))
        assert getattr(loaded, name).dtype == getattr(detector, name).dtype
    assert loaded.threshold_ == detector.threshold_
    assert loaded.history_ == detector.history_
    assert loaded.n_features_in_ == 6
    assert loaded.get_params() == detector.get_params()  # tuples, too


def test_parameters_and_float64_scaling_survive(fitted, X, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert loaded.get_params() == fitted.get_params()
    assert loaded.hidden_neuron_list == [5, 2]
    assert loaded.scoring_module_.standardize.scale.dtype is torch.float64
    assert np.array_equal(loaded.decision_function(X + 1e7), fitted.decision_function(X + 1e7))


def test_a_loaded_detector_can_be_fitted_and_saved_again(fitted, X, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert np.array_equal(loaded.fit(X + 1e7).decision_scores_, fitted.decision_scores_)
    loaded.save(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_the_class_loads_its_own_kind_only(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    assert isinstance(AutoEncoder.load(tmp_path / "model"), AutoEncoder)
    with pytest.raises(ValueError, match="holds a AutoEncoder, not a VAE"):
        VAE.load(tmp_path / "model")


def test_feature_names_survive(X, tmp_path):
    frame = pd.DataFrame(X, columns=list("abcdef"))
    AutoEncoder(epoch_num=1, verbose=0, device="cpu").fit(frame).save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert list(loaded.feature_names_in_) == list("abcdef")
    loaded.decision_function(frame)


@pytest.mark.parametrize("path", ["folder", "file"])
def test_what_is_no_detector_is_not_overwritten(fitted, tmp_path, path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("ten years of work")
    (tmp_path / "file").write_text("and more")
    with pytest.raises(FileExistsError, match="left as it is"):
        fitted.save(tmp_path / path)
    assert (tmp_path / "folder" / "thesis.txt").exists()
    assert (tmp_path / "file").read_text() == "and more"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", lambda n: None),
        ("random_state", np.random.RandomState(0)),
        ("contamination", object()),
    ],
)
def test_what_only_pickle_could_hold_is_refused(fitted, tmp_path, name, value):
    setattr(fitted, name, value)
    with pytest.raises(ValueError, match=f"{name}=.*cannot be saved without pickle"):
        fitted.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_subclass_that_no_plugin_registers_is_refused(X, tmp_path):
    class Mine(AutoEncoder):
        pass

    with pytest.raises(ValueError, match="not registered as the detector 'Mine'"):
        Mine(epoch_num=1, verbose=0, device="cpu").fit(X).save(tmp_path / "model")


def test_unfitted_detectors_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="not fitted"):
        AutoEncoder().save(tmp_path / "model")


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no saved detector"):
        load_detector(tmp_path / "nothing")


def folder_file(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


DAMAGES = {
    "truncated tensors": lambda f: os.truncate(folder_file(f, "tensors-*"), 5000),
    "no tensors": lambda f: folder_file(f, "tensors-*").unlink(),
    "truncated description": lambda f: (f / "detector.json").write_text("{"),
    "a list": lambda f: (f / "detector.json").write_text("[]"),
    "nested without end": lambda f: (f / "detector.json").write_text("[" * 10**6),
    "a digit changed": lambda f: (f / "detector.json").write_text(
        (f / "detector.json").read_text().replace('"format": 1', '"format": 2')
    ),
    "tensors of elsewhere": lambda f: (f / "detector.json").write_text(
        re.sub(
            '"sha256": "................',
            '"sha256": "../../../../../..',
            (f / "detector.json").read_text(),
        )
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_models_are_refused(fitted, tmp_path, damage):
    fitted.save(tmp_path / "model")
    DAMAGES[damage](tmp_path / "model")
    with pytest.raises(ValueError, match=r"model is damaged: .*Take a copy that is whole"):
        load_detector(tmp_path / "model")


# Changes by somebody who knows the format and writes the digest that belongs to them.
FORGERIES = {
    "another format": (lambda d, t: d.update(format=99), "not of format 1"),
    "unknown detector": (lambda d, t: d.update(detector="os.system"), "Unknown detector"),
    "another library's detector": (
        lambda d, t: d.update(detector="pyod.IForest", params={}),
        "not a detector of this package",
    ),
    "no parameters": (lambda d, t: d.update(params=None), "damaged"),
    "a parameter too many": (lambda d, t: d["params"].update(colour="red"), "colour"),
    "a parameter of another type": (lambda d, t: d["params"].update(trim="much"), "'trim'"),
    "a network by its import path": (
        lambda d, t: d["params"].update(network="os.system"),
        "Unknown network 'os.system'",
    ),
    "a score head by its import path": (
        lambda d, t: d["params"].update(score_head="builtins.eval"),
        "Unknown score head",
    ),
    "an unknown threshold rule": (
        lambda d, t: d["params"].update(contamination={"threshold_rule": ["eval", {}]}),
        "eval",
    ),
    "a threshold rule with wrong parameters": (
        lambda d, t: d["params"].update(contamination={"threshold_rule": ["TopN", {"n": "all"}]}),
        "'n' parameter of TopN",
    ),
    "where to write": (
        lambda d, t: d["params"].update(checkpoint="/home/user/.profile"),
        "never saved",
    ),
    "terabytes": (
        lambda d, t: d["params"].update(hidden_neuron_list=[10**6, 10**6]),
        "missing or unexpected",
    ),
    "a million layers": (
        lambda d, t: d["params"].update(hidden_neuron_list=[1] * 10**6),
        "has 1000000 values, but the model",
    ),
    "a width beyond all bounds": (
        lambda d, t: d["params"].update(hidden_neuron_list=[10**30]),
        "damaged",
    ),
    "no attributes": (lambda d, t: d.update(attributes={}), "is missing"),
    "a shadowed method": (
        lambda d, t: d["attributes"].update(decision_function="evil"),
        "'decision_function' is not an attribute",
    ),
    "a shadowed special method": (
        lambda d, t: d["attributes"].update(__class__="evil"),
        "'__class__' is not an attribute",
    ),
    "classes beyond all bounds": (
        lambda d, t: d["attributes"].update(_classes=10**10),
        "'_classes' is not an attribute",
    ),
    "features beyond all bounds": (
        lambda d, t: d["attributes"].update(n_features_in_=10**12),
        "n_features_in_",
    ),
    "a threshold that no score passes": (
        lambda d, t: d["attributes"].update(threshold_=float("nan")),
        "threshold_ must be a finite number, got nan",
    ),
    "labels of another length": (
        lambda d, t: t.update(labels_=t["labels_"][1:]),
        "differ in length",
    ),
    "scores that are none": (lambda d, t: t["decision_scores_"].fill_(torch.nan), "holds NaN"),
    "a missing weight": (lambda d, t: t.pop(WEIGHT), "is missing"),
    "a weight of another shape": (lambda d, t: t.update({WEIGHT: torch.zeros(99)}), "the shape"),
    "a weight of another type": (
        lambda d, t: t.update({WEIGHT: t[WEIGHT].to(torch.int64)}),
        r"is of torch\.int64",
    ),
    "a weight of another precision": (
        lambda d, t: t.update({WEIGHT: t[WEIGHT].double()}),
        r"is of torch\.float64, expected torch\.float32",
    ),
    "a weight that is NaN": (lambda d, t: t[WEIGHT].fill_(torch.nan), "NaN or infinity"),
}
WEIGHT = "module.network.encoder.0.weight"


def forged(path, change):
    description, tensors = read_model(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(description, tensors)
    write_model(path, description, tensors)


@pytest.mark.parametrize(
    "forgery",
    [
        pytest.param(forgery, marks=pytest.mark.slow if forgery == "a million layers" else [])
        for forgery in FORGERIES
    ],
)
def test_forged_models_are_refused(fitted, tmp_path, forgery):
    change, message = FORGERIES[forgery]
    fitted.save(tmp_path / "model.safetensors")
    forged(tmp_path / "model.safetensors", change)
    with pytest.raises(ValueError, match=message):
        load_detector(tmp_path / "model.safetensors")


def test_an_ensemble_with_members_beyond_all_bounds_is_refused(X, tmp_path):
    ensemble = AutoEncoderEnsemble(n_estimators=2, epoch_num=1, verbose=0, device="cpu").fit(X)
    ensemble.save(tmp_path / "model")
    forged(tmp_path / "model", lambda d, t: d["params"].update(n_estimators=10**12))
    with pytest.raises(ValueError, match="there are 2 members, and n_estimators=1000000000000"):
        load_detector(tmp_path / "model")


def test_a_model_is_loaded_where_it_is_asked_for(fitted, tmp_path):
    fitted.set_params(device="cuda:77").save(tmp_path / "model")
    assert load_detector(tmp_path / "model").model.encoder[0].weight.device.type == "cpu"
    with pytest.raises(ValueError, match="cannot be used here"):
        load_detector(tmp_path / "model", device="cuda:77")


def test_loading_touches_no_global_generator(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    before = torch.get_rng_state()
    load_detector(tmp_path / "model")
    assert torch.equal(before, torch.get_rng_state())


def test_saving_into_the_model_s_own_folder_keeps_a_model(fitted, X, tmp_path, monkeypatch):
    fitted.save(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    fitted.save(".")
    assert np.array_equal(
        load_detector(tmp_path / "model").decision_function(X), fitted.decision_function(X)
    )


def test_an_empty_folder_is_used_and_a_stranger_s_file_is_safe(fitted, tmp_path):
    (tmp_path / "model").mkdir()
    fitted.save(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="left as it is"):
        fitted.save(tmp_path / "model")
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"


def test_parameters_changed_after_fit_are_refused(fitted, tmp_path):
    fitted.set_params(hidden_neuron_list=[3])
    with pytest.raises(ValueError, match="no longer fit what was fitted"):
        fitted.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def at_sync(n, do):
    """Stands in for os.fsync, and does something else at the nth file that is to reach the disk."""
    synced = itertools.count()

    def sync(descriptor):
        if next(synced) == n:
            do()

    return sync


def run_out_of_space():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("name", "n"), [("model", 0), ("model", 1), ("model.safetensors", 0)])
def test_a_failed_save_leaves_what_was_there(fitted, X, tmp_path, monkeypatch, name, n):
    fitted.save(tmp_path / name)
    expected = load_detector(tmp_path / name).decision_function(X)
    fitted.fit(X)  # other tensors and another description
    for path in (tmp_path / name, tmp_path / f"new-{name}"):
        monkeypatch.setattr(os, "fsync", at_sync(n, run_out_of_space))
        with pytest.raises(OSError, match="No space"):
            fitted.save(path)
        monkeypatch.undo()
    assert np.array_equal(load_detector(tmp_path / name).decision_function(X), expected)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    if name == "model":
        assert len(list((tmp_path / name).iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n"), [("model", 0), ("model", 1), ("model.safetensors", 0)])
def test_a_save_that_is_killed_leaves_the_old_model_whole(
    fitted, X, tmp_path, monkeypatch, name, n
):
    fitted.save(tmp_path / name)
    expected = fitted.decision_function(X)
    fitted.fit(X)
    child = os.fork()
    if child == 0:
        os.fsync = at_sync(n, lambda: os._exit(9))
        fitted.save(tmp_path / name)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert np.array_equal(load_detector(tmp_path / name).decision_function(X), expected)
    fitted.save(tmp_path / name)  # what was left behind is in nobody's way
    reloaded = load_detector(tmp_path / name)
    assert np.array_equal(reloaded.decision_function(X), fitted.decision_function(X))
    if name == "model":
        assert len(list((tmp_path / name).iterdir())) == 2


def test_a_loaded_detector_does_not_hang_on_its_file(fitted, X, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    loaded = load_detector(path)
    with path.open("r+b") as file:  # in place, as some tools copy
        file.truncate(0)
    assert np.array_equal(loaded.decision_function(X), fitted.decision_function(X))


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_whoever_may_read_new_files_may_read_models(fitted, tmp_path, name):
    (tmp_path / "new").touch()
    fitted.save(tmp_path / name)
    files = [tmp_path / name, *tmp_path.glob("model/*")]
    as_for_new = (tmp_path / "new").stat().st_mode
    assert {file.stat().st_mode for file in files if file.is_file()} == {as_for_new}


def test_who_may_read_a_model_stays_as_it_was(fitted, tmp_path):
    fitted.save(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").chmod(0o640)
    fitted.save(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_file_of_tensors_that_is_no_detector_is_left_alone(fitted, tmp_path):
    save_file({"weights": torch.ones(3)}, tmp_path / "language.safetensors")
    with pytest.raises(FileExistsError, match="left as it is"):
        fitted.save(tmp_path / "language.safetensors")
    with pytest.raises(ValueError, match="is damaged"):
        load_detector(tmp_path / "language.safetensors")


def test_a_checkpoint_s_path_stays_behind(X, tmp_path):
    detector = AutoEncoder(epoch_num=1, verbose=0, device="cpu", checkpoint=tmp_path / "state")
    detector.fit(X).save(tmp_path / "model")
    assert load_detector(tmp_path / "model").checkpoint is None


VARIED = {
    "folder": AutoEncoder(hidden_neuron_list=(4, 2), contamination=MeanStd(2.0)),
    "file.safetensors": AutoEncoder(batch_norm=True, score_head="mahalanobis"),
    "vae.safetensors": VAE(score_head="elbo", novelty=True, held_out_threshold=True),
    "ensemble.safetensors": AutoEncoderEnsemble(
        2, hidden_neuron_list=[4, 2], optimizer_params={"weight_decay": 0.0}
    ),
}


@pytest.mark.parametrize("name", VARIED)
def test_scores_labels_and_names_of_features_come_back(name, tmp_path):
    rows = np.random.default_rng(0).normal(size=(80, 4)) * [1, 1e3, 1e-3, 1] + [0, 5, 0, 1e6]
    frame = pd.DataFrame(rows, columns=["a", "b", "ç", "<d>"])
    detector = clone(VARIED[name]).set_params(epoch_num=3, verbose=0, device="cpu").fit(frame)
    detector.save(tmp_path / name)
    loaded = load_detector(tmp_path / name, device="cpu")
    assert list(loaded.feature_names_in_) == list(frame.columns)
    assert loaded.get_params().keys() == detector.get_params().keys()
    assert np.array_equal(loaded.decision_function(frame), detector.decision_scores_)
    assert np.array_equal(loaded.predict(frame), detector.labels_)
    assert np.array_equal(loaded.fit(frame).decision_scores_, detector.decision_scores_)


@pytest.mark.gpu
def test_a_model_of_a_gpu_scores_on_a_cpu_and_goes_back(X, tmp_path):
    fitted = AutoEncoder(epoch_num=2, verbose=0, device="cuda").fit(X)
    fitted.save(tmp_path / "model")
    assert np.array_equal(
        load_detector(tmp_path / "model").decision_function(X), fitted.decision_function(X)
    )
    on_cpu = load_detector(tmp_path / "model", device="cpu")
    assert np.allclose(on_cpu.decision_function(X), fitted.decision_function(X), rtol=1e-4)
    on_cpu.save(tmp_path / "model.safetensors")
    back = load_detector(tmp_path / "model.safetensors", device="cuda")
    assert np.array_equal(back.decision_function(X), fitted.decision_function(X))


def test_pyods_own_persistence_works(fitted, X, tmp_path):
    pyod_persistence.save(fitted, tmp_path / "model.joblib")
    knows_trust = "trusted" in inspect.signature(pyod_persistence.load).parameters
    options = {"trusted": True} if knows_trust else {}
    loaded = pyod_persistence.load(tmp_path / "model.joblib", **options)
    assert np.array_equal(loaded.decision_function(X), fitted.decision_function(X))


# ------------------------------------------------------------------- what is not ours

STRANGERS = {
    "files of the same names": {
        "detector.json": b'{"sha256": "camera"}',
        "tensors-1.safetensors": b"x",
    },
    "tensors of the same name": {f"tensors-{'0' * 16}.safetensors": b"x"},
    "a description of the same name": {"detector.json": b"[]"},
    "no JSON": {"detector.json": b"kept"},
    "hidden files": {".detector-backup": b"kept"},
}


@pytest.mark.parametrize("files", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("beside", ["nothing", pytest.param("a model", marks=pytest.mark.slow)])
def test_a_folder_with_files_of_others_is_left_alone(fitted, tmp_path, files, beside):
    folder = tmp_path / "model"
    folder.mkdir()
    if beside == "a model":
        fitted.save(folder)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(FileExistsError, match="not just a saved detector"):
        fitted.save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_link_in_a_model_is_left_alone(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    tensors = folder_file(tmp_path / "model", "tensors-*")
    tensors.rename(tmp_path / "elsewhere.safetensors")
    tensors.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(FileExistsError, match="left as it is"):
        fitted.save(tmp_path / "model")


FOREIGN_NAMES = ["pickle", "joblib", "pt", "pth", "bin", "h5", "HDF5", "onnx", "npz", "json"]


@pytest.mark.parametrize(
    "ending", ["pkl", *(pytest.param(name, marks=pytest.mark.slow) for name in FOREIGN_NAMES)]
)
def test_names_that_mean_another_format_are_refused(fitted, tmp_path, ending):
    with pytest.raises(ValueError, match=r"ends in \.safetensors, or a folder"):
        fitted.save(tmp_path / f"model.{ending}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model", "model-1.2", "2026-01-31T12.30", "model.SAFETENSORS"])
def test_all_other_names_are_folders_or_files(fitted, X, tmp_path, name):
    fitted.save(tmp_path / name)
    assert (tmp_path / name).is_file() == name.lower().endswith(".safetensors")
    loaded = load_detector(tmp_path / name)
    assert np.array_equal(loaded.decision_function(X), fitted.decision_function(X))


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_the_target_of_a_link_is_written(fitted, tmp_path, name):
    (tmp_path / "real").mkdir()
    fitted.save(tmp_path / "real" / name)
    (tmp_path / name).symlink_to(tmp_path / "real" / name)
    fitted.save(tmp_path / name)
    assert (tmp_path / name).is_symlink()
    load_detector(tmp_path / "real" / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a named pipe")
@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_a_pipe_is_no_model(fitted, tmp_path, name):
    fitted.save(tmp_path / name)
    tensors = tmp_path / name if name != "model" else folder_file(tmp_path / name, "tensors-*")
    tensors.unlink()
    os.mkfifo(tensors)
    with pytest.raises((ValueError, FileNotFoundError), match=r"damaged|holds no saved detector"):
        load_detector(tmp_path / name)
    with pytest.raises(FileExistsError, match="left as it is"):
        fitted.save(tmp_path / name)


# ------------------------------------------------------------------------- several processes

# Saves or loads the models in a folder over and over, and prints how often.
USE_TWO_MODELS = """
import sys, time
import numpy as np
from pyod_ae_plugin import load_detector

what, seconds, *models = sys.argv[1:]
targets = [models.pop(), models.pop()]
detectors = [load_detector(model) for model in models]
rows = np.random.default_rng(1).normal(size=(5, 4))
expected = [detector.decision_function(rows) for detector in detectors]
n, end = 0, time.monotonic() + float(seconds)
while time.monotonic() < end:
    for target in targets:
        if what == "save":
            detectors[n % len(detectors)].save(target)
        else:
            scores = load_detector(target).decision_function(rows)
            assert any(np.array_equal(scores, e) for e in expected)
    n += 1
print(n)
"""


@pytest.mark.slow
def test_processes_that_save_and_load_one_model_disturb_nobody(tmp_path):
    rng = np.random.default_rng(0)
    sources = [str(tmp_path / f"source-{seed}") for seed in range(4)]
    for seed, source in enumerate(sources):
        detector = AutoEncoder(epoch_num=1, verbose=0, device="cpu", random_state=seed)
        detector.fit(rng.normal(size=(30, 4))).save(source)
    targets = [str(tmp_path / name) for name in ("model", "model.safetensors")]
    for target in targets:
        load_detector(sources[0]).save(target)
    seconds = os.environ.get("SECONDS_OF_SAVING", "2")
    uses = [("save", sources[:2]), ("save", sources[2:]), ("load", sources)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", USE_TWO_MODELS, what, seconds, *models, *targets],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for what, models in uses
    ]
    finished = [process.communicate() for process in processes]
    assert [error for _, error in finished if error] == []
    assert all(int(count) > 0 for count, _ in finished), finished
    for target in targets:
        load_detector(target)
    assert {str(path) for path in tmp_path.iterdir()} == {*targets, *sources}
    assert len(os.listdir(targets[0])) == 2
