"""Pieces of the self-contained HTML pages that commands here write: no network, no script needed, light and dark."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #666; --line: #ddd; --card: #fafafa; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eee; --soft: #aaa; --line: #444; --card: #222; --accent: #6cb8e6; }
  body { background: #181818; } img { background: #fff; border-radius: 4px; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.6rem; font-size: 1.25rem; }
.answer { border-left: 4px solid var(--accent); background: var(--card); padding: .8rem 1.1rem; font-size: 1.1rem; }
img, svg { max-width: 100%; height: auto; } p.note, figcaption { color: var(--soft); font-size: .9rem; }
figure { margin: 1rem 0; } pre { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
padding: .8rem; font-size: .78rem; line-height: 1.4; }
table { border-collapse: collapse; } td, th { padding: .25rem .9rem .25rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } code { font-size: .9em; }
"""

# Colours of a figure that change with the page's; the others read on both grounds.
_ADAPTED = {"#262626": "currentColor", "#5a5a5a": "var(--soft)", "#0072b2": "var(--accent)"}


def document(title: str, body: str, style: str = "") -> str:
    """A whole page. ``title`` is text, ``body`` HTML, ``style`` more CSS."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body>
{body}
</body></html>
"""


def picture(path: Path, caption: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def drawing(figure: Figure, name: str, caption: str) -> str:
    """A figure as SVG inside the page, without ground, in the page's own ink.

    Args:
        figure: drawn in ``analysis.figure_style``.
        name: tells its elements from those of the page's other drawings.
        caption: text below it, and what a screen reader says.
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    plt.close(figure)
    image = buffer.getvalue()
    image = image[image.index("<svg") :]
    image = re.sub(r' xmlns(:\w+)?="[^"]*"', "", image)
    # Each drawing's glyphs and markers are its own: identifiers are shared by the whole page.
    image = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", image)
    for colour, adapted in _ADAPTED.items():
        image = image.replace(colour, adapted)
    label = html.escape(caption, quote=True)
    head, rest = image.split(">", 1)
    head = re.sub(r' (?:width|height|version)="[^"]*"', "", head)
    return (
        f'<figure class="drawing">{head} role="img" aria-label="{label}">{rest}'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str | float]], classes: str = "") -> str:
    """A table of text; numbers are aligned to the right. Wide ones scroll on their own."""

    def cell(value: str | float) -> str:
        if isinstance(value, str):
            return f"<td>{html.escape(value)}</td>"
        return f'<td class="number">{value:.3f}</td>'

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{classes}"><tr>{head}</tr>{body}</table></div>'
