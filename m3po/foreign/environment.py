"""What an environment offers, whoever wrote it and whatever it is wrapped in; the rest is refused in one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

import m3po.envs  # noqa: F401 (registers the environments)
from m3po.envs.body_rules import Rule, rule_of_body
from m3po.envs.protocol import Array, CertifiableDynamics, KnownReward

# Wrappers that change neither observations nor actions nor rewards; only these very classes, since a subclass may.
HARMLESS: frozenset[type] = frozenset(
    {
        wrappers.Autoreset, wrappers.HumanRendering, wrappers.OrderEnforcing, wrappers.PassiveEnvChecker,
        wrappers.RecordEpisodeStatistics, wrappers.RecordVideo, wrappers.RenderCollection, wrappers.TimeLimit,
    }
)  # fmt: skip

# Bounds beyond this are a way to write that there are none.
LARGEST_BOUND = 1e9


@dataclass(frozen=True)
class Offers:
    """What an environment offers beyond gymnasium, as far as no wrapper changes what it speaks of.

    Attributes:
        rule: which observations end an episode; None where it does not say.
        rule_obstacle: the wrapper because of which a rule cannot be used; None without one.
        dynamics: its one-step density, None without one.
        obstacle: the wrapper because of which the density cannot be used; None without one.
        planning_reward: r(o, a, o') in numpy, [N, O], [N, A], [N, O] -> [N]; None where it is not known.
        reward_range: (low, high) that it says all rewards lie in; infinite where it does not.
    """

    rule: Rule | None
    rule_obstacle: str | None
    dynamics: CertifiableDynamics | None
    obstacle: str | None
    planning_reward: Callable[[Array, Array, Array], Array] | None
    reward_range: tuple[float, float]


def make_environment(env_id: str, **options: Any) -> gym.Env[Any, Any]:
    """gym.make with one-line errors.

    Raises:
        ValueError: for an unknown id or option, an environment that cannot be built or has no time limit, spaces that
            are not flat boxes, actions that are whole numbers or have no finite bounds, and for a wrapper whose
            statistics change while the run goes on.
    """
    try:
        environment = gym.make(env_id, **options)
    except (gym.error.Error, ImportError) as error:
        raise ValueError(f"unknown environment {env_id!r}: {error}") from error
    except TypeError as error:
        raise ValueError(f"{env_id} does not take the options {options}: {error}") from error
    except (ValueError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ValueError(f"{env_id} cannot be built: {type(error).__name__}: {error}") from error
    try:
        _check_spaces(env_id, environment.observation_space, environment.action_space)
        _check_layers(env_id, environment)
    except ValueError:
        environment.close()
        raise
    return environment


def _check_spaces(env_id: str, observations: Any, actions: Any) -> None:
    spaces = (observations, actions)
    if not all(isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.shape[0] for space in spaces):
        raise ValueError(f"{env_id} has no flat Box observations and actions: {spaces}")
    if actions.dtype.kind != "f":
        raise ValueError(f"{env_id} has actions of type {actions.dtype}, which are not continuous: {actions}")
    low, high = actions.low.astype(np.float64), actions.high.astype(np.float64)
    most = min(LARGEST_BOUND, float(np.finfo(actions.dtype).max))
    if not (actions.is_bounded() and (np.abs(low) < most).all() and (np.abs(high) < most).all()):
        raise ValueError(
            f"{env_id} has an action space without finite bounds below {most:.3g} (a policy's actions in [-1, 1] are "
            f"stretched to the bounds): {actions}"
        )
    if (low > high).any():
        raise ValueError(f"{env_id} has an action space whose lower bounds are above the upper ones: {actions}")


def _check_layers(env_id: str, environment: gym.Env[Any, Any]) -> None:
    limit = None if environment.spec is None else environment.spec.max_episode_steps
    if limit is None:
        raise ValueError(f"{env_id} has no time limit (max_episode_steps)")
    for layer in layers(environment):
        if isinstance(layer, wrappers.TimeLimit) and layer._max_episode_steps < limit:
            raise ValueError(
                f"{env_id} is cut off after {layer._max_episode_steps} steps by a TimeLimit of its own, before its "
                f"registered max_episode_steps={limit}"
            )
        if (holder := running_statistics(layer)) is not None:
            raise ValueError(
                f"{env_id} is wrapped in {type(layer).__name__}, whose statistics ({holder}) change while the run goes "
                "on and are in no checkpoint, so that no two environments show the same; leave it out (observations "
                "are normalised here anyway)"
            )


def running_statistics(layer: Any) -> str | None:
    """The attribute of a wrapper that holds running means, which gymnasium and its copies keep in a RunningMeanStd."""
    for name, value in vars(layer).items():
        if "runningmean" in type(value).__name__.lower().replace("_", "") or name in ("obs_rms", "return_rms"):
            return name
    return None


def layers(environment: Any) -> Iterator[Any]:
    """The wrappers from outside inwards, and then what they wrap."""
    while isinstance(environment, gym.Wrapper):
        yield environment
        environment = environment.env
    yield environment


def leaves_all(layer: Any) -> bool:
    """Whether a wrapper changes neither observations nor actions nor rewards."""
    return type(layer) in HARMLESS


def leaves_observations(layer: Any) -> bool:
    """Whether a wrapper does not change observations: those that change actions or rewards and nothing else."""
    if leaves_all(layer):
        return True
    kinds = (gym.ActionWrapper, gym.RewardWrapper)
    return any(isinstance(layer, kind) and type(layer).step is kind.step for kind in kinds) and (
        type(layer).reset is gym.Wrapper.reset
    )


def offered(
    environment: gym.Env[Any, Any],
    name: str,
    accepts: Callable[[Any], bool],
    leaves: Callable[[Any], bool] = leaves_all,
) -> tuple[Any, str | None]:
    """The attribute ``name`` that ``accepts`` holds for, of the outermost layer that has one of its own.

    Attributes that a layer merely passes on do not count.

    Returns:
        the value, None without one; and, when a wrapper further out may change what it speaks of, that one's name.
    """
    obstacle = None
    for layer in layers(environment):
        if leaves_all(layer):
            continue
        try:
            inspect.getattr_static(layer, name)
        except AttributeError:
            pass
        else:
            value = getattr(layer, name, None)
            if accepts(value):
                return value, obstacle
        if isinstance(layer, gym.Wrapper) and obstacle is None and not leaves(layer):
            obstacle = type(layer).__name__
    return None, None


def offers_of(environment: gym.Env[Any, Any], env_id: str) -> Offers:
    """Everything that ``environment`` offers and that can be used.

    Raises:
        ValueError: when ``dynamics`` state a reward range that is none.
    """
    rule, rule_obstacle = _rule_of(environment, env_id)
    dynamics, obstacle = offered(environment, "dynamics", lambda value: isinstance(value, CertifiableDynamics))
    if dynamics is not None and obstacle is None:
        obstacle = _vector_obstacle(environment)
        ends = as_range((dynamics.reward_low, dynamics.reward_high))
        if ends is None or not np.isfinite(ends).all():
            raise ValueError(
                f"{env_id} has dynamics with reward_low={dynamics.reward_low!r} and "
                f"reward_high={dynamics.reward_high!r}, which are no finite range"
            )
    if obstacle is not None:
        dynamics = None
    stated, between = offered(environment, "reward_range", lambda value: as_range(value) is not None)
    known = None if between is not None or stated is None else as_range(stated)
    return Offers(
        rule=None if rule_obstacle is not None else rule,
        rule_obstacle=rule_obstacle,
        dynamics=dynamics,
        obstacle=obstacle,
        planning_reward=_planning_reward(environment, dynamics),
        reward_range=(-np.inf, np.inf) if known is None else known,
    )


def as_range(value: Any) -> tuple[float, float] | None:
    """``value`` as (low, high), low < high; None when it is no such pair."""
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        return None
    return (low, high) if low < high else None


def _planning_reward(environment: gym.Env[Any, Any], dynamics: Any) -> Callable[[Array, Array, Array], Array] | None:
    if isinstance(dynamics, KnownReward):
        return lambda observation, action, following: dynamics.reward(observation, action)
    function, obstacle = offered(environment, "planning_reward", lambda value: takes(value, 3))
    return None if obstacle is not None else function


def takes(value: Any, count: int) -> bool:
    """Whether ``value`` can be called with ``count`` arguments."""
    if not callable(value) or isinstance(value, type):
        return False
    try:
        inspect.signature(value).bind(*(None,) * count)
    except (TypeError, ValueError):
        return False
    return True


def _rule_of(environment: gym.Env[Any, Any], env_id: str) -> tuple[Rule | None, str | None]:
    """The environment's own ``terminated(observations [N, O]) -> [N]``, or ours for gymnasium's bodies."""
    # A flag, or a method without arguments that tells the present state, is something else of that name.
    function, obstacle = offered(environment, "terminated", lambda value: takes(value, 1), leaves_observations)
    if function is not None:
        return Rule(checked_rule(function, env_id)), obstacle
    *outer, base = layers(environment)
    obstacle = next((type(layer).__name__ for layer in outer if not leaves_observations(layer)), None)
    rule = rule_of_body(base)
    return rule, None if rule is None else obstacle


def checked_rule(function: Callable[[Any], Any], env_id: str) -> Callable[[NDArray[np.floating]], NDArray[np.bool_]]:
    """``function`` on a copy of the observations [N, O]; a ValueError when it returns anything but N booleans."""

    def rule(observations: NDArray[np.floating]) -> NDArray[np.bool_]:
        try:
            ended = function(np.array(observations))
        except Exception as error:
            raise ValueError(
                f"{env_id} has a method terminated that fails for observations of shape {list(observations.shape)}: "
                f"{type(error).__name__}: {error}; it must take observations [N, O] and return N booleans"
            ) from error
        found = np.asarray(ended)
        if found.shape != (len(observations),) or found.dtype != np.bool_:
            raise ValueError(
                f"{env_id} has a method terminated that returns shape {list(found.shape)} of type {found.dtype} for "
                f"observations of shape {list(observations.shape)}; it must return {len(observations)} booleans"
            )
        return found

    return rule


def contradicts(rule: Rule | None, observations: Array, terminated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the rule, beyond rounding, says otherwise than the environment did. [N, O], [N] -> [N].

    Rounding: an observation may be the float32 of what the environment judged.
    """
    if rule is None:
        return terminated.copy()
    wrong = rule.ends(observations) != terminated
    if not wrong.any():
        return wrong
    if not rule.exact:
        return np.zeros_like(wrong)
    single = observations.astype(np.float32)
    for end in (-np.inf, np.inf):
        wrong &= rule.ends(np.nextafter(single, np.float32(end)).astype(np.float64)) != terminated
    return wrong


def rule_complaint(env_id: str, rule: Rule | None, obstacle: str | None, terminated: bool) -> str:
    """Why an environment cannot be used whose rule contradicts what it did."""
    needed = (
        "rollouts in a model need its method terminated(observations [N, O]) -> N booleans, a function of what is "
        "observed (--algorithm pearl needs none)"
    )
    if obstacle is not None:
        return (
            f"{env_id} ended an episode, and its rule for that cannot be used: the wrapper {obstacle} may change what "
            f"is observed; {needed}, of the wrapped observations"
        )
    if rule is None:
        return f"{env_id} ended an episode but has no method terminated(observation); {needed}"
    did, said = ("ended", "goes on") if terminated else ("went on", "ends")
    return f"{env_id} {did} an episode where its method terminated says that it {said}; {needed}"


def vector_of(environment: gym.Env[Any, Any], count: int) -> gym.vector.VectorEnv[Any, Any, Any] | None:
    """The environment's own implementation of ``count`` episodes; None where episodes are better stepped one by one.

    That is when it has none, does not say how it starts anew after an end (or leaves that to its user), or when
    a wrapper of the single environment would be left out.

    Raises:
        ValueError: when it has other spaces than the single environment, or a wrapper with running statistics.
    """
    spec = environment.spec
    if spec is None or spec.vector_entry_point is None or spec.additional_wrappers:
        return None
    if not all(leaves_all(layer) for layer in layers(environment) if isinstance(layer, gym.Wrapper)):
        return None
    arguments = {**spec.kwargs, "max_episode_steps": spec.max_episode_steps}
    vector: Any = gym.make_vec(spec.id, num_envs=count, **arguments)
    if vector.metadata.get("autoreset_mode") not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        vector.close()
        return None
    pairs = (
        (vector.single_observation_space, environment.observation_space),
        (vector.single_action_space, environment.action_space),
    )
    layer = vector
    while layer is not None:
        if (holder := running_statistics(layer)) is not None:
            raise ValueError(f"{spec.id} has a vector implementation with running statistics ({holder})")
        layer = layer.env if isinstance(layer, gym.vector.VectorWrapper) else None
    for own, single in pairs:
        if own.shape != single.shape or own != single:
            raise ValueError(f"{spec.id} has a vector implementation with the space {own} beside {single}")
    return vector


def _vector_obstacle(environment: gym.Env[Any, Any]) -> str | None:
    """The vector implementation, when it offers no density of its own; None where it does or is not used."""
    vector = vector_of(environment, 1)
    if vector is None:
        return None
    own = None if isinstance(vector, gym.vector.VectorWrapper) else inspect.getattr_static(vector, "dynamics", None)
    vector.close()
    return None if isinstance(own, CertifiableDynamics) else type(vector).__name__
