"""``python -m analysis.comparison RUN_DIR... --out FILE.csv``: learning curves of algorithms, over environments.

Only runs of one protocol are put beside each other: what every algorithm reads must agree within an environment, and
runs of one algorithm may differ in nothing but their seed. M3PO-h, which the paper trains longest, may have more steps
than the others.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.flags.compare_algorithms import ComparisonConfig
from analysis.runs.collection import CollectedRun, algorithm_of, disagreement, rows_of
from analysis.runs.outputs import Output, files_of, mark_of
from analysis.runs.over_seeds import student_interval
from analysis.runs.run_table import table_of
from m3po.command_line import json_of, run
from m3po.runs.run_directory import RunDirectory

# What all algorithms read; histories may also be switched off, and M3PO-h trained longer.
MEASURED = ("return", "return_standard_error")

MARK = mark_of("analysis.comparison")


def load(run_dirs: Sequence[Path], *, unfinished: bool = False) -> dict[str, list[CollectedRun]]:
    """Environment -> its runs, sorted by algorithm and seed.

    Raises:
        ValueError: when a run is not finished (and must be), two are the same, or two are not of one protocol.
    """
    found: dict[str, dict[tuple[str, int], tuple[RunDirectory, CollectedRun]]] = {}
    for path in run_dirs:
        directory = RunDirectory.read(path)
        config = directory.config
        if not (directory.complete or unfinished):
            raise ValueError(f"{path} is not finished; --unfinished takes it as far as it is")
        each = CollectedRun(algorithm_of(config), config.seed, directory.commits, rows_of(directory, *MEASURED))
        others = found.setdefault(config.env_id, {})
        if (each.variant, each.seed) in others:
            raise ValueError(f"{path}: there are two runs of {each.variant} with seed {each.seed} in {config.env_id}")
        for other, known in others.values():
            name = disagreement(config, other.config, same=known.variant == each.variant)
            if name is not None:
                values = [getattr(settings, name) for settings in (config, other.config)]
                raise ValueError(f"{path} has {name}={values[0]}, {other.path} has {values[1]}")
        others[each.variant, each.seed] = directory, each
    return {env_id: [runs[key][1] for key in sorted(runs)] for env_id, runs in sorted(found.items())}


def table(environments: dict[str, list[CollectedRun]]) -> str:
    """The CSV."""
    lines = [
        [env_id, each.variant, each.seed, row["step"], *(f"{row[name]:.6g}" for name in MEASURED)]
        for env_id, runs in environments.items()
        for each in runs
        for row in each.rows
    ]
    commits = [commit for runs in environments.values() for each in runs for commit in each.commits]
    return table_of(MARK, commits, ["environment", "variant", "seed", "step", *MEASURED], lines)


def summary(environments: dict[str, list[CollectedRun]]) -> dict[str, Any]:
    """Environment -> algorithm -> seeds, steps and final returns, with mean and 95% Student interval over seeds.

    Of runs of one algorithm that are not equally far (unfinished ones) it is the last evaluation that all of them had.
    """
    record: dict[str, Any] = {}
    for env_id, runs in environments.items():
        entries = record.setdefault(env_id, {})
        for variant, group in itertools.groupby(runs, key=lambda each: each.variant):
            curves = {each.seed: {row["step"]: row["return"] for row in each.rows} for each in group}
            step = max(set.intersection(*(set(curve) for curve in curves.values())), default=None)
            if step is None:
                raise ValueError(f"runs of {variant} in {env_id} were never evaluated at the same step")
            entry: dict[str, Any] = {
                "seeds": list(curves),
                "steps": [step] * len(curves),
                "final_returns": [curve[step] for curve in curves.values()],
            }
            mean, lower, upper = student_interval(np.array(entry["final_returns"]))
            # One seed says nothing about others, and JSON has no infinity.
            interval = [lower, upper] if len(entry["seeds"]) > 1 else None
            entries[variant] = entry | {"mean": mean, "interval": interval}
    return record


def text(record: dict[str, Any]) -> str:
    """The summary as a table, best mean first."""
    lines = ["final evaluation (last, not best); 95% Student intervals over seeds"]
    for env_id, entries in record.items():
        lines.append(env_id)
        for name, entry in sorted(entries.items(), key=lambda item: -item[1]["mean"]):
            ends = entry["interval"]
            interval = f"[{ends[0]:.1f}, {ends[1]:.1f}]" if ends else ""
            finals = ", ".join(f"{value:.1f}" for value in entry["final_returns"])
            steps = "/".join(str(step) for step in sorted(set(entry["steps"])))
            lines.append(f"  {name:<14}{entry['mean']:>9.1f} {interval:<20} {steps} steps; seeds: {finals}")
    return "\n".join(lines)


def main(config: ComparisonConfig) -> int:
    out = None
    if config.out is not None:
        out = Output("out", config.out, MARK, config.overwrite, files_of(*config.run_dirs)).check()
    environments = load(config.run_dirs, unfinished=config.unfinished)
    record = summary(environments)
    print(json_of(record) if config.as_json else text(record))
    if out is not None:
        out.write(table(environments))
        print(f"table: {out.shown}", file=sys.stderr)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, ComparisonConfig, arguments, prog="python -m analysis.comparison")


if __name__ == "__main__":
    cli()
