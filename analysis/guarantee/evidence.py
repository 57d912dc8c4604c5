"""What ``analysis.certify`` is given: arrays of a user's episodes, checked for form and, as far as can be, for honesty.

Everything that does not fit is a ValueError that names the entry and the value: a certificate is worth what its inputs
are.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bounds.honesty import HonestyTest, honesty
from m3po.runs.files import read_regular
from m3po.runs.records import read_arrays

Array = NDArray[np.float64]

PER_STEP = ("log_density", "log_model_density", "log_data_policy", "log_policy", "rewards", "predicted_rewards")

# Honest evidence is refused with at most this probability. It is no part of the confidence: a refusal states nothing,
# so it costs honest users an answer and never makes an answer wrong; and dishonest evidence goes far beyond it.
HONESTY_LEVEL = 0.001

# Fewer distinct rows than this may all occur an even number of times by chance.
DISTINCT_ROWS = 30


@dataclass(frozen=True, eq=False)
class Evidence:
    """N episodes of the data policy in the real environment, and returns of rollouts in the model.

    Rows are episodes, independent of each other and of what trained the model; columns are the times 0 .. H - 1. An
    episode that ended early has ``valid`` False from its end on.

    Arrays are numpy arrays (or nested lists) of integers or floats, without NaN where something happened; numbers are
    ints, floats, numpy numbers or arrays without axes; truth values are bools. Nothing else is taken for one of them.

    Attributes:
        log_density: [N, H] log p(o_{t+1} | h_t, a_t) of the *environment* at what happened, in nats. Given the true
            hidden task it certifies too (it then bounds the error from above). None where it is unknown. Where an
            episode can end, its end is part of o_{t+1}: the density is then that of "ended or not" as well.
        log_model_density: [N, H] log p_theta(o_{t+1} | h_t, a_t) of the model at the same points; of an ensemble, that
            of its mixture.
        model_returns: [M] discounted returns over H steps of the policy in the model, one per independent rollout. With
            M = N both are bounded together, which is sharper; row n must then be made from episode n of the data (as
            branched returns are), or from none of them.
        reward_low, reward_high: the expected reward lies between them whatever happens.
        discount: gamma in [0, 1).
        rollout_length: k when the returns are branched (model steps averaged over 1 .. k); "full" or None when they are
            full rollouts from the start. Not certifiable as long as it is not said.
        log_data_policy, log_policy: [N, H] log densities of the data's actions under the policy that took them and
            under the policy that is to be certified. Both None: it is the same policy.
        rewards, predicted_rewards: [N, H] what was paid and what the model predicts there, clipped to the range. Both
            None: the model's returns were paid by the environment's own reward function. One that depends on a hidden
            task is known along a rollout of the model only if the rollout carries the task, or as its mean given the
            history.
        true_returns: [K] discounted returns over H steps of the policy in the real environment, to hold the guarantee
            against; not needed for it.
        valid: [N, H] booleans, True up to the end of the episode and False from there on, at least one True in each
            row; all True when None.
        absorbing: whether nothing is paid after H steps (an episode that ends there for good, or a return that is meant
            to be that of H steps). False: the rest is bounded by its worst.
        termination_modelled: whether the densities and the model's rollouts treat the end of an episode as an event
            that the model has to predict. Needed only where some episodes end before H steps.

    Raises:
        ValueError: naming the array or number that does not fit.
    """

    log_density: Array | None
    log_model_density: Array | None
    model_returns: Array
    reward_low: float
    reward_high: float
    discount: float
    rollout_length: int | Literal["full", "not said"] | None = "not said"
    log_data_policy: Array | None = None
    log_policy: Array | None = None
    rewards: Array | None = None
    predicted_rewards: Array | None = None
    true_returns: Array | None = None
    valid: NDArray[np.bool_] | None = None
    absorbing: bool = False
    termination_modelled: bool | None = None

    def __post_init__(self) -> None:
        self._take_forms()
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount must be in [0, 1), got {self.discount}")
        if not (math.isfinite(self.reward_high - self.reward_low) and self.reward_low < self.reward_high):
            raise ValueError(f"reward_low must be < reward_high, got {self.reward_low} and {self.reward_high}")
        for first, second in (("log_data_policy", "log_policy"), ("rewards", "predicted_rewards")):
            if (getattr(self, first) is None) != (getattr(self, second) is None):
                raise ValueError(f"{first} and {second} go together: give both or neither")
        self._check_shapes()
        self._check_valid()
        self._check_numbers()
        self._check_returns()
        self._check_repetition()

    def _take_forms(self) -> None:
        """Every field as the type that it is declared with; nothing is converted that could mean something else."""

        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in ("reward_low", "reward_high", "discount"):
            put(name, _number(name, getattr(self, name)))
        for name in ("absorbing", "termination_modelled"):
            if not (name == "termination_modelled" and self.termination_modelled is None):
                put(name, _truth(name, getattr(self, name)))
        put("rollout_length", _rollout_length(self.rollout_length))
        for name in PER_STEP:
            if getattr(self, name) is not None:
                put(name, _array(name, getattr(self, name), "two axes, episodes and times", 2))
        for name in ("model_returns", "true_returns"):
            if name == "model_returns" or getattr(self, name) is not None:
                put(name, _array(name, getattr(self, name), "one axis", 1))
        if self.valid is not None:
            valid = np.asarray(self.valid)
            if valid.dtype != np.bool_:
                raise ValueError(f"valid must hold booleans, got numbers of type {valid.dtype}")
            put("valid", valid)

    def _check_shapes(self) -> None:
        shape: tuple[int, ...] | None = None
        for name in (*PER_STEP, "valid"):
            values = getattr(self, name)
            if values is None:
                continue
            if values.ndim != 2 or 0 in values.shape:
                raise ValueError(f"{name} must have two axes, episodes and times, got shape {values.shape}")
            shape = values.shape if shape is None else shape
            if values.shape != shape:
                raise ValueError(f"{name} must have shape {shape} like the others, got {values.shape}")
        if shape is None:
            raise ValueError("at least one array with episodes and times is needed, such as log_density")

    def _check_valid(self) -> None:
        if self.valid is None:
            return
        empty, holes = ~self.valid[:, 0], (self.valid[:, 1:] & ~self.valid[:, :-1]).any(axis=1)
        if empty.any():
            raise ValueError(
                f"valid must begin with True in every episode, got False at time 0 of episode {empty.argmax()}"
            )
        if holes.any():
            raise ValueError(
                f"valid must not turn True again after an episode's end, got that in episode {holes.argmax()}"
            )
        if not self.valid.all() and not self.reward_low <= 0 <= self.reward_high:
            raise ValueError(
                "an ended episode is paid 0, so the reward range must include 0 where some episodes end early, "
                f"got [{self.reward_low:g}, {self.reward_high:g}]"
            )

    def _check_numbers(self) -> None:
        """NaN is no number anywhere; of log densities, only the environment's own may say what ``certify`` explains."""
        happened = self.happened
        for name in PER_STEP:
            values = getattr(self, name)
            if values is None:
                continue
            bad = np.isnan(values)
            if name != "log_density":
                bad |= np.isposinf(values)
            if name == "log_data_policy":
                bad |= np.isneginf(values)
            bad &= happened
            if bad.any():
                episode, time = (int(each[0]) for each in np.nonzero(bad))
                raise ValueError(f"{name} must be a number, got {values[bad][0]} in episode {episode} at time {time}")
            if name in ("rewards", "predicted_rewards"):
                out = happened & ~((values >= self.reward_low) & (values <= self.reward_high))
                if out.any():
                    raise ValueError(
                        f"{name} must lie in the reward range [{self.reward_low:g}, {self.reward_high:g}], "
                        f"got {values[out][0]}"
                    )

    def _check_returns(self) -> None:
        low, high = (bound * self.horizon_weight for bound in (self.reward_low, self.reward_high))
        slack = 1e-6 * (high - low)
        for name in ("model_returns", "true_returns"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) < 2:
                raise ValueError(f"{name} must be a list of at least 2 returns, got shape {values.shape}")
            out = ~((values >= low - slack) & (values <= high + slack))
            if out.any():
                raise ValueError(
                    f"{name} must lie in [{low:g}, {high:g}], which the reward range allows, got {values[out][0]}"
                )

    def _check_repetition(self) -> None:
        """No set of independent rows consists of many different ones that all occur twice, or three times."""
        rows = np.concatenate([getattr(self, name) for name in PER_STEP if getattr(self, name) is not None], axis=1)
        for name, values in (("episode", rows), ("value of model_returns", self.model_returns)):
            counts = np.unique(values, axis=0, return_counts=True)[1]
            times = int(np.gcd.reduce(counts))
            if len(counts) >= DISTINCT_ROWS and times > 1:
                raise ValueError(
                    f"every {name} occurs {times} times or a multiple of it, so the {len(values)} of them are not "
                    "independent: give each only once"
                )

    @property
    def happened(self) -> NDArray[np.bool_]:
        """[N, H] booleans: ``valid``, or True everywhere."""
        return np.ones(self._shape, dtype=bool) if self.valid is None else self.valid

    @property
    def model_steps(self) -> int | None:
        """k, or None for full rollouts.

        Raises:
            ValueError: when the evidence does not say.
        """
        if isinstance(self.rollout_length, str):
            raise ValueError("rollout_length is not said")
        return self.rollout_length

    @property
    def _shape(self) -> tuple[int, int]:
        found: tuple[int, int] = next(
            each.shape for each in (getattr(self, name) for name in (*PER_STEP, "valid")) if each is not None
        )
        return found

    @property
    def episodes(self) -> int:
        """N."""
        return self._shape[0]

    @property
    def horizon(self) -> int:
        """H, the number of times."""
        return self._shape[1]

    @property
    def horizon_weight(self) -> float:
        """sum_{t<H} gamma^t."""
        return float(np.power(self.discount, np.arange(self.horizon)).sum())


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    if isinstance(value, np.ndarray | np.generic):
        value = value.item()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number(name: str, value: object) -> float:
    """A real number.

    Raises:
        ValueError: text, truth values, complex numbers, arrays with axes.
    """
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be one number, got {_shown(value)}")
    return float(array)


def _truth(name: str, value: object) -> bool:
    array = np.asarray(value)
    if array.ndim or array.dtype.kind != "b":
        raise ValueError(f"{name} must be True or False, got {_shown(value)}")
    return bool(array)


def _rollout_length(value: object) -> int | Literal["not said"] | None:
    array = np.asarray(value)
    if value is None or (array.ndim == 0 and array.dtype.kind == "U" and array.item() == "full"):
        return None
    if isinstance(value, str) and value == "not said":
        return "not said"
    if array.ndim or array.dtype.kind not in "iu" or not 1 <= int(array) <= 2**53:
        raise ValueError(f"rollout_length must be a whole number >= 1, or 'full', got {_shown(value)}")
    return int(array)


def _array(name: str, value: object, axes: str, count: int) -> Array:
    """An array of real numbers with ``count`` axes, as float64.

    Raises:
        ValueError: anything else, masked arrays among it (the mask would be lost).
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of numbers with {axes}: {error}") from error
    if array.dtype.kind not in "iuf" or isinstance(value, np.ma.MaskedArray):
        kind = "a masked array" if isinstance(value, np.ma.MaskedArray) else f"type {array.dtype}"
        raise ValueError(f"{name} must hold real numbers, got {kind}")
    if array.ndim != count or 0 in array.shape:
        raise ValueError(f"{name} must have {axes}, got shape {array.shape}")
    return array.astype(np.float64)


CAUSES = {
    "log_model_density": (
        "the model's density beats the environment's own",
        "a constant or a Jacobian that only one of the two has, the members of a mixture summed without their weights, "
        "the two exchanged, or a model that was trained on these episodes",
    ),
    "log_policy": (
        "the policy's density of the data's actions beats that of the policy that took them",
        "the two exchanged, the Jacobian of tanh in only one of them, a data policy that is not the one that acted, or "
        "a policy that was fitted to these actions",
    ),
}


def honesty_of(evidence: Evidence, level: float = HONESTY_LEVEL) -> dict[str, HonestyTest]:
    """The e-test of each pair of densities; all together they refute honest evidence with probability <= ``level``.

    Pairs that are not there, or in which the environment has no density, are not tested.
    """
    tests: dict[str, HonestyTest] = {}
    for truth, claim in (("log_density", "log_model_density"), ("log_data_policy", "log_policy")):
        log_p, log_q = getattr(evidence, truth), getattr(evidence, claim)
        if log_p is not None and log_q is not None and np.isfinite(log_p[evidence.happened]).all():
            tests[claim] = honesty(log_p, log_q, evidence.happened, level=level / len(CAUSES))
    return tests


def refuse_dishonest(tests: dict[str, HonestyTest]) -> None:
    """Raises:
    ValueError: for evidence that cannot be what it claims to be, with what was seen and where it usually comes from.
    """
    for claim, test in tests.items():
        if test.refuted:
            what, causes = CAUSES[claim]
            raise ValueError(
                f"this evidence cannot be honest: {what} at what happened ({test.mean_log_ratio:+.3g} nats a step on "
                f"average over {test.steps} steps; with honest densities the chance of what was seen is at most "
                f"e^-{test.log_capital:.3g}). Likely: {causes}"
            )


def load(path: Path) -> Evidence:
    """Read an .npz whose entries are named like the fields of ``Evidence``: arrays, and numbers, truth values and words
    as arrays without axes.

    ``rollout_length`` must be there: k, or the word "full" (0 in older files) for full rollouts.

    Raises:
        ValueError: when it cannot be read, an entry is unknown or missing, or the values do not fit.
    """
    fields = {field.name: field for field in dataclasses.fields(Evidence)}
    for name, value in (values := _entries(path)).items():
        if name not in fields:
            raise ValueError(f"{path} has an unknown entry {name!r}; known are {', '.join(fields)}")
        if not isinstance(value, np.ndarray):
            raise ValueError(f"the entry {name!r} of {path} is no array")
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING} | {"rollout_length"}
    for name in fields:
        if name in needed - {"log_density", "log_model_density"} and name not in values:
            raise ValueError(f"{path} has no entry {name!r}")
    length = values["rollout_length"]
    if length.ndim == 0 and length.dtype.kind in "iu" and length == 0:
        values["rollout_length"] = None
    return Evidence(**{"log_density": None, "log_model_density": None, **values})


def _entries(path: Path) -> dict[str, Any]:
    """What an .npz file holds, by name."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    if data.startswith(b"\x93NUMPY"):
        raise ValueError(f"{path} holds one array without a name; np.savez writes several with names")
    return dict(read_arrays(path, data))
