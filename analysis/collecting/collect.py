"""``collect`` and ``from_dataset``: from an environment or recorded episodes, and policies, to evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.collecting.episodes import COPIES, Episodes, batch, copied, recorded, run
from analysis.collecting.imagined import Imagined, Model, branched_returns
from analysis.collecting.policies import Acting, BaselinesPolicy, FunctionPolicy, acting_of
from analysis.guarantee.dependence import Dependence
from analysis.guarantee.evidence import Evidence

Array = NDArray[np.float64]
Reward = Callable[[Array, Array], Array]


def collect(
    env: Any,
    policy: Any,
    model: Model | None = None,
    *,
    episodes: int,
    data_policy: Any = None,
    reward_low: float | None = None,
    reward_high: float | None = None,
    discount: float | None = None,
    horizon: int | None = None,
    absorbing: bool = False,
    deterministic: bool = False,
    rollout_length: int | Literal["full"] = 1,
    reward: Reward | None = None,
    seed: int = 0,
) -> Evidence:
    """Run fresh episodes and make evidence of them for ``certify``.

    Args:
        env: a gymnasium environment, its id, or a function that makes one; of the last two, many run side by side.
        policy: what is certified. A model or policy of Stable-Baselines3 or sb3-contrib, recurrent or not; what
            ``m3po.load`` returns; whatever has sb3-contrib's ``predict``; or a function of an observation.
        model: the model whose promise is certified too (``analysis.collecting.imagined.Model``). The environment's
            one-step density must be known: that of ``m3po.envs.process_noise.ProcessNoise``.
        episodes: how many, >= 2.
        data_policy: who acts instead, an older policy for example; None: ``policy`` itself. Both then need densities:
            policies of Stable-Baselines3 that draw their actions have one, a function with a method ``log_prob``.
        reward_low, reward_high: between them lies every reward that can be paid, by what the environment is and not by
            what these episodes show; None where the environment says so itself (``reward_range``, ``dynamics``).
        discount: gamma; None: the policy's own.
        horizon: H, steps of an episode that count; None: the environment's time limit.
        absorbing: whether it is the return of these H steps that is asked for. False: what comes after is bounded by
            its worst.
        deterministic: certify the mode of the policy's actions instead of the policy that draws them.
        rollout_length: k of the branched returns, or "full".
        reward: (o [N, O], a [N, A]) -> [N], the environment's own reward function, where the model predicts none.
        seed: of everything drawn here.

    Raises:
        ValueError: naming what does not fit: no environment, another action space, an episode that is cut off before
            its end, a policy without a density where one is needed, a number that is not finite.
    """
    whole("episodes", episodes, 2)
    own = acting_of(policy, deterministic=deterministic, seed=seed)
    other = None if data_policy is None or data_policy is policy else data_policy
    acting = own if other is None else acting_of(other, deterministic=False, seed=seed)
    if other is not None and deterministic:
        raise ValueError("deterministic=True: a policy without a choice has no density, and data_policy needs one")
    environments, name = _environments(env, 1 if isinstance(acting, FunctionPolicy) else episodes)
    first = environments[0]
    for each in (own, acting):
        if isinstance(each, BaselinesPolicy):
            each.check_observations(first.observation_space)
    steps = _horizon(first, name) if horizon is None else whole("horizon", horizon, 1)
    low, high = _reward_range(first, name, reward_low, reward_high)
    seeds, draws, rollouts = _streams(seed, episodes)
    if other is not None:
        _check_densities(first, name, (own, acting))
    found = Episodes.of(run(environments, name, acting, episodes, steps, seeds, draws), steps)
    if first is not env:
        for each in environments:
            each.close()
    return _evidence(
        found, own, None if other is None else acting, low, high, _discount(discount, own, name), absorbing,
        "independent", None if model is None else _imagined(first, name, model, reward, found, low, high),
        rollout_length, rollouts,
    )  # fmt: skip


def from_dataset(
    dataset: Iterable[Any],
    policy: Any,
    data_policy: Any,
    *,
    reward_low: float,
    reward_high: float,
    discount: float | None = None,
    horizon: int | None = None,
    absorbing: bool = False,
    policy_dependence: Dependence = None,
    model: Model | None = None,
    env: Any = None,
    rollout_length: int | Literal["full"] = 1,
    reward: Reward | None = None,
    seed: int = 0,
) -> Evidence:
    """Evidence from recorded episodes of an older policy, or of the policy itself.

    Args:
        dataset: of Minari, or any iterable of episodes with ``observations``, ``actions``, ``rewards``,
            ``terminations`` and ``truncations``.
        policy: as in ``collect``; where another one acted, it needs a density.
        data_policy: who acted; the same object as ``policy`` where that did; or the log densities of the actions, one
            array for each episode.
        horizon: H; None: the steps of the longest episode. Episodes that were cut off before are refused, not dropped:
            the rest would be a choice by what happened.
        policy_dependence: [N] booleans, True where the policy was fitted, tuned or chosen on that episode, or
            "independent"; None: not said.
        model, env: as in ``collect``; the densities are those that the episodes' ``infos`` hold of ``env``, which must
            be the ``ProcessNoise`` that they were recorded in.
        reward_low, reward_high, discount, absorbing, rollout_length, reward, seed: as in ``collect``.

    Raises:
        ValueError: naming what does not fit.
    """
    all_of_them = recorded(dataset)
    name = "the dataset"
    steps = max((len(each) for each in all_of_them), default=1) if horizon is None else whole("horizon", horizon, 1)
    found = Episodes.of(all_of_them, steps)
    own = acting_of(policy, deterministic=False, seed=seed)
    acting: Acting | Array | None = None
    if isinstance(data_policy, list | tuple | np.ndarray):
        acting = _given(data_policy, found)
    elif data_policy is not policy:
        acting = acting_of(data_policy, deterministic=False, seed=seed)
    imagined = None
    if model is not None:
        if env is None:
            raise ValueError("model needs env, the ProcessNoise that the episodes were recorded in")
        imagined = _imagined(_environments(env, 1)[0][0], name, model, reward, found, reward_low, reward_high)
    return _evidence(
        found, own, acting, reward_low, reward_high, _discount(discount, own, name), absorbing, policy_dependence,
        imagined, rollout_length, _streams(seed, 1)[2],
    )  # fmt: skip


# What is asked for


def whole(name: str, value: Any, least: int) -> int:
    """Raises:
    ValueError: when it is no whole number >= ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    return int(value)


def _environments(env: Any, count: int) -> tuple[list[Any], str]:
    """Environments to run side by side, and a name for messages."""
    import gymnasium as gym

    from m3po.foreign.environment import layers, running_statistics

    if isinstance(env, gym.Env):
        found = [env]
    elif isinstance(env, str | type) or (callable(env) and not hasattr(env, "step")):
        copies = min(count, COPIES)
        try:
            found = [gym.make(env) if isinstance(env, str) else env() for _ in range(copies)]
        except (gym.error.Error, ImportError) as error:
            raise ValueError(f"env cannot be made: {error}") from error
    else:
        raise ValueError(
            f"env must be one gymnasium environment, its id, or a function that makes one, got {type(env).__name__} "
            "(of an environment of several, give one of those that it holds)"
        )
    first = found[0]
    if not isinstance(first, gym.Env):
        raise ValueError(f"env must make a gymnasium environment, it made {type(first).__name__}")
    name = first.spec.id if first.spec is not None else type(first.unwrapped).__name__
    for layer in layers(first):
        if (holder := running_statistics(layer)) is not None and getattr(layer, "update_running_mean", True):
            raise ValueError(
                f"{name} is wrapped in {type(layer).__name__}, whose statistics ({holder}) change from episode to "
                "episode, so that episodes are not independent: set its update_running_mean to False, or leave it out"
            )
    return found, name


def _horizon(environment: Any, name: str) -> int:
    limit = None if environment.spec is None else environment.spec.max_episode_steps
    if limit is None:
        raise ValueError(f"{name} has no time limit: give horizon, the number of steps of an episode that count")
    return int(limit)


def _reward_range(environment: Any, name: str, low: float | None, high: float | None) -> tuple[float, float]:
    if low is not None and high is not None:
        return low, high
    from m3po.foreign.environment import as_range, offered

    dynamics, hidden = offered(environment, "dynamics", lambda value: hasattr(value, "reward_low"))
    stated, between = offered(environment, "reward_range", lambda value: as_range(value) is not None)
    ends = None
    if stated is not None and between is None:
        ends = as_range(stated)
    elif dynamics is not None and hidden is None:
        ends = as_range((dynamics.reward_low, dynamics.reward_high))
    if ends is None or not np.isfinite(ends).all():
        raise ValueError(
            f"reward_low and reward_high are needed: {name} does not say between which finite numbers its rewards lie"
        )
    return ends[0] if low is None else low, ends[1] if high is None else high


def _discount(discount: float | None, policy: Acting, name: str) -> float:
    found = policy.discount if discount is None else discount
    if found is None:
        raise ValueError(f"discount is needed: {policy.name} does not say what it was trained for")
    return float(found)


def _streams(seed: int, episodes: int) -> tuple[list[int], np.random.Generator, np.random.Generator]:
    from m3po.seeds import Purpose, environment_seeds, sequence

    draws, rollouts = (np.random.default_rng(sequence(Purpose.COLLECTED, seed, place)) for place in (1, 2))
    return environment_seeds(Purpose.COLLECTED, seed, 0, count=episodes), draws, rollouts


def _given(log_densities: Any, episodes: Episodes) -> Array:
    """Log densities that were recorded, one array for each episode. [N, H]."""
    found = np.zeros(episodes.valid.shape)
    if len(log_densities) != len(found):
        raise ValueError(f"data_policy has log densities of {len(log_densities)} episodes, got {len(found)} episodes")
    for i, (each, episode) in enumerate(zip(log_densities, episodes.all, strict=True)):
        values = np.asarray(each, dtype=np.float64)
        if values.ndim != 1 or len(values) < len(episode):
            raise ValueError(
                f"data_policy must have a log density for each of {len(episode)} steps of episode {i}, got shape "
                f"{list(values.shape)}"
            )
        found[i, : len(episode)] = values[: len(episode)]
    return found


def _check_densities(environment: Any, name: str, policies: Sequence[Acting]) -> None:
    """Before episodes are run, which may take long.

    Raises:
        ValueError: when a policy has no density.
    """
    shown = batch([copied(name, environment.reset()[0], "from reset")])
    for each in policies:
        choice, _ = each.actions(shown, None)
        choice.log_density(choice.draw(np.random.default_rng(0)))


# The environment's density


def _imagined(
    environment: Any,
    name: str,
    model: Model,
    reward: Reward | None,
    episodes: Episodes,
    low: float,
    high: float,
) -> _Certifiable:
    """The model, beside the environment's density of what happened.

    Raises:
        ValueError: when that density is not known, or a wrapper may change what it speaks of.
    """
    from m3po.envs.process_noise import ProcessNoise
    from m3po.foreign.environment import layers, leaves_observations

    for method in ("sample", "log_prob"):
        if not callable(getattr(model, method, None)):
            raise ValueError(f"model must have a method {method}, got {type(model).__name__}")
    noise, between = None, None
    for layer in layers(environment):
        if isinstance(layer, ProcessNoise):
            noise = layer
            break
        if between is None and not leaves_observations(layer):
            between = type(layer).__name__
    if noise is None:
        raise ValueError(
            f"the one-step density of {name} is not known, so that no model of it can be certified: wrap it in "
            "m3po.envs.process_noise.ProcessNoise, or certify without model, from rewards"
        )
    if between is not None:
        raise ValueError(f"{between} outside of ProcessNoise may change what is shown: put ProcessNoise around it")
    log_density = np.zeros(episodes.valid.shape)
    for i, episode in enumerate(episodes.all):
        told = [info.get("log_density") for info in episode.infos]
        if len(told) < len(episode) or any(each is None for each in told):
            raise ValueError(f"episode {i} has no log_density in its infos: it was not recorded in ProcessNoise")
        log_density[i, : len(episode)] = np.asarray(told, dtype=np.float64)
    predicts = callable(getattr(model, "reward", None))
    if reward is None and not predicts:
        raise ValueError(
            "the model predicts no reward: give it a method reward(observation, action), or give reward=, the "
            "environment's own function of observation and action"
        )
    function: Reward = model.reward if reward is None else reward  # type: ignore[attr-defined]
    found = Imagined(
        model, lambda observation, action: np.clip(function(observation, action), low, high),
        noise.coordinates, noise.observe, noise.access.ends,
    )  # fmt: skip
    if reward is not None:
        predicted = found.predicted_rewards(episodes)
        far = np.abs(predicted - episodes.rewards) > 1e-4 * max(abs(low), abs(high), 1.0)
        if far.any():
            i, t = (int(each[0]) for each in np.nonzero(far))
            raise ValueError(
                f"reward says {predicted[i, t]:.6g} and {name} paid {episodes.rewards[i, t]:.6g} at step {t} of "
                f"episode {i}: it is not the environment's own function of observation and action"
            )
    return _Certifiable(found, log_density, known_reward=reward is not None, ends=noise.access.ends is not None)


@dataclass(frozen=True)
class _Certifiable:
    """A model, log p of what happened [N, H], and whether the reward and the ends of episodes are known functions."""

    imagined: Imagined
    log_density: Array
    known_reward: bool
    ends: bool


def _evidence(
    episodes: Episodes,
    policy: Acting,
    data_policy: Acting | Array | None,
    low: float,
    high: float,
    discount: float,
    absorbing: bool,
    dependence: Dependence,
    certifiable: _Certifiable | None,
    rollout_length: int | Literal["full"],
    generator: np.random.Generator,
) -> Evidence:
    values: dict[str, Any] = {}
    if data_policy is not None:
        known = data_policy if isinstance(data_policy, np.ndarray) else episodes.log_densities(data_policy)
        values["log_data_policy"] = known
        values["log_policy"] = episodes.log_densities(policy)
    if certifiable is not None:
        imagined = certifiable.imagined
        if rollout_length != "full":
            whole("rollout_length", rollout_length, 1)
        values |= {
            "log_density": certifiable.log_density,
            "log_model_density": imagined.log_densities(episodes),
            "rollout_length": rollout_length,
            "termination_modelled": certifiable.ends or None,
            "model_returns": branched_returns(
                imagined, policy, episodes, discount=discount,
                rollout_length=None if rollout_length == "full" else int(rollout_length), generator=generator,
            ),
        }  # fmt: skip
        if not certifiable.known_reward:
            values["predicted_rewards"] = imagined.predicted_rewards(episodes)
    return Evidence(
        rewards=episodes.rewards, reward_low=low, reward_high=high, discount=discount, absorbing=absorbing,
        valid=None if episodes.valid.all() else episodes.valid, policy_dependence=dependence, **values,
    )  # fmt: skip
