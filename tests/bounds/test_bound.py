"""Bound.evaluate's boundary: ranges, broadcasting, dtypes, and the one formula behind expression and value."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from bounds import ALL_BOUNDS, Bound, get
from bounds.bound import closed_form


@pytest.mark.parametrize("bound", ALL_BOUNDS, ids=lambda bound: bound.name)
@pytest.mark.parametrize(
    ("argument", "value", "named"),
    [
        ("discount", 1.0, "discount must be in [0, 1), got 1.0"),
        ("discount", 1.5, "discount must be in [0, 1), got 1.5"),
        ("discount", -0.1, "got -0.1"),
        ("discount", np.nan, "got nan"),
        ("discount", [0.5, 2.0], "got 2.0"),
        ("discount", "high", "got 'high'"),
        ("model_error", -1e-9, "model_error must be in [0, 1], got -1e-09"),
        ("model_error", 1.0001, "got 1.0001"),
        ("model_error", np.inf, "got inf"),
        ("policy_divergence", [0.1, -0.2, 3.0], "policy_divergence must be in [0, 1], got -0.2"),
        ("policy_divergence", np.nan, "got nan"),
        ("rollout_length", 0, "rollout_length must be a whole number from 1 to 2^53, got 0.0"),
        ("rollout_length", -3, "got -3"),
        ("rollout_length", 1.5, "got 1.5"),
        ("rollout_length", np.inf, "got inf"),
        ("rollout_length", True, "got True"),
        ("rollout_length", None, "got nan"),
        ("reward_max", 0.0, "reward_max must be positive and finite, got 0.0"),
        ("reward_max", np.inf, "got inf"),
    ],
)
def test_a_bad_value_is_named(bound: Bound, argument: str, value: Any, named: str) -> None:
    arguments: dict[str, Any] = {"discount": 0.9, argument: value}
    with pytest.raises(ValueError, match=r".") as raised:
        bound.evaluate(**arguments)
    assert named in str(raised.value)
    assert argument in str(raised.value)


@pytest.mark.parametrize("bound", ALL_BOUNDS, ids=lambda bound: bound.name)
def test_shapes_broadcast_and_the_result_is_a_fresh_float64_array(bound: Bound) -> None:
    length = np.array([1, 2, 5])
    discount = np.array([[0.0], [0.9]], dtype=np.float32)
    value = bound.evaluate(discount=discount, rollout_length=length, model_error=0.1)
    assert value.shape == (2, 3)
    assert value.dtype == np.float64
    value[...] = -1
    assert length.tolist() == [1, 2, 5]
    with pytest.raises(ValueError, match="broadcast"):
        bound.evaluate(discount=np.full(2, 0.5), rollout_length=length)


@pytest.mark.parametrize("bound", ALL_BOUNDS, ids=lambda bound: bound.name)
def test_scalars_give_a_float_and_empty_arrays_stay_empty(bound: Bound) -> None:
    assert isinstance(bound.evaluate(discount=0.5, model_error=0.1), float)
    assert bound.evaluate(discount=np.array([])).shape == (0,)


def test_a_bound_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("m3po-th1").name = "other"  # type: ignore[misc]


def test_one_formula_makes_both_expression_and_value() -> None:
    doubled = closed_form(
        name="doubled", source="a test", assumptions=(), scheme="full", formula=lambda x: 2 * x.r_max * x.gamma**x.k
    )
    assert str(doubled.expression) == "2*gamma**k*r_max"
    assert doubled.evaluate(discount=0.5, rollout_length=3, reward_max=4.0) == 1.0
    assert doubled.uses_rollout_length
