"""The flags of ``python -m m3po.train``: ``--preset`` stands for many, and ``--help`` shows those of an algorithm."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from m3po.command_line import parse
from m3po.config import Config, blocks_of
from m3po.flag_checks import flag
from m3po.presets import preset_values
from m3po.settings import RunSettings


@dataclass(frozen=True)
class _Preset:
    preset: Literal["demo", "cheetah", "paper"] | None = None
    """demo is what make demo trains, cheetah the runs of docs/baselines.md, paper the paper's protocol; flags that are
    given as well have the last word."""


@dataclass(frozen=True)
class _RunFlags(_Preset, RunSettings):
    """What is trained, on what, and where everything about it goes."""


@dataclass(frozen=True)
class TrainingFlags(_Preset, Config):
    """Every flag of a training."""


def expanded(arguments: Sequence[str], prog: str) -> list[str]:
    """The arguments with the flags of ``--preset`` in its place; all others come after them, and so overrule them.

    Raises:
        ValueError: when there is no such preset, or two are given.
        SystemExit: code 0, after ``--help``.
    """
    presets, others = _apart(arguments, "preset")
    algorithm = [Config.algorithm, *_apart(others, "algorithm")[0]][-1]
    if not {"-h", "--help"}.isdisjoint(others) and blocks_of(algorithm):
        parse(_help_of(algorithm), ["--help"], prog=prog, flat=True)
    if len(presets) > 1:
        raise ValueError(f"--preset can be given once, got {' and '.join(presets)}")
    values = preset_values(presets[0], algorithm) if presets else {}
    return [word for name, value in values.items() for word in (flag(name), str(value))] + others


def _apart(arguments: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """The values of one flag, and all other words."""
    values, others, words = [], [], iter(arguments)
    for word in words:
        if word == flag(name):
            values.append(next(words, ""))
        elif word.startswith(flag(name) + "="):
            values.append(word.partition("=")[2])
        else:
            others.append(word)
    return values, others


def _help_of(algorithm: str) -> type:
    """A dataclass of the blocks that an algorithm reads, each a group of the help."""
    blocks = [_RunFlags if block is RunSettings else block for block in blocks_of(algorithm)]
    names = [block.__name__.strip("_").removesuffix("Settings").removesuffix("Flags").lower() for block in blocks]
    view = dataclasses.make_dataclass("Flags", zip(names, blocks, strict=True))
    view.__doc__ = (
        "Train M3PO (Algorithm 2 of Hiraoka et al. 2021), or PEARL or GrBAL beside it.\n\n"
        f"The flags that {algorithm} reads. Those of the others: --algorithm NAME --help"
    )
    return view
