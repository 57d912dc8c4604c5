"""How every command line here reads its flags and reports a mistake: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import tyro

Config = TypeVar("Config")


def fail(message: object) -> NoReturn:
    """Print ``error: message`` as one line on stderr and exit with code 2."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


def _one_line(box: str) -> str:
    """The first paragraph of one of tyro's boxed messages, without the box."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│ ") for line in box.splitlines()[1:]]
    if lines and lines[0].startswith("---"):  # the box in ASCII has a rule below its title
        del lines[0]
    first_rule = next((i for i, line in enumerate(lines) if line.startswith(("─", "╰", "---"))), len(lines))
    text = " ".join(" ".join(lines[:first_rule]).split())
    return re.sub(r"^Error parsing [A-Z]\w*: ", "", text)


def parse(config_type: type[Config], arguments: Sequence[str] | None = None, *, prog: str | None = None) -> Config:
    """Flags -> a ``config_type`` (a dataclass whose ``__post_init__`` raises ValueError on a bad value).

    Args:
        config_type: the dataclass; its field docstrings are the ``--help``.
        arguments: the words after the program name; ``sys.argv[1:]`` when None.
        prog: the program's name in the help, for example ``python -m analysis.compare_bounds``.

    Raises:
        SystemExit: code 2 after one line that names the bad value; code 0 after ``--help``.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(config_type, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        # tyro exits while it handles the ValueError of __post_init__; its box would wrap a long value.
        fail(stop.__context__ if isinstance(stop.__context__, ValueError) else _one_line(box.getvalue()))


def run(
    main: Callable[[Config], int], config_type: type[Config], arguments: Sequence[str] | None, *, prog: str
) -> NoReturn:
    """Parse, call ``main(config)``, exit with the code it returns; a ValueError or OSError exits 2 in one line."""
    config = parse(config_type, arguments, prog=prog)
    try:
        code = main(config)
    except (ValueError, OSError) as error:
        fail(error)
    raise SystemExit(code)
