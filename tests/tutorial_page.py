"""A Markdown page whose code is run from the text that its readers see.

    python -m tests.tutorial_page docs/quick_start.md      # rewrite the outputs on a page

A ``python`` block is executed; all blocks of a page share their names. A ``text`` block right after it is what it
prints. In any block a line ``$ python -m MODULE ...`` or ``$ m3po ...`` is a command, and the lines below it are what
it prints to stdout. ``...`` on a line of its own stands for lines that are left out. After a comment
``<!-- numbers vary -->`` the next output is compared without its numbers, because they differ from one kind of CPU to
another.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
VARYING = re.compile(r"<!-- numbers vary[^>]*-->\s*\Z")
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?\*?%?")
ELLIPSIS = "..."


@dataclass
class Step:
    """Something that is executed, and what the page says it prints.

    Attributes:
        code: python source, or None.
        commands: command lines, or none of them.
        shown: the printed text on the page; None when the page shows none.
        varying: whether its numbers are not compared.
        line: where it stands, counted from 1.
        start, end: where the shown text stands in the page, for rewriting it.
    """

    code: str | None
    commands: list[str]
    shown: str | None
    varying: bool
    line: int
    start: int = 0
    end: int = 0


def steps_of(page: str) -> list[Step]:
    """The executed blocks and commands of a page in their order.

    Raises:
        ValueError: a ``text`` block that does not follow code.
    """
    steps: list[Step] = []
    after_code = -1  # where the last python block ended
    for fence in FENCE.finditer(page):
        language, body, line = fence[1], fence[2], page[: fence.start()].count("\n") + 1
        varying = VARYING.search(page[: fence.start()]) is not None
        if language == "python":
            steps.append(Step(body, [], None, False, line))
            after_code = fence.end()
        elif language == "text":
            between = re.sub(r"<!--.*?-->", "", page[after_code : fence.start()], flags=re.S)
            if after_code < 0 or between.strip():
                raise ValueError(f"line {line}: a text block has to follow the code that prints it")
            steps[-1].shown, steps[-1].varying = body, varying
            steps[-1].start, steps[-1].end = fence.start(2), fence.end(2)
            after_code = -1
        elif re.search(r"^\$ (python -m|m3po) ", body, re.M):
            steps += list(_commands(body, fence.start(2), line, varying))
    return steps


def _commands(body: str, offset: int, line: int, varying: bool) -> Iterator[Step]:
    for match in re.finditer(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", body, re.M):
        words = match[1].replace("\\\n", " ").split(" && ")
        start, end = offset + match.start(2), offset + match.end(2)
        yield Step(None, words, match[2], varying, line + body[: match.start()].count("\n") + 1, start, end)


def run_command(command: str) -> None:
    """``python -m MODULE ...``, or ``m3po ...``, in this process.

    Raises:
        AssertionError: when it is another command, or its exit code is not 0.
    """
    words = shlex.split(re.sub("^m3po ", "python -m m3po ", command), comments=True)
    assert words[:2] == ["python", "-m"], command
    before, sys.argv = sys.argv, words[2:]
    code: object = 0
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = before
    assert code in (0, 1, None), f"{command}: exit code {code}"  # 1: a finding, which a page may show


def execute(step: Step, names: dict[str, Any], page: str) -> str:
    """What a step prints to stdout."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if step.code is not None:
            # Line numbers in a traceback are those of the page.
            exec(compile("\n" * step.line + step.code, page, "exec"), names)
        for command in step.commands:
            run_command(command)
    return printed.getvalue()


def agrees(shown: str, printed: str, *, varying: bool = False) -> bool:
    """Whether the lines shown are the lines printed; ``...`` on a line of its own stands for any lines."""
    parts = []
    for line in shown.rstrip().splitlines():
        if line.strip() == ELLIPSIS:
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(re.escape(_normal(line, varying)) + "\n")
    text = "".join(_normal(line, varying) + "\n" for line in printed.rstrip().splitlines())
    return re.fullmatch("".join(parts), text) is not None


def _normal(line: str, varying: bool) -> str:
    line = line.rstrip()
    return re.sub(r"\s+", " ", NUMBER.sub("#", line)) if varying else line


@contextlib.contextmanager
def reader_directory(directory: Path) -> Iterator[None]:
    """Work in ``directory`` with the repository's data beside it, as a reader does in a clone."""
    (directory / "paper_figures").symlink_to(ROOT / "paper_figures")
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def differences(path: Path, directory: Path) -> list[str]:
    """Run a page; a paragraph for every output that is not what the page shows."""
    page, names, wrong = path.read_text(), {"__name__": "tutorial"}, []
    with reader_directory(directory):
        for step in steps_of(page):
            printed = execute(step, names, path.name)
            shown = "" if step.shown is None else step.shown
            if not agrees(shown, printed, varying=step.varying):
                wrong.append(f"{path.name}, line {step.line}\nshown:\n{shown}\nprinted:\n{printed}")
    return wrong


def rewrite(path: Path) -> None:
    """Put what was printed where the page shows something else."""
    page, names, changes = path.read_text(), {"__name__": "tutorial"}, []
    directory = Path(tempfile.mkdtemp())
    try:
        with reader_directory(directory):
            for step in steps_of(page):
                printed = execute(step, names, path.name)
                if not agrees(step.shown or "", printed, varying=False):
                    print(f"{path}, line {step.line}:\n{printed}")
                    changes.append((step, printed.rstrip() + "\n"))
    finally:
        shutil.rmtree(directory)
    for step, printed in reversed(changes):
        if step.shown is None or ELLIPSIS in step.shown.split():
            print(f"{path}, line {step.line}: not rewritten, there is no place for it or lines are left out")
        else:
            page = page[: step.start] + printed + page[step.end :]
    path.write_text(page)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name).resolve())
