"""The figures of a page, made by Bokeh. The page's script fills in what depends on a threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyod_ae_plugin.plots import BLUE, GREY, ORANGE
from pyod_ae_plugin.report.contents import Contents, Histogram

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure


def figures(contents: Contents) -> dict[str, Any]:
    """The figures as what ``Bokeh.embed.embed_item`` takes, by the id of the element they go to.

    Models that the script looks up have names: ``threshold``, ``above``, ``latent``, ``feature``,
    ``feature-axis`` and ``feature-threshold``.
    """
    from bokeh.embed import json_item

    bins = contents.histogram
    across, up = contents.points.axes
    drawn = {
        "histogram-figure": _histogram(bins, contents.n_outliers is not None),
        "latent-figure": _scatter("latent", across, up),
        "feature-figure": _scatter("feature", "", _score_axis(bins), with_threshold=True),
    }
    return {name: json_item(figure) for name, figure in drawn.items()}


def _figure(x: str, y: str, height: int, tools: str, **options: Any) -> Figure:
    from bokeh.plotting import figure

    made = figure(
        height=height,
        sizing_mode="stretch_width",
        tools=tools,
        toolbar_location="right" if tools else None,
        x_axis_label=x,
        y_axis_label=y,
        output_backend="canvas",
        **options,
    )
    made.toolbar.logo = None
    made.outline_line_color = None
    made.grid.grid_line_color = "#eeeeee"
    for axis in made.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "13px"
        axis.axis_label_text_color = axis.major_label_text_color = "#333333"
        axis.minor_tick_line_color = None
    return made


def _score_axis(bins: Histogram) -> str:
    if not bins.n_beyond:
        return "Anomaly score"
    return f"Anomaly score ({bins.n_beyond:,} beyond are drawn at the top)"


def _histogram(bins: Histogram, has_labels: bool) -> Figure:
    from bokeh.models import NumeralTickFormatter
    from bokeh.models.annotations import BoxAnnotation, Span

    room = 0.02 * (bins.high - bins.low)
    beyond = f" (the last bar holds {bins.n_beyond:,} beyond it)" if bins.n_beyond else ""
    highest = max(bins.inliers.max(), bins.outliers.max())
    made = _figure(
        f"Anomaly score{beyond}",
        "Rows",
        300,
        "",
        y_axis_type="log",
        x_range=(bins.low - room, bins.high + room),
        y_range=(0.5, 2.0 * float(highest)),
    )
    made.yaxis.formatter = NumeralTickFormatter(format="0,0")
    made.add_layout(
        BoxAnnotation(
            name="above", fill_color=ORANGE, fill_alpha=0.12, line_color=None, level="underlay"
        )
    )
    # the bars of outliers stand in those of inliers, so that neither hides the other
    classes = [(bins.inliers, GREY, "inliers" if has_labels else "rows", 0.0)]
    if has_labels:
        classes.append((bins.outliers, ORANGE, "outliers", 0.25))
    widths = np.diff(bins.edges)
    for counts, color, name, margin in classes:
        made.quad(
            left=bins.edges[:-1] + margin * widths,
            right=bins.edges[1:] - margin * widths,
            bottom=0.5,
            top=counts,
            fill_color=color,
            line_color="#333333",
            line_width=0.6,
            **({"legend_label": name} if has_labels else {}),
        )
    if has_labels:
        made.legend.orientation = "horizontal"
        made.legend.location = "top_right"
        made.legend.background_fill_alpha = 0.9
        made.legend.border_line_color = None
    made.add_layout(
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
    return made


def _scatter(name: str, x: str, y: str, with_threshold: bool = False) -> Figure:
    from bokeh.models import BooleanFilter, CDSView, ColumnDataSource, HoverTool
    from bokeh.models.annotations import Span

    made = _figure(x, y, 420, "pan,box_zoom,reset")
    source = ColumnDataSource({"x": [], "y": [], "row": [], "score": [], "marker": []}, name=name)
    for part, style in (("below", _BELOW), ("above", _ABOVE)):
        made.scatter(
            "x",
            "y",
            source=source,
            marker="marker",
            view=CDSView(filter=BooleanFilter(name=f"{name}-{part}", booleans=[])),
            **style,
        )
    shown = [("row", "@row"), ("score", "@score{0.0000}")]
    if with_threshold:
        shown.append(("value", "@x{0.[0000]}"))
        made.xaxis.name = "feature-axis"
        made.add_layout(
            Span(name="feature-threshold", dimension="width", line_color=BLUE, line_width=2)
        )
    made.add_tools(HoverTool(tooltips=shown))
    return made


_BELOW: dict[str, Any] = {"size": 5, "color": BLUE, "alpha": 0.55, "line_color": None}
_ABOVE: dict[str, Any] = {"size": 9, "fill_color": ORANGE, "line_color": "black", "alpha": 0.9}
