"""``python -m analysis.explorer``: one self-contained page on which every bound is live.

The page computes in the reader's browser. A closed-form bound is written once, in ``bounds/``: its JavaScript is traced
from the same function that makes its sympy expression and its numerical value. Only the two series of Theorem 3 have a
JavaScript of their own (``assets/mathematics.js``), which the tests hold against ``bounds/``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import bounds
from analysis.drawing.style import BOUND_COLOURS, BOUND_LABELS, TRIVIAL_COLOUR
from analysis.explorer.tracing import formulas
from analysis.flags.explore import ExplorerConfig
from analysis.report.pages import policy
from analysis.runs.outputs import Output, mark_of
from m3po.command_line import run

MARK = mark_of("analysis.explorer")

PARTS = Path(__file__).parent / "assets"


def catalogue() -> list[dict[str, Any]]:
    """What the page says about every bound: name, label, source, scheme, assumptions and colour."""
    return [
        {
            "name": bound.name,
            "label": BOUND_LABELS.get(bound.name, bound.name).replace("$\\epsilon_m$", "ε_m"),
            "source": bound.source,
            "scheme": bound.scheme,
            "assumptions": bound.assumptions,
            "colour": BOUND_COLOURS.get(bound.name, TRIVIAL_COLOUR),
        }
        for bound in bounds.ALL_BOUNDS
    ]


def mathematics() -> str:
    """All of the page's JavaScript that computes and draws nothing; it runs outside a browser too."""
    return "\n".join([_part("mathematics.js"), formulas(), _part("instance.js")])


def page() -> str:
    """The whole page as HTML; nothing but its own three scripts can run in it."""
    scripts = {"mathematics": mathematics(), "drawing": _part("drawing.js"), "application": _part("application.js")}
    return Template(_part("page.html")).substitute(
        scripts,
        policy=policy([_hash_of(f"\n{script}") for script in scripts.values()]),
        mark=MARK,
        style=_part("style.css").replace("TRIVIAL_COLOUR", TRIVIAL_COLOUR),
        # "</" would end the script element
        catalogue=json.dumps(catalogue(), ensure_ascii=False).replace("</", "<\\/"),
    )


def _hash_of(script: str) -> str:
    """What a Content-Security-Policy calls the text of a script element."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def main(config: ExplorerConfig) -> int:
    """Write the page; exit code 0."""
    output = Output("out", config.out, MARK, config.overwrite)
    output.write(page())
    print(f"open {output.shown} in a browser", file=sys.stderr)
    return 0


def command_line(arguments: Sequence[str] | None = None) -> None:
    """The command; ``arguments`` are the words after its name, ``sys.argv`` when None."""
    run(main, ExplorerConfig, arguments, prog="python -m analysis.explorer")


if __name__ == "__main__":
    command_line()
