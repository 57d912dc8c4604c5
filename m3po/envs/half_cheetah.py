"""The half cheetah: running forward or backward, and running over a pier of floating blocks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import mujoco
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from numpy.typing import ArrayLike, NDArray

from m3po.envs.body_steps import HalfCheetahSteps
from m3po.envs.body_vector import BodyVector
from m3po.envs.direction import DirectionTask
from m3po.envs.hidden_task import CONTINUUM, EnvironmentOptions, HiddenTask, split_options, uniform_draws
from m3po.envs.protocol import Array
from m3po.envs.shown_task import as_flag

CTRL_COST_WEIGHT = 0.05
# Position (x) and half-length of each block (learning_to_adapt, half_cheetah_blocks).
BLOCKS = ((-8.0, 5.999), *((float(x), 1.999) for x in range(0, 24, 4)), (42.0, 19.999))
BLOCK_HALF_WIDTH = 0.99
BLOCK_HALF_HEIGHT = 0.05
BLOCK_HEIGHT = 0.05
BLOCK_RANGE = 0.15
BLOCK_STIFFNESS = 150.0
BLOCK_MASS = 10.0
FLOOR_HEIGHT = -0.1
WATER = [0.30, 0.55, 0.75, 1.0]
MAX_DAMPING = 10.0
# Height of the root below which nothing will stop the fall; on the pier it stays above -0.8.
FALLEN = -1.5
# The cheetah's nine positions and velocities come first, the blocks' after them.
CHEETAH_SIZE = 9


def _compile(spec: Any) -> Any:
    # The body's file sets its total mass in a way that this MuJoCo announces to drop; users cannot act on that.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*settotalmass.*")
        return spec.compile()


class HalfCheetahFwdBwd(DirectionTask, HalfCheetahEnv):
    """HalfCheetah-v5 that is to run forward (task 0) or backward (task 1), with reward d v_x - 0.05 |a|^2.

    d is the direction +1 or -1 and v_x the change of the root's x over the step, per second. Never terminates.
    See docs/environments/half_cheetah_fwd_bwd.md for the options.
    """

    observed_positions = slice(1, None)
    observation_is_state = True

    def __init__(self, **options: Unpack[EnvironmentOptions]) -> None:
        task, body = split_options(options)
        HalfCheetahEnv.__init__(self, ctrl_cost_weight=CTRL_COST_WEIGHT, **body)
        self.hide_task(options, **task)

    def build_model(self) -> Any:
        return _compile(mujoco.MjSpec.from_file(self.fullpath))


class HalfCheetahPier(HiddenTask, HalfCheetahEnv):
    """HalfCheetah-v5 on eight floating blocks whose damping is hidden, with reward v_x - 0.05 |a|^2.

    Task j sets the damping of the eight blocks to independent draws from U(0, 10), a fixed function of j. The blocks
    are not observed, so one step depends on more than task, observation and action, and there is no density to certify
    against; unless ``observe_pier`` makes the whole state the observation, the root's x and the blocks included.
    Never terminates, even where the cheetah runs off an end of the pier (x < -14 or x > 62) and falls for ever, unless
    ``fall_ends_episode``. See docs/environments/half_cheetah_pier.md for the options.
    """

    task_count: ClassVar[int] = CONTINUUM
    default_tasks: ClassVar[Sequence[int]] = range(CONTINUUM)
    train_tasks: ClassVar[Sequence[int]] = range(CONTINUUM)
    test_tasks: ClassVar[Sequence[int]] = range(CONTINUUM)
    edited_fields: ClassVar[tuple[str, ...]] = ("dof_damping",)
    drawn_numbers = len(BLOCKS)

    def __init__(
        self, *, observe_pier: bool = False, fall_ends_episode: bool = False, **options: Unpack[EnvironmentOptions]
    ) -> None:
        task, body = split_options(options)
        observe_pier = as_flag("observe_pier", observe_pier)
        fall_ends_episode = as_flag("fall_ends_episode", fall_ends_episode)
        self.observed_positions = slice(None) if observe_pier else slice(1, CHEETAH_SIZE)
        self.observed_velocities = slice(None) if observe_pier else slice(CHEETAH_SIZE)
        self.observation_is_state = observe_pier
        self.fall_ends_episode = fall_ends_episode
        HalfCheetahEnv.__init__(self, ctrl_cost_weight=CTRL_COST_WEIGHT, **body)
        self.hide_task({**options, "observe_pier": observe_pier, "fall_ends_episode": fall_ends_episode}, **task)

    def build_model(self) -> Any:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        floor = spec.geom("floor")
        floor.pos = [0.0, 0.0, FLOOR_HEIGHT]
        floor.contype = floor.conaffinity = 0
        floor.material, floor.rgba = "", WATER
        for index, (x, half_length) in enumerate(BLOCKS):
            block = spec.worldbody.add_body(name=f"block_{index}", pos=[x, 0.0, BLOCK_HEIGHT])
            block.add_joint(
                name=f"block_{index}",
                type=mujoco.mjtJoint.mjJNT_SLIDE,
                axis=[0.0, 0.0, 1.0],
                range=[-BLOCK_RANGE, BLOCK_RANGE],
                stiffness=BLOCK_STIFFNESS,
            )
            shade = 0.45 + 0.25 * (index % 2)
            block.add_geom(
                name=f"block_{index}",
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=[half_length, BLOCK_HALF_WIDTH, BLOCK_HALF_HEIGHT],
                mass=BLOCK_MASS,
                contype=0,  # blocks never touch each other, and testing it each step costs time
                conaffinity=1,
                rgba=[shade, shade, shade, 1.0],
            )
        return _compile(spec)

    def reset_model(self) -> Any:
        """The cheetah starts as in HalfCheetah-v5; the blocks at rest where spring and weight balance."""
        scale = self._reset_noise_scale
        qpos, qvel = self.init_qpos.copy(), self.init_qvel.copy()
        qpos[:CHEETAH_SIZE] += self.np_random.uniform(-scale, scale, CHEETAH_SIZE)
        qvel[:CHEETAH_SIZE] += scale * self.np_random.standard_normal(CHEETAH_SIZE)
        qpos[CHEETAH_SIZE:] = self._floating_height()
        self.set_state(qpos, qvel)
        return self._get_obs()

    def _floating_height(self) -> Any:
        blocks = self.model.body_mass[-len(BLOCKS) :]
        return blocks * self.model.opt.gravity[2] / BLOCK_STIFFNESS

    def terminated(self, observation: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Never, or with ``fall_ends_episode`` once the root's height is below -1.5. [N, O] -> [N]."""
        if not self.fall_ends_episode:
            return super().terminated(observation)
        height = observation[:, 0 if self.observed_positions.start else 1]
        return np.asarray(~(height >= FALLEN))

    def planning_reward(self, observation: Array, action: Array, next_observation: Array) -> Array:
        """v_x - 0.05 |a|^2 with v_x from the observed speeds. Shapes [N, O], [N, A], [N, O] -> [N]."""
        cost = CTRL_COST_WEIGHT * (np.asarray(action) ** 2).sum(axis=1)
        return self.forward_velocity(observation, next_observation) - cost

    def _outcome(self, action: ArrayLike) -> tuple[Array, float, bool, dict[str, Any]]:
        observation, reward, _, info = super()._outcome(action)
        ended = self.fall_ends_episode and bool(self.terminated(observation[None])[0])
        return observation, reward, ended, info

    def task_parameters(self, task: int) -> dict[str, Any]:
        return {"damping": MAX_DAMPING * uniform_draws(task, self.drawn_numbers)}

    def edit_model(self, task: int) -> None:
        self.model.dof_damping[CHEETAH_SIZE:] = self.task_parameters(task)["damping"]


class HalfCheetahFwdBwdVector(BodyVector):
    """HalfCheetahFwdBwd, many at once."""

    environment = HalfCheetahFwdBwd
    steps = HalfCheetahSteps


class HalfCheetahPierVector(BodyVector):
    """HalfCheetahPier, many at once."""

    environment = HalfCheetahPier
    steps = HalfCheetahSteps
