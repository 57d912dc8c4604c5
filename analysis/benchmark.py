"""``python -m analysis.benchmark``: speed of the training's inner loops, beside a plain reference and the machine's.

Everything is measured in one run on one machine, in turns: each contender is timed several times, alternating, and the
fastest round counts, so that other work on the machine disturbs the ratios little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.speed.contenders import BenchmarkConfig
from analysis.speed.memory import LARGEST
from analysis.speed.peers import Shapes
from analysis.speed.timing import benchmark
from analysis.speed.vector_steps import BODIES
from m3po.command_line import json_of, run


def text(report: dict[str, Any]) -> str:
    """The report for people."""
    updates, stepping, loop = report["updates"], report["stepping"]["per_second"], report["loop"]
    shapes = report["settings"]
    lines = [
        f"batch {shapes['batch_size']}, history {shapes['history_length']}, observation {shapes['observation_size']}, "
        f"action {shapes['action_size']}, GRU {shapes['context_size']}, {shapes['layers']} x {shapes['width']} units,"
        f" {shapes['ensemble_size']} members, {shapes['threads']} thread(s); "
        f"best matrix product {report['machine']['sgemm_gflops']:.0f} GFLOP/s, "
        f"copying {report['machine']['copied_gigabytes_per_second']:.0f} GB/s",
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
    lines += ["", *runs_text(report["runs"]), "", *peers_text(report["peers"], report["machine"]["sgemm_gflops"])]
    lines += ["", *vector_text(report["vector"], shapes["vector_envs"]), "", memory_text(report["memory"])]
    lines += [
        "",
        f"one epoch of {shapes['loop_steps']} steps, {loop['settings']['updates_per_step']} updates per step:",
    ]
    lines += [f"  {name:<18}{loop['seconds'][name]:8.2f} s{share:>7.1%}" for name, share in loop["share"].items()]
    lines.append(f"  other than updates, model training and environment: {loop['overhead_share']:.1%}")
    lines.append(f"  end to end: {loop['steps_per_second']:.2f} steps a second")
    return "\n".join(lines)


def runs_text(report: dict[str, Any]) -> list[str]:
    """Run-updates per second against R."""
    found = report["run_updates_per_second"]
    lines = [
        f"{'runs side by side: run-updates per second':<48}" + "".join(f"{f'R = {runs}':>9}" for runs in found["agent"])
    ]
    for name, label in (("agent", "  agent, encodings stored"), ("model", "  model, a gradient step of all members")):
        lines.append(f"{label:<48}" + "".join(f"{rate:>9.1f}" for rate in found[name].values()))
    return lines


def peers_text(report: dict[str, Any], gflops: float) -> list[str]:
    """Beside peers."""
    shapes = Shapes(**report["shapes"])
    lines = [
        f"memoryless, observation {shapes.observation}, action {shapes.action}, batch {shapes.batch}: per second"
        f"{'x peer':>12}{'of sgemm':>10}"
    ]
    for kind, label, work in (
        ("agent", f"soft actor-critic {shapes.layers} x {shapes.width}", shapes.agent_operations),
        (
            "ensemble",
            f"ensemble {shapes.members} x ({shapes.model_layers} x {shapes.model_width}), swish",
            shapes.ensemble_operations,
        ),
    ):
        for name, rate in report[kind].items():
            ratio = f"{report[kind]['ours'] / rate:.2f}" if name != "ours" else ""
            share = f"{rate * work / 1e9 / gflops:.0%}" if name == "ours" else ""
            lines.append(f"{f'{label}: {name}':<57}{rate:>9.1f}{ratio:>12}{share:>10}")
    return lines + [f"{name} is not measured: {why}" for name, why in report["missing"].items()]


def vector_text(report: dict[str, Any], count: int) -> list[str]:
    """Bodies side by side."""
    lines = [f"{f'{count} x {BODIES[0]}: steps per second':<48}{'':>12}{'of mj_step x threads':>23}"]
    return lines + [f"  {name:<46}{row['per_second']:>12,.0f}{row['share']:>23.2f}" for name, row in report.items()]


def memory_text(report: dict[str, Any]) -> str:
    """Of the protocol's samples."""
    size = report["bytes_per_sample"]
    return (
        f"D_env: {size:.0f} bytes a sample of {LARGEST[0]} observed coordinates; "
        f"12 runs of 200,000 samples: {12 * 200_000 * size / 2**30:.2f} GiB"
    )


def main(config: BenchmarkConfig) -> int:
    report = benchmark(config)
    print(json_of(report) if config.as_json else text(report))
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, BenchmarkConfig, arguments, prog="python -m analysis.benchmark")


if __name__ == "__main__":
    cli()
