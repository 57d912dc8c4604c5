"""Gaussian noise on the state of an environment, which then has a known one-step density.

A deterministic simulator is a point mass: every density is at total variation 1 from it. With noise on its state, and
the next step taken *from the noisy state*, the process has a density, and the wrapper knows it. Noise on what is merely
shown would not do: the process would go on from another state than was seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from m3po.envs.body_rules import rule_of_body
from m3po.envs.protocol import Array

# Standard deviations on either side that the density of a periodic coordinate adds up the turns of.
FAR = 12.0


@dataclass(frozen=True)
class StateAccess:
    """How the state of an environment is read and written, in d coordinates that determine everything that is shown.

    Attributes:
        get: the unwrapped environment -> its coordinates [d].
        set: the unwrapped environment, coordinates [d] -> None; the next step must start from there.
        observe: coordinates [..., d] -> observations [..., O]. Different coordinates look different, but for whole
            turns of periodic ones.
        coordinates: observations [..., O] -> coordinates [..., d], periodic ones in [-pi, pi).
        periodic: which coordinates are angles, that mean the same after a turn of 2 pi.
        ends: observations [N, O] -> [N], which of them end an episode; None where that is not a function of them.
        clipped: the environment shows numbers clipped to [-clipped, clipped]. The wrapper shows them as they are.
    """

    get: Callable[[Any], Array]
    set: Callable[[Any, Array], None]
    observe: Callable[[Array], Array]
    coordinates: Callable[[Array], Array]
    periodic: tuple[int, ...] = ()
    ends: Callable[[NDArray[np.floating]], NDArray[np.bool_]] | None = None
    clipped: float = np.inf


class ProcessNoise(gym.Wrapper[Any, Any, Any, Any]):
    """s' = f(s, a) + std xi, xi standard normal, and the next step starts from s'.

    After every step ``info["log_density"]`` is log p(s' | s, a), in nats, of the d coordinates of the state. Where the
    observation has no more numbers than that, it is the density of the observation. Where it has more (a cosine and a
    sine for one angle), no density on all of them exists: models then sample and have densities of the coordinates.

    Rewards are those of the step before its noise. Where the end of episodes is known as a function of what is shown,
    it is judged by the noisy observation, else by the state before the noise.

    Args:
        env: an environment of gymnasium whose state is known here: Pendulum, the mountain car with continuous actions,
            CartPole, and the MuJoCo bodies that show nothing but their positions and velocities (HalfCheetah, Hopper,
            Walker2d, Swimmer, InvertedPendulum); any other with ``access``.
        std: standard deviation of each coordinate, one number or [d], > 0.
        access: of other environments.

    Attributes:
        access: the one that is used.
        std: [d].
        terminated: observations [N, O] -> [N], which of them end an episode; only there where it is known.

    Raises:
        ValueError: on a bad ``std``, an environment whose state is not known, or that shows something else.
    """

    def __init__(self, env: gym.Env[Any, Any], std: ArrayLike, *, access: StateAccess | None = None) -> None:
        super().__init__(env)
        name = str(env.spec.id if env.spec is not None else type(env.unwrapped).__name__)
        for layer in _wrappers(env):
            if isinstance(layer, gym.ObservationWrapper):
                raise ValueError(
                    f"{name} is wrapped in {type(layer).__name__}, which changes what is shown of the state: put "
                    "ProcessNoise inside of it"
                )
        found = _access_of(env.unwrapped) if access is None else access
        if found is None:
            raise ValueError(
                f"the state of {name} is not known to be what it shows, so that noise on it has no known density: give "
                "access=StateAccess(get, set, observe, coordinates). (Noise on what is shown alone is another process.)"
            )
        self.access: StateAccess = found
        self._name = name
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"{name} must have flat observations, got {space}")
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, space.shape, np.float64)
        env.reset()
        size = len(self.access.get(env.unwrapped))
        self.std = np.asarray(std, dtype=np.float64)
        if self.std.shape not in ((), (size,)) or not (np.isfinite(self.std) & (self.std > 0)).all():
            raise ValueError(f"std must be one or {size} finite numbers > 0, got {std!r}")
        self.std = np.broadcast_to(self.std, (size,)).copy()
        if self.access.ends is not None:
            self.terminated = self.access.ends
        self._check_rank()

    @property
    def redundant(self) -> bool:
        """Whether more is shown than there are coordinates."""
        return self.observation_space.shape != self.std.shape

    def coordinates(self, observation: ArrayLike) -> Array:
        """The state's coordinates that show as ``observation``. [..., O] -> [..., d]."""
        return np.asarray(self.access.coordinates(np.asarray(observation, dtype=np.float64)), dtype=np.float64)

    def observe(self, coordinates: ArrayLike) -> Array:
        """What is shown of a state. [..., d] -> [..., O]."""
        return np.asarray(self.access.observe(np.asarray(coordinates, dtype=np.float64)), dtype=np.float64)

    def reset(self, **arguments: Any) -> tuple[Array, dict[str, Any]]:
        observation, info = self.env.reset(**arguments)
        return self._shown(observation), info

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._shown(observation)
        drawn = self.np_random.standard_normal(len(self.std))
        state = np.asarray(self.access.get(self.unwrapped), dtype=np.float64) + self.std * drawn
        self.access.set(self.unwrapped, state)
        if not np.array_equal(np.asarray(self.access.get(self.unwrapped)), state):
            raise ValueError(f"{self._name} is not in the state that was set, {state}: it is in "
                             f"{self.access.get(self.unwrapped)}")  # fmt: skip
        shown = self.observe(state)
        if self.access.ends is not None:
            terminated = bool(self.access.ends(shown[None])[0])
        info = {**info, "log_density": self._log_density(drawn)}
        return shown, float(reward), bool(terminated), bool(truncated), info

    def _log_density(self, drawn: Array) -> float:
        """Of s', from s' - f(s, a) in standard deviations; of periodic coordinates that of all turns together."""
        each = -0.5 * drawn**2
        for place in self.access.periodic:
            count = int(np.ceil(FAR * self.std[place] / (2 * np.pi))) + 1
            turns = 2 * np.pi * np.arange(-count, count + 1) / self.std[place]
            each[place] = np.logaddexp.reduce(-0.5 * (drawn[place] + turns) ** 2)
        return float((each - np.log(self.std) - 0.5 * np.log(2 * np.pi)).sum())

    def _shown(self, observation: Any) -> Array:
        """What is shown of the present state, in full precision.

        Raises:
            ValueError: when the environment shows something else.
        """
        state = np.asarray(self.access.get(self.unwrapped), dtype=np.float64)
        expected, shown = self.observe(state), np.asarray(observation, dtype=np.float64)
        clipped = np.clip(expected, -self.access.clipped, self.access.clipped)
        if clipped.shape != shown.shape or not np.allclose(shown, clipped, rtol=1e-5, atol=1e-5):
            raise ValueError(
                f"{self._name} shows {shown}, and its state {state} should show {expected}: noise on this state has no "
                "known density of what is shown"
            )
        return expected

    def _check_rank(self) -> None:
        """Every coordinate shows, and ``coordinates`` is the inverse of ``observe``."""
        state = np.asarray(self.access.get(self.unwrapped), dtype=np.float64)
        shown = self.observe(state)
        moved = np.stack([self.observe(state + 1e-6 * row) - shown for row in np.eye(len(state))])
        if np.linalg.matrix_rank(moved, tol=1e-9) < len(state):
            raise ValueError(
                f"{self._name} does not show all {len(state)} coordinates of its state: the process is partially "
                "observed, and the density of what is shown is not that of the state"
            )
        if not np.allclose(self.observe(self.coordinates(shown)), shown, rtol=1e-9, atol=1e-9):
            raise ValueError(f"coordinates(observation) is not the inverse of observe(coordinates) of {self._name}")


def _wrappers(env: Any) -> list[Any]:
    found = []
    while isinstance(env, gym.Wrapper):
        found.append(env)
        env = env.env
    return found


def _access_of(body: Any) -> StateAccess | None:
    """The state of an environment of gymnasium; None for others. Subclasses may show something else, and get none."""
    module, name = type(body).__module__.removeprefix("gymnasium.envs."), type(body).__qualname__
    if (module, name) == ("classic_control.pendulum", "PendulumEnv"):
        return _PENDULUM
    if (module, name) == ("classic_control.continuous_mountain_car", "Continuous_MountainCarEnv"):
        return _plain(_as_car, _rule(body))
    if (module, name) == ("classic_control.cartpole", "CartPoleEnv"):
        limits = np.array([body.x_threshold, body.theta_threshold_radians])
        return _plain(_as_cart, lambda seen: (np.abs(seen[:, ::2]) > limits).any(axis=1))
    for place, (kind, hidden, clipped) in _BODIES.items():
        if name == kind and module in (f"mujoco.{place}_v{version}" for version in (4, 5)):
            excluded = getattr(body, "_exclude_current_positions_from_observation", True)
            return _body(body, hidden if excluded else 0, _rule(body), clipped)
    return None


def _never(observations: NDArray[np.floating]) -> NDArray[np.bool_]:
    return np.zeros(len(observations), dtype=bool)


def _rule(body: Any) -> Callable[[NDArray[np.floating]], NDArray[np.bool_]]:
    """When it ends; of those here that have no rule, none ever does."""
    rule = rule_of_body(body)
    return _never if rule is None else rule.ends


def _set_pendulum(body: Any, state: Array) -> None:
    body.state = state.copy()


_PENDULUM = StateAccess(
    get=lambda body: np.array(body.state, dtype=np.float64),
    set=_set_pendulum,
    observe=lambda state: np.stack([np.cos(state[..., 0]), np.sin(state[..., 0]), state[..., 1]], axis=-1),
    coordinates=lambda seen: np.stack([np.arctan2(seen[..., 1], seen[..., 0]), seen[..., 2]], axis=-1),
    periodic=(0,),
    ends=_never,
)


def _as_car(body: Any, state: Array) -> None:
    body.state = state.copy()


def _as_cart(body: Any, state: Array) -> None:
    body.state = tuple(state.tolist())
    body.steps_beyond_terminated = None  # whether it ended is judged by the noisy state


def _plain(put: Callable[[Any, Array], None], ends: Callable[[NDArray[np.floating]], NDArray[np.bool_]]) -> StateAccess:
    """A body that shows its attribute ``state`` as it is."""
    return StateAccess(
        get=lambda body: np.array(body.state, dtype=np.float64), set=put, observe=lambda state: state,
        coordinates=lambda seen: seen, ends=ends,
    )  # fmt: skip


# Module of gymnasium -> its class, how many first positions are not shown by default, what velocities are clipped to.
_BODIES = {
    "half_cheetah": ("HalfCheetahEnv", 1, np.inf), "hopper": ("HopperEnv", 1, 10.0),
    "walker2d": ("Walker2dEnv", 1, 10.0), "swimmer": ("SwimmerEnv", 2, np.inf),
    "inverted_pendulum": ("InvertedPendulumEnv", 0, np.inf),
}  # fmt: skip


def _body(
    body: Any, hidden: int, ends: Callable[[NDArray[np.floating]], NDArray[np.bool_]], clipped: float
) -> StateAccess:
    """Positions but for the first ``hidden``, and velocities."""
    count = body.model.nq - hidden

    def get(body: Any) -> Array:
        return np.concatenate([body.data.qpos[hidden:], body.data.qvel])

    def put(body: Any, state: Array) -> None:
        positions = body.data.qpos.copy()
        positions[hidden:] = state[:count]
        body.set_state(positions, state[count:].copy())

    return StateAccess(
        get=get, set=put, observe=lambda state: state, coordinates=lambda seen: seen, ends=ends, clipped=clipped
    )
