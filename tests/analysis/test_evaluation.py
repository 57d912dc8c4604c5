"""Fixed policies over fresh episodes: whose, how many, in which tasks."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.evaluation import cli
from analysis.runs.evaluation import UniformPolicy, options_for, returns_of
from m3po.agents.training import training_of
from m3po.config import Config
from m3po.data.types import Windows
from m3po.episodes import run_episodes
from m3po.runs.run_directory import RunDirectory
from m3po.seeds import Purpose, torch_generator
from m3po.train import train

POINT_MASS = "m3po/SwitchingPointMass-v0"


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        cli(arguments)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_it_is_the_mean_of_the_last_policy_and_the_uniform_one_beside_it(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.csv"
    shown = printed([str(tiny_run), "--episodes", "6", "--seed", "3", "--json", "--out", str(out)], capsys)
    own, uniform = json.loads(shown)
    directory = RunDirectory.read(tiny_run)
    training = training_of(directory.config)
    training.load_state(directory.load_checkpoint())
    generator = torch.Generator().manual_seed(9)
    expected = run_episodes(POINT_MASS, training.policy, 6, seed=3, generator=generator, deterministic=True).returns()
    assert own["return"] == pytest.approx(expected.mean())
    assert own["return_standard_error"] == pytest.approx(expected.std(ddof=1) / 6**0.5)
    assert (own["variant"], own["steps"], own["episodes"]) == ("M3PO k=1", 600, 6)
    assert uniform["variant"] == "uniform actions"
    assert uniform["return"] != own["return"]
    rows = list(csv.DictReader(out.open()))
    assert [float(row["return"]) for row in rows] == pytest.approx([own["return"], uniform["return"]], rel=1e-5)


def test_sampled_actions_are_the_policys_own_draws(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed([str(tiny_run), "--episodes", "4", "--seed", "3", "--sampled", "--json"], capsys)
    own = json.loads(shown)[0]
    directory = RunDirectory.read(tiny_run)
    training = training_of(directory.config)
    training.load_state(directory.load_checkpoint())
    generator = torch_generator(Purpose.EVALUATION, 3)
    expected = run_episodes(POINT_MASS, training.policy, 4, seed=3, generator=generator).returns()
    assert own["actions"] == "sampled"
    assert own["return"] == pytest.approx(expected.mean())
    assert "policy that draws its actions" in printed([str(tiny_run), "--episodes", "2", "--sampled"], capsys)


def test_one_line_of_uniform_actions_per_environment(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed([str(tiny_run), str(tiny_run), "--episodes", "2"], capsys)
    assert shown.count("uniform actions") == 1
    assert shown.count("M3PO k=1") == 2


def test_uniform_actions_fill_the_box() -> None:
    windows = Windows.initial(torch.zeros(4000, 3), 0, 2)
    action, _ = UniformPolicy(2).act(windows, torch.Generator().manual_seed(0))
    assert action.shape == (4000, 2)
    # Mean 0 and variance 1/3, within five standard errors.
    assert action.mean(dim=0).abs().max() < 5 * (1 / 3 / 4000) ** 0.5
    assert (action.var(dim=0) - 1 / 3).abs().max() < 5 * (4 / 45 / 4000) ** 0.5
    assert action.abs().max() <= 1


def test_test_tasks_are_the_environments_own() -> None:
    ant = "m3po/AntCrippledLeg-v0"
    assert options_for(ant, {}, "test") == {"tasks": [3]}
    assert options_for(ant, {"switch_period": 50}, "train") == {"switch_period": 50, "tasks": [0, 1, 2]}
    assert options_for(ant, {"switch_period": 50}, "default") == {"switch_period": 50}
    returns = returns_of(UniformPolicy(8), ant, {"tasks": [3], "max_episode_steps": 20}, 2, seed=0)
    assert returns.shape == (2,)
    assert np.isfinite(returns).all()


def test_the_environment_may_differ_from_that_of_training(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = '{"max_episode_steps": 7, "switch_probability": 0.5}'
    rows = json.loads(
        printed([str(tiny_run), str(tiny_run), "--episodes", "3", "--env-options", options, "--json"], capsys)
    )
    assert len(rows) == 3
    assert {row["options"] for row in rows} == {options}
    assert rows[0]["return"] < 7  # a reward is at most 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("[1]", "--env-options must be a JSON object, got [1]"),
        ('{"observe_reward": true}', "has 5 observed numbers and 2 actions, the policy was trained with 4 and 2"),
        ('{"gravity": 1}', "m3po/SwitchingPointMass-v0 does not take the options {'gravity': 1}"),
    ],
)
def test_other_options_that_do_not_fit_are_one_line(
    options: str, named: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli([str(tiny_run), "--env-options", options])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_a_split_that_is_none_is_refused(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli([str(tiny_run), "--tasks", "test"])
    assert stop.value.code == 2
    assert f"--tasks test: {POINT_MASS} has no tasks that are kept for testing" in capsys.readouterr().err


def test_baselines_are_evaluated_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(
        run_dir=tmp_path / "run", algorithm="pearl", total_steps=150, initial_random_steps=100, epoch_steps=50,
        width=8, layers=1, updates_per_step=1, evaluation_episodes=2, device="cpu",
    )  # fmt: skip
    train(config)
    assert "PEARL" in printed([str(tmp_path / "run"), "--episodes", "2"], capsys)
    assert dataclasses.asdict(RunDirectory.read(tmp_path / "run").config)["algorithm"] == "pearl"
