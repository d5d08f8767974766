"""save and load_detector: what comes back, and what is refused."""

import inspect
import json

import numpy as np
import pytest
import torch
from pyod.utils import persistence as pyod_persistence
from safetensors.torch import load_file, save_file

from pyod_ae_plugin import VAE, AutoEncoder, load_detector


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


@pytest.mark.parametrize("Detector", [AutoEncoder, VAE])
def test_what_is_loaded_is_what_was_saved(Detector, X, tmp_path):
    detector = Detector(epoch_num=2, verbose=0, device="cpu", batch_norm=True).fit(X)
    detector.save(tmp_path / "deep" / "model")
    loaded = load_detector(str(tmp_path / "deep" / "model"))
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
    pd = pytest.importorskip("pandas", reason="needs pandas")
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
    with pytest.raises(FileExistsError, match="left alone"):
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


def change_description(folder, **changes):
    path = folder / "detector.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(folder, change):
    tensors = load_file(folder / "tensors.safetensors")
    change(tensors)
    save_file(tensors, folder / "tensors.safetensors")


DAMAGES = {
    "truncated tensors": lambda f: (f / "tensors.safetensors").write_bytes(
        (f / "tensors.safetensors").read_bytes()[:-100]
    ),
    "no tensors": lambda f: (f / "tensors.safetensors").unlink(),
    "truncated description": lambda f: (f / "detector.json").write_text("{"),
    "a list": lambda f: (f / "detector.json").write_text("[]"),
    "another format": lambda f: change_description(f, format=2),
    "unknown detector": lambda f: change_description(f, detector="os.system"),
    "missing weight": lambda f: change_tensors(
        f, lambda t: t.pop("module.network.encoder.0.weight")
    ),
    "no parameters": lambda f: change_description(f, params=None),
    "a parameter too many": lambda f: change_description(f, params={"colour": "red"}),
    "no attributes": lambda f: change_description(f, attributes={}),
    "a shadowed method": lambda f: change_description(
        f, attributes={"n_features_in_": 6, "decision_function": "evil"}
    ),
    "another library's detector": lambda f: change_description(
        f, detector="pyod.IForest", params={}
    ),
    "wrong shape": lambda f: change_tensors(
        f, lambda t: t.update({"module.network.encoder.0.bias": torch.zeros(99)})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_models_are_refused(fitted, tmp_path, damage):
    fitted.save(tmp_path / "model")
    DAMAGES[damage](tmp_path / "model")
    with pytest.raises(ValueError, match=r"damaged|format|Unknown detector"):
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
    with pytest.raises(FileExistsError, match="left alone"):
        fitted.save(tmp_path / "model")
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"


def test_parameters_changed_after_fit_are_refused(fitted, tmp_path):
    fitted.set_params(hidden_neuron_list=[3])
    with pytest.raises(ValueError, match="no longer fit what was fitted"):
        fitted.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_failed_save_leaves_the_old_model_whole(fitted, X, tmp_path, monkeypatch):
    fitted.save(tmp_path / "model")
    expected = load_detector(tmp_path / "model").decision_function(X)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("pyod_ae_plugin.persistence.save", full)
    with pytest.raises(OSError, match="No space"):
        fitted.save(tmp_path / "model")
    monkeypatch.undo()
    assert np.array_equal(load_detector(tmp_path / "model").decision_function(X), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_pyods_own_persistence_works(fitted, X, tmp_path):
    pyod_persistence.save(fitted, tmp_path / "model.joblib")
    knows_trust = "trusted" in inspect.signature(pyod_persistence.load).parameters
    options = {"trusted": True} if knows_trust else {}
    loaded = pyod_persistence.load(tmp_path / "model.joblib", **options)
    assert np.array_equal(loaded.decision_function(X), fitted.decision_function(X))
