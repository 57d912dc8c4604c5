"""Runs side by side are the runs they would be alone: what they draw, what they learn, what stops them."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from m3po.agents.adaptive_model import AdaptiveModel
from m3po.agents.grbal import PlanningPolicy
from m3po.agents.loop import TrainingLoop
from m3po.agents.m3po import M3PO
from m3po.agents.pearl import LatentEncoder, LatentPolicy
from m3po.agents.planner import PlannerSettings
from m3po.agents.rollout import left_over, model_steps
from m3po.agents.training import training_of
from m3po.config import Config
from m3po.data.replay_buffer import EnvironmentBuffers, ModelBuffer, ModelBuffers
from m3po.data.types import Transitions, run_of, side_by_side
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import GaussianPolicy, HistoryPolicy
from m3po.networks.run_axis import own_copy, stacked
from m3po.runs.health import DivergenceError
from tests.m3po.small import ACTION, CPU, OBSERVATION, TINY_MODEL, episodes_of, filled_buffer

PEARL: dict[str, Any] = {"algorithm": "pearl"}
GRBAL: dict[str, Any] = {
    "algorithm": "grbal", "planner_candidates": 20, "planner_horizon": 3, "planner_iterations": 2,
    "adaptation_steps": 4, "env_options": '{"max_episode_steps": 25}',
}  # fmt: skip
ALGORITHMS = pytest.mark.parametrize("algorithm", [{}, PEARL, GRBAL], ids=["m3po", "pearl", "grbal"])


def config(seed: int, **changes: Any) -> Config:
    settings = {**TINY_MODEL, "updates_per_step": 2, "rollout_interval": 5, **changes}
    return Config(run_dir=Path("unused"), seed=seed, **settings)


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The row's numbers, without times."""
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and not name.endswith(("seconds", "_bytes"))
    }


def tensors_in(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for name, value in state.items():
            if name not in ("seconds", "stopwatch"):
                yield from tensors_in(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_in(value)


def to_the_end(runs: list[Any]) -> list[list[dict[str, Any]]]:
    """All rows of runs side by side."""
    group = type(runs[0]).side_by_side(runs)
    rows: dict[Any, list[dict[str, Any]]] = {run: [] for run in runs}
    while not group.finished:
        for run, row in group.advance().items():
            rows[run].append(row)
    return list(rows.values())


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"context_training": "critic"},
        {"rollout_length": 3, "elites": 1, "model_share": 0.5, "move_limit": 0.2},
        {"algorithm": "m3po-full", "rollout_interval": 15},
        {"history_length": 0},
        {"critics": "batch-norm", "model_share": 0.5, "policy_interval": 3},
        PEARL,
        {**PEARL, "critics": "batch-norm"},
        GRBAL,
    ],
    ids=[
        "plain",
        "own encoder",
        "longer rollouts, real data, limited moves",
        "full",
        "memoryless",
        "batch norm, slow policy",
        "pearl",
        "pearl, batch norm",
        "grbal",
    ],
)
def test_each_of_five_runs_is_the_one_trained_alone_to_rounding_and_its_draws_exactly(changes: dict[str, Any]) -> None:
    """60 updates of the agents and 40 of the models; seeds in no order. Of variants, two of the five are compared."""
    seeds, settings = (3, 0, 7, 1, 2), {"total_steps": 130, "epoch_steps": 15, **changes}
    together = [training_of(config(seed, **settings)) for seed in seeds]
    rows = to_the_end(together)
    compared = range(5) if not changes else (1, 3)
    for place in compared:
        run, found, seed = together[place], rows[place], seeds[place]
        alone = training_of(config(seed, **settings))
        (expected,) = to_the_end([alone])
        assert len(found) == len(expected) == 2
        for here, there in zip(found, expected, strict=True):
            assert numbers(here) == pytest.approx(numbers(there), rel=1e-9, abs=1e-9)
        for own, other in zip(tensors_in(run.state()), tensors_in(alone.state()), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-10)
        for own, other in zip(run.state()["generators"], alone.state()["generators"], strict=True):
            assert torch.equal(own, other)


@ALGORITHMS
def test_other_seeds_beside_it_change_nothing_that_a_run_draws(algorithm: dict[str, Any]) -> None:
    changes = {"total_steps": 120, "epoch_steps": 20, **algorithm}
    trios = [[training_of(config(seed, **changes)) for seed in seeds] for seeds in ((0, 1, 2), (5, 1, 7))]
    for trio in trios:
        to_the_end(trio)
    (first, second, _), (other, same, _) = trios
    assert torch.equal(second.generator.get_state(), same.generator.get_state())
    assert torch.equal(second.environment_buffer.observations, same.environment_buffer.observations)
    assert not torch.equal(first.environment_buffer.observations, other.environment_buffer.observations)


@pytest.mark.parametrize(
    ("algorithm", "lost", "loss"),
    [({}, "critics", "critic_loss"), (PEARL, "critics", "critic_loss"), (GRBAL, "model", "model_loss")],
    ids=["m3po", "pearl", "grbal"],
)
def test_a_run_whose_numbers_are_lost_stops_and_the_others_go_on(
    algorithm: dict[str, Any], lost: str, loss: str
) -> None:
    changes = {"total_steps": 130, "epoch_steps": 15, **algorithm}

    def at_step_105(*seeds: int) -> list[TrainingLoop]:
        """Runs side by side, of which that of seed 1 is about to lose its numbers."""
        runs = [training_of(config(seed, **changes)) for seed in seeds]
        group = runs[0].side_by_side(runs)
        while runs[0].steps < 105:
            group.advance()
        state = runs[seeds.index(1)].learned_state()
        part = state["networks"]["critics"] if lost == "critics" else state["model"]
        with torch.no_grad():
            next(value for name, value in part.items() if name.endswith("weight")).fill_(math.nan)
        return runs

    runs = at_step_105(0, 1, 2)
    group = runs[0].group
    rows: dict[Any, dict[str, Any]] = {}
    while not group.finished:
        rows |= group.advance()
    assert group.runs == [runs[0], runs[2]]
    assert list(group.failed) == [runs[1]]
    told = str(group.failed[runs[1]])
    assert f"{loss} is nan in update 1 of 2 at real step 106; its batch of" in told
    with pytest.raises(DivergenceError, match=re.escape(told)):  # its own batch, then
        at_step_105(1)[0].advance()
    assert runs[1].steps == 106
    for run, seed in ((runs[0], 0), (runs[2], 2)):
        alone = training_of(config(seed, **changes))
        (expected,) = to_the_end([alone])
        assert numbers(rows[run]) == pytest.approx(numbers(expected[-1]), rel=1e-3, abs=1e-3)
        assert torch.equal(run.generator.get_state(), alone.generator.get_state())


def test_a_model_that_cannot_be_fitted_stops_its_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [M3PO(config(seed, total_steps=120, epoch_steps=20)) for seed in (0, 1)]
    group = M3PO.side_by_side(runs)
    while runs[0].steps < 100:
        group.advance()
    runs[0].environment_buffer.rewards[50] = math.inf
    while not group.finished:
        group.advance()
    assert list(group.failed) == [runs[0]]
    assert "held-out loss is" in str(group.failed[runs[0]])


def test_the_last_run_that_fails_raises() -> None:
    runs = [M3PO(config(seed, total_steps=120, epoch_steps=20)) for seed in (0, 1)]
    group = M3PO.side_by_side(runs)
    while runs[0].steps < 100:
        group.advance()
    for run in runs:
        run.environment_buffer.rewards[50] = math.inf
    with pytest.raises(DivergenceError, match="held-out loss is"):
        group.advance()
    # The others' reasons are not lost.
    assert group.runs == [runs[1]]
    assert {run: "held-out loss is" in str(reason) for run, reason in group.failed.items()} == {runs[0]: True}


def test_runs_that_have_not_come_equally_far_are_refused() -> None:
    runs = [M3PO(config(seed)) for seed in (0, 1)]
    runs[0].advance()
    with pytest.raises(ValueError, match=r"different steps cannot go on side by side: \[0, 1\]"):
        M3PO.side_by_side(runs)


@ALGORITHMS
def test_a_run_leaves_its_group_as_it_was_and_goes_on_alone(algorithm: dict[str, Any]) -> None:
    """Its parameters are views of the group's until then, and what it saves holds nothing of the others."""
    changes: dict[str, Any] = {"total_steps": 140, "epoch_steps": 20, **algorithm}
    runs = [training_of(config(seed, **changes)) for seed in (0, 1, 2)]
    group = runs[0].side_by_side(runs)
    while runs[0].steps < 127:
        group.advance()
    state = copy.deepcopy(runs[1].state())
    assert all(each.untyped_storage().nbytes() == each.nbytes for each in tensors_in(state))
    alone = training_of(config(1, **changes))
    alone.load_state(state)
    assert alone.collection.resume_episode()
    rows = []
    while not alone.finished:
        row = alone.advance()
        rows += [] if row is None else [row]
    expected: dict[Any, dict[str, Any]] = {}
    while not group.finished:
        expected |= group.advance()
    assert numbers(rows[-1]) == pytest.approx(numbers(expected[runs[1]]), rel=1e-3, abs=1e-3)
    assert rows[-1]["update_seconds"] > 0


def test_what_several_runs_do_together_counts_for_each_by_its_share() -> None:
    runs = [M3PO(config(seed, total_steps=120, epoch_steps=20)) for seed in (0, 1)]
    rows = to_the_end(runs)
    assert rows[0][0]["update_seconds"] == rows[1][0]["update_seconds"]
    assert runs[0].seconds == pytest.approx(runs[1].seconds)
    assert rows[0][0]["update_seconds"] < runs[0].seconds


def models(count: int) -> list[EnsembleModel]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = [EnsembleModel(ContextEncoder(OBSERVATION, ACTION, 3, 5), ACTION, 3, 8, 1, 2) for _ in range(count)]
    buffers = buffers_of(count)
    for model, buffer in zip(made, buffers, strict=True):
        model.encoder.fit(buffer.tokens[: buffer.size])
        model.target_normaliser.fit(buffer.targets(torch.arange(buffer.size)))
        model.fit_reach(buffer.outcomes())
    made[-1].choose_elites(torch.tensor([2.0, 0.0, 1.0]))
    return made


def buffers_of(count: int) -> list[Any]:
    return [filled_buffer(episodes_of([12 - run, 5 + run], seed=run), 3, members=3) for run in range(count)]


def test_views_and_the_whole_are_one_and_a_copy_is_not() -> None:
    parts = models(2)
    kept = own_copy(parts[0])
    joint = stacked(parts)
    with torch.no_grad():
        dict(joint.named_parameters())["heads.layers.1.bias"][0].fill_(5.0)
        parts[1].log_variance_low.fill_(-3.0)
    assert torch.equal(parts[0].state_dict()["heads.layers.1.bias"], torch.full((3, 1, 8), 5.0))
    assert not torch.equal(kept.state_dict()["heads.layers.1.bias"], parts[0].state_dict()["heads.layers.1.bias"])
    assert torch.equal(joint.log_variance_low[1], parts[1].log_variance_low)
    assert torch.equal(joint.elite, torch.tensor([[0, 1], [1, 2]]))


def test_densities_and_expected_rewards_of_runs_are_those_of_each() -> None:
    parts, buffers = models(3), buffers_of(3)
    joint = stacked(parts)
    indices = torch.tensor([[0, 3, 7], [4, 4, 1], [9, 2, 0]])
    together = EnvironmentBuffers(buffers)
    windows, action, target = together.segments(indices).examples(OBSERVATION)
    following = windows.observation + target[..., :-1]
    features = joint.encoder(windows)
    density = joint.observation_log_density(features, windows.observation, action, following)
    reward = joint.expected_reward(features, action, -0.3, 0.4)
    encoded = joint.encoder.transitions(together.segments(indices))
    for run, (part, buffer) in enumerate(zip(parts, buffers, strict=True)):
        own, a, y = buffer.segments(indices[run]).examples(OBSERVATION)
        torch.testing.assert_close(features[run], part.encoder(own))
        expected = part.observation_log_density(part.encoder(own), own.observation, a, own.observation + y[:, :-1])
        torch.testing.assert_close(density[run], expected)
        torch.testing.assert_close(reward[run], part.expected_reward(part.encoder(own), a, -0.3, 0.4))
        for name, value in vars(part.encoder.transitions(buffer.segments(indices[run]))).items():
            torch.testing.assert_close(getattr(encoded, name)[run], value)
        assert torch.equal(together.weights(indices)[run], buffer.member_weights[indices[run]].T)


def test_stretches_of_runs_are_those_of_each() -> None:
    buffers = [filled_buffer(episodes_of([9 - 2 * run, 5], seed=run), 3, capacity=16) for run in range(3)]
    indices = torch.tensor([[0, 13, 8], [4, 11, 7], [5, 9, 0]])
    together = EnvironmentBuffers(buffers).stretches(indices, 4, 3)
    for run, buffer in enumerate(buffers):
        for name, value in vars(buffer.stretches(indices[run], 4, 3)).items():
            assert torch.equal(getattr(run_of(together, run), name), value)


def latent_policies(count: int) -> list[LatentPolicy]:
    encoders = [LatentEncoder(OBSERVATION, ACTION, 3, 2, 8, 1) for _ in range(count)]
    return [LatentPolicy(each, GaussianPolicy(each.feature_size, ACTION, 8, 1)) for each in encoders]


def planning_policies(count: int) -> list[PlanningPolicy]:
    models = [AdaptiveModel(OBSERVATION, ACTION, 8, 2) for _ in range(count)]
    settings = PlannerSettings(20, 3, 2)
    ends = [torch.tensor([[-0.1], [0.1]]).repeat(1, OBSERVATION + 1) * (5 + run) for run in range(count)]
    return [
        PlanningPolicy(model, settings, 0.5, 3, reach, None, lambda observation: observation[..., 0] > 0.4)
        for model, reach in zip(models, ends, strict=True)
    ]


@pytest.mark.parametrize("kind", ["latent", "planning"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_policies_of_runs_act_at_many_windows_as_each_alone(kind: str, deterministic: bool) -> None:
    """In units that differ from run to run."""
    buffers = buffers_of(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alone: list[Any] = latent_policies(3) if kind == "latent" else planning_policies(3)
    for run, (policy, buffer) in enumerate(zip(alone, buffers, strict=True)):
        tokens = (run + 1) * buffer.tokens[: buffer.size] + run
        if kind == "latent":
            policy.encoder.fit(tokens)
        else:
            policy.model.fit(tokens, buffer.rewards[: buffer.size])
    windows = EnvironmentBuffers(buffers).windows(torch.arange(12).expand(3, 12))
    expected = [
        policy.act(run_of(windows, run), torch.Generator().manual_seed(run), deterministic=deterministic)
        for run, policy in enumerate(alone)
    ]
    together = type(alone[0]).of_runs(alone)
    generators = [torch.Generator().manual_seed(run) for run in range(3)]
    found = together.act(windows, generators, deterministic=deterministic)
    for place, values in enumerate(found):
        assert values.shape == (3, 12, ACTION)
        torch.testing.assert_close(values, torch.stack([each[place] for each in expected]), rtol=1e-4, atol=1e-5)


def test_rollouts_that_end_at_different_steps_are_those_of_each_run() -> None:
    """The run with fewer rollouts left is filled up, and what fills it is marked."""
    parts, buffers = models(2), buffers_of(2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        networks = [GaussianPolicy(part.encoder.feature_size, ACTION, 8, 1) for part in parts]
    joint, network = stacked(parts), stacked(networks)
    policy = HistoryPolicy(joint.encoder, network)
    starts = EnvironmentBuffers(buffers).windows(torch.arange(8).expand(2, 8))

    def ends(observation: Tensor) -> Tensor:
        return observation[..., 0] > 0.4

    generators = [torch.Generator().manual_seed(run) for run in (0, 1)]
    steps = list(model_steps(joint, policy, starts, 4, generators, ends))
    counts = [[8, 8]]
    for step in steps:
        valid = torch.ones(step.rows.shape, dtype=torch.bool) if step.valid is None else step.valid
        assert valid.sum(dim=1).tolist() == counts[-1]
        assert step.rows.shape[1] == max(counts[-1])
        ended = ends(step.next_observation)
        assert torch.equal(step.transitions.not_terminal, (~ended).float())
        counts.append((valid & ~ended).sum(dim=1).tolist())
        for run in (0, 1):
            rows = step.rows[run][valid[run]]
            assert len(set(rows.tolist())) == len(rows)
    assert any(first != second for first, second in counts)  # else nothing was filled up
    data: ModelBuffers[Transitions] = ModelBuffers([ModelBuffer(100), ModelBuffer(100)])
    for step in steps:
        data.add(step.transitions, step.valid)
    assert [each.size for each in data.buffers] == [sum(own) for own in zip(*counts[: len(steps)], strict=True)]


def test_what_is_left_over_is_padded_to_the_longest() -> None:
    places, valid = left_over(torch.tensor([[True, False, True, True], [False, True, False, False]]))
    assert places.tolist()[0] == [0, 2, 3]
    assert places[1, 0] == 1
    assert valid is not None
    assert valid.tolist() == [[True, True, True], [True, False, False]]
    assert left_over(torch.tensor([[True, False], [False, True]]))[1] is None
    places, valid = left_over(torch.tensor([False, True]))
    assert (places.tolist(), valid) == ([1], None)


def test_model_buffers_keep_the_newest_of_every_run_and_draw_from_each_its_own() -> None:
    def batch(low: float, count: int) -> Transitions:
        values = low + torch.arange(float(count))
        return Transitions(values[:, None], values[:, None], values, values[:, None], torch.ones(count))

    data: ModelBuffers[Transitions] = ModelBuffers([ModelBuffer(5), ModelBuffer(5)])
    with pytest.raises(ValueError, match="empty"):
        data.sample(1, [torch.Generator(), torch.Generator()])
    data.add(side_by_side([batch(0, 4), batch(100, 4)]))
    data.add(side_by_side([batch(10, 3), batch(110, 3)]), torch.tensor([[True, True, True], [True, False, False]]))
    drawn = data.sample(500, [torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)])
    assert set(run_of(drawn, 0).reward.tolist()) == {2.0, 3.0, 10.0, 11.0, 12.0}
    assert set(run_of(drawn, 1).reward.tolist()) == {100.0, 101.0, 102.0, 103.0, 110.0}
    resumed: list[ModelBuffer[Transitions]] = []
    for each in data.buffers:
        buffer: ModelBuffer[Transitions] = ModelBuffer(5)
        buffer.load_state(each.state(), Transitions)
        resumed.append(buffer)
    again = ModelBuffers(resumed).sample(500, [torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)])
    assert torch.equal(again.reward, drawn.reward)
    assert again.reward.device == CPU
