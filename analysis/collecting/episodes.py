"""Episodes as arrays: run here, or recorded by others; and what policies think of the actions in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.collecting.policies import Acting, FunctionPolicy
from m3po.foreign.answers import flags, numbers

Array = NDArray[np.float64]

# Copies of an environment that are stepped side by side, where copies can be made: policies like batches.
COPIES = 32
# What is kept of what environments tell.
TOLD = ("log_density", "task")


@dataclass
class Episode:
    """What happened, step by step.

    Attributes:
        observations: o_0 .. o_T, T + 1 of them; arrays, numbers or dictionaries of arrays.
        actions: a_0 .. a_{T-1}, as the environment got them.
        rewards: r_0 .. r_{T-1}.
        terminated: whether it ended for good after the last step; if not, it was cut off.
        infos: what the environment told after every step, of ``TOLD``.
    """

    observations: list[Any]
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    infos: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rewards)

    def first(self, horizon: int) -> Episode:
        """Its first steps."""
        if len(self) <= horizon:
            return self
        return Episode(
            self.observations[: horizon + 1], self.actions[:horizon], self.rewards[:horizon], False,
            self.infos[:horizon],
        )  # fmt: skip


@dataclass
class Episodes:
    """N episodes of at most H steps, none of which was cut off before.

    Attributes:
        all: the episodes.
        horizon: H.
    """

    all: list[Episode]
    horizon: int

    @staticmethod
    def of(found: Iterable[Episode], horizon: int) -> Episodes:
        """Raises:
        ValueError: when there are none, or one was cut off: what it would have been paid from there on is not known.
        """
        episodes = [each.first(horizon) for each in found]
        if not episodes:
            raise ValueError("there are no episodes")
        cut = [(len(each), i) for i, each in enumerate(episodes) if len(each) < horizon and not each.terminated]
        if cut:
            steps, i = min(cut)
            raise ValueError(
                f"episode {i} was cut off after {steps} of {horizon} steps without having ended, so that it is not "
                f"known what it would have been paid: give horizon={steps} or less"
            )
        return Episodes(episodes, horizon)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """[N, H], True where something happened."""
        return np.array([[t < len(each) for t in range(self.horizon)] for each in self.all])

    @property
    def rewards(self) -> Array:
        """[N, H], zero after the end."""
        return np.array([each.rewards + [0.0] * (self.horizon - len(each)) for each in self.all])

    def observations_at(self, t: int) -> Any:
        """o_t of all episodes, of those that have ended their last. [N, ...]."""
        return batch([each.observations[min(t, len(each))] for each in self.all])

    def actions_at(self, t: int) -> NDArray[Any]:
        """a_t of all episodes, of those that have ended their last. [N, ...]."""
        return np.stack([np.asarray(each.actions[min(t, len(each) - 1)]) for each in self.all])

    def log_densities(self, policy: Acting) -> Array:
        """log pi(a_t | h_t) of the actions that were taken, [N, H], zero after the end.

        Raises:
            ValueError: when the policy has no density.
        """
        memory, found = None, np.zeros((len(self.all), self.horizon))
        for t in range(max(map(len, self.all))):
            actions, memory = policy.actions(self.observations_at(t), memory)
            taken = self.actions_at(t)
            found[:, t] = actions.log_density(taken)
            memory = policy.took(memory, taken)
        return np.where(self.valid, found, 0.0)


def batch(observations: Sequence[Any]) -> Any:
    """[N, ...], key by key where observations are dictionaries."""
    if isinstance(observations[0], dict):
        return {key: np.stack([np.asarray(each[key]) for each in observations]) for key in observations[0]}
    return np.stack([np.asarray(each) for each in observations])


# Run here


def run(
    environments: Sequence[Any],
    name: str,
    policy: Acting,
    count: int,
    horizon: int,
    seeds: Sequence[int],
    generator: np.random.Generator,
) -> list[Episode]:
    """``count`` episodes of ``policy``, as many side by side as there are environments.

    Raises:
        ValueError: when an environment fails or returns what is no answer, or an action does not fit.
    """
    found: list[Episode] = []
    width = 1 if isinstance(policy, FunctionPolicy) else len(environments)
    while len(found) < count:
        first = len(found)
        some = list(environments[: min(width, count - first)])
        found += _side_by_side(some, name, policy, horizon, seeds[first : first + len(some)], first, generator)
    return found


def _side_by_side(
    environments: list[Any],
    name: str,
    policy: Acting,
    horizon: int,
    seeds: Sequence[int],
    number: int,
    generator: np.random.Generator,
) -> list[Episode]:
    def checked(what: str, length: int, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        try:
            answer = call(*given, **named)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"{name} failed {what}: {type(error).__name__}: {error}") from error
        if not (isinstance(answer, tuple) and len(answer) == length):
            raise ValueError(f"{name} returned {answer!r} {what}, expected {length} values")
        return answer

    episodes = []
    for i, environment in enumerate(environments):
        where = f"from reset in episode {number + i}"
        observation, _ = checked(where, 2, environment.reset, seed=int(seeds[i]))
        episodes.append(Episode([copied(name, observation, where)]))
    memory = None
    alive = [True] * len(environments)
    for t in range(horizon):
        choice, memory = policy.actions(batch([each.observations[-1] for each in episodes]), memory)
        actions = choice.draw(generator)
        for i, environment in enumerate(environments):
            if not alive[i]:
                continue
            where = f"at step {t} of episode {number + i}"
            action = fitting(environment.action_space, actions[i], policy.name)
            answer = checked(where, 5, environment.step, action)
            following, reward, ended, cut, info = answer
            paid = numbers(name, f"a reward {where}", reward, np.shape(reward))
            if paid.size != 1 or not np.isfinite(paid).all():
                raise ValueError(f"{name} returned reward {reward!r} {where}, expected one finite number")
            episode = episodes[i]
            episode.observations.append(copied(name, following, where))
            episode.actions.append(np.array(action))
            episode.rewards.append(float(paid.reshape(())))
            episode.infos.append({key: info[key] for key in TOLD if isinstance(info, dict) and key in info})
            episode.terminated = bool(flags(name, "terminated", ended, 1)[0])
            alive[i] = not (episode.terminated or flags(name, "truncated", cut, 1)[0])
        if not any(alive):
            break
        memory = policy.took(memory, actions)
    return episodes


def copied(name: str, observation: Any, where: str) -> Any:
    """A copy, since an environment may use its arrays again.

    Raises:
        ValueError: when it holds something that is no finite number.
    """
    if isinstance(observation, dict):
        return {key: copied(name, value, where) for key, value in observation.items()}
    try:
        array = np.array(observation)
        bad = array.dtype.kind not in "biuf" or not np.isfinite(array.astype(np.float64)).all()
    except (TypeError, ValueError):
        bad = True
    if bad:
        raise ValueError(f"{name} returned observation {observation!r} {where}, which is no array of finite numbers")
    return array


def fitting(space: Any, action: Any, policy: str) -> Any:
    """The action in the form of the environment's space.

    Raises:
        ValueError: when it has another shape, is no number, or lies in no such space.
    """
    array = np.asarray(action)
    shape = getattr(space, "shape", None)
    if array.dtype.kind not in "biuf" or not np.isfinite(array.astype(np.float64)).all():
        raise ValueError(f"{policy} returned the action {action!r}, which is no array of finite numbers")
    if shape is not None and array.shape != shape:
        if array.size != int(np.prod(shape)):
            raise ValueError(f"{policy} returned an action of shape {list(array.shape)}, the space is {space}")
        array = array.reshape(shape)
    dtype = np.dtype(space.dtype)
    if dtype.kind in "iu" and array.dtype.kind == "f" and (array != np.round(array)).any():
        raise ValueError(f"{policy} returned the action {action!r}, the space holds whole numbers: {space}")
    found = array.astype(dtype)
    if shape == () and not hasattr(space, "low"):
        found = found[()]
        if not space.contains(found):
            raise ValueError(f"{policy} returned the action {found!r}, which is not in {space}")
    return found


# Recorded by others


def recorded(episodes: Iterable[Any]) -> list[Episode]:
    """Episodes as Minari has them: objects with ``observations`` (T + 1), ``actions``, ``rewards``, ``terminations``
    and ``truncations`` (T each), and ``infos`` where there are any: a dictionary of arrays over time, or the list of
    what the steps returned.

    Raises:
        ValueError: naming the episode and the array that does not fit.
    """
    found = []
    for i, each in enumerate(episodes):
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            if not hasattr(each, name):
                raise ValueError(f"episode {i} has no {name}: it is {type(each).__name__}")
        name = f"episode {i}"
        rewards = np.asarray(each.rewards, dtype=np.float64)
        steps = len(rewards)
        if rewards.ndim != 1 or not steps or not np.isfinite(rewards).all():
            raise ValueError(f"{name} must have one finite reward for each step, got shape {rewards.shape}")
        observations, actions = _split(each.observations), _split(each.actions)
        for what, values, expected in (("observations", observations, steps + 1), ("actions", actions, steps)):
            if len(values) != expected:
                raise ValueError(f"{name} has {steps} rewards and {len(values)} {what}, expected {expected}")
        ended = flags(name, "terminations", each.terminations, steps)
        flags(name, "truncations", each.truncations, steps)
        if ended[:-1].any():
            raise ValueError(f"{name} goes on after it ended at step {int(ended.argmax())}")
        seen = [copied(name, value, f"at step {t}") for t, value in enumerate(observations)]
        infos = getattr(each, "infos", None)
        told = _told(infos, steps)
        found.append(Episode(seen, actions, rewards.tolist(), bool(ended[-1]), told))
    return found


def _split(values: Any) -> list[Any]:
    """Along time, key by key where they are dictionaries of arrays."""
    if isinstance(values, dict):
        parts = {key: _split(value) for key, value in values.items()}
        return [dict(zip(parts, each, strict=True)) for each in zip(*parts.values(), strict=True)]
    return list(values)


def _told(infos: Any, steps: int) -> list[dict[str, Any]]:
    """What is kept of infos with one entry for each step, or one more for the reset before."""
    if isinstance(infos, list | tuple) and len(infos) in (steps, steps + 1):
        last = infos[len(infos) - steps :]
        return [{key: info[key] for key in TOLD if isinstance(info, dict) and key in info} for info in last]
    found: list[dict[str, Any]] = [{} for _ in range(steps)]
    for key, values in infos.items() if isinstance(infos, dict) else ():
        if key in TOLD and np.ndim(values) and len(values) in (steps, steps + 1):
            for t, value in enumerate(values[len(values) - steps :]):
                found[t][key] = value
    return found
