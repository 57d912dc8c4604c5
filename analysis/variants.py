"""``python -m analysis.variants RUN_DIR... --out FILE.csv``: learning curves of the algorithm's variants in one table.

Runs of one variant differ in nothing but their seed, and variants in nothing but what names them; anything else is
refused, because a comparison would mix two causes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.flags.variants import VariantsConfig
from analysis.runs.anchors import committed_anchors
from analysis.runs.collection import CollectedRun, load
from analysis.runs.outputs import Output, files_of, mark_of
from analysis.runs.over_seeds import student_interval
from analysis.runs.run_table import table_of
from m3po.command_line import json_of, run
from m3po.runs.run_directory import RunDirectory

MARK = mark_of("analysis.variants")

COLUMNS = ("return", "return_standard_error", "eps_m", "eps_m_mean", "eps_pi_mean")


def table(runs: Sequence[CollectedRun]) -> str:
    """The CSV."""
    lines = [
        [each.variant, each.seed, row["step"], *(f"{row[name]:.6g}" if name in row else "" for name in COLUMNS)]
        for each in runs
        for row in each.rows
    ]
    commits = [commit for each in runs for commit in each.commits]
    return table_of(MARK, commits, ["variant", "seed", "step", *COLUMNS], lines)


def summary(runs: Sequence[CollectedRun]) -> dict[str, Any]:
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
    anchors = committed_anchors() if point_mass else {}
    print(json_of(record) if config.as_json else text(record, anchors))
    if out is not None:
        out.write(table(runs))
        print(f"table: {out.shown}", file=sys.stderr)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, VariantsConfig, arguments, prog="python -m analysis.variants")


if __name__ == "__main__":
    cli()
