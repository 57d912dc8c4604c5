"""``python -m analysis.variants RUN_DIR... --out FILE.csv``: learning curves of the algorithm's variants in one table.

Runs of one variant differ in nothing but their seed, and variants in nothing but what names them; anything else is
refused, because a comparison would mix two causes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from scipy import stats

from analysis.anchors import landed_anchors
from analysis.outputs import Output, files_of, mark_of
from analysis.run_table import table_of
from m3po.command_line import json_of, run
from m3po.config import Config
from m3po.flag_checks import Items, check_directory_of, check_fields
from m3po.run_directory import RunDirectory, meaning

# What may tell one run from another, besides where it lies and how its session was started.
VARIED = ("algorithm", "rollout_length", "history_length", "final_model_share")
NOT_IDENTITY = ("seed", "run_dir", "resume", "from_previous", "checkpoint_minutes")
NOT_COMPARED = (*VARIED, *NOT_IDENTITY)
BASELINES = {"pearl": "PEARL", "grbal": "L2A"}
MARK = mark_of("analysis.variants")
COLUMNS = ("return", "return_standard_error", "eps_m", "eps_m_mean", "eps_pi_mean")


@dataclass(frozen=True)
class VariantsConfig:
    """Collect the metrics of finished runs, of several variants with several seeds each, into one CSV; print the final
    evaluations (the last, not the best) with 95% Student intervals over seeds."""

    run_dirs: tyro.conf.Positional[Annotated[tuple[Path, ...], Items()]]
    """Finished run directories of m3po.train, all of one environment."""
    out: Path | None = None
    """Where to write the CSV; nowhere when not given."""
    overwrite: bool = False
    """Replace the file of --out even if this command did not write it; one that it wrote is replaced anyway."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory_of("out", self.out)


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
class Run:
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


def load(run_dirs: Sequence[Path]) -> list[Run]:
    """Read the runs, sorted by variant and seed.

    Raises:
        ValueError: when one is not finished, two are the same, or they differ in what does not name a variant.
    """
    directories = [RunDirectory.read(path) for path in run_dirs]
    first = asdict(directories[0].config)
    runs: dict[tuple[str, int], Run] = {}
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
        runs[key] = Run(*key, directory.commits, rows_of(directory, "return"))
    return [runs[key] for key in sorted(runs)]


def table(runs: Sequence[Run]) -> str:
    """The CSV."""
    lines = [
        [each.variant, each.seed, row["step"], *(f"{row[name]:.6g}" if name in row else "" for name in COLUMNS)]
        for each in runs
        for row in each.rows
    ]
    commits = [commit for each in runs for commit in each.commits]
    return table_of(MARK, commits, ["variant", "seed", "step", *COLUMNS], lines)


def student_interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and the ends of Student's interval for it, which supposes normal values; [S], S >= 2 for finite ends."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("-inf"), float("inf")
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The final evaluation of every variant."""
    variants: dict[str, dict[str, Any]] = {}
    for each in runs:
        entry = variants.setdefault(each.variant, {"seeds": [], "final_returns": [], "eps_m_mean": []})
        entry["seeds"].append(each.seed)
        entry["final_returns"].append(each.rows[-1]["return"])
        if "eps_m_mean" in each.rows[-1]:
            entry["eps_m_mean"].append(each.rows[-1]["eps_m_mean"])
    for entry in variants.values():
        finals = np.array(entry["final_returns"])
        entry["mean"], entry["lower"], entry["upper"] = student_interval(finals)
        entry["median"], entry["worst"] = float(np.median(finals)), float(finals.min())
    return {"steps": runs[0].rows[-1]["step"], "variants": variants}


def text(record: dict[str, Any], anchors: dict[str, float]) -> str:
    """The summary as a table, best mean first."""
    lines = [f"final evaluation after {record['steps']} steps; 95% Student intervals over seeds"]
    lines.append(f"  {'variant':<14}{'seeds':>6}{'mean':>8}{'interval':>19}{'median':>9}{'worst':>8}{'eps_m mean':>12}")
    for name, entry in sorted(record["variants"].items(), key=lambda item: -item[1]["mean"]):
        interval = f"[{entry['lower']:.1f}, {entry['upper']:.1f}]"
        error = f"{np.mean(entry['eps_m_mean']):.2f}" if entry["eps_m_mean"] else ""
        lines.append(
            f"  {name:<14}{len(entry['seeds']):>6}{entry['mean']:>8.1f}{interval:>19}{entry['median']:>9.1f}"
            f"{entry['worst']:>8.1f}{error:>12}"
        )
    lines += [f"  {name:<20}{value:>8.1f}" for name, value in anchors.items()]
    return "\n".join(lines)


def main(config: VariantsConfig) -> int:
    out = None
    if config.out is not None:
        out = Output("out", config.out, MARK, config.overwrite, files_of(*config.run_dirs)).check()
    runs = load(config.run_dirs)
    record = summary(runs)
    point_mass = RunDirectory.read(config.run_dirs[0]).config.env_id == "m3po/SwitchingPointMass-v0"
    anchors = landed_anchors() if point_mass else {}
    print(json_of(record) if config.as_json else text(record, anchors))
    if out is not None:
        out.write(table(runs))
        print(f"table: {out.path}", file=sys.stderr)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, VariantsConfig, arguments, prog="python -m analysis.variants")


if __name__ == "__main__":
    cli()
