"""Rates of updates, rollouts, model training and environment steps, ours and the plain reference's in turns."""

from __future__ import annotations

import dataclasses
import platform
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import mujoco
import torch
from tqdm import tqdm

from analysis.speed.contenders import (
    BenchmarkConfig,
    Parts,
    build,
    loop_config,
    model_settings,
    mujoco_environment,
    update_operations,
)
from analysis.speed.memory import LARGEST, bytes_per_sample
from analysis.speed.peers import measure_peers
from analysis.speed.rates import ROUNDS, rates, synchronised
from analysis.speed.reference import PlainActorCritic, PlainBatch, PlainEnsemble
from analysis.speed.side_by_side import measure_runs
from analysis.speed.vector_steps import BODIES, measure
from m3po.agents.loop import choose_device
from m3po.agents.m3po import M3PO
from m3po.agents.model_training import train_model
from m3po.agents.rollout import model_steps
from m3po.data.types import Segments
from m3po.envs.vector_options import usable_threads
from m3po.networks.policy import HistoryPolicy
from m3po.runs.allocation import keep_freed_memory

# Far more than a cache holds.
COPIED_BYTES = 1 << 28


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
    found = rates(
        {
            "own encoder": synchronised(lambda: parts.own.update(parts.segments, parts.generator), device),
            "model's encoder": synchronised(lambda: parts.stored.update(parts.transitions, parts.generator), device),
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
    policy = HistoryPolicy(parts.encoder, parts.stored.agent.policy)
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
    settings = model_settings(config)
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
        training = M3PO(loop_config(config, Path(folder) / "run", total_steps=10**6))
        for _ in range(20):
            training.group.collect_step(random=True)
        found = rates(
            {
                "mujoco": lambda: mujoco.mj_step(inner.model, raw, nstep=inner.frame_skip),
                "gymnasium": step,
                "collected": lambda: training.group.collect_step(random=False),
            },
            min(config.seconds, 0.5),
            progress,
        )
    return {"per_second": found}


def measure_loop(config: BenchmarkConfig, progress: tqdm[Any]) -> dict[str, Any]:
    """Seconds by activity of one epoch of the training, without the measuring at its end."""
    with tempfile.TemporaryDirectory() as folder:
        training = M3PO(loop_config(config, Path(folder) / "run"))
        while training.steps < 300:
            training.advance()
        training.group.hand_out()
        training.stopwatch.seconds.clear()
        began = time.perf_counter()
        row: dict[str, Any] | None = None
        while row is None:
            row = training.advance()
        whole = time.perf_counter() - began - row["measure_seconds"]
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


def measure_copying(config: BenchmarkConfig, device: torch.device, progress: tqdm[Any]) -> float:
    """The machine's other limit: bytes per second that are read and written again, of a block beyond the caches."""
    block = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    found = rates({"": synchronised(partial(other.copy_, block), device)}, config.seconds / 5, progress)
    return 2.0 * COPIED_BYTES * found[""]


def measure_vector(config: BenchmarkConfig, progress: tqdm[Any]) -> dict[str, Any]:
    """Steps per second of bodies side by side, on one thread and on every one that there is."""
    found = measure(BODIES[0], config.vector_envs, sorted({1, usable_threads()}), steps=20, rounds=ROUNDS)
    progress.update()
    return found


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Everything the command reports, JSON-ready."""
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    mujoco_environment(config.env_id).close()  # before anything is measured
    parts = build(config, device)
    total = 12 * ROUNDS + 2
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
                "copied_gigabytes_per_second": measure_copying(config, device, bar) / 1e9,
            },
            "updates": measure_updates(config, parts, device, bar),
            "rollouts": measure_rollouts(config, parts, device, bar),
            "model_training": measure_model_training(config, parts, device, bar),
            "stepping": measure_stepping(config, bar),
            "vector": measure_vector(config, bar),
            "runs": measure_runs(config, parts, device, bar),
            "peers": measure_peers(config, bar),
            "memory": {"bytes_per_sample": bytes_per_sample(*LARGEST, config.ensemble_size)},
            "loop": measure_loop(config, bar),
        }
    updates = report["updates"]
    updates["share_of_sgemm"] = {
        name: updates["per_second"][name] * work / (limit / 1e9) for name, work in updates["gflop_per_update"].items()
    }
    return report
