"""``python -m analysis.benchmark``: speed of the training's inner loops, beside a plain reference and the machine's.

Everything is measured in one run on one machine, in turns: each contender is timed several times, alternating, and the
fastest round counts, so that other work on the machine disturbs the ratios little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.speed.contenders import BenchmarkConfig
from analysis.speed.timing import benchmark
from m3po.command_line import json_of, run


def text(report: dict[str, Any]) -> str:
    """The report for people."""
    updates, stepping, loop = report["updates"], report["stepping"]["per_second"], report["loop"]
    shapes = report["settings"]
    lines = [
        f"batch {shapes['batch_size']}, history {shapes['history_length']}, observation {shapes['observation_size']}, "
        f"action {shapes['action_size']}, GRU {shapes['context_size']}, {shapes['layers']} x {shapes['width']} units,"
        f" {shapes['ensemble_size']} members, {shapes['threads']} thread(s); "
        f"best matrix product {report['machine']['sgemm_gflops']:.0f} GFLOP/s",
        "",
        f"{'':<48}{'per second':>12}{'x reference':>13}{'of sgemm':>10}",
    ]

    def line(label: str, value: float, ratio: float | None = None, share: float | None = None) -> None:
        shown = f"{value:>12,.0f}" if value >= 1000 else f"{value:>12.1f}"
        lines.append(
            f"{label:<48}{shown}{f'{ratio:.2f}' if ratio is not None else '':>13}"
            f"{f'{share:.0%}' if share is not None else '':>10}"
        )

    for name, label in (("own encoder", "encoder trained by the critics"), ("model's encoder", "encodings stored")):
        line(
            f"gradient updates, {label}", updates["per_second"][name], updates["times_reference"][name],
            updates["share_of_sgemm"][name],
        )  # fmt: skip
    line("  reference: five encoders, Adam per network", updates["per_second"]["reference"], 1.0)
    for key, label, reference in (
        ("rollouts", "model rollouts, transitions", "one rollout at a time"),
        ("model_training", "model training, samples", "a loop over members"),
    ):
        line(label, report[key]["per_second"]["ours"], report[key]["times_reference"])
        line(f"  reference: {reference}", report[key]["per_second"]["reference"], 1.0)
    line(f"steps of {shapes['env_id']}: raw mujoco", stepping["mujoco"])
    line("  gymnasium", stepping["gymnasium"])
    line("  collected by the policy into D_env", stepping["collected"])
    lines += [
        "",
        f"one epoch of {shapes['loop_steps']} steps, {loop['settings']['updates_per_step']} updates per step:",
    ]
    lines += [f"  {name:<18}{loop['seconds'][name]:8.2f} s{share:>7.1%}" for name, share in loop["share"].items()]
    lines.append(f"  other than updates, model training and environment: {loop['overhead_share']:.1%}")
    return "\n".join(lines)


def main(config: BenchmarkConfig) -> int:
    report = benchmark(config)
    print(json_of(report) if config.as_json else text(report))
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, BenchmarkConfig, arguments, prog="python -m analysis.benchmark")


if __name__ == "__main__":
    cli()
