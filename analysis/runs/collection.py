"""Runs of one protocol collected from their directories: what identifies a variant, and what may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m3po.config import Config, blocks_of, fields_of
from m3po.runs.run_directory import RunDirectory, meaning

PROTOCOL = ("env_options", "total_steps", "initial_random_steps", "width", "layers", "history_length")


def reads(config: Config, name: str) -> bool:
    """Whether a run with this configuration reads the setting at all."""
    return name not in VARYING_SETTINGS and name in fields_of(*blocks_of(config.algorithm))


def disagreement(one: Config, other: Config, *, same: bool) -> str | None:
    """The first setting that keeps two runs from standing beside each other; ``same``: they are of one algorithm."""
    names = [name for name in asdict(one) if reads(one, name)] if same else PROTOCOL
    allowed = set()
    if not same and 0 in (one.history_length, other.history_length):
        allowed.add("history_length")
    if not same and "m3po-h" in (one.algorithm, other.algorithm):
        allowed.add("total_steps")
    for name in names:
        if name not in allowed and meaning(name, getattr(one, name)) != meaning(name, getattr(other, name)):
            return name
    return None


# What may tell one run from another, besides where it lies and how its session was started.
VARIED = ("algorithm", "rollout_length", "history_length", "final_model_share")

VARYING_SETTINGS = ("seed", "run_dir", "resume", "from_previous", "checkpoint_minutes")

NOT_COMPARED = (*VARIED, *VARYING_SETTINGS)

BASELINES = {"pearl": "PEARL", "grbal": "L2A"}


def algorithm_of(config: Config) -> str:
    """As ``name_of``, with M3PO's name before its k or ``Full``."""
    name = name_of(config)
    return f"M3PO {name}" if name[:2] == "k=" or name == "Full" else name


def name_of(config: Config) -> str:
    """What the paper calls the variant: ``k=1``, ``Full``, ``M3PO-h``, ``memoryless`` or a baseline's name."""
    if config.algorithm in BASELINES:
        return BASELINES[config.algorithm]
    if config.history_length == 0:
        return "memoryless" + ("" if config.rollout_length == 1 else f" k={config.rollout_length}")
    if config.algorithm == "m3po-full":
        return "Full"
    k = f"k={config.rollout_length}"
    return k if config.algorithm == "m3po" else "M3PO-h" + ("" if config.rollout_length == 1 else f" {k}")


@dataclass(frozen=True)
class CollectedRun:
    """One finished run: its variant, its seed, the commits it was made with, and the rows of its metrics."""

    variant: str
    seed: int
    commits: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


def rows_of(directory: RunDirectory, *needed: str) -> tuple[dict[str, Any], ...]:
    """The rows of a run's metrics, all of which have what is needed.

    Raises:
        ValueError: when there are none, or one lacks it.
    """
    rows = tuple(directory.metrics())
    if not rows:
        raise ValueError(f"{directory.path} has no metrics yet")
    for row in rows:
        missing = [name for name in needed if name not in row]
        if missing:
            raise ValueError(f"{directory.path} has no {missing[0]!r} at step {row['step']}")
    return rows


def load(run_dirs: Sequence[Path]) -> list[CollectedRun]:
    """Read the runs, sorted by variant and seed.

    Raises:
        ValueError: when one is not finished, two are the same, or they differ in what does not name a variant.
    """
    directories = [RunDirectory.read(path) for path in run_dirs]
    first = asdict(directories[0].config)
    runs: dict[tuple[str, int], CollectedRun] = {}
    for directory in directories:
        settings = asdict(directory.config)
        for name, value in settings.items():
            if name not in NOT_COMPARED and meaning(name, value) != meaning(name, first[name]):
                raise ValueError(f"{directory.path} has {name}={value}, {directories[0].path} has {first[name]}")
        if not directory.complete:
            raise ValueError(f"{directory.path} is not finished")
        key = name_of(directory.config), directory.config.seed
        if key in runs:
            raise ValueError(f"{directory.path}: there are two runs of {key[0]} with seed {key[1]}")
        runs[key] = CollectedRun(*key, directory.commits, rows_of(directory, "return"))
    return [runs[key] for key in sorted(runs)]
