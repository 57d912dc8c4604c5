"""Pieces of the self-contained HTML pages that commands here write: no network, no script, light and dark.

Pages are jinja2 templates (``analysis/report/templates``) that escape every value, whatever run it comes from, under a
Content-Security-Policy with which a page can neither load anything nor run a script.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"

# Drawings and marks are styled by attributes; no value of a run reaches a style.
_POLICY = "default-src 'none'; {scripts}style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

# Colours of a figure that change with the page's; the others read on both grounds.
_ADAPTED = {"#262626": "currentColor", "#5a5a5a": "var(--soft)", "#0072b2": "var(--accent)"}


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def policy(scripts: Sequence[str] = ()) -> str:
    """The Content-Security-Policy of a page that loads nothing; ``scripts`` are the hashes of those that may run."""
    allowed = "".join(f"'{each}' " for each in scripts)
    return _POLICY.format(scripts=f"script-src {allowed.strip()}; " if scripts else "")


def rendered(template: str, mark: str, **values: Any) -> str:
    """A whole page from its template; ``mark`` names its maker."""
    return _templates().get_template(template).render(mark=mark, policy=policy(), **values)


def finite(value: Any) -> Any:
    """The same record with infinite numbers and NaN as text, which JSON lacks."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def part(template: str, name: str, *values: Any) -> Markup:
    """What one macro of a template makes of ``values``."""
    return Markup(getattr(_templates().get_template(template).module, name)(*values))


def picture(path: Path) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


@dataclass(frozen=True)
class Drawing:
    """A figure as SVG inside the page, and the text below it."""

    image: Markup
    caption: str


def drawing(figure: Figure, name: str, caption: str) -> Drawing:
    """A figure as SVG inside the page, without ground, in the page's own ink.

    Args:
        figure: drawn in ``analysis.drawing.style``.
        name: tells its elements from those of the page's other drawings.
        caption: text below it, and what a screen reader says.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    image = buffer.getvalue()
    image = image[image.index("<svg") :]
    image = re.sub(r' xmlns(:\w+)?="[^"]*"', "", image)
    # Each drawing's glyphs and markers are its own: identifiers are shared by the whole page.
    image = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", image)
    for colour, adapted in _ADAPTED.items():
        image = image.replace(colour, adapted)
    head, rest = image.split(">", 1)
    head = re.sub(r' (?:width|height|version)="[^"]*"', "", head)
    return Drawing(Markup(f'{head} role="img" aria-label="{escape(caption)}">{rest}'), caption)
