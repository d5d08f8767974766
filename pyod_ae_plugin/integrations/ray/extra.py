"""Ray, if it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def ray_module(name: str = "ray") -> Any:
    """Return a module of Ray, or say which extra installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError("Ray is needed: pip install 'pyod-ae-plugin[ray]'.") from error


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster, or to one on this machine; stay so where that was so before."""
    ray = ray_module()
    if ray.is_initialized():
        yield
        return
    ray.init(address=address)
    try:
        yield
    finally:
        ray.shutdown()
