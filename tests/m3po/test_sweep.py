"""Grids and their mistakes; sweeps that skip, resume and refuse; and workers and nodes that are killed half way."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import m3po.sweep as sweep_module
from m3po.config import Config
from m3po.grid import Run, check_environments, expand, read_grid
from m3po.interruption import StopRequest
from m3po.run_directory import RunDirectory
from m3po.sweep import Display, Lost, SweepConfig, Track, cli, drive
from m3po.sweep_worker import Board, Lease, Outcome, Report, directory_id, locked, ready, standing, survey
from m3po.train import train

# Epochs end with the episodes of 100 steps; the tests of interruption in test_train.py cut both.
TINY = """
total_steps = 800
initial_random_steps = 100
epoch_steps = 100
width = 8
context_size = 4
layers = 1
history_length = 3
ensemble_size = 2
model_batch_size = 32
model_updates = 20
rollouts_per_step = 4
rollout_interval = 20
updates_per_step = 1
batch_size = 16
measure_episodes = 2
evaluation_episodes = 2
"""
ACTIVITIES = ("model", "acting", "environment", "rollout", "update", "measure", "checkpoint")
TIMES = {"seconds", "checkpoint_bytes", *(f"{name}_seconds" for name in ACTIVITIES)}
SILENCE = 4.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 * 2**20})
    yield started
    started.shutdown()


def write(folder: Path, text: str) -> Path:
    file = folder / "grid.toml"
    file.write_text(text)
    return file


def sessions(run: Run) -> int:
    return len(RunDirectory.read(run.config.run_dir).provenance())


def metrics(run: Run) -> list[dict[str, Any]]:
    """Without what depends on the clock."""
    rows = RunDirectory.read(run.config.run_dir).metrics()
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The metrics of every run of the grid below, trained one after the other in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    runs = read_grid(write(folder, f"seeds = [0, 1]\n{TINY}"), folder / "out")
    for run in runs:
        train(run.config)
    return {run.name: metrics(run) for run in runs}


def wait_for(condition: Any, what: str, seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


def trainer_of(run: Run) -> int | None:
    """The process that holds the lock of a run."""
    lock = run.config.run_dir / "lock"
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if descriptor.readlink() == lock:
                return int(descriptor.parts[2])
    return None


def half_way(run: Run) -> bool:
    """Some checkpoints are there and more are to come."""
    with contextlib.suppress(OSError, ValueError):
        return 200 <= RunDirectory.read(run.config.run_dir).metrics()[-1]["step"] <= 500
    return False


def main_in_thread(arguments: Sequence[str]) -> tuple[threading.Thread, list[Any]]:
    """The command line beside the test; its exit code is put into the list."""
    codes: list[Any] = []

    def call() -> None:
        try:
            cli(arguments)
        except SystemExit as stop:
            codes.append(stop.code)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, codes


def evaluated(run: Run) -> list[list[int]]:
    """The steps at which each session of a run evaluated, from the TensorBoard events, which are never taken back."""
    files = sorted(run.config.run_dir.glob("events.*"), key=lambda file: file.name)
    steps = []
    for file in files:
        events = [event for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]
        steps.append(sorted({event.step for event in events}))
    return steps


def test_a_sweep_survives_the_death_of_one_of_two_nodes(
    tmp_path: Path,
    cluster: Cluster,
    undisturbed: dict[str, list[dict[str, Any]]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = write(tmp_path, f"seeds = [0, 1]\n{TINY}")
    runs = read_grid(file, tmp_path / "out")
    second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    arguments = [str(file), "--out", str(tmp_path / "out"), "--address", cluster.address, "--json"]
    thread, codes = main_in_thread([*arguments, "--silence", str(SILENCE)])
    pids = {run.name: wait_for(lambda run=run: trainer_of(run), run.name) for run in runs}
    parents = {name: int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for name, pid in pids.items()}
    print(parents, second.all_processes)
    cluster.remove_node(second, allow_graceful=False)
    thread.join()
    print(codes, capfd.readouterr())
    assert 0
