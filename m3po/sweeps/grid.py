"""A grid of trainings, written in TOML, expanded into named runs whose every setting is checked before one starts.

    seeds = [0, 1, 2]
    preset = "demo"                            # left out: the defaults of m3po.config.Config
    total_steps = 3000                         # of every run: any field of m3po.config.Config, and cpus, gpus, retries,
                                               # seeds_per_task

    [[environments]]                           # left out: one environment, with the settings above
    env_id = "m3po/SwitchingPointMass-v0"
    env_options = { observe_reward = true }    # any of those settings again, for this environment

    [[variants]]
    name = "k3"
    rollout_length = 3                         # ... and for this variant, which has the last word

Runs are environments x algorithms x variants x seeds and are called ``environment/variant/seed-N``. Each is a task of
its own, or up to ``seeds_per_task`` seeds of one environment and variant train side by side in one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from m3po.config import Config
from m3po.presets import preset_values
from m3po.runs.files import read_regular

# What the sweep sets itself, and what is said once for all.
_NOT_SETTINGS = {
    "run_dir": "the sweep names the run directories",
    "resume": "the sweep resumes what is unfinished",
    "from_previous": "it belongs to a single run of m3po.train",
    "seed": "write seeds = [...] at the top",
    "seeds": "they stand at the top, for all runs",
}

SWEEP_ID = "sweep_id"  # a file beside the environments' folders; see worker.directory_id

_AXES = ("seeds", "preset", "algorithms", "environments", "variants")

_HINTS = {name: hint for name, hint in get_type_hints(Config).items() if name not in _NOT_SETTINGS}

_RESOURCES: dict[str, Any] = {"cpus": float, "gpus": float, "retries": int, "seeds_per_task": int}

_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


@dataclass(frozen=True)
class GridRun:
    """One training of a sweep.

    Attributes:
        name: ``environment/variant/seed-N``, which is also its place below the sweep's directory.
        config: its settings, as ``m3po.train`` would start it; never with ``resume``.
        cpus, gpus: what its task keeps others from using while it runs, >= 0; a share of a GPU is a number below 1.
        retries: how often in a row its task may be lost without having come any further, >= 0.
        seeds_per_task: with how many seeds of its environment and variant it may share a task, itself counted, >= 1.
    """

    name: str
    config: Config
    cpus: float
    gpus: float
    retries: int
    seeds_per_task: int = 1

    @property
    def cell(self) -> str:
        """``environment/variant``."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True)
class _Part:
    """One value of one axis: what it is called in names and in messages, and what it sets."""

    name: str
    title: str
    settings: Mapping[str, Any]
    only: tuple[str, ...] | None = None  # names of environments; None is all


def read_grid(file: Path, out: Path) -> list[GridRun]:
    """The runs of the grid in ``file``, with run directories below ``out``; all runs of the first seed come first.

    Raises:
        ValueError: names what is wrong, and where, in one line.
    """
    try:
        grid = tomllib.loads(read_regular(file).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not TOML: {error}") from error
    try:
        return expand(grid, out)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def expand(grid: Mapping[str, Any], out: Path) -> list[GridRun]:
    """What ``read_grid`` does, from the parsed TOML.

    Raises:
        ValueError: names what is wrong.
    """
    common = _settings({name: value for name, value in grid.items() if name not in _AXES}, "top level", extra=_AXES)
    if "preset" in grid:
        preset = grid["preset"]
        _values_of(preset, Config.algorithm)
        common = {"preset": preset, **common}
    seeds = _seeds(grid)
    environments = _environments(grid, common)
    variants = _variants(grid, common, [environment.name for environment in environments])
    runs = [
        _run(common, environment, variant, seed, out)
        for seed in seeds
        for environment in environments
        for variant in variants
        if variant.only is None or environment.name in variant.only
    ]
    twins: dict[str, str] = {}
    for run in runs:
        settings = json.dumps(dataclasses.asdict(run.config) | {"run_dir": ""}, sort_keys=True)
        if settings in twins:
            raise ValueError(f"{twins[settings]} and {run.name} are the same training")
        twins[settings] = run.name
    return runs


def _values_of(preset: object, algorithm: str) -> dict[str, Any]:
    try:
        return {} if preset is None else preset_values(str(preset), algorithm)
    except ValueError as error:
        raise ValueError(str(error).replace("--preset", "preset", 1)) from error


def _seeds(grid: Mapping[str, Any]) -> list[int]:
    seeds = grid.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"seeds must be a list of whole numbers, such as [0, 1, 2], got {seeds!r}")
    _no_repeats("seeds", seeds)
    return seeds


def _environments(grid: Mapping[str, Any], common: Mapping[str, Any]) -> list[_Part]:
    default = _values_of(common.get("preset"), Config.algorithm).get("env_id", Config.env_id)
    parts = []
    for table in _tables(grid, "environments") or [{}]:
        env_id = table.get("env_id", common.get("env_id", default))
        if not isinstance(env_id, str):
            raise ValueError(f"[[environments]]: env_id must be a string, got {env_id!r}")
        name = _name(table.get("name", re.sub(r"^.*/|-v\d+$", "", env_id)), "[[environments]]")
        title = f"[[environments]] {name!r}"
        parts.append(_Part(name, title, _settings(_without(table, "name"), title, extra=("name",))))
    for part in parts:
        if part.name.lower().split(".")[0] == SWEEP_ID:
            raise ValueError(f"[[environments]]: the name {part.name!r} is that of a file of the sweep itself")
    _no_repeats("[[environments]]: name", [part.name for part in parts])
    return parts


def _variants(grid: Mapping[str, Any], common: Mapping[str, Any], environments: Sequence[str]) -> list[_Part]:
    """Every variant with its algorithm: its own, or else each of ``algorithms``."""
    algorithms = grid.get("algorithms")
    if algorithms is not None:
        if "algorithm" in common:
            raise ValueError("say either algorithm or algorithms at the top, not both")
        if not isinstance(algorithms, list) or not algorithms:
            raise ValueError(f"algorithms must be a list of names, got {algorithms!r}")
        for algorithm in algorithms:
            _checked("algorithm", algorithm, _HINTS["algorithm"], "algorithms")
        _no_repeats("algorithms", algorithms)
    parts = []
    for table in _tables(grid, "variants"):
        if "name" not in table:
            raise ValueError("[[variants]]: each needs a name")
        name = _name(table["name"], "[[variants]]")
        title = f"[[variants]] {name!r}"
        settings = _settings(_without(table, "name", "environments"), title, extra=("name", "environments"))
        only = _only(table, title, environments)
        if algorithms is None or "algorithm" in settings:
            parts.append(_Part(name, title, settings, only))
        else:
            parts += [_Part(f"{each}-{name}", title, {**settings, "algorithm": each}, only) for each in algorithms]
    if not parts:
        names = [common.get("algorithm", Config.algorithm)] if algorithms is None else algorithms
        parts = [_Part(each, "algorithms", {"algorithm": each}) for each in names]
    _no_repeats("[[variants]]: name", [part.name for part in parts])
    return parts


def _only(table: Mapping[str, Any], title: str, environments: Sequence[str]) -> tuple[str, ...] | None:
    if "environments" not in table:
        return None
    names = table["environments"]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{title}: environments must be a list of names, got {names!r}")
    for name in names:
        if name not in environments:
            raise ValueError(f"{title}: there is no environment {name!r}, only {', '.join(environments)}")
    return tuple(names)


def _tables(grid: Mapping[str, Any], axis: str) -> list[dict[str, Any]]:
    tables = grid.get(axis, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{axis} must be tables, each under [[{axis}]]")
    return tables


def _without(table: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in names}


def _name(name: object, where: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]*", name):
        raise ValueError(f"{where}: a name is made of letters, digits and ._=+- (it becomes a folder), got {name!r}")
    return name


def _no_repeats(what: str, values: Sequence[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{what} has {value!r} twice")


def _settings(table: Mapping[str, Any], where: str, *, extra: Sequence[str]) -> dict[str, Any]:
    """The table with every value checked against the type of its field."""
    known = {**_HINTS, **_RESOURCES}
    settings = {}
    for name, value in table.items():
        if name in _NOT_SETTINGS:
            raise ValueError(f"{where}: {name} cannot be set here: {_NOT_SETTINGS[name]}")
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *extra], 1)
            raise ValueError(f"{where}: unknown setting {name}" + (f", did you mean {near[0]}?" if near else ""))
        settings[name] = _checked(name, value, known[name], where)
    return settings


def _checked(name: str, value: Any, hint: Any, where: str) -> Any:
    """``value`` as the field's own type. A whole number given for a float becomes one: checkpoints tell 1 from 1.0."""
    if name == "env_options" and isinstance(value, dict):
        try:
            return json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{where}: env_options must be what JSON can say: {error}") from error
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{where}: {name} must be one of {', '.join(get_args(hint))}, got {value!r}")
        return value
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    if type(value) in kinds:
        return value
    if type(value) is int and float in kinds:
        with contextlib.suppress(OverflowError):
            return float(value)
    raise ValueError(f"{where}: {name} must be {_KINDS[kinds[0]]}, got {value!r}")


def _run(common: Mapping[str, Any], environment: _Part, variant: _Part, seed: int, out: Path) -> GridRun:
    name = f"{environment.name}/{variant.name}/seed-{seed}"
    settings = {**common, **environment.settings, **variant.settings}
    preset = settings.pop("preset", None)
    given = settings
    settings = _values_of(preset, settings.get("algorithm", Config.algorithm)) | settings
    resources = {each: settings.pop(each) for each in _RESOURCES if each in settings}
    threads = settings.get("threads", Config.threads)
    cpus, gpus = resources.get("cpus", float(threads)), resources.get("gpus", 0.0)
    retries, seeds_per_task = resources.get("retries", 3), resources.get("seeds_per_task", 1)
    for each, value in (("cpus", cpus), ("gpus", gpus), ("retries", retries)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: {each} must be a finite number >= 0, got {value}")
    if seeds_per_task < 1:
        raise ValueError(f"{name}: seeds_per_task must be >= 1, got {seeds_per_task}")
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"{name}: gpus must be a whole number or a share below 1, got {gpus}")
    device = given.get("device", Config.device)
    if device == "cuda" and gpus == 0:
        raise ValueError(f"{name}: device is cuda and gpus is 0; say how many GPUs, or which share of one, it takes")
    if device == "cpu" and gpus > 0:
        raise ValueError(f"{name}: gpus is {gpus:g} and device is cpu")
    # "auto" would let the node that a run happens to land on decide, and a retry elsewhere would be another run.
    settings["device"] = "cuda" if gpus > 0 else "cpu"
    try:
        config = Config(run_dir=out / name, seed=seed, **settings)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return GridRun(name, config, cpus, gpus, retries, seeds_per_task)


def packed(runs: Sequence[GridRun]) -> list[list[GridRun]]:
    """The runs of each task, at most ``seeds_per_task`` of one cell; the task of the first run comes first."""
    tasks: list[list[GridRun]] = []
    last: dict[str, list[GridRun]] = {}  # of each cell
    for run in runs:
        task = last.get(run.cell, [])
        if not 0 < len(task) < run.seeds_per_task:
            task = last[run.cell] = []
            tasks.append(task)
        task.append(run)
    return tasks


def check_environments(runs: Sequence[GridRun]) -> None:
    """Build every environment once, with its options.

    Raises:
        ValueError: names the first run whose environment cannot be built.
    """
    from m3po.foreign.trial import (
        try_environment,  # torch and mujoco: seconds that a mistake in the grid need not wait for
    )

    built = set()
    for run in runs:
        key = (run.config.env_id, run.config.env_options, run.config.algorithm)
        if key not in built:
            try:
                try_environment(run.config)
            except ValueError as error:
                raise ValueError(f"{run.name}: {error}") from error
            built.add(key)
