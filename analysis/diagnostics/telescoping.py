"""The return gap as a sum over time of reward errors and of values at real and imagined next observations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.diagnostics.intervals import Array, ends
from m3po.agents.rollout import Terminated, model_steps, never_terminated
from m3po.data.types import ROWS_AT_A_TIME, Windows
from m3po.errors import EncodedTrajectories, predicted_rewards
from m3po.networks.model import LearnedModel
from m3po.networks.policy import HistoryPolicy

# Times drawn from each episode for the telescoped gap, and what is reported together.
STRATA, GROUPS = 40, 10

# The remainder of the telescoped gap is below this share of the trivial gap.
REMAINDER_SHARE = 0.01

# The return gap


@torch.no_grad()
def rollout_values(
    model: LearnedModel,
    policy: HistoryPolicy,
    windows: Windows,
    steps: Tensor,
    discount: float,
    generator: torch.Generator,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    terminated: Terminated = never_terminated,
) -> Array:
    """sum_{i < steps} gamma^i r_theta(h_i, a_i) of one rollout in the model from each history, [N]."""
    values = torch.zeros(len(steps), dtype=torch.float64)
    for part in torch.arange(len(steps)).split(ROWS_AT_A_TIME):
        longest = int(steps[part].max())
        if longest == 0:
            continue
        rollouts = model_steps(model, policy, windows.select(part), longest, generator, terminated)
        for i, step in enumerate(rollouts):
            rows = part[step.rows.cpu()]
            reward = model.expected_reward(step.transitions.features, step.transitions.action, low, high)
            values[rows] += torch.where(i < steps[rows], discount**i * reward.double().cpu(), 0.0)
    return np.asarray(values.numpy(), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class TelescopedGap:
    """Samples per episode whose means are the parts of the telescoped gap. Times are cut into S strata.

    Attributes:
        reward: [N, H] gamma^t (r_t - r_theta(h_t, a_t)), 0 after an episode's end.
        dynamics: [N, S], unbiased for sum_{t in stratum} gamma^{t+1} (W real - W model); strata of equal discount
            weight, which share the times at their borders.
        borders: [S + 1] times: stratum s reaches from borders[s] to borders[s + 1].
    """

    reward: Array
    dynamics: Array
    borders: NDArray[np.int64]


def telescoped_gap(
    model: LearnedModel,
    policy: HistoryPolicy,
    data: EncodedTrajectories,
    generator: torch.Generator,
    *,
    discount: float,
    value_steps: int,
    strata: int = STRATA,
    low: float = -math.inf,
    high: float = math.inf,
    terminated: Terminated = never_terminated,
) -> TelescopedGap:
    """The reward and the dynamics part of the telescoped gap (see the module) on episodes of ``policy``.

    One time is drawn from each of ``strata`` equal parts of the law proportional to gamma^t, t < H - 1. From the real
    next observation and from one drawn from the model, one rollout each of at most ``value_steps`` = C steps, with the
    same random numbers.

    Raises:
        ValueError: when ``value_steps`` or ``strata`` < 1, or the discount is not in [0, 1).
    """
    if value_steps < 1 or strata < 1:
        raise ValueError(f"value_steps and strata must be >= 1, got {value_steps} and {strata}")
    if not 0 <= discount < 1:
        raise ValueError(f"discount must be in [0, 1), got {discount}")
    trajectories = data.trajectories
    episodes, horizon = trajectories.rewards.shape
    powers = np.power(float(discount), np.arange(horizon))
    features = data.features(model.encoder)
    paid = predicted_rewards(model, data, low, high)
    reward = powers * np.where(trajectories.valid, trajectories.rewards - paid, 0.0)
    if horizon == 1:
        return TelescopedGap(reward, np.zeros((episodes, strata)), np.zeros(strata + 1, dtype=np.int64))

    law = np.cumsum(powers[:-1]) / powers[:-1].sum()
    borders = np.minimum(np.searchsorted(law, np.arange(strata + 1) / strata, side="right"), horizon - 2)
    places = (np.arange(strata) + torch.rand(episodes, strata, generator=generator).double().numpy()) / strata
    times = torch.as_tensor(np.minimum(np.searchsorted(law, places, side="right"), horizon - 2))
    rows = (torch.arange(episodes)[:, None] * horizon + times).reshape(-1)
    left = (horizon - 1 - rows % horizon).clamp(max=value_steps)
    valid = torch.as_tensor(trajectories.valid.reshape(-1))
    happened, goes_on = valid[rows], valid[rows] & valid[rows + 1]

    with torch.no_grad():
        before = data.windows.select(rows)
        drawn = [
            model.sample(features[part], data.windows.observation[part], data.actions[part], generator)[0]
            for part in rows.split(ROWS_AT_A_TIME)
        ]
    imagined = before.push(data.actions[rows], torch.cat(drawn))
    ended = terminated(imagined.observation).cpu()
    seed = int(torch.randint(2**62, (1,), generator=generator))
    values = [
        rollout_values(
            model,
            policy,
            windows,
            torch.where(alive, left, 0),
            discount,
            torch.Generator().manual_seed(seed),
            low=low,
            high=high,
            terminated=terminated,
        )
        for windows, alive in ((data.windows.select(rows + 1), goes_on), (imagined, happened & ~ended))
    ]
    weight = discount * powers[:-1].sum() / strata
    return TelescopedGap(reward, weight * (values[0] - values[1]).reshape(episodes, strata), borders)


def value_steps_for(discount: float, horizon: int) -> int:
    """The smallest C with gamma^C <= 1%, at most H - 1, with which the remainder is 0."""
    if discount == 0:
        return 1
    return max(1, min(horizon - 1, math.ceil(math.log(REMAINDER_SHARE) / math.log(discount))))


def return_gap(
    model: LearnedModel,
    policy: HistoryPolicy,
    data: EncodedTrajectories,
    few: EncodedTrajectories,
    generator: torch.Generator,
    confidence: float,
    *,
    discount: float,
    rollouts: int = 4,
    low: float = -math.inf,
    high: float = math.inf,
    terminated: Terminated = never_terminated,
) -> dict[str, Any]:
    """True return - full-model return with the learned reward: measured as a difference on the episodes of ``data``,
    and telescoped on those of ``few``.

    Returns:
        true_return, model_return, direct (their difference, paired by the first observation), telescoped, reward_part,
        dynamics_part: each estimate, lower, upper. value_steps C; remainder_at_most: its share of R/(1 - gamma), 0 when
        rollouts reach the horizon; profile: the parts of 10 spans of time of equal discount weight, reward_part of
        the times from <= t < to (a span may be empty), dynamics_part with shared times at the borders.
    """
    trajectories = data.trajectories
    episodes, horizon = trajectories.rewards.shape
    first = (torch.arange(episodes) * horizon).repeat_interleave(rollouts)
    imagined = rollout_values(
        model,
        policy,
        data.windows.select(first),
        torch.full((len(first),), horizon),
        discount,
        generator,
        low=low,
        high=high,
        terminated=terminated,
    )
    model_returns = imagined.reshape(episodes, rollouts).mean(axis=1)
    true_returns = trajectories.returns(discount)
    steps = value_steps_for(discount, horizon)
    gap = telescoped_gap(
        model,
        policy,
        few,
        generator,
        discount=discount,
        value_steps=steps,
        low=low,
        high=high,
        terminated=terminated,
    )
    # A stratum's last time opens the next one.
    borders = gap.borders[:: STRATA // GROUPS]
    dynamics = gap.dynamics.mean(axis=0).reshape(GROUPS, -1).sum(axis=1)
    reward = np.append(gap.reward.mean(axis=0).cumsum(), 0.0)  # the last entry is that before time 0
    stops = np.append(borders[1:-1], horizon)
    return {
        "true_return": ends(true_returns, confidence),
        "model_return": ends(model_returns, confidence),
        "direct": ends(true_returns - model_returns, confidence),
        "telescoped": ends(gap.reward.sum(axis=1) + gap.dynamics.sum(axis=1), confidence),
        "reward_part": ends(gap.reward.sum(axis=1), confidence),
        "dynamics_part": ends(gap.dynamics.sum(axis=1), confidence),
        "value_steps": steps,
        "remainder_at_most": 0.0 if steps >= horizon - 1 else discount**steps,
        "profile": [
            {
                "from": int(borders[place]),
                "to": int(stops[place]),
                "reward_part": float(reward[stops[place] - 1] - reward[borders[place] - 1]),
                "dynamics_part": float(dynamics[place]),
            }
            for place in range(GROUPS)
        ],
    }
