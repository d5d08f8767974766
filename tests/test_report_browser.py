"""What a report does in a browser: Chromium, without a network.

``REPORT_SCREENSHOTS=docs/images pytest tests/test_report_browser.py`` takes the pictures of the
documentation.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from pyod_ae_plugin import AutoEncoder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = os.environ.get("REPORT_SCREENSHOTS")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra test")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # a container has no place for Chromium's own sandbox, and the pages are ours
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open a report; fail on what a page must not do."""
    faults, contexts = [], []

    def opened(report, width=1280):
        path = tmp_path / "report.html"
        report.save(path)
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type in ("error", "warning") and faults.append(m.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: r.url.startswith("http") and faults.append(r.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="module")
def cancer():
    """A detector fitted to half of the benign cases, and the other rows with their labels."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    malignant = (y == 0).to_numpy()
    known = np.flatnonzero(~malignant)[::2]
    detector = AutoEncoder(novelty=True, held_out_threshold=True, device="cpu", verbose=0)
    detector.fit(X.iloc[known])
    others = np.setdiff1d(np.arange(len(X)), known)
    return detector, X.iloc[others], malignant[others]


@pytest.fixture(scope="module")
def report(cancer):
    return cancer[0].report(cancer[1], cancer[2])


def number(page, id):
    return int(page.inner_text(f"#{id}").replace(",", ""))


def location(page):
    """Where the line of the threshold is: on the screen, and among the scores."""
    return page.evaluate(
        """() => {
          const element = document.getElementById("histogram-figure");
          element.scrollIntoView({block: "center"});
          const of = Bokeh.documents.find((d) => d.get_model_by_name("threshold"));
          const line = of.get_model_by_name("threshold"), figure = of.roots()[0];
          const view = Bokeh.index.get_by_id(figure.id), box = element.getBoundingClientRect();
          return [box.x + view.frame.x_scale.compute(line.location), box.y + 100, line.location];
        }"""
    )


def drag(page, by):
    x, y, _ = location(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by, y, steps=5)
    page.mouse.up()
    return location(page)[2]


def cells(page, table, column):
    return page.locator(f"#{table} tbody td:nth-child({column})").all_inner_texts()


def test_dragging_the_threshold_changes_what_is_flagged(opened, report, cancer):
    detector, X, _ = cancer
    scores = detector.decision_function(X)
    page = opened(report)
    before = number(page, "n-flagged")
    assert before == detector.predict(X).sum()
    threshold = drag(page, 80)
    assert threshold > detector.threshold_ * 1.1
    assert number(page, "n-flagged") == (scores > threshold).sum() < before
    flagged = (np.sort(scores)[::-1][:100] > threshold).sum()
    sync_api.expect(page.locator("#ranked .is-flagged.yes")).to_have_count(int(flagged))
    drag(page, -3000)  # beyond the figure: it stays at its edge
    assert number(page, "n-flagged") >= len(X) - 1
    page.click("#threshold-reset")
    assert number(page, "n-flagged") == before


def test_numbers_follow_the_threshold(opened, report, cancer):
    detector, X, y = cancer
    scores = detector.decision_function(X)
    page = opened(report)
    for threshold in (np.quantile(scores, 0.3), np.quantile(scores, 0.8), scores.max() + 1):
        page.fill("#threshold-number", repr(float(threshold)))
        flagged = scores > threshold
        assert number(page, "n-flagged") == flagged.sum()
        shown = [number(page, id) for id in ("tn", "fp", "fn", "tp")]
        assert shown == confusion_matrix(y, flagged).ravel().tolist()
        expected = f"{recall_score(y, flagged):.3f}"
        assert page.inner_text("#recall") == expected
        assert page.inner_text("#f1") == f"{f1_score(y, flagged):.3f}"
        if flagged.any():
            assert page.inner_text("#precision") == f"{precision_score(y, flagged):.3f}"
        else:
            assert page.inner_text("#precision") == "none"


def test_the_threshold_moves_by_keys(opened, report):
    page = opened(report)
    before = number(page, "n-flagged")
    page.focus("#threshold-slider")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert number(page, "n-flagged") < before
    page.focus("#threshold-reset")
    page.keyboard.press("Enter")
    assert number(page, "n-flagged") == before


def test_counts_of_very_many_rows_are_exact(quick, opened):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12_000, 3)), rng.integers(0, 2, 12_000)
    detector = quick().fit(X)
    page = opened(detector.report(X, y))
    assert number(page, "n-flagged") == detector.labels_.sum()
    scores = detector.decision_scores_
    for by in (120, -60):
        drag(page, by)
        flagged = scores > np.sort(scores)[-number(page, "n-flagged") - 1]
        assert flagged.sum() == number(page, "n-flagged")
        assert number(page, "tp") == y[flagged].sum()
        shown = float(page.inner_text("#threshold-now"))
        assert scores[flagged].min() > shown * 0.999
        assert scores[~flagged].max() < shown * 1.001


def test_columns_sort(opened, report):
    page = opened(report)
    scores = [float(score) for score in cells(page, "ranked", 3)]
    assert scores == sorted(scores, reverse=True)
    page.click("#ranked th:nth-child(2) button")
    rows = [int(row) for row in cells(page, "ranked", 2)]
    assert rows == sorted(rows, reverse=True)
    page.click("#ranked th:nth-child(2) button")
    assert [int(row) for row in cells(page, "ranked", 2)] == rows[::-1]
    assert page.get_attribute("#ranked th:nth-child(2)", "aria-sort") == "ascending"
    assert page.get_attribute("#ranked th:nth-child(1)", "aria-sort") is None
    page.click("#features th:nth-child(1) button")
    names = cells(page, "features", 1)
    assert names == sorted(names)


def test_rows_and_features_are_looked_into(opened, report):
    page = opened(report)
    row, feature = report.contents.ranked[7], report.contents.features[4]
    page.click(f"#ranked tbody tr[data-index='7'] >> text='{row.name}'")
    assert f"Row {row.name}" in page.inner_text("#row-detail h3")
    parts = page.locator("#row-detail tbody td:nth-child(1)").all_inner_texts()
    assert parts[:-1] == [part.feature for part in row.contributions]
    assert parts[-1] == "20 others"
    page.click(f"#features tbody tr[data-index='4'] >> text='{feature.name}'")
    assert page.inner_text("#feature-name") == feature.name
    drawn = page.evaluate(
        """Bokeh.documents.map((d) => d.get_model_by_name("feature")).find(Boolean).data.x"""
    )
    assert np.allclose(drawn, report.contents.points.values[:, 4])


def test_what_looks_like_markup_is_text(quick, opened):
    script = "<script>alert('feature')</script>"
    image = "<img src=x onerror=alert('row')>"
    X = np.random.default_rng(0).normal(size=(200, 3))
    X[5, 1] = 40
    frame = pd.DataFrame(X, columns=["a", script, "{{ 7 * 7 }}"])
    frame.index = [f"{image}{i}" for i in range(200)]
    page = opened(quick(columns="auto").fit(frame).report(frame))
    assert cells(page, "ranked", 2)[0] == f"{image}5"
    assert f"{script} =\u00a040" in cells(page, "ranked", 5)[0]
    assert "{{ 7 * 7 }}" in cells(page, "features", 1)
    page.click(f"#features >> text={script}")
    assert page.inner_text("#feature-name") == script
    assert script in page.inner_text("#row-detail")
    assert page.locator("img").count() == 0
    # the box that the mouse brings up over the point of the row
    x, y = page.evaluate(
        """() => {
          const element = document.getElementById("feature-figure");
          element.scrollIntoView({block: "center"});
          const of = Bokeh.documents.find((d) => d.get_model_by_name("feature"));
          const {x, y} = of.get_model_by_name("feature").data;
          const view = Bokeh.index.get_by_id(of.roots()[0].id);
          const box = element.getBoundingClientRect(), {x_scale, y_scale} = view.frame;
          return [box.x + x_scale.compute(x[5]), box.y + y_scale.compute(y[5])];
        }"""
    )
    page.mouse.move(x - 2, y)
    page.mouse.move(x, y)
    tooltip = page.locator(".bk-Tooltip", has_text=f"{image}5").first
    tooltip.wait_for()


@pytest.mark.parametrize(
    ("n_features", "labels"), [(3, None), (30, "both"), (3, "inliers"), (3, "constant")]
)
def test_pages_of_all_kinds_fit_the_window(quick, n_features, labels, opened):
    X = np.random.default_rng(0).normal(size=(300, n_features))
    y = {"both": np.arange(300) % 9 == 0, "inliers": np.zeros(300)}.get(labels)
    detector = quick(novelty=True).fit(X)
    rows = np.repeat(X[:1], 50, axis=0) if labels == "constant" else X
    report = detector.report(rows, y)
    page = opened(report)
    for width in (1280, 380):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert (page.locator("#confusion").count() == 1) == (y is not None)
    page.focus("#threshold-slider")
    page.keyboard.press("End")
    highest = report.contents.histogram.high
    assert number(page, "n-flagged") == (detector.decision_function(rows) > highest).sum()


def test_the_rows_to_look_at_first_are_seen_first(opened, report):
    page = opened(report)
    page.set_viewport_size({"width": 1280, "height": 800})
    for row in range(6):
        box = page.locator("#ranked tbody tr").nth(row).locator("td").last.bounding_box()
        assert box["x"] + box["width"] <= 1280
        assert box["y"] + box["height"] <= 800
    page.set_viewport_size({"width": 390, "height": 844})
    reasons = page.locator("#ranked tbody tr td:last-child")
    assert reasons.first.inner_text()
    for box in [reasons.nth(row).bounding_box() for row in range(3)]:
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["y"] + box["height"] <= 844
    assert page.evaluate(
        "Array.from(document.querySelectorAll('.scroll'), (e) => e.scrollWidth <= e.clientWidth)"
    ) == [True, True]


def luminance(color):
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", color)[:3])
    parts = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in (red, green, blue)
    ]
    return np.dot(parts, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(scheme, opened, report):
    page = opened(report)
    page.emulate_media(color_scheme=scheme)
    colors = page.evaluate(
        """() => {
          const behind = (e) => {
            const color = getComputedStyle(e).backgroundColor;
            return /, 0\\)$/.test(color) && e.parentElement ? behind(e.parentElement) : color;
          };
          const texts = document.querySelectorAll("h1, p, dt, dd, th, td, button, caption");
          return Array.from(texts, (e) => [getComputedStyle(e).color, behind(e)]);
        }"""
    )
    for pair in {tuple(pair) for pair in colors}:
        dark, light = sorted(map(luminance, pair))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, pair
    background = page.evaluate(
        "Bokeh.documents.map((d) => d.roots()[0].background_fill_color.toString())"
    )
    assert set(background) == {{"light": "#fff", "dark": "#1c1d1f"}[scheme]}


def test_categories_and_times_have_axes_of_their_own(quick, opened):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "amount": rng.normal(size=300),
            "country": rng.choice(["DE", "FR"], 300),
            "time": pd.date_range("2024-03-01", periods=300, freq="97min"),
        }
    )
    page = opened(quick(columns="auto").fit(frame).report(frame))
    values = {}
    for name, axis in (("country", "category"), ("time", "time"), ("amount", "number")):
        page.click(f"#features >> text='{name}'")
        seen, values[name] = page.evaluate(
            """() => {
              const of = Bokeh.documents.find((d) => d.get_model_by_name("feature"));
              const seen = of.roots()[0].below.filter((a) => a.visible).map((a) => a.name);
              return [seen, of.get_model_by_name("feature").data.value];
            }"""
        )
        assert seen == [f"{axis}-axis"]
    assert values["country"] == frame["country"].tolist()
    assert values["time"][0] == "2024-03-01T00:00"


def test_a_notebook_shows_it_in_a_frame(browser, report):
    page = browser.new_page()
    page.set_content(report._repr_html_())
    page.frame_locator("iframe").locator("html[data-ready]").wait_for(state="attached")
    page.close()


@pytest.mark.skipif(not SCREENSHOTS, reason="takes pictures where REPORT_SCREENSHOTS says a folder")
def test_pictures_of_the_documentation(opened, report):
    folder = Path(SCREENSHOTS)
    folder.mkdir(exist_ok=True)
    page = opened(report, 1080)
    page.wait_for_timeout(500)  # until the points are drawn
    for name, sections in PICTURES.items():
        parts = [f"section#{s}, section[aria-labelledby='h-{s}']" for s in sections]
        boxes = [page.locator(part).bounding_box() for part in parts]
        top, bottom = boxes[0]["y"], boxes[-1]["y"] + boxes[-1]["height"]
        clip = {"x": 0, "y": max(top - 8, 0), "width": 1080, "height": bottom - top + 16}
        page.screenshot(path=folder / name, full_page=True, clip=clip)
        assert (folder / name).stat().st_size <= 200_000


PICTURES = {
    "report.png": ["summary", "ranked"],
    "report-threshold.png": ["threshold"],
    "report-features.png": ["features", "latent"],
    "report-card.png": ["card"],
}
