"""``python -m analysis.check_guarantee RUN_DIR``: the measured return gap of a trained run against every bound."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from analysis.diagnostics.intervals import span
from analysis.diagnostics.surrogates import text as surrogates_text
from analysis.guarantee.audit import CheckConfig, check, conclusion
from analysis.guarantee.figures import figure_output, write_figure
from m3po.command_line import json_of, run
from m3po.runs.run_directory import RunDirectory


def text(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [
        f"{report['run_dir']}: {report['env_id']}, {report['steps']} steps, k = {report['k']}, "
        f"gamma = {report['gamma']}, horizon {report['horizon']}",
    ]
    if not report["data_policies"]:
        return "\n".join(
            [*lines, f"verdict: {report['verdict']} ({report['reason']})", *surrogates_text(report["surrogates"])]
        )
    lines += [
        f"{report['episodes']} fresh episodes per policy; all intervals of a data policy hold together with "
        + f"probability {report['confidence']}",
        f"true return          {span(report['true_return'])}   (discounted, {report['horizon']} steps; should it "
        f"go on, up to {report['tail_if_the_process_went_on']:.3f} more or less)",
    ]
    for name, part in report["data_policies"].items():
        meaning = {
            "current": "fresh data of the policy itself, policy divergence 0",
            "previous": "data of the policy one epoch ago",
        }[name]
        lines += [
            "",
            f"data policy: {name} ({meaning})",
            f"  eps_m {span(part['eps_m'])} (largest over time), eps_pi at least {part['eps_pi_sample_max']:.3f}",
            *(f"  model return, {scheme:<32} {span(value)}" for scheme, value in part["model_returns"].items()),
            f"  {'bound':<18}{'rollouts':<16}{'reward':<9}{'discrepancy':>12}  "
            f"{'measured gap':<28}{'tightness':>9}  verdict",
        ]
        for row in part["checks"]:
            value = f"{row['discrepancy']:.3f}" + ("*" if row["vacuous"] else " ")
            lines.append(
                f"  {row['name']:<18}{row['scheme']:<16}{'learned' if row['learned_reward'] else 'known':<9}"
                f"{value:>13} {span(row['gap']):<28}{row['tightness']:>9.3f}  "
                + (f"{row['verdict']}, vacuously" if row["vacuous"] and row["verdict"] == "holds" else row["verdict"])
            )
    lines += [
        "",
        f"* vacuous: not below 99% of the gap that any model at all can have ({report['trivial']:.3f} here)",
        conclusion(report),
    ]
    return "\n".join(lines)


def main(config: CheckConfig) -> int:
    torch.set_num_threads(1)
    RunDirectory.read(config.run_dir)  # before anything is written there
    path = config.figure or config.run_dir / "guarantee.png"
    output = figure_output(path, config.run_dir, overwrite=config.overwrite)
    report = check(config)
    print(json_of(report) if config.as_json else text(report))
    if report["data_policies"]:
        write_figure(report, output)
        print(f"figure: {output.shown}", file=sys.stderr)
    return 1 if report["verdict"] == "violated" else 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CheckConfig, arguments, prog="python -m analysis.check_guarantee")


if __name__ == "__main__":
    cli()
