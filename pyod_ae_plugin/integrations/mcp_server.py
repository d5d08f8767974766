"""PyOD's MCP server with our detectors.

    python -m pyod_ae_plugin.integrations.mcp_server [--random-state N] [--replace]

This serves PyOD's ten tools over stdin and stdout, as ``python -m pyod.mcp_server`` does.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from pyod_ae_plugin.integrations.ad_engine import extend

if TYPE_CHECKING:
    from pyod.utils.ad_engine import ADEngine


def extend_mcp_server(*, random_state: int | None = None, replace: bool = False) -> ADEngine:
    """Extend the engine that the tools of ``pyod.mcp_server`` use.

    PyOD keeps this engine in that module, one for all tools and callers of a process. Other engines
    are not changed.

    Parameters
    ----------
    random_state : int or None, default=None
        Seed of the detectors that the tools run. Default: the seed of the engine; a new one has
        none.
    replace : bool, default=False
        See :func:`~pyod_ae_plugin.integrations.ad_engine.extend`.

    Returns
    -------
    engine : ADEngine
        The extended engine.

    Examples
    --------
    >>> import json
    >>> from pyod import mcp_server
    >>> from pyod_ae_plugin.integrations.mcp_server import extend_mcp_server
    >>> engine = extend_mcp_server(random_state=0)
    >>> profile = json.dumps({"data_type": "tabular", "n_samples": 1000, "n_features": 8})
    >>> plan = mcp_server.plan_detection(profile)
    >>> print(json.loads(mcp_server.build_detector(plan))["code_snippet"])
    from pyod_ae_plugin import VAE
    clf = VAE(verbose=0, contamination=0.1)
    """
    from pyod import mcp_server

    engine = mcp_server._get_engine()  # PyOD has no public function for it
    if random_state is not None:
        engine.random_state = random_state
    return extend(engine, replace=replace)


def serve(random_state: int | None = None, replace: bool = False) -> None:
    """Run PyOD's MCP server with the detectors of pyod_ae_plugin until stdin ends.

    Takes the arguments of :func:`extend_mcp_server`. Raises ImportError if mcp is not installed, or
    in a version that PyOD's server does not support.
    """
    from pyod import mcp_server

    try:
        import mcp.server.fastmcp  # noqa: F401
    except ImportError as error:  # raised with mcp 2 too, which has no FastMCP
        raise ImportError(
            "PyOD's MCP server needs mcp 1: pip install 'pyod-ae-plugin[mcp]'."
        ) from error
    extend_mcp_server(random_state=random_state, replace=replace)
    sys.exit(mcp_server.main())


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(help="Run PyOD's MCP server with the detectors of pyod_ae_plugin.")(serve)
    app()
