"""``python -m analysis.certify_mujoco``: a return certified on MuJoCo, where the environment has no density.

Episodes of two mildly exploring policies certify a third one near them by rewards and log densities of actions alone; a
policy far from them is honestly not certifiable. docs/certify.md shows what it prints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from analysis.studies.certify_mujoco import DISCOUNT, MujocoConfig, MujocoRow, measure
from m3po.command_line import json_of, run


def text(rows: list[MujocoRow], config: MujocoConfig) -> str:
    """One block per policy and environment."""
    lines = [f"{config.episodes} episodes of {config.horizon} steps, discount {DISCOUNT}, seed {config.seed}"]
    for row in rows:
        report, where = row.report, "near" if row.policy == "near" else "far from"
        lines += [
            "",
            f"{row.environment}, a policy {where} the data's (TV {row.total_variation:.3f} per step)",
            f"  {report.verdict}: {report.reason}",
            f"  least possible {report.trivial:.4g}, true {row.truth[0]:.4g} (standard error {row.truth[1]:.2g}); "
            f"{100 * row.share:.0f}% of the way is certain",
        ]
        for each in report.lower_bounds:
            if each.value is not None:
                worth = f"{each.effective_sample_size:.0f}" if each.effective_sample_size is not None else "all"
                lines.append(f"    {each.name:<19}{each.value:>9.4g}  ({worth} episodes worth)")
    return "\n".join(lines)


def main(config: MujocoConfig) -> int:
    """Print what was found; 1 where not half of the near policy's return is certain, or a bound exceeds the truth."""
    rows = measure(config)
    print(json_of([dataclasses.asdict(row) for row in rows]) if config.as_json else text(rows, config))
    near_certain = all(row.share > 0.5 for row in rows if row.policy == "near")
    true = all((row.report.lower_bound or 0.0) <= row.truth[0] + 4 * row.truth[1] for row in rows)
    return 0 if near_certain and true else 1


def cli(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits."""
    run(main, MujocoConfig, arguments, prog="python -m analysis.certify_mujoco")


if __name__ == "__main__":
    cli()
