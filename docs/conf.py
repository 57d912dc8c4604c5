"""Sphinx's settings. ``make docs`` builds the site from the pages of this directory, offline; a warning is an error."""

from __future__ import annotations

import gc
import importlib
import sys
from pathlib import Path

import matplotlib

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "extensions"), str(DOCS.parent)]

# Trees of pages are cyclic and live long: to look for garbage as often as Python does takes a quarter of a build.
gc.set_threshold(100_000, 20, 50)

project = "M3PO"
author = "The M3PO toolkit developers"
version = release = importlib.import_module("m3po").__version__
copyright = author
html_title = "M3PO guarantees"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "api_pages",
    "house_docstrings",
    "mathml",
    "page_titles",
]
nitpicky = True
smartquotes = False  # they make one dash of the two before a flag

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_theme_options = {"top_of_page_buttons": []}
html_show_sphinx = False
html_copy_source = False
# matplotlib's DejaVu Serif has a table for mathematics; it is used where the reader's system has no such font.
html_static_path = ["_static", str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSerif.ttf")]
html_css_files = ["site.css"]
html_math_renderer = "mathml"

autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_inherit_docstrings = False  # gymnasium's and torch's own docstrings are documented there
autodoc_typehints = "none"  # house_docstrings shows them as written
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_param = False
default_role = "code"
# There is no network to look up other projects' names; every name of this one must exist.
nitpick_ignore_regex = [("py:.*", r"(?!(bounds|m3po|analysis|paper_figures)\b).*")]
# Of an unqualified name there may be several; the links that matter are qualified.
suppress_warnings = ["ref.python"]
