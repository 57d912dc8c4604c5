"""How commands end: one line on stderr, no traceback, and an exit code that tells whose fault it was."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import shlex
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from m3po.command_line import fail, json_of, parse, run
from m3po.runs.terminal import shown


@dataclass(frozen=True)
class Example:
    """An example."""

    size: int
    """How large."""
    colour: Literal["red", "blue"] = "red"
    """Which."""
    loud: bool = False
    """Whether."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"--size must be >= 1,\n got {self.size}")


def test_flags_become_fields() -> None:
    assert parse(Example, ["--size", "3", "--colour", "blue", "--loud"]) == Example(3, "blue", True)
    assert parse(Example, ["--size", "3"]) == Example(3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--size", "0"], "got 0"),
        (["--size", "many"], "many"),
        (["--size", "2.5"], "2.5"),
        (["--size", "3", "--colour", "green"], "green"),
        (["--size", "3", "--weight", "4"], "--weight"),
        (["--size"], "--size"),
        ([], "--size"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(Example, arguments, prog="example")
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert named in err


def test_help_shows_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(Example, ["--help"], prog="python -m example")
    assert stop.value.code in (0, None)
    out, _ = capsys.readouterr()
    assert "python -m example" in out
    assert "How large." in out


@pytest.mark.parametrize("code", [0, 1, 130])
def test_the_code_of_main_is_the_exit_code(code: int) -> None:
    seen: list[Example] = []
    with pytest.raises(SystemExit) as stop:
        run(lambda config: seen.append(config) or code, Example, ["--size", "3"], prog="example")  # type: ignore[func-returns-value]
    assert stop.value.code == code
    assert seen == [Example(3)]


@pytest.mark.parametrize("error", [ValueError("bad\nvalue 7"), FileNotFoundError(2, "No such file", "x.json")])
def test_mistakes_found_later_are_one_line_too(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: Example) -> int:
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main, Example, ["--size", "3"], prog="example")
    assert stop.value.code == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert ("bad value 7" in err) or ("x.json" in err)


def run_raising(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit code and stderr of a command whose work raises this."""

    def main(config: Example) -> int:
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main, Example, ["--size", "3"], prog="example")
    return stop.value.code, capsys.readouterr().err


class NamedError(ArithmeticError):
    """One that says itself how a command ends."""

    exit_code = 1


class StoppedBySignal(KeyboardInterrupt):
    exit_code = 143


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OverflowError("int too large to convert to float"), 2),
        (MemoryError("Unable to allocate 71 PiB"), 2),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 2),
        (RecursionError("maximum recursion depth exceeded"), 2),
        (EOFError("No data left in file"), 2),
        (csv.Error("line contains NUL"), 2),
        (zipfile.BadZipFile("File is not a zip file"), 2),
        (pickle.UnpicklingError("invalid load key"), 2),
        (zlib.error("Error -3 while decompressing data"), 2),
        (struct.error("unpack requires a buffer of 4 bytes"), 2),
        (NamedError("reward is nan"), 1),
        (StoppedBySignal(), 143),
        (KeyboardInterrupt(), 130),
        (KeyError("bug"), 3),
        (RuntimeError("shapes differ"), 3),
        (ZeroDivisionError("division by zero"), 3),
    ],
)
def test_every_exception_is_one_line_and_its_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found, err = run_raising(error, capsys)
    assert found == code
    assert err.count("\n") == 1
    assert len(err) < 300
    assert list(tmp_path.iterdir()) == [] or code == 3


def test_a_fault_of_the_program_says_where_its_traceback_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, err = run_raising(KeyError("bug"), capsys)
    (file,) = tmp_path.iterdir()
    assert code == 3
    assert "KeyError: 'bug'" in err
    assert err.endswith(f"{file}\n")
    assert "in main\n    raise error" in file.read_text()


@pytest.mark.parametrize("asked", [True, False])
def test_a_traceback_that_is_asked_for_or_cannot_be_kept_is_shown(
    asked: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path if asked else tmp_path / "missing"))
    if asked:
        monkeypatch.setenv("M3PO_TRACEBACK", "1")
    code, err = run_raising(KeyError("bug"), capsys)
    assert code == 3
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["9" * 5000, "a b " * 2000, "\x1b[2J\x07" * 500, "\udcff" * 400])
def test_a_long_or_unprintable_value_fits_into_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run_raising(ValueError(f"--size must be small, got {value} (--other)"), capsys)
    assert code == 2
    assert len(err) < 300
    assert err.startswith("error: --size must be small, got ")
    assert err.endswith(" (--other)\n")
    assert err[:-1].isprintable()


def test_json_is_strict() -> None:
    text = json_of({"a": [1.5, math.nan, -math.inf], "b": (np.float64("inf"), None, "nan")})
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == {"a": [1.5, None, None], "b": [None, None, "nan"]}


PROGRAM = """
from dataclasses import dataclass
from m3po.command_line import run
@dataclass
class Nothing:
    pass
def main(config):
    print(TEXT)
    return 1
run(main, Nothing, [], prog="x")
"""


@pytest.mark.parametrize(
    ("text", "shell", "code", "out", "err"),
    [
        ("'x\\n' * 10**6", "{} | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}", 141, "", ""),
        ("'x'", "{} | true; exit ${{PIPESTATUS[0]}}", 1, "", ""),
        ("'x'", "{} >/dev/full", 2, "", "error: cannot write the output: [Errno 28] No space left on device\n"),
        ("'x'", "{} >/dev/full 2>/dev/full", 2, "", ""),
        ("'x'", "{} >&-", 1, "", ""),
        ("'x'", "{} 2>&-", 1, "x\n", ""),
        ("open('/missing/file').read()", "{} 2>&-", 2, "", ""),
        ("'\u03b5 \u2264'", "PYTHONIOENCODING=latin-1 {}", 1, "? ?\n", ""),
        ("open('/missing/\u03b5').read()", "PYTHONIOENCODING=ascii {}", 2, "", None),
    ],
)
def test_output_that_nobody_reads_or_that_cannot_be_written(
    text: str, shell: str, code: int, out: str, err: str | None, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("TEXT", text), encoding="utf-8")
    words = shell.format(f"{shlex.quote(sys.executable)} {program}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (code, out)
    assert done.stderr == err if err is not None else done.stderr.startswith("error: ")


def test_fail_keeps_to_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        fail("two\n  lines\tof text")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: two lines of text\n"


@dataclass(frozen=True)
class Placed:
    """Paths."""

    out: Path = Path("out.txt")
    """A file."""
    runs: tuple[Path, ...] = (Path("a"), Path("b"))
    """Directories."""
    figure: Path | None = None
    """Another file."""


def test_paths_mean_the_directory_where_the_command_was_started(tmp_path: Path, monkeypatch, capsys) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)

    def main(config: Placed) -> int:
        os.chdir(elsewhere)  # as an environment may
        for path in (config.out, *config.runs):
            path.write_text("written")
        assert config.figure is None
        print(shown(config.out), shown(Path("/far/away")))
        return 0

    with pytest.raises(SystemExit) as stop:
        run(main, Placed, [], prog="placed")
    assert stop.value.code == 0
    assert {each.name for each in tmp_path.iterdir()} == {"elsewhere", "out.txt", "a", "b"}
    assert list(elsewhere.iterdir()) == []
    assert capsys.readouterr().out == "out.txt /far/away\n"
