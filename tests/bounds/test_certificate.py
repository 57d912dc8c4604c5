"""Theorem 4's certificate: a slow double loop, constant profiles, its parts, its tail, its input checks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bounds
from bounds import Certificate, certificate, linear_weights


def slow_certificate(
    m: Any, d: Any, discount: float, reward_range: float, k: int | None, e: Any, tail_bound: float
) -> float:
    """The statement, sum by sum."""
    total = tail_bound
    for t in range(len(d)):
        policy = sum(d[s] for s in range(t + (e is not None)))
        steps = [t] if k is None or t == 0 else list(range(1, min(t, k) + 1))
        terms = [min(1.0, policy + sum(m[s] for s in range(t - i, t))) for i in steps]
        total += discount**t * (reward_range * sum(terms) / len(terms) + (0.0 if e is None else e[t]))
    return total


rates = st.one_of(st.just(0.0), st.floats(0, 1), st.floats(0, 0.05))


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    horizon = draw(st.integers(1, 12))
    reward_range = draw(st.sampled_from([0.5, 1.0, 3.0]))

    def profile(entries: int, largest: float = 1.0) -> list[float]:
        return [largest * x for x in draw(st.lists(rates, min_size=entries, max_size=entries))]

    return {
        "m": profile(horizon - 1 + draw(st.integers(0, 1))),
        "d": profile(horizon),
        "e": (draw(st.booleans()) and profile(horizon, reward_range)) or None,
        "k": draw(st.one_of(st.none(), st.integers(1, 15))),
        "discount": draw(st.floats(0, 0.99)),
        "reward_range": reward_range,
        "tail": draw(st.sampled_from(["worst", "absorbing"])),
    }


def certify(problem: dict[str, Any]) -> Certificate:
    return certificate(
        problem["m"],
        problem["d"],
        discount=problem["discount"],
        reward_range=problem["reward_range"],
        rollout_length=problem["k"],
        reward_error_profile=problem["e"],
        tail=problem["tail"],
    )


@given(problems())
def test_equals_the_slow_double_loop(problem: dict[str, Any]) -> None:
    g, span, horizon = problem["discount"], problem["reward_range"], len(problem["d"])
    tail = span * g**horizon / (1 - g) if problem["tail"] == "worst" else 0.0
    expected = slow_certificate(problem["m"], problem["d"], g, span, problem["k"], problem["e"], tail)
    assert certify(problem).value == pytest.approx(expected, rel=1e-13, abs=1e-300)


@given(problems())
def test_parts_are_nonnegative_and_add_up(problem: dict[str, Any]) -> None:
    result = certify(problem)
    parts = (result.policy_part, result.model_part, result.reward_part, result.tail_part)
    assert all(part >= 0 for part in parts)
    assert sum(parts) == pytest.approx(result.value, rel=1e-14)
    assert result.per_step.sum() + result.tail_part == pytest.approx(result.value, rel=1e-13)
    assert result.per_step.shape == result.total_variation.shape == (len(problem["d"]),)
    assert np.all((result.total_variation >= 0) & (result.total_variation <= 1))


@given(problems())
def test_the_policy_part_is_the_certificate_of_a_perfect_model_and_reward(problem: dict[str, Any]) -> None:
    perfect = {**problem, "m": [0.0] * len(problem["m"]), "tail": "absorbing"}
    if problem["e"] is not None:
        perfect["e"] = [0.0] * len(problem["e"])
    assert certify(perfect).value == pytest.approx(certify(problem).policy_part, rel=1e-13, abs=1e-300)


@given(problems(), st.floats(0, 1))
def test_smaller_profiles_give_a_smaller_certificate(problem: dict[str, Any], share: float) -> None:
    largest = certify(problem).value
    for name in "mde":
        if problem[name] is not None:
            assert certify({**problem, name: [share * x for x in problem[name]]}).value <= largest * (1 + 1e-14)


@given(problems(), st.integers(1, 5))
def test_branching_shortly_never_costs(problem: dict[str, Any], more: int) -> None:
    """Non-decreasing in k and at most the full-model certificate."""
    length = problem["k"] or 1
    values = [certify({**problem, "k": k}).value for k in (length, length + more, None)]
    assert values[0] <= values[1] * (1 + 1e-14)
    assert values[1] <= values[2] * (1 + 1e-14)


@given(problems())
def test_the_true_return_gap_is_never_certified_above_the_trivial_one_without_reward_error(
    problem: dict[str, Any],
) -> None:
    g, span = problem["discount"], problem["reward_range"]
    problem = {**problem, "e": None, "tail": "worst"}
    assert certify(problem).value <= span * g / (1 - g) * (1 + 1e-13)


@pytest.mark.parametrize(("length", "name"), [(None, "linear-full"), (1, "linear-branched"), (6, "linear-branched")])
def test_small_constant_profiles_give_the_linear_bound(length: int | None, name: str) -> None:
    horizon = 400
    result = certificate(
        np.full(horizon - 1, 2e-5),
        np.full(horizon, 1e-5),
        discount=0.9,
        reward_range=3.0,
        rollout_length=length,
        tail="absorbing",
    )
    linear = bounds.get(name).evaluate(
        discount=0.9, model_error=2e-5, policy_divergence=1e-5, rollout_length=length or 1, reward_max=1.5
    )
    assert result.value == pytest.approx(linear, rel=1e-12)
    assert result.tail_part == 0


def test_constant_profiles_are_at_least_the_optimal_bound_and_equal_where_no_mass_is_lost_twice() -> None:
    """u(t, i) <= min(1, t d + i m), with equality without policy divergence: the full-model value of the table."""
    result = certificate(np.full(500, 0.2), np.zeros(501), discount=0.9, reward_range=2.0)
    assert result.value == pytest.approx(14.74236, rel=1e-13)
    branched = certificate(np.full(3000, 0.02), np.full(3001, 0.03), discount=0.99, reward_range=2.0, rollout_length=5)
    optimal = bounds.get("optimal-branched").evaluate(
        discount=0.99, model_error=0.02, policy_divergence=0.03, rollout_length=5
    )
    assert branched.value > optimal


def test_hand_computed_with_a_learned_reward() -> None:
    """gamma = 1/2, R = 2, two times: t = 0 gives e_0 + 2 d_0, t = 1 gives (e_1 + 2 (d_0 + d_1 + m_0))/2, tail 1."""
    result = certificate(
        [0.25],
        [0.125, 0.0625],
        discount=0.5,
        reward_range=2.0,
        rollout_length=3,
        reward_error_profile=[0.5, 1.0],
        tail="worst",
    )
    assert result.reward_part == 1.0
    assert result.policy_part == 0.25 + 0.1875
    assert result.model_part == 0.25
    assert result.tail_part == 1.0
    assert result.value == 2.6875


def test_the_last_policy_divergence_counts_only_with_a_learned_reward() -> None:
    arguments: dict[str, Any] = {"discount": 0.9, "reward_range": 1.0}
    assert certificate([0.1], [0.1, 0.0], **arguments).value == certificate([0.1], [0.1, 0.9], **arguments).value
    arguments["reward_error_profile"] = [0.0, 0.0]
    assert certificate([0.1], [0.1, 0.0], **arguments).value < certificate([0.1], [0.1, 0.9], **arguments).value


def test_the_tail_is_not_dropped_unless_asked() -> None:
    arguments: dict[str, Any] = {"discount": 0.9, "reward_range": 2.0}
    default = certificate([0.0] * 9, [0.0] * 10, **arguments)
    assert default.value == default.tail_part == pytest.approx(2 * 0.9**10 / 0.1, rel=1e-14)
    assert certificate([0.0] * 9, [0.0] * 10, tail="absorbing", **arguments).value == 0


def test_a_thousand_steps_are_fast() -> None:
    profile = np.full(1000, 1e-4)
    started = time.process_time()
    certificate(profile, profile, discount=0.999, reward_range=1.0, rollout_length=1000)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"discount": 1.0}, "discount must be in [0, 1), got 1.0"),
        ({"discount": np.nan}, "got nan"),
        ({"reward_range": -1.0}, "reward_range must be nonnegative and finite, got -1.0"),
        ({"reward_range": np.inf}, "got inf"),
        ({"rollout_length": 0}, "rollout_length must be a whole number from 1 to 2^53 or None, got 0"),
        ({"rollout_length": 1.5}, "got 1.5"),
        ({"rollout_length": np.nan}, "got nan"),
        ({"tail": "ignore"}, "tail must be 'worst' or 'absorbing', got 'ignore'"),
        ({"model_error_profile": [0.1, 1.2]}, "model_error_profile must be in [0, 1], got 1.2 at time 1"),
        ({"model_error_profile": [np.nan, 0.1]}, "got nan at time 0"),
        ({"model_error_profile": [0.1]}, "model_error_profile must have 2 or 3 entries"),
        ({"model_error_profile": [[0.1, 0.1]]}, "got shape (1, 2)"),
        ({"policy_divergence_profile": [0.1, -0.1, 0.0]}, "policy_divergence_profile must be in [0, 1], got -0.1"),
        ({"policy_divergence_profile": []}, "must have at least one entry"),
        ({"reward_error_profile": [0.0, 3.0, 0.0]}, "reward_error_profile must be in [0, 2], got 3.0 at time 1"),
        ({"reward_error_profile": [0.0]}, "reward_error_profile must have 3 entries, got 1"),
    ],
)
def test_a_bad_value_is_named(change: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {
        "model_error_profile": [0.1, 0.1],
        "policy_divergence_profile": [0.1, 0.1, 0.1],
        "discount": 0.9,
        "reward_range": 2.0,
        **change,
    }
    with pytest.raises(ValueError, match=r".") as raised:
        certificate(**arguments)
    assert named in str(raised.value)


@given(problems())
def test_without_its_caps_the_certificate_is_a_weighted_sum(problem: dict[str, Any]) -> None:
    """Equal while no sum of errors reaches 1, and never smaller: the caps only help."""
    m, d, e = (None if problem[name] is None else np.array(problem[name]) for name in ("m", "d", "e"))
    assert m is not None
    assert d is not None
    horizon = len(d)
    weights = linear_weights(
        horizon, discount=problem["discount"], rollout_length=problem["k"], learned_reward=e is not None
    )
    padded = np.append(m, np.zeros(horizon - len(m)))
    for scale in (1.0, 1 / (1 + m.sum() + d.sum())):
        linear = problem["reward_range"] * scale * (weights.model_error @ padded + weights.policy_divergence @ d)
        linear += 0.0 if e is None else weights.reward_error @ e
        found = certificate(
            scale * m, scale * d, discount=problem["discount"], reward_range=problem["reward_range"],
            rollout_length=problem["k"], reward_error_profile=e, tail="absorbing",
        ).value  # fmt: skip
        if scale < 1:
            assert found == pytest.approx(linear, rel=1e-10, abs=1e-13)
        else:
            assert found <= linear * (1 + 1e-10) + 1e-13


@pytest.mark.parametrize(("horizon", "discount"), [(0, 0.5), (3, 1.0), (3, -0.1)])
def test_weights_refuse_what_the_certificate_refuses(horizon: int, discount: float) -> None:
    with pytest.raises(ValueError, match=r"got (0|1\.0|-0\.1)$"):
        linear_weights(horizon, discount=discount)
