"""From contents to a page: one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from importlib.resources import files
from typing import Any

import numpy as np

from pyod_ae_plugin.report.contents import Contents
from pyod_ae_plugin.report.figures import figures
from pyod_ae_plugin.report.shown import MAX_POINTS

Array = np.ndarray[Any, Any]


def require_bokeh() -> None:
    """Raise unless Bokeh is installed.

    Raises
    ------
    ImportError
        Says which extra to install.
    """
    try:
        import bokeh.embed  # noqa: F401
    except ImportError as error:
        raise ImportError("Reports need Bokeh: pip install 'pyod-ae-plugin[report]'.") from error


def render(contents: Contents) -> str:
    """Render a page.

    Its policy allows a browser to run the page's own scripts, by their digests, and to load
    nothing: also if a value were taken for markup, nothing would come of it.
    """
    import jinja2
    from bokeh.resources import Resources

    here = files("pyod_ae_plugin.report")
    library = "\n".join(Resources("inline", components=["bokeh"], log_level="error").js_raw)
    script = (here / "page.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src {_digest(library)} {_digest(script)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, percent=percent)
    template = environment.from_string((here / "page.html").read_text("utf-8"))
    return template.render(
        report=contents,
        n_points=MAX_POINTS,
        policy=policy,
        style=(here / "page.css").read_text("utf-8"),
        library=library,
        script=script,
        data=json_text(_data(contents)),
        figures=json_text(figures(contents)),
    )


def number(x: float) -> str:
    """Write a number in at most five digits, or as the whole number it is.

    Examples
    --------
    >>> number(2014.0), number(0.123456), number(31415.92), number(1e-12), number(3.4e38)
    ('2014', '0.1235', '31416', '1e-12', '3.4e+38')
    """
    is_whole = math.isfinite(x) and x == round(x)
    return f"{x:.0f}" if abs(x) < 1e9 and (is_whole or abs(x) >= 1e4) else f"{x:.4g}"


def percent(share: float) -> str:
    """Write a share of 1.

    Examples
    --------
    >>> percent(0.1), percent(0.00012)
    ('10.0%', '0.01%')
    """
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.2%}"


def json_text(value: Any) -> str:
    """JSON that neither ends the element it stands in nor opens another one."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _data(contents: Contents) -> dict[str, Any]:
    """What the script works with."""
    sweep, points = contents.sweep, contents.points
    bins = contents.histogram
    outliers_above = sweep.n_outliers_above
    return {
        "nRows": contents.n_rows,
        "nOutliers": contents.n_outliers,
        "start": contents.start.threshold,
        "range": [bins.low, bins.high],
        "thresholds": _packed(sweep.thresholds),
        "nAbove": _packed(sweep.n_above),
        "nOutliersAbove": None if outliers_above is None else _packed(outliers_above),
        "isComplete": sweep.is_complete,
        "ranked": [
            {
                "name": row.name,
                "score": number(row.score),
                "contributions": [
                    [
                        part.feature,
                        number(part.value),
                        number(part.rebuilt),
                        None if part.deviation is None else number(part.deviation),
                        part.contribution,
                    ]
                    for part in row.contributions
                ],
                "rest": row.rest,
                "nRest": contents.n_features - len(row.contributions),
            }
            for row in contents.ranked
        ],
        "points": {
            "names": points.names,
            "scores": _packed(points.scores),
            "labels": None if points.labels is None else points.labels.tolist(),
            "x": _packed(points.places[:, 0], "<f4"),
            "y": _packed(points.places[:, 1], "<f4"),
            "withValues": points.with_values.tolist(),
        },
        "features": [feature.name for feature in contents.features],
        # one feature after another
        "values": _packed(points.values.T, "<f4"),
    }


def _packed(values: Array, dtype: str = "<f8") -> str:
    """Base64 of numbers, a quarter of what JSON takes for as many digits."""
    largest = np.finfo(dtype).max
    clipped = np.clip(values.astype(np.float64), -largest, largest).astype(dtype)
    return base64.b64encode(np.ascontiguousarray(clipped).tobytes()).decode()


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
