"""The ant: running forward or backward, and running with a crippled leg."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import mujoco
import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from numpy.typing import NDArray

from m3po.envs.body_steps import AntSteps
from m3po.envs.body_vector import BodyVector
from m3po.envs.direction import DirectionTask
from m3po.envs.hidden_task import EnvironmentOptions, HiddenTask, split_options
from m3po.envs.protocol import Array

HEALTHY_HEIGHT = (0.2, 1.0)
# Observed: height, orientation (quaternion), joints; velocities.
STATE_SIZE = 27
HEALTHY_REWARD_CRIPPLED = 0.05


class AntFwdBwd(DirectionTask, AntEnv):
    """Ant-v5 that is to run forward (task 0) or backward (task 1): d v_x - 0.5 |a|^2 - 5e-4 |contact forces|^2 + 1.

    d is the direction +1 or -1, v_x the torso's velocity over the step; contact forces are clipped to [-1, 1]; the 1 is
    paid where the step does not end the episode. Ends when the height leaves [0.2, 1].
    No density to certify against: its orientation is a unit quaternion, on which additive noise has no density.
    See docs/environments/ant_fwd_bwd.md for the options.
    """

    observed_positions = slice(2, None)

    def __init__(self, **options: Unpack[EnvironmentOptions]) -> None:
        task, body = split_options(options)
        AntEnv.__init__(self, healthy_z_range=HEALTHY_HEIGHT, include_cfrc_ext_in_observation=False, **body)
        self.hide_task(options, **task)

    def terminated(self, observation: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Height outside [0.2, 1], or any number of the state not finite. [N, O] -> [N]."""
        low, high = HEALTHY_HEIGHT
        height = observation[:, 0]
        finite = np.isfinite(observation[:, :STATE_SIZE]).all(axis=1)
        return np.asarray(~(finite & (low <= height) & (height <= high)))


class AntCrippledLeg(HiddenTask, AntEnv):
    """Ant-v5 with leg j crippled in task j, with reward v_x + 0.05. Never terminates.

    The two motors of the leg get no torque, its two outer geoms are half as thick and long, and the lower one is put in
    the place of the upper one. Legs 0, 1, 2 are for training, leg 3 for testing (``tasks=(3,)``).
    No density to certify against: its orientation is a unit quaternion, on which additive noise has no density.
    See docs/environments/ant_crippled_leg.md for the options.
    """

    task_count: ClassVar[int] = 4
    default_tasks: ClassVar[Sequence[int]] = (0, 1, 2)
    train_tasks: ClassVar[Sequence[int]] = (0, 1, 2)
    test_tasks: ClassVar[Sequence[int]] = (3,)
    edited_fields: ClassVar[tuple[str, ...]] = ("geom_size", "geom_pos", "geom_sameframe")
    observed_positions = slice(2, None)

    # Per leg (learning_to_adapt, ant): its actuators (hip, ankle) and its geoms (upper, lower).
    ACTUATORS: ClassVar = ((2, 3), (4, 5), (6, 7), (0, 1))
    GEOMS: ClassVar = ((3, 4), (6, 7), (9, 10), (12, 13))

    def __init__(self, **options: Unpack[EnvironmentOptions]) -> None:
        task, body = split_options(options)
        AntEnv.__init__(
            self,
            ctrl_cost_weight=0,
            contact_cost_weight=0,
            healthy_reward=HEALTHY_REWARD_CRIPPLED,
            healthy_z_range=(-math.inf, math.inf),  # else v5 would withhold the 0.05 outside [0.2, 1]
            terminate_when_unhealthy=False,
            include_cfrc_ext_in_observation=False,
            **body,
        )
        self.hide_task(options, **task)

    def planning_reward(self, observation: Array, action: Array, next_observation: Array) -> Array:
        """v_x + 0.05 with v_x from the observed speeds. Shapes [N, O], [N, A], [N, O] -> [N]."""
        return self.forward_velocity(observation, next_observation) + HEALTHY_REWARD_CRIPPLED

    def task_parameters(self, task: int) -> dict[str, Any]:
        return {"leg": task, "actuators": self.ACTUATORS[task], "geoms": self.GEOMS[task]}

    def edit_model(self, task: int) -> None:
        upper, lower = self.GEOMS[task]
        self.model.geom_size[[upper, lower], :2] /= 2
        self.model.geom_pos[lower] = self.model.geom_pos[upper]
        # As built, the geom's frame is that of its body's inertia, and MuJoCo would ignore the new position.
        self.model.geom_sameframe[lower] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE

    def working(self, controls: Any) -> Array:
        """What the motors get. Shapes [A] -> [A]."""
        found = np.array(controls, dtype=np.float64)
        found[..., self.ACTUATORS[self.task]] = 0.0
        return found

    def do_simulation(self, ctrl: Any, n_frames: int) -> None:
        super().do_simulation(self.working(ctrl), n_frames)


class AntCrippledLegSteps(AntSteps):
    """Ant-v5 whose crippled motors get nothing."""

    def advance(self, i: int, control: Any) -> None:
        super().advance(i, self.environments[i].working(control))


class AntFwdBwdVector(BodyVector):
    """AntFwdBwd, many at once."""

    environment = AntFwdBwd
    steps = AntSteps


class AntCrippledLegVector(BodyVector):
    """AntCrippledLeg, many at once."""

    environment = AntCrippledLeg
    steps = AntCrippledLegSteps
