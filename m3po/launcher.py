"""``m3po``: one command whose first words say which (``m3po bounds compare``, or short ``m3po compare``)."""

from __future__ import annotations

import dataclasses
import difflib
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NoReturn, Union

import tyro

import m3po
from m3po.command_line import MARKS, ending, run
from m3po.commands import GROUPS, Command, Group
from m3po.extras import missing_extra
from m3po.help_text import flowing

SHELLS = ("bash", "zsh", "fish")

ABOUT = (
    "Return guarantees for model-based meta-RL: theorems that are checked, certificates, and the training they lead to."
)

_EXITS = (
    "Exit codes: 0 done, 1 a finding (violated, not certifiable, refuted), 2 wrong input, 3 a fault of m3po itself."
)


def short_forms() -> dict[str, Command]:
    """Each word that stands for a command without its group: the first group that has it is meant."""
    found: dict[str, Command] = {}
    for group in GROUPS:
        for command in group.commands if group.short else ():
            for word in (command.name, *command.also):
                found.setdefault(word, command)
    return found


def overview() -> str:
    """The page of ``m3po --help``."""
    lines = [f"usage: m3po [{' | '.join(group.name for group in GROUPS)}] COMMAND ...", "", *_filled(ABOUT), ""]
    for group in GROUPS:
        lines += [f"{group.name}: {group.text}", *_listing(group), ""]
    lines += [
        *_filled("The group may be left out (m3po certify), but for maintain; m3po compare is m3po bounds compare."),
        *_filled("m3po COMMAND --help lists the flags. m3po --version tells which this is."),
        *_filled(f"m3po completion {'|'.join(SHELLS)} prints a script that completes commands and flags."),
        *_filled(_EXITS),
    ]
    return "\n".join(lines)


def group_page(group: Group) -> str:
    """The page of ``m3po GROUP --help``."""
    lines = [f"usage: m3po {group.name} COMMAND ...", "", group.text, "", *_listing(group), ""]
    return "\n".join([*lines, f"m3po {group.name} COMMAND --help lists the flags."])


def _listing(group: Group) -> list[str]:
    width = max(len(each.name) for each in group.commands) + 4
    return [line for each in group.commands for line in _filled(each.text, f"  {each.name}".ljust(width), width)]


def _filled(text: str, start: str = "", indent: int = 0) -> list[str]:
    columns = shutil.get_terminal_size().columns
    return textwrap.wrap(f"{start}{text}", columns, subsequent_indent=" " * indent, break_on_hyphens=False)


def chosen(words: Sequence[str]) -> tuple[Command, str, list[str]]:
    """The command that is meant, what it is called in messages, and the words that are left for it.

    ``m3po train ...`` is a group and the short form of one of its commands: what is no command of the group is the
    command's.

    Raises:
        ValueError: names the word that is no command, and the nearest that is one.
    """
    first, *rest = words
    group = next((each for each in GROUPS if each.name == first), None)
    if group is not None:
        command = group.find(rest[0]) if rest else None
        if command is not None:
            return command, f"m3po {group.name} {command.name}", list(rest[1:])
        itself = group.find(group.name)
        if itself is not None and rest and rest[0].startswith("-"):
            return itself, f"m3po {itself.name}", list(rest)
        known = [*(each.name for each in group.commands), *_long_forms(GROUPS)]
        given = rest[0] if rest else ""
        raise ValueError(f"m3po {group.name} has no command {given}; {_nearest(given, known, f'm3po {group.name}')}")
    if first in short_forms():
        command = short_forms()[first]
        return command, f"m3po {command.name}", list(rest)
    known = [
        *(each.name for each in GROUPS),
        *short_forms(),
        *_long_forms(group for group in GROUPS if not group.short),
    ]
    what = "flag" if first.startswith("-") else "command"
    raise ValueError(f"m3po has no {what} {first}; {_nearest(first, [*known, '--help', '--version'], 'm3po')}")


def _long_forms(groups: Iterable[Group]) -> list[str]:
    return [f"{group.name} {each.name}" for group in groups for each in group.commands]


def _nearest(word: str, known: Sequence[str], prog: str) -> str:
    elsewhere = [each for each in known if each.endswith(f" {word}")]
    near = elsewhere or difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else f"{prog} --help lists what there is"


def completion(shell: str) -> None:
    """Print a script for a shell that completes commands, flags, choices and file names; then exit.

    Raises:
        ValueError: names a shell that there is no script for.
    """
    if shell not in SHELLS:
        raise ValueError(f"m3po completion takes {', '.join(SHELLS)}, got {shell or 'nothing'}")
    groups = {
        group.name: (group.text, _one_of({each.name: _leaf(each) for each in group.commands})) for group in GROUPS
    }
    short = {word: _leaf(command) for word, command in short_forms().items() if word == command.name}
    tyro.cli(_one_of({**short, **groups}), args=["--tyro-print-completion", shell], prog="m3po", config=MARKS)


def _leaf(command: Command) -> tuple[str, Any]:
    """A command's sentence and flags; without flags where an extra is not installed."""
    try:
        return command.text, flowing(command.flags_type())
    except ModuleNotFoundError as error:
        if missing_extra(error) is None:
            raise
        return command.text, dataclasses.make_dataclass(command.name, [])


def _one_of(parts: Mapping[str, tuple[str, Any]]) -> Any:
    """The type that tyro reads as subcommands."""
    each = (
        Annotated[kind, tyro.conf.subcommand(name, description=text, prefix_name=False)]
        for name, (text, kind) in parts.items()
    )
    return Union[tuple(each)]  # noqa: UP007 (of a tuple made here)


def start(words: Sequence[str]) -> NoReturn:
    """Run the command that the words mean.

    Raises:
        SystemExit: with the command's exit code.
        ValueError: when they mean none.
    """
    asks = {"-h", "--help"}
    if not words or words[0] in asks:
        raise SystemExit(_printed(overview()))
    if words[0] == "--version":
        raise SystemExit(_printed(f"m3po {m3po.__version__}"))
    if words[0] == "completion":
        completion(*words[1:2] or [""])
    group = next((each for each in GROUPS if each.name == words[0]), None)
    if group is not None and (len(words) == 1 or words[1] in asks):
        print(group_page(group))
        if group.find(group.name) is None or len(words) == 1:
            raise SystemExit(0)
        print()
    command, prog, rest = chosen(words)
    try:
        run(
            command.main,
            command.settings_type(),
            rest,
            prog=prog,
            expanded=command.expansion(),
            flags=command.flags_type(),
        )
    except SystemExit as stop:
        if not asks.isdisjoint(rest) and not stop.code:
            print(*_filled(f"example: {prog} {command.example}", indent=4), sep="\n")
        raise


def _printed(text: str) -> int:
    print(text)
    return 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command; ``arguments`` are the words after its name, ``sys.argv`` when None."""
    with ending():
        start(list(sys.argv[1:] if arguments is None else arguments))
