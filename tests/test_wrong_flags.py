"""Every flag of every command with every kind of wrong value: one line that names both, and no traceback.

Where a value is accepted the work is not started. What the work itself reads is damaged in the tests of its module.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

import analysis
import m3po
import paper_figures
import paper_figures.__main__
import paper_figures.command
from m3po import command_line
from m3po.commands import GROUPS
from m3po.flag_checks import Within, _label

DRAWN = 300  # tries of the default suite
NEEDED = {"bound": "m3po-th1", "discount": "0.9"}
VALUES = (
    "", " ", "x", "nan", "inf", "-inf", "-1", "0", "1.5", "1e308", "-1e308", "1e400", "5e-324", str(10**20),
    str(-(10**20)), "9" * 5000, "0x10", "1_0", "١", "None", "True", "[]", "{}", "\x1b[2J", "two words", "ε" * 400,
    "a\nb", "--", "-", "/", "/missing/file.png", "/dev/null",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command line: its module and the dataclass of its flags."""

    module: str
    settings: type


@cache
def commands() -> tuple[Command, ...]:
    """Every module with a command line, found by calling it with its work replaced."""
    found = []
    names = [
        each.name
        for package in (analysis, m3po, paper_figures)
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if each.name.count(".") == 1 or each.name.endswith(".__main__")
    ]
    for name in names:
        module = importlib.import_module(name)
        entry = getattr(module, "cli", None) or getattr(module, "command_line", None)
        if entry is None or not callable(entry):
            continue
        seen: list[type] = []
        with pytest.MonkeyPatch.context() as patch:
            for where in (module, paper_figures.command):
                if hasattr(where, "run"):
                    patch.setattr(
                        where, "run", lambda main, settings, *rest, seen=seen, **options: seen.append(settings)
                    )
            entry([])
        found.append(Command(name, seen[0]))
    return tuple(found)


def test_every_command_is_one_of_m3po_with_the_same_flags() -> None:
    """The figures' own modules are parts of ``m3po maintain figures``."""
    listed = {command.module: command.settings_type() for group in GROUPS for command in group.commands}
    found = {each.module: each.settings for each in commands() if not each.module.startswith("paper_figures.figure")}
    parts = {f"paper_figures.{name}" for name in paper_figures.__main__.FIGURES}
    assert listed == {module: settings for module, settings in found.items() if module not in parts}


def flags_of(settings: type) -> list[tuple[str, str, Any]]:
    """Of every field: its name, its label in messages, its annotation."""
    hints = get_type_hints(settings, include_extras=True)
    return [(each.name, _label(each.name, hints[each.name]), hints[each.name]) for each in dataclasses.fields(settings)]


def is_positional(hint: Any) -> bool:
    return any("Positional" in repr(each) for each in getattr(hint, "__metadata__", ()))


def is_switch(settings: type, name: str) -> bool:
    return get_type_hints(settings)[name] is bool


def needed_words(settings: type, without: str, folder: Path) -> list[str]:
    """What a command cannot do without, besides the field under test."""
    words = []
    for each, (name, label, hint) in zip(dataclasses.fields(settings), flags_of(settings), strict=True):
        missing = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if name != without and (missing or is_positional(hint)):
            value = NEEDED.get(name, str(folder if name == "runs" else folder / "file"))
            words += [value] if is_positional(hint) else [label, value]
    return words


def tries() -> Iterator[tuple[Command, str, tuple[str, ...]]]:
    """Command, field, and the values behind its flag."""
    for command in commands():
        for name, *_ in flags_of(command.settings):
            yield from ((command, name, words) for words in ((), *((value,) for value in VALUES), ("1", "x")))


def attempt(command: Command, name: str, values: tuple[str, ...], folder: Path, capsys: Any) -> str | None:
    """What is wrong with how the command ends; None when it is right."""
    label, hint = next((label, hint) for field, label, hint in flags_of(command.settings) if field == name)
    own = list(values) if is_positional(hint) else [label, *values]
    words = [*needed_words(command.settings, name, folder), *own]
    try:
        command_line.run(lambda config: 0, command.settings, words, prog=command.module)
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:  # noqa: BLE001 (the fault that is looked for)
        return f"{type(error).__name__}: {error}"
    out, err = capsys.readouterr()
    if code == 0:
        return f"accepted with {err!r}" if err or _impossible(command.settings, name, values) else None
    if code != 2 or out or not err.startswith("error: ") or err.count("\n") != 1 or len(err) >= 300:
        return f"exit {code}, {out!r}, {err!r}"
    value = "" if not values or values[-1] == "--" else values[-1]
    if not any(way in "".join(err.split()) for each in (value, *values[:-1]) for way in shown(each)):
        return f"does not name the value {value[:40]!r}: {err!r}"
    # What follows a switch, or is one value too many, is a word of its own and none of the flag's.
    alone = is_switch(command.settings, name) or len(values) > 1 or (is_positional(hint) and not value)
    return None if alone or label in err or name in err else f"does not name {label}: {err!r}"


def _impossible(settings: type, name: str, values: tuple[str, ...]) -> bool:
    """Whether no number of a command may be this."""
    kinds = {*get_args(plain), plain} if (plain := get_type_hints(settings)[name]) is not bool else set()
    never = {int: (str(10**20), str(-(10**20))), float: ("nan", "inf", "-inf", "1e400")}
    return any(values[-1:] == (value,) for kind in kinds & {int, float} for value in never[kind])


def shown(value: str) -> list[str]:
    """The ways in which a message may show a value, without spaces: it may be cut, escaped, or read as a number."""
    escaped = value.encode("unicode_escape").decode()
    ways = [value, escaped, f"{len(value)} digits", str(Path(value).parent)]
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    numbers = [str(number)] if "n" not in str(number) else ["inf"] * math.isinf(number)
    numbers += [str(int(number))] if math.isfinite(number) else []
    return ["".join(each.split())[:20] for each in (*ways, *numbers) if each != "."]


def faults(chosen: list[tuple[Command, str, tuple[str, ...]]], folder: Path, capsys: Any) -> list[str]:
    (folder / "file").touch()
    return [
        f"{command.module} {name} {[value[:30] for value in values]}: {fault}"
        for command, name, values in chosen
        if (fault := attempt(command, name, values, folder, capsys)) is not None
    ]


def test_wrong_values_drawn_at_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = list(tries())
    assert len({command.module for command, *_ in every}) >= 30
    assert faults(random.Random(0).sample(every, DRAWN), tmp_path, capsys) == []


def test_numbers_that_no_command_can_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen: list[tuple[Command, str, tuple[str, ...]]] = [
        (command, name, values)
        for command, name, values in tries()
        if values in (("nan",), (str(10**20),)) and _impossible(command.settings, name, values)
    ]
    assert len(chosen) >= 140
    assert faults(chosen, tmp_path, capsys) == []


@pytest.mark.slow
def test_every_wrong_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = list(tries())
    found = faults(every, tmp_path, capsys)
    with capsys.disabled():
        print(f"\n{len(every)} tries of {len(commands())} commands, {len(found)} faults")
    assert found == []


def ranges_of(hint: Any) -> list[Within]:
    """Every range that is declared within an annotation."""
    inner = [each for part in get_args(hint) for each in ranges_of(part)] if get_args(hint) else []
    own = [each for each in hint.__metadata__ if isinstance(each, Within)] if get_origin(hint) is Annotated else []
    return own + inner


def test_every_whole_number_has_both_ends() -> None:
    """A new flag must not slip in without a bound on what it makes a machine do."""
    for command in commands():
        plain = get_type_hints(command.settings)
        for name, label, hint in flags_of(command.settings):
            if plain[name] in (int, int | None, tuple[int, ...]):
                ends = ranges_of(hint)
                assert any(-1e300 < each.low <= each.high < 1e300 for each in ends), f"{command.module} {label}"


def broken_early(page: str, columns: int) -> list[str]:
    """The lines of a help that end before a word that would still have fitted, or that stand in another column."""
    lines = [line[2:-2].rstrip() for line in page.splitlines() if line.startswith(("│", " "))]  # a box, also in ASCII
    indents = [len(line) - len(line.lstrip()) for line in lines]
    column = min(indent for indent in indents if indent >= 5)
    found = [line for line, indent in zip(lines, indents, strict=True) if indent > column]
    for line, following, indent in zip(lines, lines[1:], indents[1:], strict=False):
        head, text = f"{line} "[:column], line[column:]
        goes_on = indent == column and text and (not head.strip() or head.endswith("  "))
        if goes_on and len(line) + 1 + len(following.split()[0]) <= columns - 4:
            found.append(line)
    return found


def test_every_help_flows_within_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in commands():
        with pytest.raises(SystemExit) as stop:
            command_line.run(lambda config: 0, command.settings, ["--help"], prog=f"python -m {command.module}")
        page = capsys.readouterr().out
        assert not stop.value.code
        labels = [label for _, label, hint in flags_of(command.settings) if not is_positional(hint)]
        assert all(label in page or f"--no{label[1:]}" in page for label in labels), command
        assert max(map(len, page.splitlines())) <= 80, command
        assert broken_early(page, 80) == [], command
