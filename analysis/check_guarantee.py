"""``python -m analysis.check_guarantee RUN_DIR``: the measured return gap of a trained run against every bound."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from analysis.diagnostics.intervals import Ends
from analysis.guarantee.audit import CheckConfig, audit, check
from analysis.guarantee.figures import figure_output, write_figure
from analysis.guarantee.guarantee import DataPolicy, Guarantee, Uncertifiable
from analysis.guarantee.surrogates import text as surrogates_text
from m3po.command_line import json_of, run
from m3po.runs.run_directory import RunDirectory

__all__ = ["CheckConfig", "audit", "check", "text"]

MEANINGS: dict[DataPolicy, str] = {
    "current": "fresh data of the policy itself, policy divergence 0",
    "previous": "data of the policy one epoch ago",
}


def text(found: Guarantee | Uncertifiable) -> str:
    """What an audit found, as a person reads it."""
    horizon = found.returns.horizon
    lines = [
        f"{found.run_dir}: {found.env_id}, {found.steps} steps, k = {found.rollout_length}, "
        f"gamma = {found.returns.discount}, horizon {horizon}",
    ]
    if isinstance(found, Uncertifiable):
        lines += [*found.alone.lines(), f"verdict: {found.verdict} ({found.reason})"]
        return "\n".join([*lines, *surrogates_text(found.surrogates)])
    lines += [
        f"{found.episodes} fresh episodes per policy; all intervals of a data policy hold together with "
        + f"probability {found.confidence}",
        f"true return          {Ends.of(found.true_return)}   (discounted, {horizon} steps; should it "
        f"go on, up to {found.tail:.3f} more or less)",
    ]
    for name, part in found.by_data_policy.items():
        measured = part.estimates
        lines += [
            "",
            f"data policy: {name} ({MEANINGS[name]})",
            f"  eps_m {measured.largest_model_error} (largest over time), eps_pi at least "
            f"{measured.policy_divergence_sample_max:.3f}",
            *(f"  model return, {scheme:<32} {Ends.of(value)}" for scheme, value in measured.named_returns.items()),
            f"  {'bound':<18}{'rollouts':<16}{'reward':<9}{'discrepancy':>12}  "
            f"{'measured gap':<28}{'tightness':>9}  verdict",
        ]
        for row in part.checks:
            value = f"{row.discrepancy:.3f}" + ("*" if row.vacuous else " ")
            lines.append(
                f"  {row.name:<18}{row.scheme:<16}{'learned' if row.learned_reward else 'known':<9}"
                f"{value:>13} {row.gap!s:<28}{row.tightness:>9.3f}  {row.outcome}"
            )
    lines += [
        "",
        f"* vacuous: not below 99% of the gap that any model at all can have ({found.trivial:.3f} here)",
        *found.alone.lines(),
        found.conclusion(),
    ]
    return "\n".join(lines)


def main(config: CheckConfig) -> int:
    torch.set_num_threads(1)
    RunDirectory.read(config.run_dir)  # before anything is written there
    path = config.figure or config.run_dir / "guarantee.png"
    output = figure_output(path, config.run_dir, overwrite=config.overwrite)
    found = audit(config)
    print(json_of(found.record()) if config.as_json else text(found))
    if isinstance(found, Guarantee):
        write_figure(found, output)
        print(f"figure: {output.shown}", file=sys.stderr)
    return 1 if found.verdict == "violated" else 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CheckConfig, arguments, prog="python -m analysis.check_guarantee")


if __name__ == "__main__":
    cli()
