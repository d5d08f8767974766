"""How Sphinx builds these pages: sphinx-build -W -n docs build/docs."""

import os
import sys
from pathlib import Path

# Pages say the same wherever they are built.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "benchmarks"), str(DOCS)]

from pyod_ae_plugin import __version__  # noqa: E402

project = "pyod_ae_plugin"
release = version = __version__
copyright = "the authors of pyod_ae_plugin"

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
    "generated_parts",
]
exclude_patterns = ["generated/gallery/**/*.ipynb", "generated/gallery/**/*.py"]
root_doc = "index"

html_theme = "furo"
html_title = f"pyod_ae_plugin {release}"
# Okabe and Ito's blue, as in the figures.
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_inherit_docstrings = False  # torch's of forward say nothing here
autodoc_typehints = "none"  # types stand in the sections of parameters
numpydoc_show_class_members = False  # the templates list them
numpydoc_class_members_toctree = False
templates_path = ["templates"]
maximum_signature_line_length = 100

# Without a network there is nothing to link the names of other packages to.
nitpick_ignore_regex = [
    ("py:.*", r"(collections|json|matplotlib|numpy|os|pathlib|pyod|ray|sklearn|torch|typing)\..*")
]

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "generated/gallery",
    "backreferences_dir": None,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "write_computation_times": False,
}
