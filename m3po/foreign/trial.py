"""Try an environment before a run begins: whatever would end or spoil the training is said in one line, and first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from m3po.config import MODEL_FREE, Config
from m3po.envs.protocol import Array, CertifiableDynamics, KnownReward
from m3po.foreign.checked_environment import CheckedEnvironment, Step
from m3po.foreign.environment import layers, leaves_all
from m3po.runs.health import DivergenceError
from m3po.runs.terminal import messages

STEPS, SECONDS, SEED = 1000, 5.0, 20210706

# Steps for which one corner of the box is held, on average, in every other episode: what random actions never reach.
HELD = 20

# A right density is refused with a probability of at most e^-20: see ``check_density``.
REFUTED = 20.0


@dataclass(frozen=True)
class TrialSteps:
    """Steps of the trial: o [N, O], a [N, A] in [-1, 1], r [N], o' [N, O] and the task that ruled each [N]."""

    observations: Array
    actions: Array
    rewards: Array
    following: Array
    tasks: NDArray[np.int64]


def try_environment(config: Config) -> None:
    """Build the environment and, unless it is this project's, run it for at most ``STEPS`` steps or ``SECONDS`` s.

    Raises:
        ValueError: when it cannot be trained with ``config``: see ``make_environment``, ``CheckedEnvironment`` and
            ``offers_of``; it ends an episode where no rule says so (PEARL needs none); or its density is not that of
            what happens.
        DivergenceError: when it returns a number that is not finite.
    """
    options = config.environment_options()
    checked = CheckedEnvironment(config.env_id, options)
    try:
        if is_ours(checked.environment):
            return
        _check_rule(checked)
        _run(checked, needs_rule=config.algorithm not in MODEL_FREE, options=options)
    except DivergenceError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(config.env_id):
            raise
        raise ValueError(f"{config.env_id} failed in a trial: {type(error).__name__}: {error}") from error
    finally:
        checked.environment.close()


def is_ours(environment: gym.Env[Any, Any]) -> bool:
    """Whether it is an environment of this project as it is registered, which the tests have tried."""
    *outer, base = layers(environment)
    return type(base).__module__.startswith("m3po.envs.") and all(leaves_all(layer) for layer in outer)


def _check_rule(checked: CheckedEnvironment) -> None:
    """The rule takes any number of observations: one that is meant for a single one may pass for some numbers."""
    rule = checked.offers.rule
    if rule is not None:
        for count in (1, 2, checked.observation_size + 3):
            rule.ends(np.zeros((count, checked.observation_size)))


def _run(checked: CheckedEnvironment, *, needs_rule: bool, options: Mapping[str, Any]) -> None:
    first = checked.reset(SEED, "in a trial")[0]
    found = _Record()
    generator = np.random.default_rng(SEED)
    began = time.monotonic()
    episode = 0
    while len(found.rewards) < STEPS and time.monotonic() - began < SECONDS:
        observation, task = checked.reset(SEED + episode, f"in episode {episode + 1} of a trial")
        actions = _actions(checked.action_size, generator, held=episode % 2 == 1)
        for t, action in zip(range(checked.horizon), actions, strict=False):
            where = f"at step {t + 1} of episode {episode + 1} of a trial with random actions"
            step = checked.step(torch.as_tensor(action, dtype=torch.float32)[None], where)
            if needs_rule:
                checked.check_end(step, where)
            found.add(observation, action, task, step)
            observation, task = step.observation, step.task
            if step.terminated or step.truncated or len(found.rewards) == STEPS:
                break
        if step.truncated and not step.terminated and t + 1 < checked.horizon:
            found.cut_at = t + 1
        episode += 1
    _check_repeats(checked, first, options)
    if checked.offers.dynamics is not None:
        if found.cut_at is not None:
            raise ValueError(
                f"{checked.env_id} offers a density and cuts an episode off after {found.cut_at} steps, before its "
                f"time limit of {checked.horizon}: what a guarantee speaks of would not be what happens"
            )
        check_density(checked.env_id, checked.offers.dynamics, found.transitions())


class _Record:
    """What happened so far; ``cut_at``: after how many steps an episode was cut off before the time limit."""

    def __init__(self) -> None:
        self.observations: list[Array] = []
        self.actions: list[Array] = []
        self.rewards: list[float] = []
        self.following: list[Array] = []
        self.tasks: list[int] = []
        self.cut_at: int | None = None

    def add(self, observation: Array, action: Array, task: int, step: Step) -> None:
        self.observations.append(observation)
        self.actions.append(action)
        self.rewards.append(step.reward)
        self.following.append(step.observation)
        self.tasks.append(task)

    def transitions(self) -> TrialSteps:
        return TrialSteps(
            np.array(self.observations),
            np.array(self.actions),
            np.array(self.rewards),
            np.array(self.following),
            np.array(self.tasks),
        )


def _actions(size: int, generator: np.random.Generator, *, held: bool) -> Iterator[Array]:
    """Uniform actions, or corners of the box that are held for a while, in float32's precision."""
    action = generator.choice([-1.0, 1.0], size)
    while True:
        if not held:
            action = generator.uniform(-1.0, 1.0, size)
        elif generator.random() < 1 / HELD:
            action = generator.choice([-1.0, 1.0], size)
        yield action.astype(np.float32).astype(np.float64)


def _check_repeats(checked: CheckedEnvironment, first: Array, options: Mapping[str, Any]) -> None:
    """Warn when the same seed gives a new environment the old start, and this one no longer."""
    now = checked.reset(SEED, "after a trial")[0]
    if np.array_equal(now, first):
        return
    fresh = CheckedEnvironment(checked.env_id, options)
    try:
        repeats = np.array_equal(fresh.reset(SEED, "in a trial")[0], first)
    finally:
        fresh.environment.close()
    if repeats:
        print(
            f"warning: {checked.env_id} keeps something from episode to episode: for the same seed it shows {now} "
            f"after a trial and {first} when new. That is in no checkpoint, and fresh environments of an evaluation or "
            "a guarantee start without it",
            file=messages(),
        )


def check_density(env_id: str, dynamics: CertifiableDynamics, steps: TrialSteps) -> None:
    """The density that is offered is not refuted by what happened: rewards in their range, and an e-value below e^20.

    Against log p(o' | task, o, a) bets a Gaussian fitted to o' - o of the first half of the steps, on the second: if p
    is the density, E[prod q/p] <= 1, so the product exceeds e^20 with probability at most e^-20 (Markov). A density
    that speaks of other units, or of other actions, than what is shown loses against it by far.

    Raises:
        ValueError: says what is wrong.
    """
    if (steps.tasks < 0).any():
        raise ValueError(
            f'{env_id} offers a density given the task, and does not tell the task as a whole number in info["task"], '
            "after reset and every step"
        )
    arguments = (steps.following, steps.observations, steps.actions, steps.tasks)
    log_density = _log_densities(env_id, dynamics, arguments)
    half = len(steps.rewards) // 2
    changes = steps.following - steps.observations
    mean, std = changes[:half].mean(axis=0), np.maximum(changes[:half].std(axis=0), 1e-12)
    gaussian = -0.5 * ((changes[half:] - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    evidence = float((gaussian.sum(axis=1) - log_density[half:]).sum())
    if evidence > REFUTED:
        raise ValueError(
            f"{env_id} offers a density that is not that of its observations: over {len(changes) - half} steps a "
            f"Gaussian of their changes is {evidence:.0f} nats better. Does it speak of other units or actions than "
            "what is shown?"
        )
    low, high = dynamics.reward_low, dynamics.reward_high
    slack = 1e-9 * max(abs(low), abs(high), 1.0)
    outside = (steps.rewards < low - slack) | (steps.rewards > high + slack)
    if outside.any():
        raise ValueError(
            f"{env_id} paid {steps.rewards[outside][0]:.6g}, and its dynamics say that rewards are in [{low}, {high}]"
        )
    if isinstance(dynamics, KnownReward):
        known = np.asarray(dynamics.reward(steps.observations, steps.actions), dtype=np.float64)
        if known.shape != steps.rewards.shape or not np.allclose(known, steps.rewards, rtol=1e-4, atol=1e-4):
            raise ValueError(f"{env_id} does not pay what dynamics.reward(observation, action) says")


def _log_densities(env_id: str, dynamics: CertifiableDynamics, arguments: tuple[Any, ...]) -> Array:
    count = len(arguments[0])
    try:
        values = np.asarray(dynamics.log_density(*arguments))
    except Exception as error:
        raise ValueError(
            f"{env_id} has dynamics whose log_density(next_observation, observation, action, task) fails for "
            f"{count} rows: {type(error).__name__}: {error}"
        ) from error
    if values.shape != (count,) or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise ValueError(
            f"{env_id} has dynamics whose log_density returns {values.dtype} of shape {list(values.shape)} for {count} "
            f"rows, expected {count} finite numbers"
        )
    return values.astype(np.float64)
