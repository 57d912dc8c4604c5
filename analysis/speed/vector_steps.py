"""Bodies stepped side by side: our vector environments, gymnasium's, and the simulator alone, in alternating rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

import m3po.envs  # noqa: F401 (registers the environments)

BODIES = (
    "m3po/HalfCheetahFwdBwd-v0",
    "m3po/HalfCheetahPier-v0",
    "m3po/AntFwdBwd-v0",
    "m3po/AntCrippledLeg-v0",
    "m3po/Walker2dRandomParams-v0",
    "m3po/HumanoidDirec-v0",
)

Actions = NDArray[np.float32]  # [steps, N, A]


class RawBodies:
    """Nothing but mj_step, in a loop over the bodies of an environment: what no vector environment can beat.

    Args:
        environments: whose bodies are copied, in their present states.
        threads: among which the bodies are divided.
    """

    def __init__(self, environments: Sequence[Any], threads: int) -> None:
        self.bodies = [(each.model, mujoco.MjData(each.model), each.frame_skip) for each in environments]
        for each, (_, data, _) in zip(environments, self.bodies, strict=True):
            data.qpos[:], data.qvel[:] = each.data.qpos, each.data.qvel
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def run(self, actions: Actions) -> None:
        """Let every body take these actions."""
        if self.threads == 1:
            self._share(actions, 0)
        else:
            list(self._pool.map(lambda thread: self._share(actions, thread), range(self.threads)))

    def _share(self, actions: Actions, thread: int) -> None:
        mine = list(enumerate(self.bodies))[thread :: self.threads]
        for action in actions:
            for i, (model, data, frame_skip) in mine:
                data.ctrl[:] = action[i]
                mujoco.mj_step(model, data, nstep=frame_skip)

    def close(self) -> None:
        self._pool.shutdown()


def run_vector(vector: Any, actions: Actions) -> None:
    """Let every episode take these actions, with what ``step`` returns."""
    for action in actions:
        vector.step(action)


def measure(env_id: str, count: int, threads: Sequence[int], steps: int, rounds: int) -> dict[str, Any]:
    """Body steps per second of each contender, medians of alternating rounds.

    ``share``: of what one thread of the simulator alone does in the same round, times the threads; the median of the
    rounds' quotients. ``processor_us``: microseconds of processor time for a body step, of all threads together, which
    other work on the machine disturbs less; waiting is not in it.
    """
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)  # else MuJoCo logs a remark on the cheetah's file to the disk
    closing: list[Any] = []
    try:
        vectors = {
            n: gym.make_vec(env_id, num_envs=count, vectorization_mode="vector_entry_point", threads=n) for n in threads
        }
        sync = gym.make_vec(env_id, num_envs=count, vectorization_mode="sync")
        closing = [*vectors.values(), sync]
        for each in closing:
            each.reset(seed=0)
        bodies: list[Any] = [each.unwrapped for each in sync.envs]  # type: ignore[attr-defined]
        raw = {n: RawBodies(bodies, n) for n in {1, *threads}}
        closing += raw.values()
        box: Any = sync.single_action_space
        shape = (rounds, steps, count, *box.shape)
        actions = np.random.default_rng(0).uniform(box.low, box.high, shape).astype(np.float32)
        contenders: dict[str, tuple[int, Callable[[Actions], None]]] = {
            f"mj_step alone, {_threads(n)}": (n, raw[n].run) for n in sorted(raw)
        }
        contenders |= {
            f"vector environment, {_threads(n)}": (n, partial(run_vector, each)) for n, each in vectors.items()
        }
        contenders["gymnasium's SyncVectorEnv"] = (1, partial(run_vector, sync))
        rates, costs = ({name: np.zeros(rounds) for name in contenders} for _ in range(2))
        for which in range(rounds):
            for name, (_, run) in contenders.items():
                began, processor = time.perf_counter(), time.process_time()
                run(actions[which])
                rates[name][which] = steps * count / (time.perf_counter() - began)
                costs[name][which] = 1e6 * (time.process_time() - processor) / (steps * count)
    finally:
        mujoco.set_mju_user_warning(previous)
        for each in closing:
            each.close()
    alone = rates[f"mj_step alone, {_threads(1)}"]
    return {
        name: {
            "per_second": float(np.median(rates[name])),
            "share": float(np.median(rates[name] / (n * alone))),
            "processor_us": float(np.median(costs[name])),
        }
        for name, (n, _) in contenders.items()
    }


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
