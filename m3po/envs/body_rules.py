"""When gymnasium's own bodies end an episode, as a function of what is observed: they tell it of their state only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Observations = NDArray[np.floating]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """Which observations end an episode.

    Attributes:
        ends: observations o' [N, O] -> [N] booleans.
        exact: whether the environment itself judges by nothing but o'.
    """

    ends: Callable[[Observations], Booleans]
    exact: bool = True


def rule_of_body(body: Any) -> Rule | None:
    """The rule of one of gymnasium's bodies with the options it was built with; None for others, which may never end.

    Subclasses may end otherwise, and get none.
    """
    make = _RULES.get(f"{type(body).__module__}.{type(body).__qualname__}")
    return None if make is None else make(body)


def _between(values: Observations, ends: tuple[float, float]) -> Booleans:
    return np.asarray((ends[0] < values) & (values < ends[1]))


def _never(observations: Observations) -> Booleans:
    return np.zeros(len(observations), dtype=bool)


def _hidden_positions(body: Any, count: int) -> int:
    """How many of the first ``count`` positions are left out of the observation."""
    return count if body._exclude_current_positions_from_observation else 0


def _hopper(body: Any) -> Rule:
    """Height, angle or any other coordinate of the state outside its range.

    Observed velocities are clipped to [-10, 10]: exact while the range of the state is wider than what is ever reached.
    """
    if not body._terminate_when_unhealthy:
        return Rule(_never)
    first = 1 - _hidden_positions(body, 1)  # of the height

    def ends(observations: Observations) -> Booleans:
        healthy = _between(observations[:, first], body._healthy_z_range)
        healthy &= _between(observations[:, first + 1], body._healthy_angle_range)
        healthy &= _between(observations[:, first + 1 :], body._healthy_state_range).all(axis=1)
        return ~healthy

    return Rule(ends)


def _walker(body: Any) -> Rule:
    """Height or angle outside its range."""
    if not body._terminate_when_unhealthy:
        return Rule(_never)
    first = 1 - _hidden_positions(body, 1)

    def ends(observations: Observations) -> Booleans:
        healthy = _between(observations[:, first], body._healthy_z_range)
        return ~(healthy & _between(observations[:, first + 1], body._healthy_angle_range))

    return Rule(ends)


def _ant(body: Any) -> Rule:
    """Height outside its closed range, or a state that is not finite."""
    if not body._terminate_when_unhealthy:
        return Rule(_never)
    height = 2 - _hidden_positions(body, 2)
    low, high = body._healthy_z_range

    def ends(observations: Observations) -> Booleans:
        healthy = (low <= observations[:, height]) & (observations[:, height] <= high)
        return np.asarray(~(healthy & np.isfinite(observations).all(axis=1)))

    return Rule(ends)


def _humanoid(body: Any) -> Rule:
    """Height outside its range."""
    if not body._terminate_when_unhealthy:
        return Rule(_never)
    height = 2 - _hidden_positions(body, 2)
    return Rule(lambda observations: ~_between(observations[:, height], body._healthy_z_range))


def _inverted_pendulum(body: Any) -> Rule:
    """The pole leans by more than 0.2 rad."""

    def ends(observations: Observations) -> Booleans:
        return np.asarray(~(np.isfinite(observations).all(axis=1) & (np.abs(observations[:, 1]) <= 0.2)))

    return Rule(ends)


def _inverted_double_pendulum(body: Any) -> Rule:
    """The tip of the two poles, 0.6 m each, is not above 1 m.

    The body judges by where its simulator last computed the tip, which is before the end of the last substep.
    """

    def ends(observations: Observations) -> Booleans:
        sine, sine_between, cosine, cosine_between = observations[:, 1:5].T
        return np.asarray(0.6 * cosine + 0.6 * (cosine * cosine_between - sine * sine_between) <= 1)

    return Rule(ends, exact=False)


def _mountain_car(body: Any) -> Rule:
    """At the goal or beyond, and fast enough."""

    def ends(observations: Observations) -> Booleans:
        arrived = observations[:, 0] >= body.goal_position
        return np.asarray(arrived & (observations[:, 1] >= body.goal_velocity))

    return Rule(ends)


_RULES: dict[str, Callable[[Any], Rule]] = {
    f"gymnasium.envs.mujoco.{name}_{version}.{kind}": rule
    for name, kind, rule in (
        ("hopper", "HopperEnv", _hopper),
        ("walker2d", "Walker2dEnv", _walker),
        ("ant", "AntEnv", _ant),
        ("humanoid", "HumanoidEnv", _humanoid),
        ("inverted_pendulum", "InvertedPendulumEnv", _inverted_pendulum),
        ("inverted_double_pendulum", "InvertedDoublePendulumEnv", _inverted_double_pendulum),
    )
    for version in ("v4", "v5")
} | {"gymnasium.envs.classic_control.continuous_mountain_car.Continuous_MountainCarEnv": _mountain_car}
