"""One line on stderr, exit code 2, no traceback; anything unexpected is not hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from m3po.command_line import fail, parse, run


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


def test_a_bug_is_not_reported_as_a_mistake_of_the_user() -> None:
    def main(config: Example) -> int:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run(main, Example, ["--size", "3"], prog="example")


def test_fail_keeps_to_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        fail("two\n  lines\tof text")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: two lines of text\n"
