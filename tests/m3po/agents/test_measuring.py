"""Episodes of several runs at once are those of each run alone, however early they end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3po.agents.loop import TrainingLoop
from m3po.agents.m3po import M3PO
from m3po.agents.measuring import episodes_of, measured, summary
from m3po.config import Config
from m3po.episodes import Trajectories, run_episodes
from m3po.foreign import checked_environment
from m3po.runs.health import DivergenceError
from tests.m3po.small import TINY_MODEL

PENDULUM = "InvertedPendulum-v5"  # ends where the pole falls


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def runs(count: int, **changes: Any) -> list[M3PO]:
    settings = {**TINY_MODEL, "env_id": PENDULUM, "measure_episodes": 2, "evaluation_episodes": 2, **changes}
    return [M3PO(Config(run_dir=Path("unused"), seed=seed, **settings)) for seed in range(count)]


def generators(of: list[M3PO]) -> dict[M3PO, torch.Generator]:
    return {run: torch.Generator().manual_seed(100 + run.config.seed) for run in of}


@pytest.mark.parametrize("deterministic", [False, True])
def test_episodes_of_all_runs_are_those_of_each_alone(deterministic: bool) -> None:
    trained = runs(4)
    group = M3PO.side_by_side(trained)
    seeds = {run: 10 * place for place, run in enumerate(trained)}
    drawing = generators(trained)
    policies = {run: run.policy for run in trained}
    together = episodes_of(group, policies, 2, seeds=seeds, generators=drawing, deterministic=deterministic)
    lengths = {int(found.valid.any(axis=0).sum()) for found in together.values()}
    assert len(lengths) > 1  # some end while others go on
    alone = generators(trained)
    for run, found in together.items():
        expected = run_episodes(
            PENDULUM, run.policy, 2, seed=seeds[run], generator=alone[run], deterministic=deterministic
        )
        np.testing.assert_array_equal(found.valid, expected.valid)
        for name in ("observations", "actions", "raw_actions", "rewards"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-6)
        assert torch.equal(drawing[run].get_state(), alone[run].get_state())


def test_a_measurement_changes_neither_the_run_nor_its_draws() -> None:
    trained = runs(2)
    group = M3PO.side_by_side(trained)
    states = [run.generator.get_state() for run in trained]
    weights = [next(iter(run.policy.network.parameters())).clone() for run in trained]
    first, second = measured(group), measured(group)
    assert first == second
    for run, state, weight in zip(trained, states, weights, strict=True):
        assert torch.equal(run.generator.get_state(), state)
        assert torch.equal(next(iter(run.policy.network.parameters())), weight)
    # What the group trains is still what the runs have.
    with torch.no_grad():
        next(iter(group.policy.network.parameters())).add_(1.0)
    for run, weight in zip(trained, weights, strict=True):
        assert torch.equal(next(iter(run.policy.network.parameters())), weight + 1.0)


@pytest.mark.parametrize("step", [1, 3])
def test_a_run_whose_environment_fails_is_stopped_and_the_others_are_measured(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = runs(3)
    expected = {run: run.measure() for run in trained}
    failing = trained[1]
    closed: list[int] = []
    own_step, own_close = checked_environment.SideBySide.step, checked_environment.SideBySide.close
    made: list[Any] = []
    own_init = checked_environment.SideBySide.__init__

    def init(self: Any, *given: Any) -> None:
        made.append(self)
        own_init(self, *given)

    def fails(self: Any, actions: Any, alive: Any, t: int) -> Any:
        if self is made[1] and t + 1 == step:
            raise DivergenceError("that is no number")
        return own_step(self, actions, alive, t)

    def close(self: Any) -> None:
        closed.append(id(self))
        own_close(self)

    group = M3PO.side_by_side(trained)
    monkeypatch.setattr(checked_environment.SideBySide, "__init__", init)
    monkeypatch.setattr(checked_environment.SideBySide, "step", fails)
    monkeypatch.setattr(checked_environment.SideBySide, "close", close)
    found = measured(group)
    assert list(found) == [trained[0], trained[2]]
    assert str(group.failed[failing]) == "that is no number"
    for run, row in found.items():
        assert row["return"] == expected[run]["return"]
        assert row["nll"] == pytest.approx(expected[run]["nll"], rel=1e-9)
    assert sorted(closed) == sorted(id(each) for each in made)  # the stopped run's too


def test_the_last_run_that_fails_raises_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    run: TrainingLoop = runs(1)[0]
    closed: list[bool] = []

    def fails(*given: Any) -> Any:
        raise DivergenceError("that is no number")

    monkeypatch.setattr(checked_environment.SideBySide, "step", fails)
    monkeypatch.setattr(checked_environment.SideBySide, "close", lambda self: closed.append(True))
    with pytest.raises(DivergenceError, match="that is no number"):
        run.measure()
    assert closed == [True]


def test_rewards_are_told_by_task() -> None:
    """Steps after an episode's end are of no task, and neither are those whose task is not told."""
    rewards = np.array([[1.0, 2.0, 50.0], [3.0, 5.0, 7.0]])
    actions = np.zeros((2, 3, 1), dtype=np.float32)
    tasks = np.array([[0, 0, 0], [0, 2, -1]])
    valid = np.array([[True, True, False], [True, True, True]])
    found = summary(Trajectories(np.zeros((2, 4, 1)), actions, actions, rewards, tasks, valid))
    assert {name: value for name, value in found.items() if "task" in name} == {
        "reward_in_task_0": 2.0,
        "reward_in_task_2": 5.0,
    }
    more = np.zeros((2, 21, 1), dtype=np.float32)
    many = Trajectories(
        np.zeros((2, 22, 1)), more, more, np.ones((2, 21)), np.arange(42).reshape(2, 21), np.ones((2, 21), bool)
    )
    assert set(summary(many)) == {"return", "return_standard_error"}
