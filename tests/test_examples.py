"""The recipes of examples/ run, on every environment, and remember what they should."""

from __future__ import annotations

import csv
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.m3po.envs.test_conformance import POINT_MASS, every_environment
from tests.tutorial_page import ROOT


def module_of(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe() -> Any:
    return module_of("ppo_gru")


def refuse(example: Any, flags: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An example does not take these flags, and says so in these words, before anything starts."""
    with pytest.raises(SystemExit) as stop:
        example.parsed(flags)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def tiny(recipe: Any, path: Path, *flags: str) -> list[dict[str, Any]]:
    """Three collections of three episodes at a time, which end after 20 steps, and an evaluation of four."""
    sizes = shlex.split("--total-steps 270 --num-envs 3 --num-steps 30 --epochs 2 --evaluation-episodes 4 --width 8")
    return list(recipe.train(recipe.parsed([*sizes, "--csv", str(path), *flags])))


@every_environment
def test_it_trains_and_writes_its_returns(recipe, env_id, tmp_path):
    rows = tiny(recipe, tmp_path / "a.csv", "--env-id", env_id, "--env-options", '{"max_episode_steps": 20}')
    assert [row["phase"] for row in rows] == ["training"] * 3 + ["evaluation"]
    assert [row["step"] for row in rows] == [90, 180, 270, 270]
    assert rows[-1]["episodes"] == 4
    assert all(np.isfinite([row["return"], row["standard_error"]]).all() for row in rows)
    with (tmp_path / "a.csv").open() as file:
        written = list(csv.DictReader(file))
    assert written == [{name: str(value) for name, value in row.items()} for row in rows]


def test_a_seed_fixes_it_and_flags_change_it(recipe, tmp_path):
    def returns(*flags: str) -> list[float]:
        return [row["return"] for row in tiny(recipe, tmp_path / "a.csv", "--env-id", POINT_MASS, *flags)]

    options = ("--env-options", '{"max_episode_steps": 20}')
    shown = ("--env-options", '{"max_episode_steps": 20, "observe_task": true}')
    first = returns(*options)
    assert returns(*options) == first
    others = [returns(*options, "--seed", "1"), returns(*options, "--memoryless"), returns(*shown)]
    assert all(other[-1] != first[-1] for other in others)


def test_its_memory_is_an_episodes_own(recipe):
    """A window at once is the same as step by step, and nothing is left of an episode once another begins."""
    torch.manual_seed(0)
    agent = recipe.Agent(3, 2, 8, True)
    inputs, hidden = torch.randn(12, 4, 6), torch.randn(1, 4, 8)
    starts = (torch.rand(12, 4) < 0.2).float()
    assert starts[1:].any()
    actions, values, last = agent(inputs, starts, hidden)
    carried = hidden
    for t in range(12):
        action, value, carried = agent(inputs[t : t + 1], starts[t : t + 1], carried)
        torch.testing.assert_close(action.mean[0], actions.mean[t])
        torch.testing.assert_close(value[0], values[t])
    torch.testing.assert_close(carried, last)
    begins = torch.zeros(12, 4)
    begins[5] = 1
    other = inputs.clone()
    other[:5] += 1
    for (left, right), same in zip(
        pairs(agent, [inputs, other], begins, hidden), [False] * 5 + [True] * 7, strict=True
    ):
        assert torch.equal(left, right) == same


def pairs(agent: Any, windows: Sequence[torch.Tensor], starts: torch.Tensor, hidden: torch.Tensor) -> Any:
    """The values of two windows, step by step."""
    left, right = (agent(window, starts, hidden)[1] for window in windows)
    return zip(left, right, strict=True)


def test_the_memoryless_agent_sees_the_observation_alone(recipe):
    agent = recipe.Agent(3, 2, 8, False)
    inputs = torch.randn(5, 4, 6)
    other = inputs.clone()
    other[..., 3:] += 1
    other[:3] += 1
    left, right = (agent(each, torch.zeros(5, 4), torch.zeros(1, 4, 8))[1] for each in (inputs, other))
    assert torch.equal(left[3:], right[3:])
    assert not torch.equal(left[:3], right[:3])


def test_inputs_at_a_time_limit_are_those_before_the_reset(recipe):
    """What the value of a truncated episode is asked of: its last observation, after its last action and reward."""
    settings = recipe.parsed(["--env-options", '{"max_episode_steps": 2}'])
    episodes = recipe.Episodes(settings, 3, 0, recipe.Scale(4), recipe.Scale(1))  # scales that learn nothing
    action = np.array([[0.5, -2.0]] * 3)
    episodes.step(action)
    reward, terminated, truncated, after, returns = episodes.step(action)
    assert truncated.all()
    assert not terminated.any()
    assert len(returns) == 3
    np.testing.assert_allclose(after[:, 4:6], [[0.5, -1.0]] * 3)
    np.testing.assert_allclose(after[:, 6], reward, rtol=1e-6)
    assert (after[:, :4] != episodes.seen[0, :, :4]).any()
    assert after[:, 2:4].all()  # moving
    assert not episodes.seen[0, :, 2:4].any()  # at rest again
    assert not episodes.seen[0, :, 4:].any()
    assert episodes.starts.all()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--total-steps -5", "--total-steps must be >= 1, got -5"),
        ("--width 0", "--width must be >= 1, got 0"),
        ("--env-id m3po/Nope-v0", "--env-id: gymnasium knows no 'm3po/Nope-v0'"),
        ("--csv nowhere/a.csv", "--csv: there is no directory nowhere"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(recipe, flags, words, capsys):
    refuse(recipe, flags.split(), words, capsys)


@pytest.fixture
def peers() -> Any:
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("sb3_contrib")
    return module_of("sb3_reference")


def test_the_peers_are_trained_as_asked_and_only_once(peers, tmp_path, capsys):
    out = tmp_path / "sb3.csv"

    def rows(*flags: str) -> list[dict[str, str]]:
        peers.main(["--total-steps", "110", "--evaluation-episodes", "2", "--csv", str(out), *flags])
        with out.open() as file:
            return list(csv.DictReader(file))

    (hidden,) = rows("--seeds", "0")
    assert (hidden["algorithm"], hidden["task"], hidden["samples"]) == ("sac", "hidden", "110")
    again, other = rows("--seeds", "0", "1")
    assert again == hidden
    assert "has seed 0 already" in capsys.readouterr().err
    shown, recurrent = rows("--seeds", "0", "--show-task", "--algorithm", "recurrent-ppo")[1:]
    assert other["seed"] == "1"
    assert (shown, recurrent["task"], recurrent["algorithm"]) == (other, "shown", "recurrent-ppo")
    assert recurrent["samples"] == "128"  # a whole batch
    told = rows("--seeds", "0", "--show-task")[-1]
    assert (told["algorithm"], told["task"], told["seed"]) == ("sac", "shown", "0")
    assert len({row["return"] for row in (hidden, other, recurrent, told)}) == 4


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--total-steps", "1"], "--total-steps must be >= 2, got 1"),
        (["--evaluation-episodes", "0"], "--evaluation-episodes must be >= 2, got 0"),
        (["--seeds", "0", "-1"], "--seeds must be >= 0, got -1"),
        (["--csv", "nowhere/sb3.csv"], "--csv: there is no directory"),
        (["--csv", __file__], "is not of this command"),
        (["--env-id", "m3po/Nope-v0"], "--env-id m3po/Nope-v0: "),
        (["--env-id", "Pendulum-v1"], "--env-id Pendulum-v1: "),
    ],
)
def test_the_peers_refuse_what_cannot_be(flags, named, peers, capsys):
    refuse(peers, flags, named, capsys)
