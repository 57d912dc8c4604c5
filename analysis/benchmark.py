"""``python -m analysis.benchmark``: speed of the training's inner loops, beside a plain reference and the machine's.

Everything is measured in one run on one machine, in turns: each contender is timed several times, alternating, and the
fastest round counts, so that other work on the machine disturbs the ratios little.
"""

from __future__ import annotations

import dataclasses
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import mujoco
import torch
import tyro
from tqdm import tqdm

from analysis.plain_reference import PlainActorCritic, PlainBatch, PlainEnsemble
from m3po.allocation import keep_freed_memory
from m3po.command_line import json_of, run
from m3po.config import Config
from m3po.context_encoder import ContextEncoder
from m3po.evaluate import make_environment
from m3po.flag_checks import Count, Members, Steps, Threads, Units, Within, check_fields
from m3po.model import EnsembleModel
from m3po.model_training import train_model
from m3po.networks import StackedMLP
from m3po.policy import GaussianPolicy, HistoryPolicy
from m3po.replay_buffer import EnvironmentBuffer
from m3po.rollout import model_steps
from m3po.sac import SoftActorCritic, SoftActorCriticSettings
from m3po.train import Training, choose_device
from m3po.types import Segments, Transitions

ROUNDS = 5


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure gradient updates, model rollouts, model training and environment steps per second, each beside a
    straightforward implementation of the same on the same shapes, and the machine's own limits."""

    batch_size: Count = 256
    """Transitions per update and per gradient step of the model."""
    history_length: Annotated[int, Within(1, 10**4)] = 10
    """L."""
    observation_size: Units = 18
    """O; with the action size, that of HalfCheetah with an observed reward."""
    action_size: Units = 6
    """A."""
    context_size: Units = 64
    """Hidden units of the GRU."""
    width: Units = 256
    """Units per hidden layer."""
    layers: Annotated[int, Within(1, 100)] = 2
    """Hidden layers."""
    ensemble_size: Members = 5
    """B."""
    rollouts: Count = 1000
    """Model rollouts per batch."""
    rollout_length: Steps = 1
    """k."""
    env_id: str = "HalfCheetah-v5"
    """MuJoCo environment for stepping and for the loop's split of time."""
    loop_steps: Steps = 200
    """Real steps of the loop whose time is split, after 300 random ones."""
    seconds: Annotated[float, Within(0, 3600, without=(0, 3600))] = 1.0
    """Time per contender and round; five rounds, the fastest counts."""
    threads: Threads = 1
    """CPU threads for torch."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where our side runs; the reference stays on the CPU."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of the report."""

    def __post_init__(self) -> None:
        check_fields(self)


def rates(contenders: Mapping[str, Callable[[], object]], seconds: float, progress: tqdm[Any]) -> dict[str, float]:
    """Calls per second of each function, its fastest of ``ROUNDS`` alternating rounds."""
    best = dict.fromkeys(contenders, 0.0)
    for function in contenders.values():
        function()
    for _ in range(ROUNDS):
        for name, function in contenders.items():
            calls, began = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - began < seconds:
                function()
                calls += 1
            best[name] = max(best[name], calls / (time.perf_counter() - began))
        progress.update()
    return best


def synchronised(function: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """``function``, returning only when the device has done its work."""

    def call() -> None:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call


def mlp_operations(inputs: int, width: int, layers: int, outputs: int) -> list[float]:
    """Floating-point operations per row of each matrix product of a gated network."""
    sizes = [inputs] + [width] * layers
    hidden = [2.0 * a * 2 * b for a, b in pairwise(sizes)]
    return [*hidden, 2.0 * sizes[-1] * outputs]


def update_operations(config: BenchmarkConfig, *, own_encoder: bool) -> float:
    """Operations of the matrix products that one soft actor-critic update cannot do without.

    A network costs once its products forward, once more for its weights' gradients and once for its inputs'; the
    gradient of what nobody trains is not needed. With its own encoder the update scans both windows and learns through
    the first; tokens are embedded once.
    """
    observation, action, steps = config.observation_size, config.action_size, config.history_length
    context = config.context_size
    features = observation + context
    critic = mlp_operations(features + action, config.width, config.layers, 1)
    policy = mlp_operations(features, config.width, config.layers, 2 * action)
    first = critic[0] / (features + action)  # per input of the first layer
    critics_learn = 2 * (2 * sum(critic) + sum(critic[1:])) + (2 * first * context if own_encoder else 0)
    targets = 2 * sum(critic) + sum(policy)
    policy_learns = 2 * sum(policy) + sum(policy[1:]) + 2 * (sum(critic) + sum(critic[1:]) + first * action)
    total = critics_learn + targets + policy_learns
    if own_encoder:
        embed, gates, recurrence = 2.0 * (2 * observation + action) * 2 * context, 6.0 * context**2, 6.0 * context**2
        forward = (steps + 1) * (embed + gates) + 2 * steps * recurrence
        total += forward + steps * (embed + 2 * gates + 2 * recurrence)
    return config.batch_size * total


@dataclass(frozen=True)
class Parts:
    """Our networks and random data of the benchmark's shapes."""

    encoder: ContextEncoder
    model: EnsembleModel
    agents: dict[str, SoftActorCritic]
    segments: Segments
    transitions: Transitions
    buffer: EnvironmentBuffer
    generator: torch.Generator


def build(config: BenchmarkConfig, device: torch.device) -> Parts:
    """Everything ours that is timed."""
    torch.manual_seed(0)
    observation_size, action_size = config.observation_size, config.action_size
    sizes = (observation_size, action_size, config.history_length, config.context_size)
    encoder = ContextEncoder(*sizes).to(device)
    model = EnsembleModel(encoder, action_size, config.ensemble_size, config.width, config.layers).to(device)
    settings = SoftActorCriticSettings(0.99, 0.005, -float(action_size), 3e-4)
    agents = {}
    for name, own in (("own encoder", ContextEncoder(*sizes).to(device)), ("model's encoder", None)):
        policy = GaussianPolicy(encoder.feature_size, action_size, config.width, config.layers).to(device)
        critics = StackedMLP(2, encoder.feature_size + action_size, config.width, config.layers, 1).to(device)
        agents[name] = SoftActorCritic(policy, critics, settings, 0.1, own)
    buffer = EnvironmentBuffer(
        5000,
        observation_size,
        action_size,
        history_length=config.history_length,
        members=config.ensemble_size,
        holdout=0.1,
        device=device,
    )
    draws = torch.Generator().manual_seed(1)
    observations = torch.randn(5001, observation_size, generator=draws).to(device)
    actions = (2 * torch.rand(5000, action_size, generator=draws) - 1).to(device)
    for index in range(5000):
        buffer.add(
            observations[index],
            actions[index],
            float(index % 7),
            observations[index + 1],
            terminated=False,
            starts_episode=index % 500 == 0,
            generator=draws,
        )
    segments = buffer.segments(torch.arange(100, 100 + config.batch_size, device=device) % 5000)
    with torch.no_grad():
        transitions = encoder.transitions(segments)
    return Parts(encoder, model, agents, segments, transitions, buffer, torch.Generator(device).manual_seed(2))


def measure_updates(config: BenchmarkConfig, parts: Parts, device: torch.device, progress: tqdm[Any]) -> dict[str, Any]:
    """Gradient updates per second: with an encoder of its own, with stored encodings, and the reference."""
    plain = PlainActorCritic(
        config.observation_size, config.action_size, config.context_size, config.width, config.layers,
        discount=0.99, target_rate=0.005, target_entropy=-float(config.action_size), learning_rate=3e-4,
        temperature=0.1,
    )  # fmt: skip
    on_cpu = Segments(**{name: value.cpu() for name, value in vars(parts.segments).items()})
    batch = PlainBatch.of(on_cpu, config.observation_size)
    noise = torch.Generator().manual_seed(0)
    shape = (2, config.batch_size, config.action_size)
    own, stored = parts.agents["own encoder"], parts.agents["model's encoder"]
    found = rates(
        {
            "own encoder": synchronised(lambda: own.update(parts.segments, parts.generator), device),
            "model's encoder": synchronised(lambda: stored.update(parts.transitions, parts.generator), device),
            "reference": lambda: plain.update(batch, torch.randn(shape, generator=noise)),
        },
        config.seconds,
        progress,
    )
    return {
        "per_second": found,
        "times_reference": {name: value / found["reference"] for name, value in found.items()},
        "gflop_per_update": {
            "own encoder": update_operations(config, own_encoder=True) / 1e9,
            "model's encoder": update_operations(config, own_encoder=False) / 1e9,
        },
    }


def measure_rollouts(
    config: BenchmarkConfig, parts: Parts, device: torch.device, progress: tqdm[Any]
) -> dict[str, Any]:
    """Transitions per second of rollouts in the model, together and one rollout at a time."""
    policy = HistoryPolicy(parts.encoder, parts.agents["model's encoder"].policy)
    starts = parts.buffer.windows(torch.arange(config.rollouts, device=device) % 5000)
    one = starts.select(torch.tensor([0], device=device))

    def roll(windows: Any) -> None:
        for _ in model_steps(parts.model, policy, windows, config.rollout_length, parts.generator):
            pass

    found = rates(
        {"ours": synchronised(lambda: roll(starts), device), "reference": synchronised(lambda: roll(one), device)},
        config.seconds,
        progress,
    )
    found = {
        "ours": found["ours"] * config.rollouts * config.rollout_length,
        "reference": found["reference"] * config.rollout_length,
    }
    return {"per_second": found, "times_reference": found["ours"] / found["reference"]}


def measure_model_training(
    config: BenchmarkConfig, parts: Parts, device: torch.device, progress: tqdm[Any]
) -> dict[str, Any]:
    """Real transitions per second through a gradient step of all members."""
    settings = Config(
        run_dir=Path("unused"), history_length=config.history_length, model_batch_size=config.batch_size,
        model_updates=20, model_patience=10**6, ensemble_size=config.ensemble_size,
    )  # fmt: skip
    optimiser = torch.optim.AdamW(parts.model.parameters(), lr=1e-4, fused=True)
    plain = PlainEnsemble(
        config.ensemble_size, config.observation_size, config.action_size, config.context_size, config.width,
        config.layers,
    )  # fmt: skip
    on_cpu = Segments(**{name: value.cpu() for name, value in vars(parts.segments).items()})
    batch = PlainBatch.of(on_cpu, config.observation_size)
    target = torch.randn(config.batch_size, config.observation_size + 1)
    weights = torch.ones(config.batch_size, config.ensemble_size)
    found = rates(
        {
            "ours": synchronised(
                lambda: train_model(parts.model, optimiser, parts.buffer, settings, parts.generator), device
            ),
            "reference": lambda: plain.update(batch, target, weights),
        },
        config.seconds,
        progress,
    )
    # One call of ours is a whole training: 20 gradient steps, drawing their batches, and two checks on held-out data.
    found = {"ours": found["ours"] * 20 * config.batch_size, "reference": found["reference"] * config.batch_size}
    return {"per_second": found, "times_reference": found["ours"] / found["reference"]}


def mujoco_environment(env_id: str) -> gym.Env[Any, Any]:
    """The environment whose steps are timed.

    Raises:
        ValueError: when there is none of this id or it has no MuJoCo model.
    """
    environment = make_environment(env_id)
    if not isinstance(getattr(environment.unwrapped, "model", None), mujoco.MjModel):
        raise ValueError(f"--env-id must name a MuJoCo environment, got {env_id}")
    return environment


def measure_stepping(config: BenchmarkConfig, progress: tqdm[Any]) -> dict[str, Any]:
    """Environment steps per second: raw mujoco, gymnasium, and one collected step of ours."""
    environment = mujoco_environment(config.env_id)
    environment.reset(seed=0)
    action = environment.action_space.sample() * 0
    inner: Any = environment.unwrapped
    raw = mujoco.MjData(inner.model)

    def step() -> None:
        _, _, terminated, truncated, _ = environment.step(action)
        if terminated or truncated:
            environment.reset()

    with tempfile.TemporaryDirectory() as folder:
        training = Training(loop_config(config, Path(folder) / "run", total_steps=10**6))
        for _ in range(20):
            training.collect_step(random=True)
        found = rates(
            {
                "mujoco": lambda: mujoco.mj_step(inner.model, raw, nstep=inner.frame_skip),
                "gymnasium": step,
                "collected": lambda: training.collect_step(random=False),
            },
            min(config.seconds, 0.5),
            progress,
        )
    return {"per_second": found}


def loop_config(config: BenchmarkConfig, path: Path, **changes: Any) -> Config:
    """The training whose loop is timed: the benchmark's networks on its environment."""
    return Config(
        run_dir=path,
        **{
            "env_id": config.env_id, "device": config.device, "threads": config.threads, "discount": 0.99,
            "history_length": config.history_length, "context_size": config.context_size, "width": config.width,
            "layers": config.layers, "ensemble_size": config.ensemble_size, "batch_size": config.batch_size,
            "model_batch_size": config.batch_size, "total_steps": 300 + config.loop_steps, "initial_random_steps": 300,
            "epoch_steps": config.loop_steps, "rollout_interval": min(20, config.loop_steps),
            "rollouts_per_step": max(config.rollouts // 20, 1), "measure_episodes": 2, "evaluation_episodes": 2,
            **changes,
        },
    )  # fmt: skip


def measure_loop(config: BenchmarkConfig, progress: tqdm[Any]) -> dict[str, Any]:
    """Seconds by activity of one epoch of the training, without the measuring at its end."""
    with tempfile.TemporaryDirectory() as folder:
        training = Training(loop_config(config, Path(folder) / "run"))
        while training.steps < 300:
            training.advance()
        training.stopwatch.seconds.clear()
        training.measure = dict  # type: ignore[method-assign]
        began = time.perf_counter()
        row: dict[str, Any] | None = None
        while row is None:
            row = training.advance()
        whole = time.perf_counter() - began
        progress.update()
    seconds = {
        name: row.get(f"{name}_seconds", 0.0) for name in ("update", "model", "environment", "rollout", "acting")
    }
    seconds["everything else"] = whole - sum(seconds.values())
    named = ("update", "model", "environment")
    return {
        "settings": {name: getattr(training.config, name) for name in ("updates_per_step", "model_updates")},
        "seconds": seconds,
        "share": {name: value / whole for name, value in seconds.items()},
        "overhead_share": 1 - sum(seconds[name] for name in named) / whole,
        "steps_per_second": config.loop_steps / whole,
    }


def measure_matrix_rate(config: BenchmarkConfig, device: torch.device, progress: tqdm[Any]) -> float:
    """The machine's limit: operations per second of the best square single-precision product."""
    best = 0.0
    for size in (256, 512, 1024):
        left = torch.randn(size, size, device=device)
        found = rates({"": synchronised(partial(torch.matmul, left, left), device)}, config.seconds / 5, progress)
        best = max(best, 2.0 * size**3 * found[""])
    return best


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Everything the command reports, JSON-ready."""
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    mujoco_environment(config.env_id).close()  # before anything is measured
    parts = build(config, device)
    total = 7 * ROUNDS + 1
    with tqdm(
        total=total, desc="measuring", file=sys.stderr, disable=config.as_json and not sys.stderr.isatty()
    ) as bar:
        limit = measure_matrix_rate(config, device, bar)
        report: dict[str, Any] = {
            "settings": dataclasses.asdict(config),
            "machine": {
                "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
                "torch": torch.__version__,
                "sgemm_gflops": limit / 1e9,
            },
            "updates": measure_updates(config, parts, device, bar),
            "rollouts": measure_rollouts(config, parts, device, bar),
            "model_training": measure_model_training(config, parts, device, bar),
            "stepping": measure_stepping(config, bar),
            "loop": measure_loop(config, bar),
        }
    updates = report["updates"]
    updates["share_of_sgemm"] = {
        name: updates["per_second"][name] * work / (limit / 1e9) for name, work in updates["gflop_per_update"].items()
    }
    return report


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
