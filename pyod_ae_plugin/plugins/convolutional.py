"""The convolutional networks, as a plugin of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyod_ae_plugin.plugins.hookspecs import hookimpl


@hookimpl
def pyod_ae_networks() -> dict[str, Callable[..., Any]]:
    """Return the convolutional networks."""
    from pyod_ae_plugin.networks import conv, variational_conv

    return {"conv": conv, "variational_conv": variational_conv}
