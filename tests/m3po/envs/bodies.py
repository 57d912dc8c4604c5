"""Gymnasium's own bodies as references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def check_directions(body: Any, forward: Any, backward: Any, actions: np.ndarray) -> np.ndarray:
    """Both see the body's states and endings, bit for bit; forward earns its rewards, backward the movement turned.

    Returns the rewards of the two, [T, 2].
    """
    body.reset(seed=0)
    for task, environment in enumerate((forward, backward)):
        environment.reset(seed=0, options={"task": task})
        environment.set_state(body.data.qpos.copy(), body.data.qvel.copy())
    body.set_state(body.data.qpos.copy(), body.data.qvel.copy())
    rewards = []
    for action in actions:
        observation, reward, terminated, _, info = body.step(action)
        rows = [environment.step(action) for environment in (forward, backward)]
        for row in rows:
            np.testing.assert_array_equal(row[0][:-1], observation)
            assert row[2] == terminated
        assert rows[0][1] == reward
        assert rows[1][1] == pytest.approx(reward - 2 * info["reward_forward"], abs=1e-12)
        rewards.append([row[1] for row in rows])
    return np.array(rewards)
