"""What every command line shares: its flags, its output, and how it ends.

Exit codes: 0 done, 1 a finding, 2 wrong input in one line that names it, 3 a fault of this program in one line that
says where its traceback is (on stderr as well when the variable M3PO_TRACEBACK is set), 128 + number after a signal.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import pickle
import re
import struct
import sys
import tempfile
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import tyro

from m3po.extras import missing_extra
from m3po.flag_names import as_declared, unknown
from m3po.help_text import ANSI, flowing, within_the_terminal
from m3po.runs.interruption import exit_code, imports_are_over
from m3po.runs.terminal import messages, open_what_is_closed, remember_where_started, unfailing

Settings = TypeVar("Settings")

MARKS = (tyro.conf.FlagCreatePairsOff,)  # a switch is off, and its flag turns it on

_LONGEST = 290  # characters of a message, with its "error: "
# Besides ValueError and OSError, what the readers of numbers, tables and archives raise on what they cannot read.
_OF_INPUT = (
    OverflowError, RecursionError, EOFError, csv.Error, struct.error, zlib.error, zipfile.BadZipFile,
    zipfile.LargeZipFile, pickle.UnpicklingError,
)  # fmt: skip


def one_line(text: object) -> str:
    """``text`` in one line without control characters, its middle left out when it is longer than a message may be."""
    line = " ".join(str(text).split())
    line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
    head = 2 * _LONGEST // 3
    return line if len(line) <= _LONGEST else f"{line[:head]} ... {line[len(line) - (_LONGEST - head - 5) :]}"


def fail(message: object, code: int = 2) -> NoReturn:
    """Print ``error: message`` as one line on stderr and exit."""
    _say(f"error: {message}")
    raise SystemExit(code)


def _say(message: str) -> None:
    print(one_line(message), file=messages(), flush=True)


def json_of(record: object) -> str:
    """Strict JSON of what a command prints with --json; a number that is not finite, which JSON lacks, is null."""
    return json.dumps(_finite(record), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _words(box: str) -> str:
    """The first paragraph of one of tyro's boxed messages, without the box."""
    lines = [ANSI.sub("", line).strip("│ ") for line in box.splitlines()[1:]]
    if lines and lines[0].startswith("---"):  # the box in ASCII has a rule below its title
        del lines[0]
    first_rule = next((i for i, line in enumerate(lines) if line.startswith(("─", "╰", "---"))), len(lines))
    text = " ".join(" ".join(lines[:first_rule]).split())
    text = re.sub(r"'([^']{60})[^']{20,}'", r"'\1...'", text)  # the flag comes after a value that is too long to show
    return re.sub(r"^Error parsing [A-Z]\w*: ", "", text)


def parse(
    config_type: type[Settings],
    arguments: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    flat: bool = False,
    flags: type | None = None,
) -> Settings:
    """Flags -> a ``config_type`` (a dataclass whose ``__post_init__`` raises ValueError on a bad value).

    Args:
        config_type: the dataclass; its field docstrings are the ``--help``.
        arguments: the words after the program name; ``sys.argv[1:]`` when None.
        prog: the program's name in the help, for example ``python -m analysis.compare_bounds``.
        flat: fields that are dataclasses themselves are groups of the help, and do not prefix their flags.
        flags: a dataclass of all flags, where some were taken out of the arguments before.

    Raises:
        SystemExit: code 2 after one line that names the bad value; code 0 after ``--help``.
    """
    given = sys.argv[1:] if arguments is None else arguments
    words = as_declared(config_type, given)
    box = io.StringIO()
    marks = (*MARKS, *([tyro.conf.OmitArgPrefixes] if flat else []))
    try:
        with contextlib.redirect_stderr(box):
            if not {"-h", "--help"}.isdisjoint(words):
                with within_the_terminal():
                    tyro.cli(flowing(config_type), args=words, prog=prog, config=marks)
            return tyro.cli(config_type, args=words, prog=prog, config=marks)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        # tyro exits while it handles the ValueError of __post_init__; its box would wrap a long value.
        if isinstance(stop.__context__, ValueError):
            fail(stop.__context__)
        fail(unknown(flags or config_type, given) or _words(box.getvalue()))


def run(
    main: Callable[[Settings], int],
    config_type: type[Settings],
    arguments: Sequence[str] | None,
    *,
    prog: str,
    expanded: Callable[[Sequence[str], str], Sequence[str]] = lambda arguments, prog: arguments,
    flags: type | None = None,
) -> NoReturn:
    """Parse, call ``main(config)``, exit with the code it returns or with the one that its exception stands for.

    The config's paths are absolute: an environment may change the working directory. ``expanded`` gets the arguments
    and ``prog``, and returns the arguments to parse; ``flags`` has those that it takes out of them too.
    """
    with ending():
        words = expanded(sys.argv[1:] if arguments is None else arguments, prog)
        raise SystemExit(main(_placed(parse(config_type, words, prog=prog, flags=flags))))


def _placed(config: Settings) -> Settings:
    fields: Any = config
    changes: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, Path):
            changes[name] = value.absolute()
        elif isinstance(value, tuple) and any(isinstance(each, Path) for each in value):
            changes[name] = tuple(each.absolute() for each in value)
    if changes:
        remember_where_started()
    return dataclasses.replace(fields, **changes) if changes else config


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Every exception as one line and an exit code, and nothing left to be written after it."""
    imports_are_over()
    open_what_is_closed()
    result, told = sys.stdout, sys.stderr
    for stream in (result, told):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows "?"
            stream.reconfigure(errors="replace")
    sys.stderr = unfailing(told)
    try:
        yield
    except BrokenPipeError:  # as when the output goes to head
        raise SystemExit(141) from None
    except KeyboardInterrupt as interruption:
        _say("interrupted")
        raise SystemExit(exit_code(interruption)) from None
    except (ValueError, OSError) as error:
        fail(error)
    except ModuleNotFoundError as error:
        lacking = missing_extra(error)
        if lacking is not None:
            fail(lacking)
        fail(_fault(error), 3)
    except _OF_INPUT as error:
        fail(f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 (the boundary: everything ends here)
        if _is_memory(error):
            fail(f"not enough memory for these sizes: {error}")
        if hasattr(error, "exit_code"):
            fail(error, error.exit_code)
        fail(_fault(error), 3)
    finally:
        lost = finish(result)
        if lost is not None:
            _say(f"error: cannot write the output: {lost}")
        sys.stderr = told
        finish(told)
        if lost is not None:
            raise SystemExit(2)


def _fault(error: Exception) -> str:
    return f"a fault of this program, {type(error).__name__}: {error}; traceback: {_kept_traceback()}"


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so by RuntimeErrors of several kinds."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_torch)


def _kept_traceback() -> str:
    """Where the traceback under way is kept: in a file, or on stderr."""
    if os.environ.get("M3PO_TRACEBACK"):
        traceback.print_exc()
        return "above"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="m3po-traceback-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(traceback.format_exc())
            return file.name
    except OSError:
        traceback.print_exc()
        return "above"


def finish(stream: TextIO | None) -> OSError | None:
    """Flush; what cannot be written is dropped, since the interpreter would try again at exit and print a traceback.

    Returns:
        Why it cannot be written, unless that is because nobody reads it any more.
    """
    if stream is None or stream.closed:
        return None
    try:
        stream.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return None if isinstance(error, BrokenPipeError) else error
    return None
