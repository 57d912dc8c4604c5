"""Two tasks that differ only in the sign of the forward reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from m3po.envs.hidden_task import HiddenTask, Values


class DirectionTask(HiddenTask):
    """Task 0 pays for moving forward (direction +1), task 1 for moving backward (direction -1); the physics is one.

    Observations and actions say nothing about the task here, only the reward does.
    """

    task_count: ClassVar[int] = 2
    default_tasks: ClassVar[Sequence[int]] = (0, 1)
    train_tasks: ClassVar[Sequence[int]] = (0, 1)
    test_tasks: ClassVar[Sequence[int]] = (0, 1)
    reward_observed: ClassVar[bool] = True

    def task_parameters(self, task: int) -> dict[str, Any]:
        return {"direction": 1 - 2 * task}

    def task_reward(self, reward: Values, info: dict[str, Any], task: Any) -> Values:
        """r + (direction - 1) r_forward, with r and r_forward of gymnasium's body."""
        forward, direction = info["reward_forward"], 1 - 2 * task
        info["reward_forward"] = direction * forward
        return reward + (direction - 1) * forward
