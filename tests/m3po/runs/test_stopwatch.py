"""Every second counts once, for the innermost activity, on a clock that the test turns."""

from __future__ import annotations

import time

import pytest

from m3po.runs.stopwatch import Stopwatch


class Clock:
    """Stands still until somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    built = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: built.now)
    return built


def test_nothing_measured_is_nothing() -> None:
    assert Stopwatch().seconds == {}


def test_an_activity_adds_up(clock: Clock) -> None:
    watch = Stopwatch()
    clock.wait(64)
    with watch.measure("model"):
        clock.wait(1)
    clock.wait(64)
    with watch.measure("update"):
        clock.wait(2)
    with watch.measure("model"):
        clock.wait(4)
    assert watch.seconds == {"model": 5.0, "update": 2.0}


def test_an_inner_activity_pauses_the_outer(clock: Clock) -> None:
    watch = Stopwatch()
    with watch.measure("outer"):
        clock.wait(1)
        with watch.measure("inner"):
            clock.wait(2)
        clock.wait(4)
        with watch.measure("inner"):
            clock.wait(8)
        clock.wait(16)
    assert watch.seconds == {"outer": 21.0, "inner": 10.0}


def test_three_deep_every_second_counts_once(clock: Clock) -> None:
    watch = Stopwatch()
    with watch.measure("a"):
        clock.wait(1)
        with watch.measure("b"):
            clock.wait(2)
            with watch.measure("c"):
                clock.wait(4)
            clock.wait(8)
            with watch.measure("a"):
                clock.wait(16)
            clock.wait(32)
        clock.wait(64)
    assert watch.seconds == {"a": 1.0 + 16.0 + 64.0, "b": 2.0 + 8.0 + 32.0, "c": 4.0}
    assert sum(watch.seconds.values()) == clock.now - 1000.0


def test_an_activity_inside_itself_counts_once(clock: Clock) -> None:
    watch = Stopwatch()
    with watch.measure("a"):
        clock.wait(1)
        with watch.measure("a"):
            clock.wait(2)
        clock.wait(4)
    assert watch.seconds == {"a": 7.0}


def test_the_outer_activity_counts_up_to_the_inner_while_that_one_runs(clock: Clock) -> None:
    """A checkpoint may read the seconds at any time."""
    watch = Stopwatch()
    with watch.measure("outer"):
        clock.wait(1)
        with watch.measure("inner"):
            clock.wait(2)
            assert watch.seconds == {"outer": 1.0}


def fail(clock: Clock, seconds: float, error: BaseException) -> None:
    clock.wait(seconds)
    raise error


def test_an_exception_counts_and_gives_the_time_back_to_the_outer_activity(clock: Clock) -> None:
    watch = Stopwatch()
    with watch.measure("outer"):
        clock.wait(1)
        with pytest.raises(RuntimeError, match="lost"), watch.measure("inner"):
            fail(clock, 2, RuntimeError("lost"))
        clock.wait(4)
    assert watch.seconds == {"outer": 5.0, "inner": 2.0}
    with pytest.raises(KeyboardInterrupt), watch.measure("outer"), watch.measure("inner"):
        fail(clock, 8, KeyboardInterrupt())
    assert watch.seconds == {"outer": 5.0, "inner": 10.0}
    clock.wait(64)  # nobody's
    with watch.measure("outer"):
        clock.wait(16)
    assert watch.seconds == {"outer": 21.0, "inner": 10.0}
