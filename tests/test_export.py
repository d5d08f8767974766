"""to_onnx and to_torch_export: what ONNX Runtime and torch.export make of raw rows."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin import export as export_module
from pyod_ae_plugin.networks import AutoEncoderNetwork
from pyod_ae_plugin.networks.activations import ACTIVATIONS
from pyod_ae_plugin.networks.layers import Linear
from pyod_ae_plugin.thresholds import TopN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))),
        reason="needs the extra onnx",
    ),
]

CONV = {"network": "conv", "hidden_neuron_list": [3, 4, 2]}
VARIATIONAL_CONV = {
    "network": "variational_conv",
    "encoder_neuron_list": [3],
    "decoder_neuron_list": [4],
}
# Each score head, and each network with several heads.
CASES = [
    (AutoEncoder, "euclidean", {"batch_norm": True, "dropout_rate": 0.1}),
    (AutoEncoder, "kernel", {"novelty": True}),
    (AutoEncoderEnsemble, "kernel", {"novelty": True}),
    (AutoEncoder, "joint_mahalanobis", {**CONV, "batch_norm": True, "dropout_rate": 0.1}),
    (AutoEncoder, "nll", {**CONV, "hidden_activation_name": "softmax"}),
    (VAE, "nearest_neighbor", {}),
    (VAE, "reconstruction_probability", {"batch_norm": True}),
    (VAE, "elbo", VARIATIONAL_CONV),
    (AutoEncoderEnsemble, "nearest_neighbor", {"combination": "average"}),
    (AutoEncoderEnsemble, "mahalanobis", {"combination": "median", "novelty": True}),
    (AutoEncoderEnsemble, "euclidean", {"combination": "aom"}),
]
FAR = [1e3, 1e12, 1e18, 1e19, 1e20, 1e25, 1e38, 1e60, 1e300]


def session_of(detector, path):
    import onnxruntime

    detector.to_onnx(path)
    return onnxruntime.InferenceSession(path)


def assert_scored_alike(session, detector, X):
    """Scores within 1e-4 of their size, and the same labels but for scores at the threshold."""
    scores, labels = session.run(["scores", "labels"], {"X": X})
    assert scores.dtype == np.float32
    assert labels.dtype == np.int64
    expected = detector.decision_function(X)
    passes_zero = isinstance(detector, AutoEncoderEnsemble) or expected.min() < 0
    tolerance = 1e-4 * np.median(np.abs(expected - np.median(expected))) if passes_zero else 0.0
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=tolerance)
    apart = ~np.isclose(expected, detector.threshold_, rtol=1e-4, atol=tolerance)
    assert np.array_equal(labels[apart], detector.predict(X)[apart])
    return scores, labels


@pytest.fixture(scope="module")
def named(quick, tmp_path_factory):
    """A detector of rows with names that are not scaled, its file, and a session of that."""
    pd = pytest.importorskip("pandas", reason="needs pandas")
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 6)), columns=list("abcdef"))
    detector = quick(AutoEncoder, preprocessing=False).fit(X)
    path = tmp_path_factory.mktemp("export") / "detector.onnx"
    return detector, path, session_of(detector, path)


@pytest.mark.parametrize(("Detector", "head", "params"), CASES)
def test_onnx_runtime_scores_as_the_detector_does(quick, Detector, head, params, tmp_path):
    X = load_breast_cancer().data
    image = {"input_shape": (5, 6)} if "network" in params else {}
    detector = quick(Detector, score_head=head, **params, **image).fit(X[::2])
    path = tmp_path / "detector.onnx"
    session = session_of(detector, path)
    _, labels = assert_scored_alike(session, detector, X)
    assert 0 < labels.mean() < 0.5
    assert_scored_alike(session, detector, X[:1])
    assert_scored_alike(session, detector, np.resize(X, (5000, X.shape[1])))
    assert_scored_alike(session, detector, np.array([X[0] * factor for factor in FAR]))
    one_value = np.repeat(X[:1], len(FAR), axis=0)
    one_value[:, 7] = -np.array(FAR)
    scores, labels = assert_scored_alike(session, detector, one_value)
    assert np.isfinite(scores).all()
    assert labels[-1] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["detector.onnx"]  # no data beside it


def test_adbench(quick, adbench, tmp_path):
    X = np.load(adbench / "7_Cardiotocography.npz")["X"].astype(np.float64)
    detector = quick(VAE).fit(X[::2])
    assert_scored_alike(session_of(detector, tmp_path / "detector.onnx"), detector, X[1::2])


def test_every_activation(quick, tmp_path):
    def network(n_features, generator):
        layers = []
        for name, activation in ACTIVATIONS.items():
            layers += [Linear(n_features, n_features, generator), activation.make()]
            layers += [nn.LayerNorm(n_features)] if name == "softmax" else []
        return AutoEncoderNetwork(nn.Sequential(*layers), Linear(n_features, n_features, generator))

    X = load_digits().data[:500]
    detector = quick(AutoEncoder, network=network, score_head="joint_mahalanobis").fit(X)
    assert_scored_alike(session_of(detector, tmp_path / "detector.onnx"), detector, X)


def test_rows_far_from_zero_keep_their_digits(quick, X, tmp_path):
    X = X + 1e7
    detector = quick(AutoEncoder, score_head="euclidean").fit(X)
    assert_scored_alike(session_of(detector, tmp_path / "detector.onnx"), detector, X)


def test_rows_that_are_not_standardised(named):
    detector, _, session = named
    X = np.random.default_rng(1).normal(size=(200, 6))
    scores, _ = session.run(None, {"X": X})
    frame = dict(zip(detector.feature_names_in_, X.T, strict=True))
    expected = detector.decision_function(pytest.importorskip("pandas").DataFrame(frame))
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_values_that_are_not_finite_get_the_highest_score(named):
    _, _, session = named
    rows = np.zeros((3, 6))
    rows[:, 2] = np.nan, np.inf, -np.inf
    scores, labels = session.run(None, {"X": rows})
    assert (scores == np.finfo(np.float32).max).all()
    assert labels.all()


def test_what_the_file_says_of_itself(named):
    import onnx

    detector, path, session = named
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("X", "tensor(double)", ["n", 6])
    ]
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("scores", "tensor(float)", ["n"]),
        ("labels", "tensor(int64)", ["n"]),
    ]
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["detector"] == "AutoEncoder"
    assert float(properties["threshold"]) == detector.threshold_
    assert properties["feature_names"] == '["a", "b", "c", "d", "e", "f"]'
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == "pyod-ae-plugin"
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]


@pytest.mark.parametrize("Detector", [AutoEncoder, VAE, AutoEncoderEnsemble])
def test_a_saved_program_of_torch_export(quick, Detector, X, tmp_path):
    detector = quick(Detector).fit(X)
    torch.export.save(detector.to_torch_export(), tmp_path / "detector.pt2")
    scored = torch.export.load(tmp_path / "detector.pt2").module()
    for rows in (X[:1], X[:7], np.resize(X, (5000, 6)), X * 1e30):
        scores, labels = scored(torch.from_numpy(rows))
        assert torch.equal(scores, detector.scoring_module_(torch.from_numpy(rows)))
        assert np.array_equal(labels, scores.double() > detector.threshold_)


def test_labels_of_thresholders(quick, X, tmp_path):
    thresholds = pytest.importorskip("pyod.models.thresholds", reason="needs pythresh")
    pytest.importorskip("pythresh", reason="needs pythresh, of the extra ensembles")
    detector = quick(AutoEncoder, contamination=TopN(20)).fit(X)
    scores, labels = detector.to_torch_export().module()(torch.from_numpy(X))
    assert labels.sum() == 20
    assert np.array_equal(labels, detector.thresholder_.predict(scores.double().numpy()))
    for thresholder in (thresholds.KARCH(), thresholds.CLF()):
        detector = quick(AutoEncoder, contamination=thresholder).fit(X)
        with pytest.raises(ValueError, match=r"(KARCH|CLF) labels rows by a scale of its own.*Fit"):
            detector.to_onnx(tmp_path / "detector.onnx")
    detector.threshold_ = np.sort(detector.decision_scores_)[-10]  # the user's own
    _, labels = detector.to_torch_export().module()(torch.from_numpy(X))
    assert labels.sum() == detector.predict(X).sum() == 9


class LooksAtValues(AutoEncoderNetwork):
    def encode(self, x):
        return super().encode(x if x.sum() > 1e9 else x + 1)


def test_what_torch_cannot_export_is_named_and_leaves_what_was_there(quick, X, tmp_path):
    path = tmp_path / "detector.onnx"
    path.write_text("older")
    detector = quick(
        AutoEncoder, network=lambda n: LooksAtValues(nn.Linear(n, 2), nn.Linear(2, n))
    ).fit(X)
    with pytest.raises(ValueError, match=r"network LooksAtValues with the score head Joint") as e:
        detector.to_onnx(path)
    assert e.value.__cause__ is not None
    assert "torch.where and not an if" in str(e.value)
    assert len(str(e.value)) < 600
    assert [entry.name for entry in tmp_path.iterdir()] == ["detector.onnx"]
    assert path.read_text() == "older"


def test_weights_too_large_for_a_file_are_refused(quick, X, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_LARGEST_ONNX", 1000)
    with pytest.raises(ValueError, match=r"an ONNX file holds at most.*to_torch_export"):
        quick(AutoEncoder).fit(X).to_onnx(tmp_path / "detector.onnx")


def test_a_missing_package_is_named(quick, X, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'pyod-ae-plugin\[onnx\]'"):
        quick(AutoEncoder).fit(X).to_onnx(tmp_path / "detector.onnx")


def test_unfitted_detectors_cannot_be_exported(tmp_path):
    with pytest.raises(ValueError, match="not fitted"):
        AutoEncoder().to_onnx(tmp_path / "detector.onnx")
    with pytest.raises(ValueError, match="not fitted"):
        AutoEncoder().to_torch_export()


def test_the_detector_stays_as_it_is(quick, X, tmp_path):
    detector = quick(AutoEncoder).fit(X)
    before = detector.decision_function(X)
    program = detector.to_torch_export()
    for tensor in program.state_dict.values():
        tensor.zero_()
    assert np.array_equal(detector.decision_function(X), before)
