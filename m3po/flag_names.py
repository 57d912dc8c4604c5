"""The names of flags: what else each may be called, and which one was meant."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Sequence
from functools import cache

from m3po.flag_checks import labels

# What means the same: where a command has one of a row, the others are read as that, and its help shows all.
SAME = (
    ("--gamma", "--discount"),
    ("--k", "--rollout-length"),
    ("--eps-m", "--model-error"),
    ("--eps-pi", "--policy-divergence"),
    ("--r-max", "--reward-max"),
    ("--r-min", "--reward-min"),
    ("--env-id", "--environment"),
    ("--out", "--out-dir"),
)


def names_of(label: str, labels_of_command: Sequence[str]) -> tuple[str, ...]:
    """A flag and what else it may be called in its command, in the order of ``SAME``."""
    row = next((row for row in SAME if label in row), (label,))
    return tuple(name for name in row if name == label or name not in labels_of_command)


@cache
def spellings(settings: type) -> dict[str, str]:
    """Every spelling of every flag of a command -> the flag; a switch that is on by default has ``--no-`` before it."""
    found, own = {"--help": "--help"}, labels(settings)
    for each, label in zip(dataclasses.fields(settings), own, strict=True):
        if label.startswith("--"):
            names = [f"--no-{label[2:]}"] if each.default is True else names_of(label, own)
            found |= dict.fromkeys(names, label)
    return found


def as_declared(settings: type, words: Sequence[str]) -> list[str]:
    """The words, with each flag called as its command declares it."""
    known, found = spellings(settings), []
    for word in words:
        name, sign, value = word.partition("=")
        label = known.get(name.replace("_", "-"), name)
        found.append(word if label[2:] in name else f"{label}{sign}{value}")
    return found


def unknown(settings: type, words: Sequence[str]) -> str | None:
    """What to say of the first word that looks like a flag and is none; None where there is none."""
    known = [*spellings(settings)]
    for word, following in itertools.zip_longest(words, words[1:], fillvalue="--"):
        name = word.partition("=")[0]
        if name == "--":
            return None
        if name.startswith("--") and name.replace("_", "-") not in known:
            near = difflib.get_close_matches(name[2:], [each[2:] for each in known], 1)
            value = "" if following.startswith("--") else f" {following}"
            return f"unknown flag {word}{value}; {f'did you mean --{near[0]}?' if near else '--help lists the flags'}"
    return None
