"""Threads that compute tiles of rows side by side on a CPU."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

import torch

from pyod_ae_plugin.engine.devices import default_settings, set_threads_of_new_threads

T = TypeVar("T")


def computed_in_worker(make: Callable[[], T]) -> T:
    """Return what a function returns, computed on one core."""
    made: list[T] = []
    run_in_workers(lambda _: made.append(make()), 1)
    return made[0]


def run_in_workers(compute: Callable[[int], None], n: int) -> None:
    """Call a function with each number below ``n``, by as many threads as torch uses here.

    Each thread computes on one core, and takes the next number when it is done. Torch's own threads
    share each operation, and wait for each other at its end: where other work keeps one of them
    from its core, that takes many times as long.
    """
    pending = deque(range(n))

    @default_settings()
    def work() -> None:
        while pending:
            try:
                number = pending.popleft()
            except IndexError:  # another thread took the last one
                return
            compute(number)

    n_threads = torch.get_num_threads()
    if n_threads == 1:
        work()
        return
    workers = _workers(n_threads, os.getpid())
    running = [workers.submit(work) for _ in range(min(n, n_threads))]
    try:
        wait(running, return_when=FIRST_EXCEPTION)
    finally:
        pending.clear()
        wait(running)
    for future in running:
        future.result()


@lru_cache(maxsize=1)
def _workers(n_threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process in which torch uses one core; they wait without using any."""
    ready = threading.Barrier(n_threads)

    def begin() -> None:
        torch.get_num_threads()  # the first question sets a thread's number to that of the process
        torch.set_num_threads(1)
        ready.wait()

    workers = ThreadPoolExecutor(n_threads, thread_name_prefix="pyod-ae")
    wait([workers.submit(begin) for _ in range(n_threads)])
    set_threads_of_new_threads(n_threads)
    return workers
