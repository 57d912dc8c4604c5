"""The instances that attain Theorems 3 and 4: no smaller discrepancy of the same inputs is valid.

Both draw a label U uniform on [0, 1) that stays in the state ("mid" with U), and have an absorbing state "good" that
pays reward_high where mid pays reward_low. The true policy never reaches good, so the whole mass that the model sends
there is gap. A finite process results because only the ends of finitely many windows of U matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bounds.finite.instance import Instance
from bounds.finite.process import Array, SparseProcess

STAY, LEAVE, TEMPT = range(3)  # a0 both policies, a1 only the data policy, a2 only the policy


def _check_unit(value: float, name: str) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
    return float(value)


def _cells(starts: Array, widths: Array, low: float, extra: Sequence[float] = ()) -> tuple[Array, NDArray[np.bool_]]:
    """Cut [0, 1) at the ends of the windows ``[start, start + width)`` that wrap within [low, 1), and at ``extra``.

    Returns the widths of the C cells, and [T, C] whether the cell lies in window t.
    """
    span = 1.0 - low
    ends = starts + widths
    wraps = ends > 1.0
    wrapped = np.where(wraps, ends - span, ends)
    cuts = np.unique(np.clip(np.concatenate([[0.0, 1.0, low], starts, wrapped, extra]), 0.0, 1.0))
    middle = 0.5 * (cuts[:-1] + cuts[1:])
    start, end, over = starts[:, None], wrapped[:, None], wraps[:, None]
    direct = (middle >= start) & (middle < end)
    around = (middle >= start) | ((middle >= low) & (middle < end))
    full = (widths >= span)[:, None] & (middle >= low)
    return np.diff(cuts), np.where(over, around, direct) | full


def _mid_good_process(widths: Array, horizon: int, low: float, high: float) -> tuple[SparseProcess, int]:
    """States 0..C-1: mid with the label in that cell; C: good. Successor slots: (stay, good)."""
    cells = len(widths)
    successors = np.empty((cells + 1, 3, 2), dtype=np.int32)
    successors[:, :, 0] = np.arange(cells + 1)[:, None]
    successors[:, :, 1] = cells
    successors[cells, :, 1] = 0  # never taken; the slots of one state must differ
    truth = np.zeros((cells + 1, 3, 2))
    truth[:, :, 0] = 1.0
    truth[:cells, LEAVE] = (0.0, 1.0)
    reward = np.full((cells + 1, 3), low)
    reward[cells] = high
    process = SparseProcess(
        np.append(widths / widths.sum(), 0.0),
        (successors,) * horizon,
        (truth,) * horizon,
        (reward,) * (horizon + 1),
        low,
        high,
    )
    return process, cells


def attaining_instance(
    model_error: float,
    policy_divergence: float,
    horizon: int,
    *,
    reward_low: float = -1.0,
    reward_high: float = 1.0,
) -> Instance:
    """The instance whose gap ``J_model - J`` is C* of Theorem 3, at every discount and rollout length at once.

    For every t and i the branch's law of h_t differs from the true one by exactly ``u(t, i)`` in total variation, so
    the gap of the full, the averaged and the exact scheme is ``finite_horizon_discrepancy`` of that scheme. Its
    measured eps_m and eps_pi are the arguments. Where ``model_error > 1 - policy_divergence`` the first model error
    moves, in part, to the action that only the data policy takes; C* is R discount/(1 - discount) there.

    Args:
        model_error: eps_m in [0, 1].
        policy_divergence: eps_pi in [0, 1].
        horizon: T >= 1, the number of transitions.

    Raises:
        ValueError: an argument outside its range.
    """
    eps_m, eps_pi = _check_unit(model_error, "model_error"), _check_unit(policy_divergence, "policy_divergence")
    if int(horizon) != horizon or horizon < 1:
        raise ValueError(f"horizon must be an integer >= 1, got {horizon}")
    with np.errstate(divide="ignore", invalid="ignore"):
        keep = (1.0 - eps_pi) ** np.arange(1, horizon + 1)  # mass of the data policy still in mid after action s
        widths = np.minimum(1.0, eps_m / keep) if eps_m > 0 else np.zeros(horizon)
    starts = np.zeros(horizon)
    for s in range(1, horizon):
        starts[s] = (starts[s - 1] + widths[s - 1]) % 1.0
    cell_widths, inside = _cells(starts, widths, 0.0)
    process, cells = _mid_good_process(cell_widths, horizon, reward_low, reward_high)
    model = []
    for s in range(horizon):
        layer = process.probabilities[s].copy()
        layer[:cells, TEMPT] = (0.0, 1.0)
        layer[:cells, STAY] = np.where(inside[s][:, None], (0.0, 1.0), (1.0, 0.0))
        if s == 0 and eps_m > 1.0 - eps_pi:
            rest = min(1.0, (eps_m - (1.0 - eps_pi)) / eps_pi)
            layer[:cells, LEAVE] = (rest, 1.0 - rest)
        model.append(layer)
    data = np.tile([1.0 - eps_pi, eps_pi, 0.0], (cells + 1, 1))
    learner = np.tile([1.0 - eps_pi, 0.0, eps_pi], (cells + 1, 1))
    return Instance(process, tuple(model), (data,) * (horizon + 1), (learner,) * (horizon + 1), "attaining")


def profile_attaining_instance(
    model_error_profile: ArrayLike,
    policy_divergence_profile: ArrayLike,
    *,
    reward_low: float = -1.0,
    reward_high: float = 1.0,
) -> Instance:
    """An instance with exactly these profiles m_t and d_t whose gap ``J_model - J`` is the certificate of Theorem 4.

    The label interval is cut in two. At step s the policies disagree on the next ``d_s`` of the first part (there the
    data policy leaves for good and the policy does not); the model is wrong on the next ``m_s`` of the second part,
    cyclically. So no mass is lost twice, and the law of the branch differs from the true one by exactly
    ``sum_{s<t} d_s + sum_{s=t-i}^{t-1} m_s`` as long as the windows of one branch fit in the second part:
    the certificate is attained when ``sum_t d_t`` plus every sum of k consecutive m_t (of all, for the full model) is
    at most 1.

    Args:
        model_error_profile: [T], m_t >= 0.
        policy_divergence_profile: [T+1], d_t >= 0; sum_t d_t + max_t m_t <= 1.

    Raises:
        ValueError: wrong shapes or ranges.
    """
    m, d = np.asarray(model_error_profile, dtype=float), np.asarray(policy_divergence_profile, dtype=float)
    if m.ndim != 1 or d.shape != (m.size + 1,) or m.size < 1:
        raise ValueError(f"the profiles must have shapes [T] and [T+1], got {m.shape} and {d.shape}")
    lost = np.concatenate([[0.0], np.cumsum(d)])
    low = float(lost[-1])
    if not (np.all(m >= 0) and np.all(d >= 0) and low + m.max() <= 1.0 + 1e-12):
        raise ValueError(f"profiles must be >= 0 with sum d + max m <= 1, got {low} + {m.max()}")
    low = min(low, 1.0)
    span, starts = 1.0 - low, np.empty_like(m)
    position = 0.0
    for s, width in enumerate(m):
        starts[s] = low + position
        position += width
        if span > 0.0 and position >= span:
            position -= span
    cell_widths, inside = _cells(starts, m, low, extra=np.minimum(lost, 1.0).tolist())
    horizon = m.size
    process, cells = _mid_good_process(cell_widths, horizon, reward_low, reward_high)
    middle = np.cumsum(cell_widths) - 0.5 * cell_widths
    model, data, learner = [], [], []
    for s in range(horizon + 1):
        apart = (middle >= lost[s]) & (middle < lost[s + 1]) & (middle < low)
        both = np.tile([1.0, 0.0, 0.0], (cells + 1, 1))
        mine, theirs = both.copy(), both.copy()
        mine[:cells][apart] = (0.0, 1.0, 0.0)
        theirs[:cells][apart] = (0.0, 0.0, 1.0)
        data.append(mine)
        learner.append(theirs)
        if s < horizon:
            layer = process.probabilities[s].copy()
            layer[:cells, TEMPT] = (0.0, 1.0)
            layer[:cells, STAY] = np.where(inside[s][:, None], (0.0, 1.0), (1.0, 0.0))
            model.append(layer)
    return Instance(process, tuple(model), tuple(data), tuple(learner), "attaining-profile")


def with_true_action(instance: Instance) -> Instance:
    """An attaining instance whose model is right about the action that only the policy takes.

    All model error is then where both policies act, and what remains at eps_m = 0 is the policy divergence before the
    branch alone: the hard case of MBPO 4.3, whose model error is the one under the current policy.
    """
    process = instance.process
    assert isinstance(process, SparseProcess)
    model = []
    for layer, truth in zip(instance.model, process.probabilities, strict=True):
        corrected = layer.copy()
        corrected[:, TEMPT] = truth[:, TEMPT]
        model.append(corrected)
    return Instance(process, tuple(model), instance.data_policy, instance.policy, instance.family)


def agreement_loss(time: int, model_steps: int, model_error: float, policy_divergence: float) -> float:
    """The largest possible divergence of the two laws of the history at one time.

    ``u(t, i) = min{1, 1 - (1-eps_pi)^t + eps_m (1 - (1-eps_pi)^i) / eps_pi}``, t = time, i = model_steps.
    """
    if policy_divergence == 0.0:
        return min(1.0, model_steps * model_error)
    if policy_divergence == 1.0:
        return min(1.0, float(time > 0) + (model_error if model_steps else 0.0))
    log_keep = math.log1p(-policy_divergence)
    policy_part = -math.expm1(time * log_keep)
    return min(1.0, policy_part - model_error * math.expm1(model_steps * log_keep) / policy_divergence)


def finite_horizon_discrepancy(
    discount: float,
    rollout_length: int | None,
    model_error: float,
    policy_divergence: float,
    horizon: int,
    reward_range: float,
    scheme: str = "averaged",
) -> float:
    """Theorem 3's discrepancy for an episode that ends.

    ``R sum_{t=1..T} discount^t avg_i u(t, i)``: C* of Theorem 3 for an episode of T transitions, term by term.

    ``i`` runs over 1..min(t, k) (scheme "averaged"), is min(t, k) (scheme "exact"), or is t when ``rollout_length`` is
    None (the full model). Slow and plain on purpose: the reference for the instances and for ``optimal-*``.
    """
    total = 0.0
    for t in range(1, horizon + 1):
        steps = t if rollout_length is None else min(t, rollout_length)
        first = 1 if scheme == "averaged" and rollout_length is not None else steps
        losses = [agreement_loss(t, i, model_error, policy_divergence) for i in range(first, steps + 1)]
        total += discount**t * sum(losses) / len(losses)
    return reward_range * total
