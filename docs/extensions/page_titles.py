"""The sidebar's tree of pages, made from the pages' titles alone.

It shows titles only. Sphinx copies every heading, class and method of every page first, anew for each page, which with
an API reference takes most of the time of a build.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata


def title_only(contents: nodes.bullet_list) -> nodes.bullet_list:
    """A copy of a page's contents without its inner headings; lists of other pages stay."""
    copy = contents.deepcopy()
    for entry in copy.children:
        assert isinstance(entry, nodes.Element)
        if len(entry) > 1:
            inner = list(entry.findall(addnodes.toctree))
            if inner:
                entry[1][:] = inner
            else:
                entry.pop(1)
    return copy


def connect(app: Sphinx) -> None:
    """Offer pages a ``toctree`` that leaves out beforehand what ``titles_only`` would leave out afterwards."""

    @cache
    def titles() -> dict[str, nodes.bullet_list]:
        return {name: title_only(contents) for name, contents in app.env.tocs.items()}

    def offer(_: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
        original = context["toctree"]

        def toctree(**options: Any) -> str:
            if not options.get("titles_only"):
                return str(original(**options))
            everything, app.env.tocs = app.env.tocs, titles()
            try:
                return str(original(**options))
            finally:
                app.env.tocs = everything

        context["toctree"] = toctree

    app.connect("html-page-context", offer, priority=400)  # before the theme's own


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect once the builder is there."""
    app.connect("builder-inited", connect)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
