"""The HTML page of a report: one file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.plots import BLUE, GREY, ORANGE, format_number
from pyod_ae_plugin.report.contents import Contents, Histogram

if TYPE_CHECKING:
    from bokeh.models import Axis
    from bokeh.plotting import figure as Figure


def require_bokeh() -> None:
    """Raise an ImportError that names the extra unless Bokeh is installed."""
    try:
        import bokeh.embed  # noqa: F401
    except ImportError as error:
        raise ImportError("Reports need Bokeh: pip install 'pyod-ae-plugin[report]'.") from error


def render(contents: Contents) -> str:
    """Render the page.

    Its content security policy lets a browser run the page's own two scripts, known by their
    hashes, and load nothing. So even a value that was mistaken for markup could not run code.
    """
    import jinja2
    from bokeh.resources import Resources

    here = files("pyod_ae_plugin.report")
    library = "\n".join(Resources("inline", components=["bokeh"], log_level="error").js_raw)
    script = (here / "page.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src {_source_hash(library)} {_source_hash(script)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=format_number, percent=format_percent, seconds=format_seconds)
    template = environment.from_string((here / "page.html").read_text("utf-8"))
    return template.render(
        report=contents,
        policy=policy,
        style=(here / "page.css").read_text("utf-8"),
        library=library,
        script=script,
        data=json_text(_data(contents)),
        figures=json_text(_figures(contents)),
    )


def _source_hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def format_percent(share: float) -> str:
    """Format a share of 1 as a percentage."""
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.2%}"


def format_seconds(seconds: float) -> str:
    """Format a duration in seconds."""
    if seconds < 0.1:
        return "less than 0.1 seconds"
    return f"{seconds:.1f} seconds" if seconds < 10 else f"{seconds:,.0f} seconds"


def _format_deviation(deviation: float) -> str:
    """Format a distance in standard deviations, of which tenths are enough."""
    return format_number(round(deviation, 1) + 0.0).replace("-", "\N{MINUS SIGN}")


# ---------------------------------------------------------------- data for the script


def json_text(value: Any) -> str:
    """Format a value as JSON that is safe inside a script element: markup is escaped."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _data(contents: Contents) -> dict[str, Any]:
    sweep, points, bins = contents.sweep, contents.points, contents.histogram
    outliers_above = sweep.n_outliers_above
    return {
        "nRows": contents.n_rows,
        "nOutliers": contents.n_outliers,
        "start": contents.start.threshold,
        "range": [bins.low, bins.high],
        "thresholds": _base64(sweep.thresholds),
        "nAbove": _base64(sweep.n_above),
        "nOutliersAbove": None if outliers_above is None else _base64(outliers_above),
        "isComplete": sweep.is_complete,
        "ranked": [
            {
                "name": row.name,
                "score": format_number(row.score),
                "contributions": [
                    [
                        part.feature,
                        part.value,
                        part.reconstruction,
                        None if part.deviation is None else _format_deviation(part.deviation),
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
            "scores": _base64(points.scores),
            "labels": None if points.labels is None else points.labels.tolist(),
            "x": _base64(points.places[:, 0], "<f4"),
            "y": _base64(points.places[:, 1], "<f4"),
            "withValues": points.with_values.tolist(),
        },
        "features": [{"name": feature.name, "axis": feature.axis} for feature in contents.features],
        # All values of the first feature, then all of the second, and so on.
        "values": _base64(points.values.T, "<f4"),
    }


def _base64(values: Array, dtype: str = "<f8") -> str:
    """Encode numbers in a quarter of the space that they would take as JSON."""
    largest = np.finfo(dtype).max
    clipped = np.clip(values.astype(np.float64), -largest, largest).astype(dtype)
    return base64.b64encode(np.ascontiguousarray(clipped).tobytes()).decode()


# ---------------------------------------------------------------- figures


def _figures(contents: Contents) -> dict[str, Any]:
    """The Bokeh figures as JSON items, by the id of the HTML element that each is embedded in.

    The script draws what depends on the threshold and sets the colours. It finds these models by
    their names: ``threshold``, ``above``, ``latent``, ``feature``, ``feature-threshold``; the axes
    ``number-axis``, ``category-axis`` and ``time-axis``; the renderers ``below`` and ``above``; and
    the filters ``latent-below``, ``latent-above``, ``feature-below`` and ``feature-above``.
    """
    from bokeh.embed import json_item

    bins = contents.histogram
    x_name, y_name = contents.points.axes
    figures = {
        "histogram-figure": _histogram(bins, contents.n_outliers is not None),
        "latent-figure": _scatter("latent", x_name, y_name),
        "feature-figure": _scatter("feature", "", "Anomaly score", with_threshold=True),
    }
    return {element: json_item(figure) for element, figure in figures.items()}


def _figure(x_name: str, y_name: str, height: int, tools: str, **options: Any) -> Figure:
    from bokeh.plotting import figure

    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        tools=tools,
        toolbar_location="right" if tools else None,
        x_axis_label=x_name,
        y_axis_label=y_name,
        output_backend="canvas",
        **options,
    )
    plot.toolbar.logo = None
    plot.outline_line_color = None
    for axis in plot.axis:
        _style(axis)
    return plot


def _histogram(bins: Histogram, has_labels: bool) -> Figure:
    from bokeh.models import NumeralTickFormatter
    from bokeh.models.annotations import BoxAnnotation, Span

    margin = 0.02 * (bins.high - bins.low)
    tallest = max(bins.inliers.max(), bins.outliers.max())
    plot = _figure(
        "Anomaly score",
        "Rows",
        300,
        "",
        y_axis_type="log",
        x_range=(bins.low - margin, bins.high + margin),
        y_range=(0.5, 2.0 * float(tallest)),
    )
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0")
    plot.add_layout(
        BoxAnnotation(
            name="above", fill_color=ORANGE, fill_alpha=0.12, line_color=None, level="underlay"
        )
    )
    # Bars of outliers are narrower and drawn within those of inliers, so that both can be seen.
    classes = [(bins.inliers, GREY, "inliers" if has_labels else "rows", 0.0)]
    if has_labels:
        classes.append((bins.outliers, ORANGE, "outliers", 0.25))
    widths = np.diff(bins.edges)
    for counts, color, name, inset in classes:
        plot.quad(
            left=bins.edges[:-1] + inset * widths,
            right=bins.edges[1:] - inset * widths,
            bottom=0.5,
            top=counts,
            fill_color=color,
            line_color="#333333",
            line_width=0.6,
            **({"legend_label": name} if has_labels else {}),
        )
    if has_labels:
        plot.legend.orientation = "horizontal"
        plot.legend.location = "top_right"
        plot.legend.background_fill_alpha = 0.9
        plot.legend.border_line_color = None
    plot.add_layout(
        Span(
            name="threshold",
            dimension="height",
            editable=True,
            line_color=BLUE,
            line_width=4,
            hover_line_color="black",
            hover_line_width=5,
        )
    )
    return plot


def _scatter(name: str, x_name: str, y_name: str, with_threshold: bool = False) -> Figure:
    from bokeh.models import BooleanFilter, CDSView, ColumnDataSource, HoverTool
    from bokeh.models.annotations import Span

    plot = _figure(x_name, y_name, 420, "pan,box_zoom,reset")
    source = ColumnDataSource(
        {"x": [], "y": [], "row": [], "score": [], "marker": [], "size": [], "value": []}, name=name
    )
    for side, style in (("below", _BELOW), ("above", _ABOVE)):
        plot.scatter(
            "x",
            "y",
            source=source,
            marker="marker",
            view=CDSView(filter=BooleanFilter(name=f"{name}-{side}", booleans=[])),
            name=side,
            **style,
        )
    tooltips = [("row", "@row"), ("score", "@score")]
    if with_threshold:
        tooltips.append(("value", "@value"))
        _add_feature_axes(plot)
        plot.add_layout(
            Span(name="feature-threshold", dimension="width", line_color=BLUE, line_width=2)
        )
    plot.add_tools(HoverTool(tooltips=tooltips))
    return plot


def _add_feature_axes(plot: Figure) -> None:
    """Add axes for categories and times to that for numbers. The script shows one of the three."""
    from bokeh.models import DatetimeAxis, DatetimeTickFormatter, FixedTicker, LinearAxis, NoOverlap

    options: dict[str, Any] = {"ticker": FixedTicker(ticks=[]), "major_label_policy": NoOverlap()}
    categories = LinearAxis(**options)
    day = "%Y-%m-%d"
    times = DatetimeAxis(
        formatter=DatetimeTickFormatter(hours="%m-%d %H:%M", days=day, months=day, years=day)
    )
    plot.xaxis.name = "number-axis"
    for name, axis in (("category-axis", categories), ("time-axis", times)):
        axis.name, axis.visible = name, False
        _style(axis)
        plot.add_layout(axis, "below")
    plot.xgrid.visible = False  # its lines are those of the numbers


def _style(axis: Axis) -> None:
    axis.axis_label_text_font_style = "normal"
    axis.axis_label_text_font_size = axis.major_label_text_font_size = "13px"
    axis.minor_tick_line_color = None


_BELOW: dict[str, Any] = {"size": "size", "fill_color": BLUE, "alpha": 0.55, "line_color": None}
_ABOVE: dict[str, Any] = {"size": 9, "fill_color": ORANGE, "line_color": "black", "alpha": 0.9}
