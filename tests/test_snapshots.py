"""Whether a scoring module computes what it did, and the scores of few rows."""

import gc
import weakref

import numpy as np
import pytest
import torch
from each import EACH
from torch import nn

from pyod_ae_plugin import AutoEncoder
from pyod_ae_plugin.engine.folded import score_function
from pyod_ae_plugin.engine.snapshots import Snapshot


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.LeakyReLU(0.1), nn.BatchNorm1d(2), nn.Dropout(0.5))


def through_numpy(module):
    module[0].weight.detach().numpy()[1, 2] += 1


def other_memory(module):
    module[0].bias.data = module[0].bias.data + 1


CHANGES = {
    "a weight in place": lambda m: m[0].weight.data.mul_(2),
    "a weight through NumPy": through_numpy,
    "other memory": other_memory,
    "another parameter": lambda m: setattr(m[0], "weight", nn.Parameter(torch.zeros(2, 3))),
    "a buffer": lambda m: m[2].running_mean.add_(1),
    "a setting": lambda m: setattr(m[1], "negative_slope", 0.2),
    "the mode": lambda m: m[3].eval(),
    "a method": lambda m: setattr(m[1], "forward", lambda x: x),
    "the class": lambda m: setattr(m[1], "__class__", nn.ReLU),
    "another layer": lambda m: m.__setitem__(1, nn.LeakyReLU(0.1)),
    "a further layer": lambda m: m.append(nn.ReLU()),
    "a hook": lambda m: m[0].register_forward_hook(lambda layer, args, output: output),
    "a hook before": lambda m: m[0].register_forward_pre_hook(lambda layer, args: args),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_snapshot_sees_every_change(change):
    module = network()
    snapshot = Snapshot(module)
    assert snapshot.is_of(module)
    change(module)
    assert not snapshot.is_of(module)
    assert Snapshot(module).is_of(module)


def test_a_snapshot_sees_hooks_on_all_modules():
    module = network()
    snapshot = Snapshot(module)
    hook = nn.modules.module.register_module_forward_hook(lambda layer, args, output: output)
    seen = not snapshot.is_of(module)
    hook.remove()
    assert seen
    assert snapshot.is_of(module)


def test_a_snapshot_does_not_keep_its_module():
    module = network()
    snapshot, seen = Snapshot(module), weakref.ref(module)
    del module
    gc.collect()
    assert seen() is None
    assert snapshot is not None


@pytest.mark.parametrize("novelty", [False, True])
@EACH
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_few_rows_have_the_scores_that_they_have_among_many(
    set_threads, Detector, novelty, n_threads
):
    X = np.random.default_rng(0).normal(size=(400, 7))
    detector = Detector(novelty=novelty, epoch_num=2, verbose=0, device="cpu").fit(X)
    set_threads(n_threads)
    for n in (1, 2, 3, 5, 9, 17, 65):
        for start in (0, 150, 333):
            rows = slice(start, start + n)
            few = detector.decision_function(X[rows])
            assert (few == detector.decision_scores_[rows]).all()
            tensor = detector.score_tensor(torch.from_numpy(X[rows]))
            assert (tensor.double().numpy() == few).all()
            assert not tensor.is_inference()


def test_the_lowest_tile_is_one_whose_rows_have_the_scores_of_higher_ones():
    X = np.random.default_rng(0).normal(size=(400, 30))
    detector = AutoEncoder(novelty=True, epoch_num=2, verbose=0, device="cpu").fit(X)
    score = score_function(detector.scoring_module_)
    height = score.lowest_height or 64
    with torch.inference_mode():
        x = torch.from_numpy(X[:64])
        torch.testing.assert_close(
            torch.cat([score(tile) for tile in x.split(height)]), score(x), rtol=0, atol=0
        )
