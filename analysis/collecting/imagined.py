"""What a user's model promises: branched returns, its density at what happened, and the rewards it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.collecting.episodes import Episodes
from analysis.collecting.policies import Acting

Array = NDArray[np.float64]


class Model(Protocol):
    """What a model is asked, in batches: observations [N, O] and actions [N, A], in the environment's units.

    Where ``ProcessNoise`` says that more is shown than there are coordinates, what comes next is told in coordinates.
    It may also have ``reward(observation, action) -> [N]``, what it predicts to be paid.
    """

    def sample(self, observation: Array, action: Array, generator: np.random.Generator) -> Array:
        """o_{t+1} ~ p_theta( | o_t, a_t). [N, O]."""
        ...

    def log_prob(self, observation: Array, action: Array, next_observation: Array) -> Array:
        """log p_theta(o_{t+1} | o_t, a_t), in nats. [N]."""
        ...


@dataclass(frozen=True)
class Imagined:
    """A model with all that rollouts in it need.

    Attributes:
        model: the user's.
        reward: (o [N, O], a [N, A]) -> [N], what rollouts are paid.
        coordinates: o [..., O] -> what the model tells of it [..., d].
        observe: the inverse.
        ends: o' [N, O] -> [N], which observations end an episode; None where none does, or it is not known.
    """

    model: Model
    reward: Callable[[Array, Array], Array]
    coordinates: Callable[[Array], Array]
    observe: Callable[[Array], Array]
    ends: Callable[[Array], NDArray[np.bool_]] | None

    def log_densities(self, episodes: Episodes) -> Array:
        """log p_theta(o_{t+1} | o_t, a_t) at what happened, [N, H], zero after the end.

        Raises:
            ValueError: when the model returns something else than N numbers.
        """
        found = np.zeros(episodes.valid.shape)
        for t in range(episodes.horizon):
            following = self.coordinates(flat(episodes.observations_at(t + 1)))
            found[:, t] = numbers_of(
                "model.log_prob", self.model.log_prob(flat(episodes.observations_at(t)), taken(episodes, t), following),
                (len(found),),
            )  # fmt: skip
        return np.where(episodes.valid, found, 0.0)

    def predicted_rewards(self, episodes: Episodes) -> Array:
        """What is predicted at the data's actions, [N, H], zero after the end."""
        found = [self.paid(flat(episodes.observations_at(t)), taken(episodes, t)) for t in range(episodes.horizon)]
        return np.where(episodes.valid, np.stack(found, axis=1), 0.0)

    def paid(self, observation: Array, action: Array) -> Array:
        """[N]."""
        return numbers_of("the reward", self.reward(observation, action), (len(observation),))

    def step(self, observation: Array, action: Array, generator: np.random.Generator) -> Array:
        """o' in the model, [N, O].

        Raises:
            ValueError: when the model samples something else than what it has a density of.
        """
        expected = self.coordinates(observation).shape
        drawn = np.asarray(self.model.sample(observation, action, generator), dtype=np.float64)
        if drawn.shape != expected and expected != observation.shape:
            raise ValueError(
                f"model.sample returned shape {list(drawn.shape)}: what is shown has {observation.shape[1]} numbers "
                f"that {expected[1]} coordinates determine, so that no density on all of them exists; the model must "
                f"sample, and have a density of, the {expected[1]} coordinates (ProcessNoise.coordinates)"
            )
        return self.observe(numbers_of("model.sample", drawn, expected))


def branched_returns(
    imagined: Imagined,
    policy: Acting,
    episodes: Episodes,
    *,
    discount: float,
    rollout_length: int | None,
    generator: np.random.Generator,
) -> Array:
    """One unbiased sample per episode of J_branch(k), or of the return in the model when ``rollout_length`` is None.

    From every real history h_s the policy runs i <= k steps in the model, and is paid gamma^t/min(t, k) at t = s + i;
    at t = 0 it is paid for its action at the real o_0. Shape [N].
    """
    valid, horizon = episodes.valid, episodes.horizon
    total, memory = np.zeros(len(valid)), None
    for s in range(horizon):
        observation, alive = flat(episodes.observations_at(s)), valid[:, s]
        choice, memory = policy.actions(episodes.observations_at(s), memory)
        steps = horizon - 1 - s if rollout_length is None else min(rollout_length, horizon - 1 - s)
        if rollout_length is not None or s == 0:
            total += _branch(
                imagined, policy, observation, choice, memory, alive, s, steps, discount, rollout_length, generator
            )
        memory = policy.took(memory, episodes.actions_at(s))
    return total


def _branch(
    imagined: Imagined,
    policy: Acting,
    observation: Array,
    choice: Any,
    memory: Any,
    alive: NDArray[np.bool_],
    start: int,
    steps: int,
    discount: float,
    rollout_length: int | None,
    generator: np.random.Generator,
) -> Array:
    """What the branches from the real histories h_s, s = ``start``, are paid. [N]."""
    found, alive = np.zeros(len(observation)), alive.copy()
    for i in range(steps + 1):
        action = choice.draw(generator)
        t = start + i
        share = (1.0 / min(t, rollout_length) if rollout_length is not None else 1.0) if i else float(t == 0)
        if share:
            found += np.where(alive, share * discount**t * imagined.paid(observation, two_axes(action)), 0.0)
        if i == steps:
            break
        memory = policy.took(memory, action)
        observation = imagined.step(observation, two_axes(action), generator)
        if imagined.ends is not None:
            alive &= ~np.asarray(imagined.ends(observation), dtype=bool)
        choice, memory = policy.actions(observation, memory)
    return found


def flat(observations: Any) -> Array:
    """[N, O].

    Raises:
        ValueError: when observations are dictionaries or arrays of several axes, which models here do not take.
    """
    if isinstance(observations, dict) or np.ndim(observations) > 2:
        raise ValueError("a model can be certified where observations are lists of numbers; here they are not")
    return two_axes(observations)


def two_axes(values: Any) -> Array:
    found = np.asarray(values, dtype=np.float64)
    return found.reshape(len(found), -1)


def taken(episodes: Episodes, t: int) -> Array:
    """a_t of all episodes, [N, A]."""
    return two_axes(episodes.actions_at(t))


def numbers_of(name: str, values: Any, shape: tuple[int, ...]) -> Array:
    """An array of this shape, without NaN.

    Raises:
        ValueError: when it is another one.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.shape != shape or np.isnan(found).any():
        what = "NaN" if found.shape == shape else f"shape {list(found.shape)}"
        raise ValueError(f"{name} returned {what}, expected {list(shape)} numbers")
    return found
