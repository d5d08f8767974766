"""Examples of the README and the docs run, and what the pages say of other files holds."""

import json
import re
from inspect import signature
from pathlib import Path

import pyod.models.auto_encoder
import pyod.models.vae
import pytest

from pyod_ae_plugin import VAE, AutoEncoder

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Its examples need the plugin that it builds; tests/test_plugins.py runs them.
TUTORIAL = ROOT / "docs" / "plugins.md"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p != TUTORIAL], ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        exec(compile(block, str(page), "exec"), namespace)


def test_links_between_pages_lead_somewhere():
    template = ROOT / "examples" / "plugin_template" / "README.md"
    for page in [*PAGES, *ROOT.glob("*.md"), template]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_tests_that_a_page_names_exist():
    for page in PAGES:
        for file, name in re.findall(r"(tests/\w+\.py)::(\w+)", page.read_text()):
            assert f"def {name}(" in (ROOT / file).read_text(), f"{page.name} names {file}::{name}"


@pytest.mark.slow
def test_the_pages_have_the_figures_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from tables import TABLES, table

    def rows_of_figures(text):
        rows = (re.split(r" *\| *", line.replace("**", ""))[1:-1] for line in text.splitlines())
        return [row for row in rows if len(row) > 2 and re.match(r"\d", row[1])]

    found = [row for name in TABLES for row in rows_of_figures(table(name))]
    for page in (
        ROOT / "README.md",
        ROOT / "docs" / "defaults.md",
        ROOT / "docs" / "explanations.md",
        ROOT / "docs" / "which_detector.md",
    ):
        for what, *figures in rows_of_figures(page.read_text()):
            known = [cells for name, *cells in found if name == what]
            assert any(contains(cells, figures) for cells in known), (page.name, what, known)


def test_the_page_on_gpus_gets_a_table_once_there_are_figures(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import tables

    assert "```{results} gpu\n```" in (ROOT / "docs" / "gpu.md").read_text()
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.table("gpu").startswith("No figures yet")
    versions = {"torch": "2.11.0", "triton": "3.6.0", "cuda": "12.8"}
    described = {"gpu": "H100", "driver": "570.1", "versions": versions}
    (tmp_path / "gpu.json").write_text(json.dumps(described))
    rows = [
        "what,value,unit",
        '"host: a, page-locked: ours",123.456,million rows/s',
        "row: p50,12,us",
    ]
    (tmp_path / "gpu.csv").write_text("\n".join(rows))
    text = tables.table("gpu")
    assert "On an H100, driver 570.1, torch 2.11.0, triton 3.6.0, cuda 12.8." in text
    assert "| a, page-locked: ours | 123 | million rows/s |" in text
    assert "| p50 | 12 | us |" in text


def contains(cells, figures):
    """Whether the figures are among the cells, in their order."""
    rest = iter(cells)
    return all(figure in rest for figure in figures)


def test_the_migration_page_has_all_keywords_and_their_defaults():
    text = (ROOT / "docs" / "migration.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| `(.+?)` \|", text, re.M)
    for theirs, ours in (
        (pyod.models.auto_encoder.AutoEncoder, AutoEncoder),
        (pyod.models.vae.VAE, VAE),
    ):
        expected = signature(theirs).parameters
        shown = [row for row in listed if row[1] in ("both", f"`{ours.__name__}`")]
        assert [name for name, *_ in shown] == list(expected)
        for name, _, default, default_here in shown:
            of_both = [cell.strip("`") for cell in default.split("`, `")]
            of_detector = of_both[-1] if ours is VAE else of_both[0]
            assert of_detector == repr(expected[name].default), name
            assert default_here == repr(signature(ours).parameters[name].default), name
