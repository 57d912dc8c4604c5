"""What a field may hold is declared on it, and refused by a message that names the flag and the value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from m3po.command_line import parse
from m3po.flag_checks import Confidence, Count, Items, Positive, Seed, Within, check_fields


@dataclass(frozen=True)
class Settings:
    """Settings."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], Items()]]
    """Runs."""
    count: Count = 3
    """Whole."""
    longest: Annotated[int, Within(2, 10)] | None = None
    """Maybe."""
    rate: Annotated[Positive, tyro.conf.arg(name="step-rate")] = 0.5
    """Renamed."""
    half_open: Annotated[float, Within(-1, 1, without=(-1,))] = 0.0
    """(-1, 1]."""
    threshold: float | None = None
    """Finite."""
    confidence: Confidence = 0.95
    """Open."""
    seeds: Annotated[tuple[Seed, ...], Items(least=2, different=True)] = (0, 1)
    """Different."""
    levels: tuple[Positive, ...] = ()
    """Any."""
    colour: Literal["red", "blue"] = "red"
    """One of."""
    loud: bool = False
    """Switch."""
    name: str = ""
    """Text."""
    out: Path | None = None
    """File."""

    def __post_init__(self) -> None:
        check_fields(self)


GOOD = Settings(runs=(Path("a"),))
BAD: list[tuple[str, Any, str]] = [
    ("runs", (), "RUNS needs at least 1 value, got 0"),
    ("runs", [Path("a")], "RUNS must be a tuple, got [PosixPath('a')]"),
    ("runs", ("a",), "RUNS must be a path, got 'a'"),
    ("count", 0, "--count must be >= 1, got 0"),
    ("count", 10**20, f"--count must be <= 1000000, got {10**20}"),
    ("count", 2.0, "--count must be a whole number, got 2.0"),
    ("count", True, "--count must be a whole number, got True"),
    ("count", "3", "--count must be a whole number, got '3'"),
    ("count", None, "--count must be a whole number, got None"),
    ("longest", 11, "--longest must be <= 10, got 11"),
    ("rate", 0.0, "--step-rate must be a finite number > 0, got 0.0"),
    ("rate", math.inf, "--step-rate must be a finite number > 0, got inf"),
    ("rate", 10**400, f"--step-rate must be a finite number > 0, got {10**400}"),
    ("rate", "1", "--step-rate must be a number, got '1'"),
    ("half_open", -1.0, "--half-open must be in (-1, 1], got -1.0"),
    ("half_open", math.nan, "--half-open must be in (-1, 1], got nan"),
    ("threshold", math.nan, "--threshold must be a finite number, got nan"),
    ("threshold", -math.inf, "--threshold must be a finite number, got -inf"),
    ("confidence", 1, "--confidence must be in (0, 1), got 1"),
    ("seeds", (0,), "--seeds needs at least 2 values, got 1"),
    ("seeds", (4, 7, 4), "--seeds must be different values, got 4 7 4"),
    ("seeds", (1, 2**64), f"--seeds must be <= {2**63 - 2}, got {2**64}"),
    ("levels", (1.0, -2.0), "--levels must be a finite number > 0, got -2.0"),
    ("colour", "green", "--colour must be one of red, blue, got green"),
    ("loud", 1, "--loud must be true or false, got 1"),
    ("name", None, "--name must be text, got None"),
    ("out", "file", "--out must be a path, got 'file'"),
    ("out", Path("a" * 300), f"--out: no file can be called so, got {'a' * 300}"),
    ("out", Path("a\0b"), "--out: no file can be called so, got a\0b"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_a_bad_value_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(GOOD, **{name: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 1, "longest": 2, "half_open": 1.0, "seeds": (0, 2**63 - 2), "confidence": 1e-300},
        {"count": np.int64(4), "rate": np.float32(0.5), "threshold": 7, "half_open": Fraction(1, 3)},
        {"longest": None, "threshold": None, "out": Path("x"), "levels": (1e308, 5e-324), "runs": (Path("a"),) * 2},
    ],
)
def test_good_values_stay_as_they_are(changes: dict[str, Any]) -> None:
    built = replace(GOOD, **changes)
    assert all(getattr(built, name) == value for name, value in changes.items())


@given(st.floats(), st.floats(-10, 10), st.floats(0, 10), st.sets(st.sampled_from(["low", "high"])))
def test_a_range_is_what_it_says(value: float, low: float, size: float, without: set[str]) -> None:
    high = low + size
    ends = tuple({"low": low, "high": high}[end] for end in sorted(without))
    expected = low <= value <= high and not (value == low and "low" in without)
    expected = expected and not (value == high and "high" in without)
    assert (Within(low, high, ends).must(value) is None) == (expected and value not in ends)


def test_flags_are_parsed_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["a", "b", "--step-rate", "2", "--seeds", "3", "4", "--levels", "--longest", "5", "--out", "c", "--loud"]
    assert parse(Settings, words) == Settings(
        (Path("a"), Path("b")), rate=2.0, seeds=(3, 4), longest=5, out=Path("c"), loud=True
    )
    for words, named in (
        (["a", "--step-rate", "-1"], "--step-rate must be a finite number > 0, got -1.0"),
        ([], "RUNS"),
        (["a", "--seeds", "3"], "--seeds needs at least 2 values, got 1"),
        (["a", "--count", str(10**20)], f"--count must be <= 1000000, got {10**20}"),
    ):
        with pytest.raises(SystemExit) as stop:
            parse(Settings, words)
        assert stop.value.code == 2
        assert named in capsys.readouterr().err
