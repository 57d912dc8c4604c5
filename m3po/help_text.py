"""How the ``--help`` of every command reads: texts that flow, in lines no wider than the terminal."""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import inspect
import io
import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_type_hints

import tyro

from m3po.flag_checks import labels
from m3po.flag_names import names_of

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def flowing(settings: Any) -> Any:
    """The flags of a dataclass for its help: each field's docstring in one line.

    tyro breaks lines where an indented docstring goes on. The copy lacks ``__post_init__``.
    """
    hints, texts, own = get_type_hints(settings, include_extras=True), _field_texts(settings), labels(settings)
    fields: list[tuple[str, Any, Any]] = []
    for each, label in zip(dataclasses.fields(settings), own, strict=True):
        hint = flowing(hints[each.name]) if dataclasses.is_dataclass(hints[each.name]) else hints[each.name]
        if each.name in texts:
            hint = Annotated[hint, tyro.conf.arg(help=texts[each.name], **_names(label, own))]
        fields.append((each.name, hint, copy.copy(each)))
    flags = dataclasses.make_dataclass(settings.__name__, fields)
    flags.__doc__ = settings.__doc__
    return flags


def _names(label: str, own: Sequence[str]) -> dict[str, Any]:
    """What tyro calls a flag that has several names; it shows the last one last."""
    *others, last = names_of(label, own)
    return {"name": last.removeprefix("--"), "aliases": others} if others else {}


def _field_texts(settings: type) -> dict[str, str]:
    texts: dict[str, str] = {}
    for each in settings.__mro__[:-1]:
        with contextlib.suppress(OSError, TypeError):  # a dataclass that was made has no source
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
            for field, text in itertools.pairwise(getattr(definition, "body", [])):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        texts.setdefault(name, " ".join(words.split()))
    return texts


class _Page(io.StringIO):
    """What goes to stdout later, in its colours and characters."""

    def __init__(self) -> None:
        super().__init__()
        self.stdout = sys.stdout

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stdout.encoding

    def isatty(self) -> bool:
        return self.stdout.isatty()


@contextlib.contextmanager
def within_the_terminal() -> Iterator[None]:
    """Print what goes to stdout at the end, with its long lines wrapped at words."""
    page, columns = _Page(), shutil.get_terminal_size().columns
    try:
        with contextlib.redirect_stdout(page):
            yield
    finally:
        for line in page.getvalue().splitlines():
            wide = len(ANSI.sub("", line)) > columns
            print(textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False) if wide else line)
