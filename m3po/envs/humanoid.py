"""The humanoid that is to run forward or backward."""

from __future__ import annotations

from typing import Unpack

import numpy as np
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from numpy.typing import NDArray

from m3po.envs.body_steps import HumanoidSteps
from m3po.envs.body_vector import BodyVector
from m3po.envs.direction import DirectionTask
from m3po.envs.hidden_task import EnvironmentOptions, split_options

HEALTHY_HEIGHT = (1.0, 2.0)


class HumanoidDirec(DirectionTask, HumanoidEnv):
    """Humanoid-v5 that is to run forward (task 0) or backward (task 1): 1.25 d v_x + 5 - 0.1 |a|^2 - contact cost.

    d is the direction +1 or -1, v_x the velocity of the centre of mass over the step; the contact cost is
    min(5e-7 |contact forces|^2, 10); the 5 is paid where the step does not end the episode. Ends when the height leaves
    (1, 2).
    No density to certify against: its orientation is a unit quaternion, on which additive noise has no density.
    See docs/environments/humanoid_direc.md for the options.
    """

    observed_positions = slice(2, None)

    def __init__(self, **options: Unpack[EnvironmentOptions]) -> None:
        task, body = split_options(options)
        HumanoidEnv.__init__(
            self,
            healthy_z_range=HEALTHY_HEIGHT,
            include_cinert_in_observation=False,
            include_cvel_in_observation=False,
            include_qfrc_actuator_in_observation=False,
            include_cfrc_ext_in_observation=False,
            **body,
        )
        self.hide_task(options, **task)

    def terminated(self, observation: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Height outside (1, 2). [N, O] -> [N]."""
        height = observation[:, 0]
        return np.asarray(~((HEALTHY_HEIGHT[0] < height) & (height < HEALTHY_HEIGHT[1])))


class HumanoidDirecVector(BodyVector):
    """HumanoidDirec, many at once."""

    environment = HumanoidDirec
    steps = HumanoidSteps
