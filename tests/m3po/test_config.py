"""Every bad value is refused by a message that names the flag and the value."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from m3po.config import Config, flag


def config(**changes: Any) -> Config:
    return Config(run_dir=Path("unused"), **changes)


AT_LEAST_ONE = [
    "rollout_length", "total_steps", "threads", "context_size", "width", "layers", "initial_random_steps",
    "epoch_steps", "ensemble_size", "model_batch_size", "model_updates", "model_patience", "rollouts_per_step",
    "rollout_interval", "model_buffer_size", "updates_per_step", "batch_size", "final_rollout_length", "elites",
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
    *[("model_weight_decay", value) for value in (-0.1, math.inf, math.nan)],
    *[
        (name, value)
        for name in ("start_share", "forgetting", "model_share", "final_model_share")
        for value in (-0.1, 1.1, math.nan)
    ],
    *[(name, value) for name in ("target_rate", "final_learning_rate_share") for value in (0.0, 1.1, math.nan)],
    *[("target_entropy", value) for value in (math.inf, math.nan)],
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
