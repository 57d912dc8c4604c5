"""The planar walker with hidden masses, inertias, frictions and dampings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import mujoco
import numpy as np
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
from numpy.typing import NDArray

from m3po.envs.body_steps import Walker2dSteps
from m3po.envs.body_vector import BodyVector
from m3po.envs.hidden_task import CONTINUUM, EnvironmentOptions, HiddenTask, split_options, uniform_draws
from m3po.envs.protocol import Array
from m3po.envs.shown_task import centred

FRAME_SKIP = 8
HEALTHY_HEIGHT = (0.8, 2.0)
HEALTHY_ANGLE = (-1.0, 1.0)
LOG_SCALE = 3.0
# Model field -> base b of its multipliers b^u, u ~ U(-3, 3), one for each element (rand_param_envs).
BASES = {"body_mass": 1.5, "body_inertia": 1.5, "geom_friction": 1.5, "dof_damping": 1.3}
CLIPPED_VELOCITY = 10.0


class Walker2dRandomParams(HiddenTask, Walker2dEnv):
    """Walker2d-v5 (0.016 s a step) with random physics, with reward v_x + 1 - 1e-3 |a|^2.

    Task j multiplies every element of the masses, inertias and frictions by 1.5^u and of the joint dampings by 1.3^u,
    with independent u ~ U(-3, 3) that are a fixed function of j. The 1 is paid where the step leaves the walker
    healthy; the episode ends when its height leaves (0.8, 2) or its angle (-1, 1).
    Velocities are clipped to [-10, 10] in the observation, as in Walker2d-v5, unless there is process noise: the
    observation is then the state itself. See docs/environments/walker2d_random_params.md for the options.
    """

    task_count: ClassVar[int] = CONTINUUM
    default_tasks: ClassVar[Sequence[int]] = range(CONTINUUM)
    train_tasks: ClassVar[Sequence[int]] = range(40)
    test_tasks: ClassVar[Sequence[int]] = range(40, 50)
    edited_fields: ClassVar[tuple[str, ...]] = tuple(BASES)
    observed_positions = slice(1, None)
    observation_is_state = True

    def __init__(self, *, frame_skip: int = FRAME_SKIP, **options: Unpack[EnvironmentOptions]) -> None:
        task, body = split_options(options)
        self._clips = not np.any(task.get("process_noise", 0.0))
        Walker2dEnv.__init__(
            self, frame_skip=frame_skip, healthy_z_range=HEALTHY_HEIGHT, healthy_angle_range=HEALTHY_ANGLE, **body
        )
        self._scratch = mujoco.MjData(self.model)
        self.drawn_numbers = sum(getattr(self.model, name).size for name in BASES)
        self.hide_task({**options, "frame_skip": frame_skip}, **task)

    def observed(self, positions: Array, velocities: Array) -> Array:
        observation = super().observed(positions, velocities)
        if self._clips:
            np.clip(observation[..., 8:], -CLIPPED_VELOCITY, CLIPPED_VELOCITY, out=observation[..., 8:])
        return observation

    def planning_reward(self, observation: Array, action: Array, next_observation: Array) -> Array:
        """v_x + 1 - 1e-3 |a|^2, the 1 where o' is healthy, with v_x from the observed speeds.

        Shapes [N, O], [N, A], [N, O] -> [N].
        """
        healthy = ~self.terminated(next_observation)
        cost = self._ctrl_cost_weight * (np.asarray(action) ** 2).sum(axis=1)
        return self.forward_velocity(observation, next_observation) + self._healthy_reward * healthy - cost

    def terminated(self, observation: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Height outside (0.8, 2) or angle outside (-1, 1). [N, O] -> [N]."""
        height, angle = observation[:, 0], observation[:, 1]
        upright = (HEALTHY_HEIGHT[0] < height) & (height < HEALTHY_HEIGHT[1])
        return np.asarray(~(upright & (HEALTHY_ANGLE[0] < angle) & (angle < HEALTHY_ANGLE[1])))

    def task_parameters(self, task: int) -> dict[str, Any]:
        """The multipliers of each field, in the field's shape."""
        shapes = {name: getattr(self.model, name).shape for name in BASES}
        draws = uniform_draws(task, self.drawn_numbers)
        multipliers, start = {}, 0
        for name, base in BASES.items():
            stop = start + int(np.prod(shapes[name]))
            exponents = LOG_SCALE * centred(draws[start:stop])
            multipliers[name] = (base**exponents).reshape(shapes[name])
            start = stop
        return multipliers

    def edit_model(self, task: int) -> None:
        for name, multiplier in self.task_parameters(task).items():
            field = getattr(self.model, name)
            field *= multiplier
        self._derive_constants()

    def restore_model(self) -> None:
        super().restore_model()
        self._derive_constants()

    def _derive_constants(self) -> None:
        # It overwrites the state of the data it is given: not the episode's.
        mujoco.mj_setConst(self.model, self._scratch)


class Walker2dRandomParamsVector(BodyVector):
    """Walker2dRandomParams, many at once."""

    environment = Walker2dRandomParams
    steps = Walker2dSteps
