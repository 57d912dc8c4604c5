"""What ``analysis.certify`` is given: arrays of a user's episodes, checked for form and, as far as can be, for honesty.

Everything that does not fit is a ValueError that names the entry and the value: a certificate is worth what its inputs
are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.guarantee.critic import CAUSES_OF_DRAWS, PER_DRAW, check_critic
from analysis.guarantee.dependence import FITTED, dependence_of, refuse_reuse
from analysis.guarantee.forms import array_of, labels_of, number, rollout_length_of, truth
from bounds.honesty import HonestyTest, honesty

Array = NDArray[np.float64]

PER_STEP = (
    "log_density", "log_model_density", "log_data_policy", "log_policy", "rewards", "predicted_rewards", "critic",
    "critic_mean",
)  # fmt: skip

# Honest evidence is refused with at most this probability. It is no part of the confidence: a refusal states nothing,
# so it costs honest users an answer and never makes an answer wrong; and dishonest evidence goes far beyond it.
HONESTY_LEVEL = 0.001

# Fewer distinct rows than this may all occur an even number of times by chance.
DISTINCT_ROWS = 30


@dataclass(frozen=True, eq=False)
class Evidence:
    """N episodes of the data policies in the real environment; and, for certificates that go through a model, returns
    of rollouts in the model.

    Rows are episodes, independent of each other and of what fitted the policy, the model and the critic; columns are
    the times 0 .. H - 1. An episode that ended early has ``valid`` False from its end on. Rewards alone will do (with
    both policies' log densities where another policy acted), and densities with model returns alone will do.

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
            branched returns are), or from none of them. None: no model is certified.
        reward_low, reward_high: the expected reward lies between them whatever happens; so does every one of
            ``rewards``.
        discount: gamma in [0, 1).
        rollout_length: k when the returns are branched (model steps averaged over 1 .. k); "full" or None when they are
            full rollouts from the start. Not certifiable as long as it is not said.
        log_data_policy, log_policy: [N, H] log densities of the data's actions under the policy that took them and
            under the policy that is to be certified. Both None: it is the same policy.
        rewards: [N, H] what was paid. With it the return is bounded without any model.
        predicted_rewards: [N, H] what the model predicts there, clipped to the range; needs ``rewards``. None: the
            model's returns were paid by the environment's own reward function. One that depends on a hidden task is
            known along a rollout of the model only if the rollout carries the task, or as its mean given the history.
        true_returns: [K] discounted returns over H steps of the policy in the real environment, to hold the guarantee
            against; not needed for it.
        valid: [N, H] booleans, True up to the end of the episode and False from there on, at least one True in each
            row; all True when None.
        absorbing: whether nothing is paid after H steps (an episode that ends there for good, or a return that is meant
            to be that of H steps). False: the rest is bounded by its worst.
        termination_modelled: whether the densities and the model's rollouts treat the end of an episode as an event
            that the model has to predict. Needed only where some episodes end before H steps and a model is certified.
        data_policy: [N] whole numbers, which data policy acted in each episode; any order. None: one.
        critic: [N, H] Q_t(h_t, a_t) >= 0 at the data's actions, the policy's expected sum_{u>=t} gamma^(u-t)
            (r_u - reward_low) as a critic fitted on other episodes sees it. With it the control variate is tried.
        critic_mean: [N, H] mean over a ~ pi of min(1, c pi_D/pi) Q_t(h_t, a), where it is known exactly.
        critic_draws, log_policy_draws, log_data_policy_draws: [N, H, D] instead of it, at D actions drawn afresh from
            the policy at every history: the critic, and both policies' log densities (needed where ``log_policy`` is).
        budget: L > 0 of the control variate, chosen before looking at the data; None: a rule that knows N only.
        ratio_cap: c >= 1 of the control variate, chosen beforehand.
        policy_dependence, model_dependence, critic_dependence: [N] booleans, True where that episode was used to fit,
            tune or choose the policy, the model, the critic; or the word "independent". None: it is not said, and the
            answer calls it assumed.

    Raises:
        ValueError: naming the array or number that does not fit.
    """

    log_density: Array | None = None
    log_model_density: Array | None = None
    model_returns: Array | None = None
    reward_low: float = field(kw_only=True)
    reward_high: float = field(kw_only=True)
    discount: float = field(kw_only=True)
    rollout_length: int | Literal["full", "not said"] | None = "not said"
    log_data_policy: Array | None = None
    log_policy: Array | None = None
    rewards: Array | None = None
    predicted_rewards: Array | None = None
    true_returns: Array | None = None
    valid: NDArray[np.bool_] | None = None
    absorbing: bool = False
    termination_modelled: bool | None = None
    data_policy: NDArray[np.int64] | None = None
    critic: Array | None = None
    critic_mean: Array | None = None
    critic_draws: Array | None = None
    log_policy_draws: Array | None = None
    log_data_policy_draws: Array | None = None
    budget: float | None = None
    ratio_cap: float = 2.0
    policy_dependence: NDArray[np.bool_] | Literal["independent"] | None = None
    model_dependence: NDArray[np.bool_] | Literal["independent"] | None = None
    critic_dependence: NDArray[np.bool_] | Literal["independent"] | None = None

    def __post_init__(self) -> None:
        self._take_forms()
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount must be in [0, 1), got {self.discount}")
        if not (math.isfinite(self.reward_high - self.reward_low) and self.reward_low < self.reward_high):
            raise ValueError(f"reward_low must be < reward_high, got {self.reward_low} and {self.reward_high}")
        if (self.log_data_policy is None) != (self.log_policy is None):
            raise ValueError("log_data_policy and log_policy go together: give both or neither")
        if self.predicted_rewards is not None and self.rewards is None:
            raise ValueError("predicted_rewards needs rewards to be compared with")
        if self.rewards is None and self.model_returns is None:
            raise ValueError("evidence needs rewards, or model_returns, or both; got neither")
        self._check_shapes()
        check_critic(self)
        for name in FITTED:
            object.__setattr__(self, f"{name}_dependence", dependence_of(f"{name}_dependence",
                               getattr(self, f"{name}_dependence"), self.episodes))  # fmt: skip
        refuse_reuse("policy", self.policy_dependence)
        self._check_valid()
        self._check_numbers()
        self._check_returns()
        self._check_repetition()

    def _take_forms(self) -> None:
        """Every field as the type that it is declared with; nothing is converted that could mean something else."""

        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in ("reward_low", "reward_high", "discount", "ratio_cap", "budget"):
            if name == "budget" and self.budget is None:
                continue
            put(name, number(name, getattr(self, name)))
        for name in ("absorbing", "termination_modelled"):
            if not (name == "termination_modelled" and self.termination_modelled is None):
                put(name, truth(name, getattr(self, name)))
        put("rollout_length", rollout_length_of(self.rollout_length))
        for name in PER_STEP:
            if getattr(self, name) is not None:
                put(name, array_of(name, getattr(self, name), "two axes, episodes and times", 2))
        for name in PER_DRAW:
            if getattr(self, name) is not None:
                put(name, array_of(name, getattr(self, name), "three axes, episodes, times and draws", 3))
        if self.data_policy is not None:
            put("data_policy", labels_of("data_policy", self.data_policy))
        for name in ("model_returns", "true_returns"):
            if getattr(self, name) is not None:
                put(name, array_of(name, getattr(self, name), "one axis", 1))
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
        if self.data_policy is not None and len(self.data_policy) != shape[0]:
            raise ValueError(f"data_policy must have one entry for each of {shape[0]} episodes, got "
                             f"{len(self.data_policy)}")  # fmt: skip

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
        given = [getattr(self, name) for name in PER_STEP if getattr(self, name) is not None]
        rows = np.concatenate(given, axis=1) if given else None
        for name, values in (("episode", rows), ("value of model_returns", self.model_returns)):
            if values is None:
                continue
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

    @property
    def tail_weight(self) -> float:
        """sum_{t>=H} gamma^t, or 0 where nothing is paid then."""
        return 0.0 if self.absorbing else self.discount**self.horizon / (1 - self.discount)

    @property
    def data_policies(self) -> int:
        """How many policies acted."""
        return 1 if self.data_policy is None else len(np.unique(self.data_policy))


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
    """The e-test of each pair of densities; those of the episodes together refute honest evidence with probability <=
    ``level``, the one of a critic's draws with another half of it.

    Pairs that are not there, or in which the environment has no density, are not tested.
    """
    tests: dict[str, HonestyTest] = {}
    for drawn, claim in (("log_density", "log_model_density"), ("log_data_policy", "log_policy")):
        log_p, log_q = getattr(evidence, drawn), getattr(evidence, claim)
        if log_p is not None and log_q is not None and np.isfinite(log_p[evidence.happened]).all():
            tests[claim] = honesty(log_p, log_q, evidence.happened, level=level / len(CAUSES))
    if evidence.log_policy_draws is not None and evidence.log_data_policy_draws is not None:
        happened = evidence.happened
        of_draws = (each[happened] for each in (evidence.log_policy_draws, evidence.log_data_policy_draws))
        tests["log_data_policy_draws"] = honesty(*of_draws, level=level / len(CAUSES))
    return tests


def refuse_dishonest(tests: dict[str, HonestyTest]) -> None:
    """Raises:
    ValueError: for evidence that cannot be what it claims to be, with what was seen and where it usually comes from.
    """
    for claim, test in tests.items():
        if test.refuted:
            what, causes = (CAUSES | CAUSES_OF_DRAWS)[claim]
            raise ValueError(
                f"this evidence cannot be honest: {what} at what happened ({test.mean_log_ratio:+.3g} nats a step on "
                f"average over {test.steps} steps; with honest densities the chance of what was seen is at most "
                f"e^-{test.log_capital:.3g}). Likely: {causes}"
            )
