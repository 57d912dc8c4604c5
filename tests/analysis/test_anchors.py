"""The anchors' torch simulator against the numpy environment, the order of the anchors, and the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.anchors import cli
from analysis.runs.anchor_search import KINDS, AnchorConfig, AnchorPolicy, Kind, TorchPointMass, best_policy
from analysis.runs.anchors import COMMITTED, committed_anchors
from m3po.envs.switching import SwitchingRule
from m3po.envs.switching_point_mass import PointMassDynamics, PointMassTask, SwitchingPointMassVector

TASKS = (
    PointMassTask(angle=0.3, gain=2.5, wind=(0.2, -0.4)),
    PointMassTask(angle=-1.9, gain=2.0, wind=(0.0, 0.5)),
    PointMassTask(angle=2.5, gain=3.0, wind=(-0.3, 0.1)),
)
NOISE = (0.05, 0.08, 0.06, 0.1)
EPISODES = 3000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def opinionated_policy(conditions: int) -> AnchorPolicy:
    """Fixed weights with gains that depend strongly on the condition."""
    torch.manual_seed(3)
    policy = AnchorPolicy(conditions)
    with torch.no_grad():
        policy.linear.normal_(std=1.5, generator=generator(8))
        policy.log_std.copy_(torch.tensor([-1.0, 0.2]))
    return policy


def environment_returns(
    kind: Kind, policy: AnchorPolicy, horizon: int, episodes: int, seed: int, **options: Any
) -> np.ndarray:
    """The same policies in the registered numpy environment, with its own tasks and the dynamics' own filter."""
    vector = SwitchingPointMassVector(episodes, max_episode_steps=horizon, **options)
    observation, info = vector.reset(seed=seed)
    draws, dynamics = np.random.default_rng(seed), vector.dynamics
    noise = generator(seed)
    count = len(dynamics.tasks)
    belief = np.tile(dynamics.prior(0), (episodes, 1))
    total = np.zeros(episodes)
    for step in range(horizon):
        conditions = {
            "memoryless": np.zeros((episodes, 0)), "filter": belief, "oracle": np.eye(count)[info["task"]]
        }  # fmt: skip
        if kind == "random":
            action = draws.uniform(-1, 1, (episodes, 2)).astype(np.float32)
        else:
            with torch.no_grad():
                condition = torch.as_tensor(conditions[kind]).float()
                action = policy(torch.as_tensor(observation).float(), condition, noise).numpy()
        before = observation
        observation, reward, *_, info = vector.step(action)
        total += reward
        log_likelihoods = np.stack(
            [
                dynamics.log_density(observation, before, action.astype(np.float64), np.full(episodes, task))
                for task in range(count)
            ],
            axis=-1,
        )
        belief = dynamics.update_belief(belief, log_likelihoods, step + 1)
    return total


def agree(first: np.ndarray, second: np.ndarray) -> bool:
    """Two independent samples with the same mean and the same spread, each to four standard errors."""
    error = math.sqrt(first.var() / len(first) + second.var() / len(second))
    spread = math.sqrt(sum(np.var((x - x.mean()) ** 2) / len(x) for x in (first, second)))
    return bool(abs(first.mean() - second.mean()) < 4 * error and abs(first.var() - second.var()) < 4 * spread)


@given(st.integers(0, 2**32 - 1))
def test_means_are_those_of_the_environment(seed):
    dynamics = PointMassDynamics(TASKS, NOISE, SwitchingRule())
    draws = np.random.default_rng(seed)
    observation, action = draws.normal(size=(5, 4)), draws.uniform(-1, 1, (5, 2))
    found = TorchPointMass(dynamics, 3).means(torch.as_tensor(observation).float(), torch.as_tensor(action).float())
    expected = [
        [dynamics.mean(o, a, np.array(task)) for task in range(3)] for o, a in zip(observation, action, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{"switch_period": 5, "first_task": 1}, {"switch_probability": 0.15, "first_task": None}],
    ids=["period", "probability"],
)
def test_returns_have_the_law_of_the_environments(kind, options):
    horizon = 12
    policy = opinionated_policy(0 if kind == "memoryless" else 3)
    options = {**options, "tasks": TASKS, "process_noise": NOISE}
    dynamics = SwitchingPointMassVector(1, **options).dynamics
    with torch.no_grad():
        found = TorchPointMass(dynamics, horizon).returns(kind, policy, EPISODES, generator(1)).double().numpy()
    assert agree(found, environment_returns(kind, policy, horizon, EPISODES, 2, **options))


@pytest.mark.parametrize(
    ("rule", "first_task"),
    [(SwitchingRule(period=3), 1), (SwitchingRule(probability=0.3), None)],
    ids=["period", "chance"],
)
def test_the_filter_sees_the_exact_belief(rule, first_task):
    """Its conditions are the environment's own filter along the episodes that it steered; noise keeps them unsure."""
    horizon, episodes = 8, 50
    dynamics = PointMassDynamics(TASKS, 0.4, rule, first_task)
    seen: list[tuple[np.ndarray, ...]] = []

    def record(observation: torch.Tensor, condition: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
        action = torch.tanh(torch.randn(len(observation), 2, generator=draws))
        seen.append(tuple(each.double().numpy() for each in (observation, action, condition)))
        return action

    policy: Any = record
    TorchPointMass(dynamics, horizon).returns("filter", policy, episodes, generator(11))
    belief = np.tile(dynamics.prior(0), (episodes, 1))
    for step, (observation, action, condition) in enumerate(seen):
        np.testing.assert_allclose(condition, belief, atol=1e-4)
        if step + 1 < horizon:
            log_likelihoods = [
                dynamics.log_density(seen[step + 1][0], observation, action, np.full(episodes, task))
                for task in range(len(TASKS))
            ]
            belief = dynamics.update_belief(belief, np.stack(log_likelihoods, axis=-1), step + 1)
    assert len(seen) == horizon


def test_the_random_anchor_has_the_law_of_the_registered_environment():
    environments: Any = gym.make_vec("m3po/SwitchingPointMass-v0", num_envs=2000)
    environments.reset(seed=0)
    draws, total = np.random.default_rng(0), np.zeros(2000)
    for _ in range(100):
        _, reward, *_ = environments.step(draws.uniform(-1, 1, (2000, 2)).astype(np.float32))
        total += reward
    simulator = TorchPointMass(environments.dynamics, 100)
    found = simulator.returns("random", AnchorPolicy(simulator.count), 2000, generator(4)).double().numpy()
    assert agree(found, total)


def test_returns_are_differentiable_in_the_policy():
    simulator = TorchPointMass(PointMassDynamics(TASKS, NOISE, SwitchingRule(probability=0.1)), 5)
    kinds: tuple[Kind, ...] = ("memoryless", "filter", "oracle")
    for kind in kinds:
        policy = opinionated_policy(0 if kind == "memoryless" else 3)
        simulator.returns(kind, policy, 16, generator()).mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


def test_after_a_short_search_knowing_the_task_pays():
    """Random < memoryless < oracle, with margins far beyond the standard errors."""
    dynamics: Any = SwitchingPointMassVector(1).dynamics
    simulator = TorchPointMass(dynamics, 45)
    config = AnchorConfig(iterations=35, batch=32)
    means, errors = {}, {}
    kinds: tuple[Kind, ...] = ("random", "memoryless", "oracle")
    for kind in kinds:
        policy = best_policy(simulator, kind, config)
        with torch.no_grad():
            returns = simulator.returns(kind, policy, 1000, generator(9)).double()
        means[kind], errors[kind] = returns.mean().item(), returns.std().item() / math.sqrt(1000)
    assert means["oracle"] > means["memoryless"] + 5 * max(errors.values())
    assert means["memoryless"] > means["random"] + 5 * max(errors.values())


def test_the_search_depends_on_its_seed_alone():
    simulator = TorchPointMass(PointMassDynamics(TASKS, NOISE, SwitchingRule()), 4)

    def found(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.seed() % 1000)  # whatever the global generator holds
        policy = best_policy(simulator, "oracle", AnchorConfig(iterations=2, batch=4, seed=seed))
        return torch.cat([p.detach().ravel() for p in policy.parameters()])

    before = torch.random.get_rng_state()
    assert torch.equal(found(1), found(1))
    assert not torch.equal(found(1), found(2))
    torch.random.set_rng_state(before)
    best_policy(simulator, "oracle", AnchorConfig(iterations=1, batch=2))
    assert torch.equal(torch.random.get_rng_state(), before)


# The command line


Output = Callable[..., tuple[int, str, str]]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    def call(*words: str) -> tuple[int, str, str]:
        threads = torch.get_num_threads()
        with pytest.raises(SystemExit) as stopped:
            cli(words)
        torch.set_num_threads(threads)
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


TINY = ("--iterations", "1", "--batch", "2", "--episodes", "3")


def test_json_out_and_table_say_the_same(output, tmp_path):
    path = tmp_path / "new" / "anchors.json"
    code, out, err = output(*TINY, "--json", "--out", str(path))
    assert code == 0
    record = json.loads(out)
    assert json.loads(path.read_text()) == record
    assert (record["env_id"], record["horizon"], record["iterations"]) == ("m3po/SwitchingPointMass-v0", 100, 1)
    assert tuple(record["policies"]) == KINDS
    for entry in record["policies"].values():
        assert math.isfinite(entry["return"])
        assert entry["standard_error"] > 0
    assert "oracle" in err  # progress goes to stderr
    code, out, _ = output(*TINY)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines] == list(KINDS)
    for line in lines:
        assert float(line[1]) == pytest.approx(record["policies"][line[0]]["return"], abs=6e-4)
        assert float(line[3]) == pytest.approx(record["policies"][line[0]]["standard_error"], abs=6e-4)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--iterations", "0"], "--iterations must be >= 1, got 0"),
        (["--batch", "-3"], "--batch must be >= 1, got -3"),
        (["--episodes", "1"], "--episodes must be >= 2, got 1"),
        (["--seed", "-1"], "--seed must be >= 0, got -1"),
        (["--seed", str(2**70)], f"got {2**70}"),
        (["--iterations", "many"], "many"),
        (["--steps", "3"], "--steps"),
    ],
)
def test_bad_input_exits_2_with_one_line(output, words, named):
    code, out, err = output(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err


def test_an_out_that_cannot_be_a_file_is_refused_before_the_search(output, tmp_path):
    directory = tmp_path / ("long" * 40)  # no line break into the value
    directory.mkdir()
    code, out, err = output("--out", str(directory))
    assert (code, out) == (2, "")
    assert err == f"error: --out must be a file, got the directory {directory}\n"


@pytest.mark.parametrize("utf8", [False, True])
def test_the_line_is_clean_whatever_box_tyro_draws(output, monkeypatch, utf8):
    monkeypatch.setattr("tyro._fmtlib._should_use_utf8_drawing_chars", lambda: utf8)
    code, out, err = output("--iterations", "many")
    assert (code, out) == (2, "")
    assert err == "error: Error parsing --iterations: invalid literal for int() with base 10: 'many'\n"
    assert output("steps")[2] == "error: Unrecognized options: steps\n"


def test_an_out_below_a_file_is_one_line_too(output, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = output(*TINY, "--out", str(tmp_path / "file" / "anchors.json"))
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert str(tmp_path / "file") in err.splitlines()[-1]


# The committed figures


def test_committed_figures_are_read_by_name(tmp_path, monkeypatch):
    path = tmp_path / "anchors.json"
    returns = {name: float(place) for place, name in enumerate(KINDS)}
    path.write_text(json.dumps({"policies": {name: {"return": value} for name, value in returns.items()}}))
    monkeypatch.setattr("analysis.runs.anchors.COMMITTED", path)
    assert committed_anchors() == returns
    path.write_text(json.dumps({"policies": {"oracle": {"return": 3, "standard_error": 1}}}))
    with pytest.raises(ValueError, match="does not hold the anchors"):
        committed_anchors()
    monkeypatch.setattr("analysis.runs.anchors.COMMITTED", Path(tmp_path / "missing.json"))
    with pytest.raises(OSError, match=r"missing\.json"):
        committed_anchors()


def test_the_committed_figures_belong_to_the_present_environment():
    """Their random policy's return is reproduced, so changed constants show as figures to compute again."""
    record = json.loads(COMMITTED.read_text())
    entries = record["policies"]
    environment: Any = gym.make(record["env_id"])
    assert record["horizon"] == environment.spec.max_episode_steps
    simulator = TorchPointMass(environment.unwrapped.dynamics, record["horizon"])
    returns = simulator.returns("random", AnchorPolicy(simulator.count), 4000, generator(10)).double()
    error = math.hypot(returns.std().item() / math.sqrt(4000), entries["random"]["standard_error"])
    assert abs(returns.mean().item() - entries["random"]["return"]) < 4 * error
    order = [entries[kind]["return"] for kind in KINDS]
    assert order == sorted(order)
    assert entries["oracle"]["return"] > entries["memoryless"]["return"] + 10 * entries["memoryless"]["standard_error"]
