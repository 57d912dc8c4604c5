"""What a step pays and tells in gymnasium's v5 bodies, for N bodies at once: its formulas on arrays, to the same bits.

Each class follows ``step`` of the body of its name in gymnasium, operation by operation and in its number types; only
then do N bodies and a single one agree to the bit. tests/m3po/envs/test_body_vector.py compares them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.humanoid_v5 import mass_center
from numpy.typing import NDArray

from m3po.envs.protocol import Array

Info = dict[str, NDArray[Any]]
# Rewards [N], which episodes end [N] (None: as the environment's ``terminated`` says), and what ``info`` tells, [N].
Outcomes = tuple[Array, NDArray[np.bool_] | None, Info]


class BodySteps:
    """The simulators of N environments of one class and the same options, and their state as arrays.

    Args:
        environments: N of m3po.envs.hidden_task.HiddenTask.

    Attributes:
        positions, velocities: qpos [N, nq] and qvel [N, nv] after each body's last ``advance`` or ``read``, which must
            follow whatever else changes its state.
    """

    def __init__(self, environments: Sequence[Any]) -> None:
        self.environments = environments
        self.body = environments[0]
        self.dt: float = self.body.dt
        self.datas = [each.data for each in environments]
        self.models = [each.model for each in environments]
        # Memory views: they copy a few numbers in half of numpy's time, and this is all that threads wait for.
        self._qpos = [memoryview(data.qpos) for data in self.datas]
        self._qvel = [memoryview(data.qvel) for data in self.datas]
        self._ctrl = [memoryview(data.ctrl) for data in self.datas]
        self._step = [partial(mujoco.mj_step, each.model, each.data, each.frame_skip) for each in environments]
        self.positions: Array = np.zeros((len(environments), self.body.model.nq))
        self.velocities: Array = np.zeros((len(environments), self.body.model.nv))
        self._all_qpos, self._qpos_of = _rows(self.positions)
        self._all_qvel, self._qvel_of = _rows(self.velocities)

    def before(self) -> None:
        """To be called before the bodies advance."""

    def advance(self, i: int, control: Any) -> None:
        """Simulate a step of body ``i``; called from several threads at once, each for another body.

        ``control``: float64, [A], an array or a memory view.
        """
        self._ctrl[i][:] = control
        self._step[i]()
        self.read(i)

    def read(self, i: int) -> None:
        """Copy the state of body ``i``."""
        self._all_qpos[self._qpos_of[i]] = self._qpos[i]
        self._all_qvel[self._qvel_of[i]] = self._qvel[i]

    def write(self, i: int) -> None:
        """Copy ``positions`` and ``velocities`` of body ``i`` back into its simulator."""
        self._qpos[i][:] = self._all_qpos[self._qpos_of[i]]
        self._qvel[i][:] = self._all_qvel[self._qvel_of[i]]

    def outcomes(self, actions: NDArray[Any]) -> Outcomes:
        """What the step with these actions [N, A] pays and tells, once the bodies have advanced."""
        raise NotImplementedError


def _rows(array: Array) -> tuple[memoryview, list[slice]]:
    """The numbers of an array [N, M] one after the other, and where each row is among them."""
    count, size = array.shape
    return array.reshape(-1).data, [slice(i * size, (i + 1) * size) for i in range(count)]


def _stacked(parts: list[Array], out: Array) -> Array:
    np.concatenate(parts, axis=None, out=out.reshape(-1))
    return out


class PlanarSteps(BodySteps):
    """Bodies that are paid for the change of the root's x."""

    def __init__(self, environments: Sequence[Any]) -> None:
        super().__init__(environments)
        self._x_before: Array = np.zeros(len(environments))

    def before(self) -> None:
        self._x_before = self.positions[:, 0].copy()

    def forward(self) -> tuple[Array, Array, Array]:
        """x, its velocity over the step, and what that is paid. Shapes [N] each."""
        x = self.positions[:, 0].copy()
        velocity = (x - self._x_before) / self.dt
        return x, velocity, self.body._forward_reward_weight * velocity


class HalfCheetahSteps(PlanarSteps):
    """HalfCheetah-v5."""

    def outcomes(self, actions: NDArray[Any]) -> Outcomes:
        x, velocity, forward = self.forward()
        cost = _control_cost(self.body, actions)
        info = {"x_position": x, "x_velocity": velocity, "reward_forward": forward, "reward_ctrl": -cost}
        return forward - cost, None, info


class Walker2dSteps(PlanarSteps):
    """Walker2d-v5."""

    def outcomes(self, actions: NDArray[Any]) -> Outcomes:
        x, velocity, forward = self.forward()
        height, angle = self.positions[:, 1], self.positions[:, 2]
        (low, high), (least, most) = self.body._healthy_z_range, self.body._healthy_angle_range
        healthy = (low < height) & (height < high) & (least < angle) & (angle < most)
        survive = healthy * self.body._healthy_reward
        cost = _control_cost(self.body, actions)
        info = {
            "x_position": x,
            "z_distance_from_origin": height - self.body.init_qpos[1],
            "x_velocity": velocity,
            "reward_forward": forward,
            "reward_ctrl": -cost,
            "reward_survive": survive,
        }
        return forward + survive - cost, ~healthy & self.body._terminate_when_unhealthy, info


class SpatialSteps(BodySteps):
    """Bodies that move in the plane and are charged for the forces of their contacts."""

    def __init__(self, environments: Sequence[Any]) -> None:
        super().__init__(environments)
        self._xy = [data.qpos[:2] for data in self.datas]
        self._forces = [data.cfrc_ext for data in self.datas]
        self._all_forces: Array = np.zeros((len(environments), self._forces[0].size))
        self._place_before: Array = np.zeros((len(environments), 2))
        self._place: Array = np.zeros((len(environments), 2))

    def place(self, i: int) -> Array:
        """Where body ``i`` is, for the reward. Shape [2]."""
        raise NotImplementedError

    def before(self) -> None:
        self._place_before = self._place.copy()

    def advance(self, i: int, control: Any) -> None:
        super().advance(i, control)
        mujoco.mj_rnePostConstraint(self.models[i], self.datas[i])

    def read(self, i: int) -> None:
        super().read(i)
        self._place[i] = self.place(i)

    def velocity(self) -> Array:
        """Of the place whose change is paid, over the step. Shape [N, 2]."""
        return (self._place - self._place_before) / self.dt

    def whereabouts(self, velocity: Array) -> Info:
        """What ``info`` tells of the root's place, and of ``velocity`` [N, 2]."""
        return {
            "x_position": self.positions[:, 0].copy(),
            "y_position": self.positions[:, 1].copy(),
            # One by one, as the product of two numbers may be rounded otherwise in a batch.
            "distance_from_origin": np.array([math.sqrt(place.dot(place)) for place in self._xy]),
            "x_velocity": velocity[:, 0].copy(),
            "y_velocity": velocity[:, 1].copy(),
        }

    def forces(self) -> Array:
        """cfrc_ext, [N, 6 x bodies]."""
        return _stacked(self._forces, self._all_forces)


class AntSteps(SpatialSteps):
    """Ant-v5."""

    def __init__(self, environments: Sequence[Any]) -> None:
        super().__init__(environments)
        self._torso = [each.data.body(each._main_body).xpos[:2] for each in environments]

    def place(self, i: int) -> Array:
        return self._torso[i]

    def outcomes(self, actions: NDArray[Any]) -> Outcomes:
        body = self.body
        velocity = self.velocity()
        forward = velocity[:, 0] * body._forward_reward_weight
        low, high = body._healthy_z_range
        height = self.positions[:, 2]
        finite = np.isfinite(self.positions).all(axis=1) & np.isfinite(self.velocities).all(axis=1)
        healthy = finite & (low <= height) & (height <= high)
        survive = healthy * body._healthy_reward
        cost = _control_cost(body, actions)
        clipped = np.clip(self.forces(), *body._contact_force_range)
        contact = body._contact_cost_weight * np.square(clipped).sum(axis=1)
        info = {
            **self.whereabouts(velocity),
            "reward_forward": forward,
            "reward_ctrl": -cost,
            "reward_contact": -contact,
            "reward_survive": survive,
        }
        return forward + survive - (cost + contact), ~healthy & body._terminate_when_unhealthy, info


class HumanoidSteps(SpatialSteps):
    """Humanoid-v5."""

    def __init__(self, environments: Sequence[Any]) -> None:
        super().__init__(environments)
        self._tendons = [(data.ten_length, data.ten_velocity) for data in self.datas]
        self._ctrl_arrays = [data.ctrl for data in self.datas]
        self._controls: Array = np.zeros((len(environments), self.body.model.nu))

    def place(self, i: int) -> Array:
        # gymnasium's own function, one by one: a batch of such sums may be rounded otherwise.
        return np.asarray(mass_center(self.models[i], self.datas[i]))

    def outcomes(self, actions: NDArray[Any]) -> Outcomes:
        body = self.body
        velocity = self.velocity()
        forward = velocity[:, 0] * body._forward_reward_weight
        low, high = body._healthy_z_range
        height = self.positions[:, 2]
        healthy = (low < height) & (height < high)
        survive = healthy * body._healthy_reward
        cost = _control_cost(body, _stacked(self._ctrl_arrays, self._controls))
        contact = np.clip(body._contact_cost_weight * np.square(self.forces()).sum(axis=1), *body._contact_cost_range)
        lengths, velocities = zip(*self._tendons, strict=True)
        info = {
            **self.whereabouts(velocity),
            "tendon_length": np.stack(lengths),
            "tendon_velocity": np.stack(velocities),
            "reward_survive": survive,
            "reward_forward": forward,
            "reward_ctrl": -cost,
            "reward_contact": -contact,
        }
        return forward + survive - (cost + contact), ~healthy & body._terminate_when_unhealthy, info


def _control_cost(body: Any, controls: NDArray[Any]) -> NDArray[Any]:
    """In the number type of ``controls`` [N, A], whose rows must be contiguous: sums of others round otherwise."""
    cost: NDArray[Any] = body._ctrl_cost_weight * np.add.reduce(np.square(controls), axis=1)
    return cost
