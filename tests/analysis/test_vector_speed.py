"""The speed of vector environments: what is timed does the same work, and the shares are quotients of rounds."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from analysis.speed import vector_steps
from analysis.speed.vector_steps import RawBodies, measure, run_vector
from analysis.vector_speed import cli

CHEETAH, HUMANOID = "m3po/HalfCheetahFwdBwd-v0", "m3po/HumanoidDirec-v0"
NAMES = [
    "mj_step alone, 1 thread", "mj_step alone, 2 threads", "vector environment, 1 thread",
    "vector environment, 2 threads", "gymnasium's SyncVectorEnv",
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
def test_the_simulator_alone_takes_the_same_steps(threads):
    vector: Any = gym.make_vec(CHEETAH, num_envs=3, vectorization_mode="vector_entry_point")
    vector.reset(seed=0)
    raw = RawBodies(vector.envs, threads)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 3, 6)).astype(np.float32)
    raw.run(actions)
    run_vector(vector, actions)
    for (_, data, _), each in zip(raw.bodies, vector.envs, strict=True):
        np.testing.assert_array_equal(data.qpos, each.data.qpos)
    raw.close()
    vector.close()


def test_the_table_and_the_json_name_every_contender(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop:
            cli(["--num-envs", "2", "--steps", "2", "--rounds", "2", "--env-id", HUMANOID, *flags])
        assert stop.value.code == 0
        captured = capfd.readouterr()
        assert all(name in captured.out for name in NAMES)
        assert captured.err == ""
    rows = json.loads(captured.out)
    assert list(rows) == NAMES
    assert rows[NAMES[0]]["share"] == 1.0
    assert list(tmp_path.iterdir()) == []


def test_a_share_is_of_one_thread_alone_times_the_threads(monkeypatch):
    """Clocks that every contender turns by as much as it has been given to do."""
    now = [0.0]
    monkeypatch.setattr(vector_steps.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(vector_steps.time, "process_time", lambda: 0.5 * now[0])

    def turn(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(RawBodies, "run", lambda self, actions: turn(6.0 / self.threads))
    monkeypatch.setattr(vector_steps, "run_vector", lambda vector, actions: turn(8.0 / getattr(vector, "threads", 0.5)))
    rows = measure(CHEETAH, 2, (3,), steps=4, rounds=3)
    for name, seconds, share in (
        ("mj_step alone, 1 thread", 6.0, 1.0),
        ("mj_step alone, 3 threads", 2.0, 1.0),
        ("vector environment, 3 threads", 8 / 3, 0.75),
        ("gymnasium's SyncVectorEnv", 16.0, 0.375),
    ):
        assert rows[name] == pytest.approx(
            {"per_second": 8 / seconds, "share": share, "processor_us": 0.5e6 * seconds / 8}
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env-id", "HalfCheetah-v5"], "error: --env-id must be one of m3po/HalfCheetahFwdBwd-v0, "),
        (["--threads", "0"], "error: --threads must be >= 1, got 0"),
        (["--threads", "2", "2"], "error: --threads must be different values, got 2 2"),
        (["--num-envs", "0"], "error: --num-envs must be >= 1, got 0"),
    ],
)
def test_bad_flags_are_named(capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        cli(flags)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(message)
