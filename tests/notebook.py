"""A page of docs/tutorials as a Jupyter notebook, with the outputs and pictures that the page shows.

    python -m tests.notebook docs/tutorials/finite_processes.md     # rewrite outputs and pictures, and the notebook

The page is the source, and the suite runs it; so notebooks need no library to be written, run or shown. Text between
what is executed becomes Markdown, ``$ m3po ...`` becomes ``!m3po ...``.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.tutorial_page import ROOT, Step, rewrite, steps_of

TUTORIALS = ROOT / "docs" / "tutorials"
NOTEBOOKS = ROOT / "notebooks"
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
COMMENT = re.compile(r"^<!--.*?-->$", re.M | re.S)


def notebook_path(page: Path) -> Path:
    """Where the notebook of a page stands."""
    return NOTEBOOKS / page.with_suffix(".ipynb").name


def notebook_of(page: Path, text: str | None = None) -> str:
    """The notebook of a page, or of another text in its place: JSON of format 4.5, as Jupyter writes it."""
    text, cells, place = page.read_text() if text is None else text, [], 0
    for step in steps_of(text):
        cells += _words(text[place : step.begin], page.parent)
        cells.append(_code(step, page.parent))
        place = step.stop
    cells += _words(text[place:], page.parent)
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _words(text: str, folder: Path) -> list[dict[str, Any]]:
    """A cell of Markdown whose links lead to the same files from the notebooks; none where nothing is said."""

    def moved(link: re.Match[str]) -> str:
        target = link[2]
        if not urlsplit(target).scheme and not target.startswith("#"):
            target = Path(os.path.relpath(folder / target, NOTEBOOKS)).as_posix()
        return link[1] + target + link[3]

    said = LINK.sub(moved, COMMENT.sub("", text)).strip()
    return [{"cell_type": "markdown", "metadata": {}, "source": _lines(said)}] if said else []


def _code(step: Step, folder: Path) -> dict[str, Any]:
    outputs: list[dict[str, Any]] = []
    if step.shown:
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(step.shown)})
    if step.picture is not None:
        picture = base64.b64encode((folder / step.picture).read_bytes()).decode()
        outputs.append({"data": {"image/png": picture}, "metadata": {}, "output_type": "display_data"})
    source = f"!{step.typed}" if step.code is None else step.code
    return {
        "cell_type": "code", "execution_count": None, "metadata": {}, "outputs": outputs,
        "source": _lines(source.rstrip()),
    }  # fmt: skip


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name).resolve()
        rewrite(path)
        if path.parent == TUTORIALS:
            notebook_path(path).write_text(notebook_of(path))
