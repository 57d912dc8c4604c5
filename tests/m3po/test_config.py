"""Every bad value is refused by a message that names the flag and the value."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3po.config import Config
from m3po.flag_checks import flag


def config(**changes: Any) -> Config:
    return Config(run_dir=Path("unused"), **changes)


AT_LEAST_ONE = [
    "rollout_length", "total_steps", "threads", "context_size", "width", "layers", "initial_random_steps",
    "epoch_steps", "ensemble_size", "model_batch_size", "model_updates", "model_patience", "rollouts_per_step",
    "rollout_interval", "model_buffer_size", "updates_per_step", "batch_size", "final_rollout_length", "elites",
    "latent_size", "adaptation_steps", "meta_batch_size", "planner_candidates", "planner_horizon", "planner_iterations",
]  # fmt: skip
BAD = [
    *[(name, 0) for name in AT_LEAST_ONE],
    ("seed", -1), ("seed", 2**63), ("threads", 10**6), ("history_length", -1), ("measure_episodes", 1),
    ("evaluation_episodes", 1), ("rollout_growth_start", -1), ("rollout_growth_end", -1), ("elites", 6),
    *[("discount", value) for value in (1.0, 1.5, -0.1, math.nan)],
    *[(name, value) for name in ("holdout", "confidence") for value in (0.0, 1.0, math.nan)],
    *[
        (name, value)
        for name in ("model_learning_rate", "learning_rate", "initial_temperature", "checkpoint_minutes")
        for value in (0.0, -1.0, math.inf, math.nan)
    ],
    ("planner_candidates", 1),
    *[
        (name, value)
        for name in ("model_weight_decay", "kl_weight", "adaptation_rate")
        for value in (-0.1, math.inf, math.nan)
    ],
    *[
        (name, value)
        for name in ("start_share", "forgetting", "model_share", "final_model_share")
        for value in (-0.1, 1.1, math.nan)
    ],
    *[
        (name, value)
        for name in ("target_rate", "final_learning_rate_share", "move_limit")
        for value in (0.0, 1.1, math.nan)
    ],
    *[("reserved_share", value) for value in (-0.1, 1.0, math.nan)],
    *[("target_entropy", value) for value in (math.inf, math.nan)],
    *[(name, 10**20) for name, hint in get_type_hints(Config).items() if hint in (int, int | None)],
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError) as caught:
        config(**{name: value})
    message = str(caught.value)
    assert message.startswith(flag(name) + " must be ")
    assert message.endswith(f"got {value}")
    assert "\n" not in message


def test_every_number_of_the_config_has_a_range() -> None:
    """A new field must not slip in without one."""
    numbers = {
        name for name, hint in get_type_hints(Config).items() if hint in (int, int | None, float, float | None)
    }  # fmt: skip
    assert numbers == {name for name, _ in BAD}


@pytest.mark.parametrize(
    "changes",
    [
        {"discount": 0.0, "history_length": 0, "start_share": 0.0, "forgetting": 0.0, "model_weight_decay": 0.0},
        {
            "target_rate": 1.0,
            "start_share": 1.0,
            "forgetting": 1.0,
            "final_learning_rate_share": 1.0,
            "target_entropy": 0.0,
            "seed": 0,
        },
        {"total_steps": 5, "initial_random_steps": 5, "rollout_interval": 7, "epoch_steps": 7},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(changes: dict[str, Any]) -> None:
    built = config(**changes)
    assert all(getattr(built, name) == value for name, value in changes.items())


def test_steps_that_do_not_fit_each_other_are_named() -> None:
    with pytest.raises(ValueError, match=r"--initial-random-steps must be <= --total-steps, got 11 > 10"):
        config(total_steps=10, initial_random_steps=11)
    with pytest.raises(ValueError, match=r"--rollout-interval must be <= --epoch-steps, got 6 > 5"):
        config(epoch_steps=5, rollout_interval=6)


def test_a_config_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble_size": 3, "elites": 4}, "--elites must be in 1..3 (--ensemble-size), got 4"),
        (
            {"rollout_length": 5, "final_rollout_length": 4},
            "--final-rollout-length must be >= 5 (--rollout-length), got 4",
        ),
        (
            {"rollout_growth_start": 20, "rollout_growth_end": 19},
            "--rollout-growth-end must be >= 20 (--rollout-growth-start), got 19",
        ),
        (
            {"algorithm": "m3po-h", "model_share": 0.4, "final_model_share": 0.5},
            "--final-model-share must be <= 0.4 (--model-share), got 0.5",
        ),
    ],
)
def test_values_that_do_not_fit_each_other_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        config(**changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"ensemble_size": 3, "elites": 3},
        {"ensemble_size": 3, "elites": 1},
        {"rollout_length": 5, "final_rollout_length": 5},
        {"rollout_growth_start": 20, "rollout_growth_end": 20},
        {"algorithm": "m3po-h", "model_share": 0.5, "final_model_share": 0.5},
        # The final share is m3po-h's alone: its default must not refuse another algorithm's share.
        {"algorithm": "m3po", "model_share": 0.3},
        {"algorithm": "m3po-full", "model_share": 0.0},
    ],
)
def test_values_that_just_fit_each_other_are_allowed(changes: dict[str, Any]) -> None:
    built = config(**changes)
    assert all(getattr(built, name) == value for name, value in changes.items())


@pytest.mark.parametrize("step", [0, 1, 3500, 7000, 10**6])
def test_the_rollout_length_is_constant_without_a_final_one(step: int) -> None:
    assert config(rollout_length=3, rollout_growth_start=10, rollout_growth_end=20).rollout_length_at(step) == 3


def test_the_rollout_length_grows_as_in_mbpo() -> None:
    """MBPO's schedule [20, 100, 1, 15], in steps: int(1 + 14 x), x = (step - 20)/80 in [0, 1]."""
    built = config(rollout_length=1, final_rollout_length=15, rollout_growth_start=20, rollout_growth_end=100)
    # k = 2 needs 14 (step - 20) >= 80: step 25.71; k = 3 step 31.43; k = 8 exactly step 60; k = 15 exactly step 100.
    expected = {
        0: 1, 19: 1, 20: 1, 21: 1, 25: 1, 26: 2, 31: 2, 32: 3, 59: 7, 60: 8, 61: 8, 94: 13, 95: 14, 99: 14, 100: 15,
        101: 15, 7000: 15,
    }  # fmt: skip
    assert {step: built.rollout_length_at(step) for step in expected} == expected


def test_the_rollout_length_grows_at_exact_steps() -> None:
    """One more every 100 steps; a quotient of floats would miss some of them: 3 (1/3) is fine, 0.29 * 100 is not."""
    built = config(rollout_length=1, final_rollout_length=101, rollout_growth_end=10_000, total_steps=10_000)
    for index in range(101):
        assert built.rollout_length_at(100 * index) == 1 + index
        if index:
            assert built.rollout_length_at(100 * index - 1) == index


def test_the_rollout_length_is_full_grown_at_the_end_of_the_run_by_default() -> None:
    built = config(rollout_length=2, final_rollout_length=6, rollout_growth_start=1000, total_steps=5000)
    lengths = [built.rollout_length_at(step) for step in (999, 1000, 1999, 2000, 2999, 3000, 4999, 5000, 5001)]
    assert lengths == [2, 2, 2, 3, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("start", [0, 10, 7000])
def test_a_growth_that_ends_where_it_starts_is_a_jump(start: int) -> None:
    built = config(rollout_length=2, final_rollout_length=6, rollout_growth_start=start, rollout_growth_end=start)
    for step in (0, start - 1, start, start + 1):
        assert built.rollout_length_at(max(step, 0)) == (6 if max(step, 0) >= start else 2)


@given(
    st.integers(1, 20), st.integers(0, 30), st.integers(0, 500), st.integers(1, 500), st.lists(st.integers(0, 1200)),
)  # fmt: skip
def test_the_rollout_length_never_shrinks_and_follows_the_exact_fraction(
    first: int, growth: int, start: int, duration: int, steps: list[int]
) -> None:
    built = config(
        rollout_length=first,
        final_rollout_length=first + growth,
        rollout_growth_start=start,
        rollout_growth_end=start + duration,
    )
    lengths = [built.rollout_length_at(step) for step in sorted(steps)]
    assert lengths == sorted(lengths)
    for step, length in zip(sorted(steps), lengths, strict=True):
        share = min(max(Fraction(step - start, duration), Fraction(0)), Fraction(1))
        assert length == math.floor(first + growth * share)
        assert isinstance(length, int)


@pytest.mark.parametrize("algorithm", ["m3po", "m3po-full"])
def test_the_model_share_is_constant_but_for_m3po_h(algorithm: str) -> None:
    built = config(algorithm=algorithm, model_share=0.95, final_model_share=0.2, total_steps=1000)
    assert [built.model_share_at(step) for step in (0, 1, 500, 1000, 2000)] == [0.95] * 5


def test_the_model_share_of_m3po_h_falls_linearly_over_the_run() -> None:
    built = config(algorithm="m3po-h", model_share=0.9, final_model_share=0.1, total_steps=1000)
    shares = [built.model_share_at(step) for step in (0, 125, 250, 500, 750, 1000, 1001, 5000)]
    assert shares == pytest.approx([0.9, 0.8, 0.7, 0.5, 0.3, 0.1, 0.1, 0.1], rel=1e-12)
    default = config(algorithm="m3po-h", total_steps=1000)
    assert [default.model_share_at(step) for step in (0, 500, 1000)] == [1.0, 0.75, 0.5]


def test_environment_options_are_a_json_object() -> None:
    assert config().environment_options() == {}
    built = config(env_options='{"observe_reward": true, "scale": 0.5, "names": ["a"]}')
    assert built.environment_options() == {"observe_reward": True, "scale": 0.5, "names": ["a"]}


@pytest.mark.parametrize("text", ["", "{", "observe_reward=true", "{'a': 1}", '{"a": 1} {}', "[]", "3", "null", '"a"'])
def test_environment_options_that_are_no_json_object_are_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        config(env_options=text)
    assert str(caught.value) == f"--env-options must be a JSON object, got {text}"
