"""TeX formulas as MathML, written at build time: pages with mathematics need no script and no network."""

from __future__ import annotations

import html
import re
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)
# Commands that git hosts and MathJax know and docutils does not.
ALIASES = {r"\lt": "<", r"\gt": ">", r"\dots": r"\ldots"}


# A word in a subscript is a name, not a product of letters; commands and what is upright already are left alone.
WORD = re.compile(r"(\\(?:mathrm|text)\{[^}]*\}|\\[A-Za-z]+)|([A-Za-z]{2,})")
# Entities that HTML has and XML has not.
NAMED = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)[A-Za-z]+;")
NAMESPACE = "http://www.w3.org/1998/Math/MathML"
MACRON = "\u02c9"
ElementTree.register_namespace("", NAMESPACE)


def mathml(formula: str, *, display: bool) -> str:
    """One ``<math>`` element.

    Raises:
        docutils.utils.math.MathError: for a command that cannot be translated.
    """
    for command, meaning in ALIASES.items():
        formula = re.sub(re.escape(command) + r"(?![A-Za-z])", lambda _, to=meaning: to, formula)
    formula = WORD.sub(lambda match: match[1] or rf"\mathrm{{{match[2]}}}", formula)
    markup = NAMED.sub(lambda match: html.unescape(match[0]), tex2mathml(formula.strip(), as_block=display))
    root = ElementTree.fromstring(markup)
    for element in list(root.iter(f"{{{NAMESPACE}}}munderover")):
        _put_index_beside(element)
    return ElementTree.tostring(root, encoding="unicode")


def _put_index_beside(element: ElementTree.Element) -> None:
    """docutils sets the index of an accented letter below it: ``under, over`` becomes ``over`` with a subscript."""
    base, index, over = element
    if over.text is None or over.text.strip() != MACRON:
        return
    accented = ElementTree.Element(f"{{{NAMESPACE}}}mover", {"accent": "true"})
    accented.extend([base, over])
    element[:] = [accented, index]
    element.tag = f"{{{NAMESPACE}}}msub"


def _write(translator: HTML5Translator, node: nodes.math | nodes.math_block, *, display: bool) -> None:
    formula = node.astext()
    try:
        markup = mathml(formula, display=display)
    except MathError as error:
        LOGGER.warning("formula %r: %s", formula, error, location=node)
        markup = f"<code>{html.escape(formula)}</code>"
    tag = "div" if display else "span"
    translator.body.append(f'<{tag} class="math">{markup}</{tag}>')
    raise nodes.SkipNode


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    _write(translator, node, display=False)


def visit_display(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on a line of its own."""
    _write(translator, node, display=True)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
