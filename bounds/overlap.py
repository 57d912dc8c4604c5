"""Theorem 5: a discrepancy from one bounded number per episode, how little the true and the model's law overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bounds.bound import FloatArray
from bounds.certificate import Tail, checked_rollout_length
from bounds.confidence import Method, betting
from bounds.log_ratios import check_logarithms, log_ratio, step_array, valid_prefix
from bounds.nonnegative import nonnegative_lower
from bounds.readable import readable

Form = Literal["uncapped", "overlap", "product", "sum"]
FORMS: tuple[Form, ...] = ("uncapped", "overlap", "product", "sum")
OverlapRollout = Literal["averaged", "exact"]


@dataclass(frozen=True, eq=False)
class OverlapLosses:
    """One number per episode whose mean, times the reward range, bounds the return gap over the episode's H times.

    Attributes:
        values: [N], in [0, largest]; of the form "uncapped" at most ``largest``, without a lower end.
        largest: sum of gamma^t over the times at which the laws may differ: t = 1..H-1; with a learned reward also 0.
        form: which of Theorem 5's forms.
        horizon: H.
        discount: gamma.
    """

    values: FloatArray
    largest: float
    form: Form
    horizon: int
    discount: float

    __repr__ = readable


def overlap_losses(
    log_density: npt.ArrayLike,
    log_model_density: npt.ArrayLike,
    log_data_policy: npt.ArrayLike | None = None,
    log_policy: npt.ArrayLike | None = None,
    *,
    discount: float,
    rollout_length: int | None = None,
    scheme: OverlapRollout = "averaged",
    form: Form = "overlap",
    rewards: npt.ArrayLike | None = None,
    predicted_rewards: npt.ArrayLike | None = None,
    reward_range: float | None = None,
    valid: npt.ArrayLike | None = None,
) -> OverlapLosses:
    """What every episode of the data policy says about the return gap (Theorem 5), one loss per episode.

    loss = sum_{t>=1} gamma^t avg_{i=1..min(t,k)} (1 - v), v how much of this episode both laws of h_t share.

    With rho_s = pi(a_s|h_s)/pi_D(a_s|h_s) and x_s = p_theta(o_{s+1}|a_s,h_s)/p(o_{s+1}|a_s,h_s), relative to the data's
    law the true law of h_t has density a b and that of a branch of i model steps b X, where a = prod_{s<t-i} rho_s,
    b = prod_{s=t-i}^{t-1} rho_s and X = prod_{s=t-i}^{t-1} x_s (full model: i = t). Each form subtracts at least as
    much as the one before it, episode by episode:

    - "uncapped": v = b min(a, X); the mean of 1 - v is the total variation itself where the data policy takes every
      action that the policy takes. It has no lower end, so its mean needs ``nonnegative_lower``.
    - "overlap": v = min{1, b min(a, X)}.
    - "product": v = min(1, a) min(1, b) prod_s min(1, x_s).
    - "sum": 1 - v = min{1, sum_{s<t} (1 - min(1, rho_s)) + sum_{s=t-i}^{t-1} (1 - min(1, x_s))}, whose mean is at most
      Theorem 4's min{1, sum_s d_s + sum_s m_s}.

    With a learned reward r_theta the action at t counts too, b = prod_{s=t-i}^{t} rho_s, also at t = 0 (a = X = 1), and
    1 - v is replaced by 1 - v (1 - |r_t - r_theta|/R).

    Everything is added up as logarithms; 1 - v keeps its relative precision near 0.

    Args:
        log_density: [N, H], log p at the observed transitions, from step t to t+1. The density given the true task is
            valid too. The end of an episode is part of what is observed: both densities must treat it as an event. The
            last column, after which nothing is rewarded within the horizon, is not used.
        log_model_density: [N, H], log p_theta; -inf where the model excludes what happened.
        log_data_policy, log_policy: [N, H], log densities of the actions taken; -inf allowed for the policy. Both None
            when the data are the policy's own.
        discount: gamma, in [0, 1).
        rollout_length: k >= 1, the most model steps of the branched rollout; None for the model from the start.
        scheme: "averaged", the mean over i = 1..min(t, k); "exact", i = min(t, k) alone. Full rollouts ignore it.
        form: see above.
        rewards, predicted_rewards: [N, H], observed and learned rewards, both clipped to the reward range; None when
            model rollouts are paid the true reward.
        reward_range: R >= 0, needed with learned rewards.
        valid: [N, H] booleans, False from the end of an episode on: it stays in an absorbing state without reward, so
            that nothing differs any more. None: every episode lasts H steps.

    Raises:
        ValueError: an argument out of its range, arrays that do not fit, NaN, a data density of -inf at its own data,
            or (uncapped) a ratio above e^700.

    Source:
        this project, Theorem 5 (docs/theory.md).
    """
    if not 0 <= discount < 1:
        raise ValueError(f"discount must be in [0, 1), got {discount}")
    if scheme not in ("averaged", "exact"):
        raise ValueError(f"scheme must be 'averaged' or 'exact', got {scheme!r}")
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    shape = step_array("log_density", log_density).shape
    mask = valid_prefix(valid, shape)
    before_last = mask.copy()
    before_last[:, -1] = False
    log_x = log_ratio(log_model_density, log_density, before_last, ("log_model_density", "log_density"))
    if (log_data_policy is None) != (log_policy is None):
        raise ValueError("log_data_policy and log_policy go together: give both or neither")
    log_rho = np.zeros(shape)
    if log_policy is not None and log_data_policy is not None:
        log_rho = log_ratio(log_policy, log_data_policy, mask, ("log_policy", "log_data_policy"))
    k = None if rollout_length is None else checked_rollout_length(rollout_length, shape[1])
    wrong = _reward_errors(rewards, predicted_rewards, reward_range, mask)
    steps = _averaged_loss(log_rho, log_x, k, scheme, form, learned=wrong is not None)
    if wrong is not None:
        steps = steps + (1 - steps) * wrong
    weights = np.power(float(discount), np.arange(shape[1]))
    if wrong is None:
        weights[0] = 0.0
    return OverlapLosses(steps @ weights, float(weights.sum()), form, shape[1], float(discount))


@dataclass(frozen=True)
class OverlapCertificate:
    """What Theorem 5 subtracts from the model return.

    Attributes:
        value: |true return - model return| <= value with probability >= confidence, in units of return.
        estimate: the same at the mean loss, without any confidence.
        tail_part: the times from H on, part of both.
        confidence: 1 - delta.
        episodes: N.
    """

    value: float
    estimate: float
    tail_part: float
    confidence: float
    episodes: int


def overlap_certificate(
    losses: OverlapLosses,
    *,
    reward_range: float,
    confidence: float = 0.95,
    tail: Tail = "worst",
    method: Method = betting,
) -> OverlapCertificate:
    """How far the model return can be from the true one with confidence, from the losses of N episodes (Theorem 5).

    |J - J_model| <= R mean(loss) + tail, with an upper confidence bound in place of the mean.

    Args:
        losses: of N iid episodes of one data policy; pi and p_theta fixed independently of them.
        reward_range: R = r_hi - r_lo >= 0.
        confidence: in (0, 1).
        tail: what happens from time H on. "worst" adds R gamma^H/(1 - gamma); "absorbing", nothing (every episode is
            over by then, in truth and in the model, and pays nothing more).
        method: an interval of ``bounds.confidence`` for means in [0, largest]; not used by the form "uncapped", which
            takes ``nonnegative_lower`` of largest - loss >= 0.

    Raises:
        ValueError: an argument out of its range.

    Source:
        this project, Theorem 5 (docs/theory.md).
    """
    if not 0 <= reward_range < np.inf:
        raise ValueError(f"reward_range must be nonnegative and finite, got {reward_range}")
    tail_part = reward_range * tail_weight(tail, losses.discount, losses.horizon)
    values, largest = losses.values, losses.largest
    if losses.form == "uncapped":
        upper = largest - float(nonnegative_lower(np.maximum(largest - values, 0.0), confidence))
    elif largest == 0.0:
        upper = 0.0
    else:
        samples = np.clip(values, 0.0, largest)  # rounding only: a sum of terms in [0, gamma^t]
        upper = float(method(samples, confidence, sides="upper", low=0.0, high=largest).upper)
    return OverlapCertificate(
        value=reward_range * upper + tail_part,
        estimate=reward_range * float(values.mean()) + tail_part,
        tail_part=tail_part,
        confidence=confidence,
        episodes=len(values),
    )


def tail_weight(tail: Tail, discount: float, horizon: int) -> float:
    """What the rewards after the H times of an episode weigh.

    sum_{t>=H} gamma^t for the tail "worst", 0 for "absorbing".

    Raises:
        ValueError: another tail.
    """
    if tail not in ("worst", "absorbing"):
        raise ValueError(f"tail must be 'worst' or 'absorbing', got {tail!r}")
    return float(discount**horizon / (1 - discount)) if tail == "worst" else 0.0


def _averaged_loss(
    log_rho: FloatArray, log_x: FloatArray, rollout_length: int | None, scheme: str, form: Form, *, learned: bool
) -> FloatArray:
    """[N, H], at each time the average over the branches of 1 - v; at time 0 it is 0 without a learned reward."""
    episodes, horizon = log_rho.shape
    log_before = np.zeros((episodes, horizon))  # log prod_{s<t} rho_s
    np.cumsum(log_rho[:, :-1], axis=1, out=log_before[:, 1:])
    lost_rho, lost_x = (-np.expm1(np.minimum(ratio, 0.0)) for ratio in (log_rho, log_x))
    lost_policy = np.cumsum(lost_rho, axis=1)
    if not learned:
        lost_policy = np.concatenate([np.zeros((episodes, 1)), lost_policy[:, :-1]], axis=1)
    own = log_rho if learned else np.zeros_like(log_rho)
    increments = {"product": np.minimum(log_x, 0.0), "sum": lost_x}.get(form, log_x)

    def loss(log_a: FloatArray, log_b: FloatArray, model: FloatArray, times: slice) -> FloatArray:
        if form == "sum":
            return np.minimum(1.0, lost_policy[:, times] + model)
        if form == "product":
            return -np.expm1(np.minimum(log_a, 0.0) + np.minimum(log_b, 0.0) + model)
        log_v = log_b + np.minimum(log_a, model)
        if form == "uncapped":
            check_logarithms(log_v, "the overlap's ratio b min(a, X)")
            return -np.expm1(log_v)
        return -np.expm1(np.minimum(log_v, 0.0))

    if rollout_length is None:
        model = np.zeros((episodes, horizon))
        np.cumsum(increments[:, :-1], axis=1, out=model[:, 1:])
        return loss(np.zeros((episodes, horizon)), log_before + own, model, slice(None))
    result = np.zeros((episodes, horizon))
    result[:, :1] = loss(np.zeros((episodes, 1)), own[:, :1], np.zeros((episodes, 1)), slice(1))
    log_b, model = own, np.zeros((episodes, horizon))
    for i in range(1, min(rollout_length, horizon - 1) + 1):
        # row t - i of the arrays below is time t
        log_b = log_b[:, 1:] + log_rho[:, : horizon - i]
        model = model[:, 1:] + increments[:, : horizon - i]
        if scheme == "averaged":
            result[:, i:] += loss(log_before[:, : horizon - i], log_b, model, slice(i, None))
        elif i == rollout_length:
            result[:, i:] = loss(log_before[:, : horizon - i], log_b, model, slice(i, None))
        else:
            result[:, i : i + 1] = loss(log_before[:, :1], log_b[:, :1], model[:, :1], slice(i, i + 1))
    if scheme == "averaged":
        result /= np.clip(np.arange(horizon), 1, rollout_length)
    return result


def _reward_errors(
    rewards: npt.ArrayLike | None,
    predicted_rewards: npt.ArrayLike | None,
    reward_range: float | None,
    mask: npt.NDArray[np.bool_],
) -> FloatArray | None:
    """|r - r_theta| / R in [0, 1], 0 after an episode's end; None without a learned reward."""
    if (rewards is None) != (predicted_rewards is None):
        raise ValueError("rewards and predicted_rewards go together: give both or neither")
    if rewards is None or predicted_rewards is None:
        return None
    if reward_range is None or not 0 <= reward_range < np.inf:
        raise ValueError(f"reward_range must be nonnegative and finite with learned rewards, got {reward_range}")
    observed = step_array("rewards", rewards, mask.shape)
    predicted = step_array("predicted_rewards", predicted_rewards, mask.shape)
    errors: FloatArray = np.abs(np.where(mask, observed, 0.0) - np.where(mask, predicted, 0.0))
    allowed = reward_range * (1 + 1e-12)
    if not (errors <= allowed).all():
        episode, time = (int(index) for index in np.argwhere(~(errors <= allowed))[0])
        raise ValueError(
            f"rewards and predicted_rewards must differ by at most the reward range {reward_range:g}, got a difference "
            f"of {errors[episode, time]} at episode {episode}, time {time}"
        )
    return np.minimum(errors / reward_range, 1.0) if reward_range > 0 else np.zeros_like(errors)
