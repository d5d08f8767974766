"""Tiles that several threads compute."""

import threading
import time

import numpy as np
import pytest
import torch

from pyod_ae_plugin import AutoEncoder
from pyod_ae_plugin.engine.workers import run_in_workers


@pytest.mark.parametrize("n", [1, 2, 57])
def test_each_number_is_computed_once_with_one_core(two_threads, n):
    done = []
    run_in_workers(lambda i: done.append((i, torch.get_num_threads())), n)
    assert sorted(done) == [(i, 1) for i in range(n)]
    assert torch.get_num_threads() == 2


def test_a_slow_number_does_not_hold_up_the_others(two_threads):
    others_done = threading.Event()
    left = set(range(1, 20))

    def compute(i):
        if i == 0:
            assert others_done.wait(timeout=60)
        else:
            left.discard(i)
            if not left:
                others_done.set()

    run_in_workers(compute, 20)
    assert not left


def test_an_error_ends_the_work_and_is_raised(two_threads):
    done = []

    def compute(i):
        if i == 3:
            raise ZeroDivisionError("the third")
        time.sleep(0.001)
        done.append(i)

    with pytest.raises(ZeroDivisionError, match="the third"):
        run_in_workers(compute, 1000)
    assert len(done) < 900


def test_work_may_ask_for_work(two_threads):
    done = []
    run_in_workers(lambda i: run_in_workers(done.append, 3), 4)
    assert sorted(done) == sorted([0, 1, 2] * 4)


def test_settings_of_the_caller_do_not_reach_the_work(two_threads):
    found = []
    torch.set_default_dtype(torch.float64)
    try:
        run_in_workers(lambda i: found.append(torch.zeros(1).dtype), 2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == [torch.float32] * 2


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("head", ["joint_mahalanobis", "kernel"])
def test_scores_do_not_depend_on_threads_or_on_other_rows(two_threads, head, n_threads):
    X = np.random.default_rng(0).normal(size=(9000, 7))
    detector = AutoEncoder(score_head=head, epoch_num=2, verbose=0, device="cpu").fit(X[:500])
    expected = detector.decision_function(X)
    torch.set_num_threads(n_threads)
    for rows in (slice(0, 9000), slice(8000, 9000), slice(70, 71), slice(400, 465)):
        assert np.array_equal(detector.decision_function(X[rows]), expected[rows])
