"""The ensemble: members trained as one stack, combined, added to."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from pyod_ae_plugin import AutoEncoderEnsemble, Corruption, load_detector
from pyod_ae_plugin.detectors.ensemble import member
from pyod_ae_plugin.engine.objectives import Corruptor, ReconstructionLoss
from pyod_ae_plugin.engine.options import TrainingOptions
from pyod_ae_plugin.engine.training import Training
from pyod_ae_plugin.networks import AutoEncoderNetwork, mlp, stacked_mlp


def trained(network, objective, rows, options):
    """Train a network on rows as they are."""
    list(Training(network, objective, rows.__getitem__, len(rows), options, seeded()).epochs())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def member_of(network, i, widths):
    """Member i of a stack, as a network of its own."""
    halves = []
    for half in (network.encoder, network.decoder):
        layers = []
        for layer in half:
            if isinstance(layer, nn.Module) and hasattr(layer, "weight"):
                alone = nn.Linear(*layer.weight.shape[1:])
                alone.weight.data = layer.weight[i].detach().T.clone()
                alone.bias.data = layer.bias[i, 0].detach().clone()
                layers.append(alone)
            else:
                layers.append(layer)
        halves.append(nn.Sequential(*layers))
    return AutoEncoderNetwork(*halves)


def test_a_stack_computes_what_its_members_do():
    network = stacked_mlp(6, [8, 3], [3, 2], None, "tanh", seeded())
    x = torch.randn(50, 6)
    together = network(x)
    for i in range(2):
        torch.testing.assert_close(together[i], member_of(network, i, None)(x))


def test_members_are_trained_as_they_would_be_alone():
    rows = torch.randn(64, 6, generator=seeded())
    stack = stacked_mlp(6, [8, 3], [3, 3], None, "tanh", seeded())
    alone = [member_of(stack, i, None) for i in range(2)]
    # one batch of all rows, so that the order of the rows does not matter
    options = {"epochs": 5, "batch_size": 64, "lr": 1e-2}
    trims = [0.0, 0.25]
    together = TrainingOptions(**options, trim=trims, n_members=2)
    trained(stack, ReconstructionLoss(), rows, together)
    for i, network in enumerate(alone):
        single = TrainingOptions(**options, trim=[trims[i]])
        trained(network, ReconstructionLoss(), rows, single)
        torch.testing.assert_close(stack(rows)[i], network(rows), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "silu", "softplus"])
def test_what_a_member_does_not_have_stays_zero(activation):
    stack = stacked_mlp(6, [8, 4], [4, 2], None, activation, seeded())
    corrupt = ReconstructionLoss(Corruptor([Corruption(mask=0.3), Corruption(noise=0.2)]))
    options = TrainingOptions(
        epochs=3, trim=[0.1, 0.1], n_members=2, optimizer_params={"weight_decay": 0.1}
    )
    trained(stack, corrupt, torch.randn(100, 6), options)
    assert (stack.decoder[0].weight[1, 2:] == 0).all()
    assert (stack.encode(torch.randn(9, 6))[1, :, 2:] == 0).all()
    assert (stack.encode(torch.randn(9, 6))[0] != 0).all()


def test_members_are_unlike():
    corruption = Corruption(mask=0.3)
    kinds = [member(i, 8, corruption, novelty=False) for i in range(8)]
    assert [m.variational for m in kinds] == [False, True] * 4
    assert [m.n_latent for m in kinds] == [8, 3, 8, 2, 8, 4, 8, 3]
    assert [m.corruption == corruption for m in kinds] == [False, False, True, False] * 2
    assert member(1, 2, corruption, novelty=False).n_latent == 2


def test_trained_on_normal_rows_all_members_are_plain():
    kinds = [member(i, 32, Corruption(noise=0.2), novelty=True) for i in range(4)]
    assert not any(m.variational for m in kinds)
    assert [m.corruption.noise for m in kinds] == [0.0, 0.2, 0.0, 0.2]


def test_corruption_hides_each_member_s_share():
    x = torch.ones(2, 200, 1000)
    given = Corruptor([Corruption(), Corruption(mask=0.3)])(x, seeded())
    assert torch.equal(given[0], x[0])
    assert (given[1] == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    noisy = Corruptor([Corruption(noise=0.5), Corruption()])(x, seeded())
    assert noisy[0].std().item() == pytest.approx(0.5, rel=0.02)
    assert torch.equal(noisy[1], x[1])


@pytest.mark.parametrize(("novelty", "mask", "noise"), [(False, 0.3, 0.0), (True, 0.0, 0.2)])
def test_corruption_hangs_on_what_the_training_rows_are(quick, X, novelty, mask, noise):
    params = {"novelty": novelty, "n_estimators": 3}
    default = quick(AutoEncoderEnsemble, **params).fit(X)
    same = quick(AutoEncoderEnsemble, corruption=Corruption(mask, noise), **params).fit(X)
    assert np.array_equal(default.decision_scores_, same.decision_scores_)
    other = quick(AutoEncoderEnsemble, corruption={}, **params).fit(X)
    assert not np.array_equal(default.decision_scores_, other.decision_scores_)


def test_members_see_rows_of_their_own():
    rows = torch.arange(100.0).unsqueeze(1)
    seen = []

    def remember(network, x, progress, generator):
        seen.append(x[..., 0].clone())
        return ReconstructionLoss()(network, x, progress, generator)

    stack = stacked_mlp(1, [2], [2, 2, 2], None, "tanh", seeded())
    options = TrainingOptions(epochs=2, batch_size=10, n_members=3, rows_per_member=40)
    trained(stack, remember, rows, options)
    epochs = [torch.cat(seen[i : i + 4], dim=1) for i in (0, 4)]
    drawn = [{*row.tolist()} for row in epochs[0]]
    assert [len(rows) for rows in drawn] == [40, 40, 40]
    assert drawn[0] != drawn[1]
    assert [{*row.tolist()} for row in epochs[1]] == drawn  # the same rows,
    assert not torch.equal(epochs[0], epochs[1])  # in another order


def test_finds_the_outliers_and_offers_what_a_pyod_detector_offers(data):
    X_train, X_test, _, y_test = data
    detector = AutoEncoderEnsemble(n_estimators=4, verbose=0, device="cpu").fit(X_train)
    scores = detector.decision_function(X_test)
    assert scores[y_test == 1].min() > np.median(scores[y_test == 0])
    assert np.array_equal(detector.predict(X_train), detector.labels_)
    assert np.array_equal(detector.decision_function(X_test[:3]), scores[:3])
    assert detector.predict_proba(X_test).shape == (200, 2)
    assert detector.transform(X_test).shape == (200, 4 * 8)
    assert detector.get_feature_names_out().shape == (32,)
    assert detector.reconstruct(X_test).shape == X_test.shape


@pytest.mark.parametrize(
    "n_threads", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))]
)
def test_a_row_s_score_is_its_own(quick, set_threads, n_threads):
    X = np.random.default_rng(0).normal(size=(2001, 9))
    detector = quick(AutoEncoderEnsemble).fit(X[:200])
    set_threads(n_threads)
    scores = detector.decision_function(X)
    for rows in (slice(0, 1), slice(5, 70), slice(100, 1900)):
        assert np.array_equal(detector.decision_function(X[rows]), scores[rows])


def test_the_same_seed_gives_the_same_bits(quick, X):
    first, again = quick(AutoEncoderEnsemble).fit(X), quick(AutoEncoderEnsemble).fit(X)
    other = quick(AutoEncoderEnsemble, random_state=1).fit(X)
    assert np.array_equal(first.decision_scores_, again.decision_scores_)
    assert not np.array_equal(first.decision_scores_, other.decision_scores_)


def test_warm_start_keeps_members_and_adds_new_ones(quick, X):
    detector = quick(AutoEncoderEnsemble, n_estimators=4, warm_start=True).fit(X)
    before = [p.clone() for p in detector.model.parameters()]
    detector.set_params(n_estimators=6).fit(X)
    for old, new in zip(before, detector.model.parameters(), strict=True):
        assert len(new) == 6
        assert torch.equal(new[:4], old)
        assert not torch.equal(new[4:], old[:2])
    assert np.array_equal(detector.predict(X), detector.labels_)
    with pytest.warns(UserWarning, match="raise n_estimators"):
        detector.fit(X)
    with pytest.raises(ValueError, match="less than the 6 members"):
        detector.set_params(n_estimators=2).fit(X)
    with pytest.raises(ValueError, match="adds to members of 6 features"):
        detector.set_params(n_estimators=8).fit(X[:, :4])
    for changed in ({"hidden_neuron_list": (8, 2)}, {"hidden_activation_name": "tanh"}):
        other = clone(detector).set_params(n_estimators=2).fit(X)
        with pytest.raises(ValueError, match="adds members like those there are"):
            other.set_params(n_estimators=3, **changed).fit(X)
    assert detector.decision_function(X).shape == (300,)


def test_without_warm_start_fit_begins_anew(quick, X):
    detector = quick(AutoEncoderEnsemble).fit(X)
    scores = detector.decision_scores_
    assert np.array_equal(clone(detector).fit(X).decision_scores_, scores)
    assert np.array_equal(detector.fit(X).decision_scores_, scores)


def test_saves_and_loads(quick, X, tmp_path):
    detector = quick(AutoEncoderEnsemble, hidden_neuron_list=[8, 3]).fit(X)
    detector.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    assert np.array_equal(loaded.decision_function(X), detector.decision_function(X))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_estimators": 0}, "n_estimators"),
        ({"hidden_activation_name": "swish"}, "hidden_activation_name"),
        ({"combination": "mode"}, "combination"),
        ({"max_samples": 0}, "max_samples"),
        ({"corruption": Corruption(mask=1.0)}, "mask"),
        ({"corruption": {"noise": -1.0}}, "noise"),
        ({"score_head": "nll"}, "does not score the members"),
    ],
)
def test_bad_parameters_are_refused(quick, params, message, X):
    with pytest.raises((ValueError, TypeError), match=message):
        quick(AutoEncoderEnsemble, **params).fit(X)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_tiny_tables(quick, n):
    X = np.random.default_rng(0).normal(size=(n, 1))
    assert np.isfinite(quick(AutoEncoderEnsemble).fit(X).decision_scores_).all()


def test_one_member_is_an_autoencoder():
    """The K = 1 case of the stack computes what the plain network does."""
    plain = mlp(6, [8, 3], "silu", False, 0.0, seeded())
    stack = stacked_mlp(6, [8, 3], [3], None, "silu", seeded())
    x = torch.randn(10, 6)
    torch.testing.assert_close(stack(x)[0], plain(x))


@pytest.mark.gpu
def test_an_ensemble_fits_and_scores_on_a_gpu(data):
    detector = AutoEncoderEnsemble(n_estimators=4, verbose=0, device="cuda").fit(data[0])
    on_gpu = detector.decision_function(data[1])
    detector.scoring_module_.cpu()
    assert np.allclose(detector.decision_function(data[1]), on_gpu, rtol=1e-3, atol=1e-3)
