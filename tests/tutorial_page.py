"""A Markdown page whose code is run from the text that its readers see.

    python -m tests.notebook docs/quick_start.md      # rewrite the outputs and pictures on a page, and its notebook

A ``python`` block is executed; all blocks of a page share their names. A ``text`` block right after it is what it
prints. In any block a line ``$ python -m MODULE ...`` or ``$ m3po ...`` is a command, and the lines below it are what
it prints to stdout. A picture right after a ``python`` block or its output is a file that the block writes, under the
same name. ``...`` on a line of its own stands for lines that are left out. After a comment
``<!-- numbers vary -->`` the next output is compared without its numbers, because they differ from one kind of CPU to
another; a picture is then only asked for.
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

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.testing.compare import compare_images
from matplotlib.testing.exceptions import ImageComparisonFailure

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
VARYING = re.compile(r"<!-- numbers vary[^>]*-->\s*\Z")
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?\*?%?")
PICTURE = re.compile(r"\s*(<!-- numbers vary[^>]*-->\s*)?!\[[^\]]*\]\(([^)]+\.png)\)")
ELLIPSIS = "..."
# Root mean square of pixels, of 255: letters are smoothed differently by other builds of the font library.
ALIKE = 5.0


@dataclass
class Step:
    """Something that is executed, and what the page says it prints.

    Attributes:
        code: python source, or None.
        commands: command lines, or none of them.
        typed: the command lines as they stand on the page.
        shown: the printed text on the page; None when the page shows none.
        varying: whether its numbers are not compared.
        line: where it stands, counted from 1.
        start, end: where the shown text stands in the page, for rewriting it.
        begin, stop: where the step stands in the page, with its output and its picture.
        picture: the target of the page's link to the picture that the code writes, or None.
        picture_varies: whether it is not compared.
    """

    code: str | None
    commands: list[str]
    shown: str | None
    varying: bool
    line: int
    start: int = 0
    end: int = 0
    begin: int = 0
    stop: int = 0
    picture: str | None = None
    picture_varies: bool = False
    typed: str = ""


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
            steps.append(Step(body, [], None, False, line, begin=fence.start()))
            after_code = fence.end()
            _end_at(fence.end(), steps[-1], page)
        elif language == "text":
            between = re.sub(r"<!--.*?-->", "", page[after_code : fence.start()], flags=re.S)
            if after_code < 0 or between.strip():
                raise ValueError(f"line {line}: a text block has to follow the code that prints it")
            steps[-1].shown, steps[-1].varying = body, varying
            steps[-1].start, steps[-1].end = fence.start(2), fence.end(2)
            after_code = -1
            _end_at(fence.end(), steps[-1], page)
        elif re.search(r"^\$ (python -m|m3po) ", body, re.M):
            found = list(_commands(body, fence.start(2), line, varying))
            found[0].begin, found[-1].stop = fence.start(), fence.end()
            steps += found
    return steps


def _end_at(stop: int, step: Step, page: str) -> None:
    """A step of code ends here, or with the picture that follows."""
    step.stop = stop
    if (picture := PICTURE.match(page, stop)) is not None:
        step.stop, step.picture, step.picture_varies = picture.end(), picture[2], picture[1] is not None


def _commands(body: str, offset: int, line: int, varying: bool) -> Iterator[Step]:
    for match in re.finditer(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", body, re.M):
        words = re.sub(r"\s*\\\n\s*", " ", match[1]).split(" && ")
        start, end = offset + match.start(2), offset + match.end(2)
        place = line + body[: match.start()].count("\n") + 1
        begin = offset + match.start()
        yield Step(None, words, match[2], varying, place, start, end, begin, end, typed=match[1])


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


def run_page(path: Path, directory: Path) -> Iterator[tuple[Step, str]]:
    """Every step of a page, in the order of the page, and what it prints. Works in ``directory`` until the last one."""
    names: dict[str, Any] = {"__name__": "tutorial"}
    mpl.use("agg")
    with reader_directory(directory):
        for step in steps_of(path.read_text()):
            yield step, execute(step, names, path.name)
    pyplot.close("all")


def written(step: Step, directory: Path) -> Path:
    """The file that is shown as the step's picture."""
    return directory / Path(str(step.picture)).name


def looks_different(shown: Path, drawn: Path, *, varying: bool = False) -> str | None:
    """What is wrong with a picture that was drawn, or None."""
    if not drawn.exists():
        return f"{drawn.name} was not drawn"
    if not shown.exists():
        return f"{shown} does not exist"
    if varying:
        return None
    try:
        found = compare_images(str(shown), str(drawn), tol=ALIKE)
    except ImageComparisonFailure as other_size:
        return str(other_size)
    return None if found is None else str(found)


def differences(path: Path, directory: Path) -> list[str]:
    """Run a page; a paragraph for every output, and a line for every picture, that is not what the page shows."""
    wrong = []
    for step, printed in run_page(path, directory):
        shown = "" if step.shown is None else step.shown
        if not agrees(shown, printed, varying=step.varying):
            wrong.append(f"{path.name}, line {step.line}\nshown:\n{shown}\nprinted:\n{printed}")
        if step.picture is not None:
            drawn = written(step, directory)
            found = looks_different(path.parent / step.picture, drawn, varying=step.picture_varies)
            if found:
                wrong.append(f"{path.name}, line {step.line}: {found}")
    return wrong


def rewrite(path: Path) -> None:
    """Put what was printed where the page shows something else, and what was drawn where it looks different."""
    page, changes = path.read_text(), []
    directory = Path(tempfile.mkdtemp())
    try:
        for step, printed in run_page(path, directory):
            if not agrees(step.shown or "", printed, varying=False):
                print(f"{path}, line {step.line}:\n{printed}")
                changes.append((step, printed.rstrip() + "\n"))
            if step.picture is not None and looks_different(path.parent / step.picture, written(step, directory)):
                (path.parent / step.picture).parent.mkdir(exist_ok=True)
                shutil.copy(written(step, directory), path.parent / step.picture)
                print(f"{path}, line {step.line}: {step.picture}")
    finally:
        shutil.rmtree(directory)
    for step, printed in reversed(changes):
        if step.shown is None or ELLIPSIS in step.shown.split():
            print(f"{path}, line {step.line}: not rewritten, there is no place for it or lines are left out")
        else:
            page = page[: step.start] + printed + page[step.end :]
    path.write_text(page)
