"""Docstrings and signatures as this project writes them, made palatable to reStructuredText.

Docstrings are plain text: bars are absolute values, stars are products, an indented block is a command or a formula.
Signatures are shown as they stand in the source, because evaluated annotations of numpy arrays fill a line each.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

OWN_PACKAGES = ("bounds", "m3po", "analysis", "paper_figures")
# Stands for a colon while napoleon, which takes "word: rest" for "type: rest", looks at an attribute's docstring.
COLON = "\ue000"
# Code and *emphasis* stay markup; other bars and stars, and an underscore at the end of a word, do not.
SPECIAL = re.compile(r"(``.+?``|`[^`]+`|(?<![\w*])\*\w(?:[\w -]*\w)?\*(?![\w*]))|([|*])|(?<=\w)(_)(?!\w)")
SECTION = re.compile(r"[A-Z][A-Za-z]+:$")


def literal_blocks(lines: list[str]) -> list[str]:
    """Indented blocks that follow a paragraph become literal blocks."""
    result: list[str] = []
    literal = False
    previous = ""  # the last line that is not blank
    for line in lines:
        indented = line.startswith("    ")
        if line.strip() and not indented:
            literal = False
        elif indented and not literal and result and not result[-1].strip():
            literal = bool(previous) and not previous.startswith(" ") and not previous.endswith("::")
            literal = literal and not SECTION.match(previous)
            if literal:
                result += ["::", ""]
        result.append(f"{line}" if literal else _escaped(line))
        previous = line if line.strip() else previous
    return result


def _escaped(line: str) -> str:
    return SPECIAL.sub(lambda match: match[1] or "\\" + (match[2] or match[3]), line)


def before_napoleon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what reStructuredText would take for markup."""
    lines[:] = literal_blocks(lines)
    if what in ("attribute", "data"):
        lines[:] = [line.replace(":", COLON) for line in lines]


def after_napoleon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undo what was for napoleon's eyes only."""
    # "name (remark): text" is no type to look up.
    remarks = dict(match.groups() for line in lines if (match := re.match(r":vartype (\S+): (.+)$", line)))
    result = []
    for line in lines:
        if not line.startswith(":vartype "):
            # Of "a, b" Sphinx would take a for the type of b.
            line = re.sub(r"^:ivar [\w, ]+:", lambda names: ":ivar " + names[0][6:].replace(", ", ","), line)
            match = re.match(r":ivar (\S+): ", line)
            remark = f"({remarks[match[1]]}) " if match and match[1] in remarks else ""
            result.append((match[0] + remark + line[match.end() :] if match else line).replace(COLON, ":"))
    lines[:] = result


def _annotation(annotation: Any, names: dict[str, Any]) -> str:
    """The annotation as written, with this project's classes as links."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)

    def link(match: re.Match[str]) -> str:
        first, *rest = match[0].split(".")
        found = names.get(first)
        for part in rest:
            found = getattr(found, part, None)
        last = match[0].rpartition(".")[2]
        ours = getattr(found, "__module__", "").split(".")[0] in OWN_PACKAGES
        if inspect.isclass(found) and ours and "." not in found.__qualname__ and not last.startswith("_"):
            return f"~{found.__module__}.{found.__qualname__}"
        return last if first in OWN_PACKAGES else match[0]  # an alias has no page to link to

    return re.sub(r"(?<![\w.\"'])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", link, text)


def _shown_default(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 and " at 0x" not in text and "<" not in text else "..."


def signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str | None, result: str | None
) -> tuple[str | None, str | None] | None:
    """Parameters, defaults and result as in the source; nothing for a command line's settings, whose fields follow."""
    if what not in ("function", "method", "class") or arguments is None:
        return None
    if what == "class" and name.endswith("Config") and dataclasses.is_dataclass(obj):
        return "", None
    function = inspect.unwrap(obj)
    names = vars(sys.modules[obj.__module__]) if what == "class" else getattr(function, "__globals__", {})
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    parameters = list(found.parameters.values())
    if parameters and parameters[0].name in ("self", "cls") and what == "method":
        parameters = parameters[1:]
    shown = []
    for parameter in parameters:
        default = parameter.default
        changes: dict[str, Any] = {"annotation": inspect.Parameter.empty, "default": inspect.Parameter.empty}
        text = str(parameter.replace(**changes))
        if parameter.annotation is not inspect.Parameter.empty:
            text += f": {_annotation(parameter.annotation, names)}"
        if default is not inspect.Parameter.empty:
            text += f" = {_shown_default(default)}"
        shown.append((parameter.kind, text))
    parts: list[str] = []
    starred = False  # whether keyword-only parameters have been announced
    for kind, text in shown:
        if kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred = starred or kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
        parts.append(text)
    returned = None
    if what != "class" and found.return_annotation is not inspect.Signature.empty:
        returned = _annotation(found.return_annotation, names)
    return f"({', '.join(parts)})", returned


def setup(app: Sphinx) -> ExtensionMetadata:
    """Look at every docstring before and after napoleon (whose priority is 500), and at every signature."""
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
