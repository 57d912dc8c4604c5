"""Tiny trainings from end to end, their interruption and resumption, and the command line."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from m3po import train as train_module
from m3po.agents.agent_data import StoredEncodings
from m3po.agents.group import Group
from m3po.agents.loop import choose_device
from m3po.agents.m3po import M3PO
from m3po.agents.sac import SoftActorCritic
from m3po.config import Config
from m3po.data.types import run_of
from m3po.foreign import trial
from m3po.runs.health import DivergenceError
from m3po.runs.run_directory import RunDirectory
from m3po.train import cli, main, train
from tests.command_errors import refusal
from tests.m3po import small

TINY = small.TINY_MODEL | {"final_learning_rate_share": 0.1}
LOSSES = {
    "model_loss", "model_held_out_loss", "model_explained", "model_updates", "critic_loss", "policy_loss",
    "q_mean", "entropy", "temperature",
}  # fmt: skip
ACTIVITIES = ("model", "acting", "environment", "rollout", "update", "measure", "checkpoint")
TIMES = {"seconds", "checkpoint_bytes", *(f"{name}_seconds" for name in ACTIVITIES)}


def tiny(path: Path, **changes: Any) -> Config:
    return Config(run_dir=path, **{**TINY, **changes})


def flags(path: Path, **changes: Any) -> list[str]:
    words = ["--run-dir", str(path)]
    for name, value in {**TINY, **changes}.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def tensors(state: Any) -> list[torch.Tensor]:
    """Every tensor of a checkpoint, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in tensors(value)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(tiny(tmp_path_factory.mktemp("runs") / "run"))


def assert_same_runs(one: RunDirectory, other: RunDirectory) -> None:
    """Metrics, but for times, and every tensor of the last checkpoint are the same bit for bit."""
    assert without_times(one.metrics()) == without_times(other.metrics())
    ours, theirs = one.load_checkpoint(), other.load_checkpoint()
    pairs = list(zip(tensors(ours), tensors(theirs), strict=True))
    assert len(pairs) > 50
    assert all(torch.equal(left, right) for left, right in pairs)
    assert ours["episodes"] == theirs["episodes"]


def numbers(value: Any) -> list[float]:
    return [float(each) for each in (value if isinstance(value, list) else [value])]


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({}, [(8, 8)]),
        ({"model_units": "swish"}, [(8, 4)]),
        ({"model_width": 5, "model_layers": 2}, [(8, 10), (5, 10)]),
        ({"model_units": "swish", "model_width": 5, "model_layers": 3}, [(8, 5), (5, 5), (5, 5)]),
    ],
)
def test_the_model_has_the_units_and_sizes_that_are_asked_for(
    tmp_path: Path, changes: dict[str, Any], layers: list[tuple[int, int]]
) -> None:
    """Inputs and outputs of the hidden layers of its members; the agent keeps its own."""
    sizes = {"width": 4, "layers": 1, "context_size": 3, "ensemble_size": 2}
    training = M3PO(tiny(tmp_path / "run", **sizes, **changes))
    inputs = training.model.encoder.feature_size + training.action_size
    expected = [(inputs if place == 0 else first, second) for place, (first, second) in enumerate(layers)]
    found = [tuple(each.shape) for each in training.model.heads.parameters() if each.shape[1] > 1]
    assert found[:-1] == [(2, *shape) for shape in expected]
    agents = [(1, training.model.encoder.feature_size, 8), (2, inputs, 8)]
    assert [next(each.parameters()).shape for each in (training.policy.network, training.agent.critics)] == agents


def test_a_tiny_training_ends_complete_with_finite_rows(finished: RunDirectory) -> None:
    rows = finished.metrics()
    assert [row["step"] for row in rows] == [0, 200, 300]
    assert finished.complete
    expected = {
        *LOSSES, "nll", "eps_m", "eps_m_lower", "eps_m_upper", "eps_m_mean", "eps_m_profile",
        "eps_m_profile_upper", "eps_m_task", "bayes_eps_m", "bayes_eps_m_mean", "eps_pi_mean", "eps_pi_sample_max",
        "policy_divergence_profile", "policy_divergence_upper", "reward_error", "return", "return_standard_error",
        "collected_reward", "rollout_length", "model_share", "warnings", *TIMES,
    }  # fmt: skip
    settings = {"collected_reward", "rollout_length", "model_share", "warnings"}
    assert set(rows[0]) == set(rows[1]) - {*settings, *LOSSES, *TIMES}
    for row in rows[1:]:
        assert expected <= set(row)
        assert set(row) == set(rows[1])
    for row in rows:
        assert all(math.isfinite(number) for value in row.values() for number in numbers(value))
        assert row.get("warnings", []) == []
        for name in ("eps_m", "eps_m_mean", "eps_m_task", "eps_pi_mean", "eps_pi_sample_max", "reward_error"):
            assert 0 <= row[name] <= 1.1, name
        assert row["eps_m_lower"] <= row["eps_m"] <= row["eps_m_upper"]
        for name in ("eps_m_profile", "policy_divergence_profile"):
            assert len(row[name]) == 100
        assert max(row["eps_m_profile"]) == pytest.approx(row["eps_m"])


def test_the_real_steps_are_whole_episodes_in_order(finished: RunDirectory) -> None:
    state = finished.load_checkpoint()
    buffer = state["environment_buffer"]
    assert state["steps"] == len(buffer["rewards"]) == 300
    assert torch.equal(buffer["first"], torch.arange(300) // 100 * 100)
    # The environment's time limit truncates; nothing here ever terminates.
    assert not buffer["terminated"].any()
    observations, tokens = buffer["observations"], buffer["tokens"]
    inside = (torch.arange(300) % 100 != 99).nonzero()[:, 0]
    torch.testing.assert_close(observations[inside] + tokens[inside, -4:], observations[inside + 1], rtol=0, atol=1e-6)
    starts = observations[::100]
    torch.testing.assert_close(starts[:, :2].norm(dim=1), torch.ones(3))
    assert len(torch.unique(starts, dim=0)) == 3
    actions = tokens[:, 4:6]
    assert actions.abs().max() <= 1
    # exp(-|position|^2 / 0.32) - 0.05 |action|^2
    position = observations[:, :2].double()
    expected = torch.exp(-position.square().sum(dim=1) / 0.32) - 0.05 * actions.double().square().sum(dim=1)
    torch.testing.assert_close(buffer["rewards"].double(), expected, rtol=0, atol=1e-5)


def test_the_learning_rate_falls_to_its_share(finished: RunDirectory) -> None:
    """The last epoch starts at step 200 of 300, when two thirds of the fall to a tenth are done."""
    config = finished.config
    expected = config.learning_rate * (1 - 0.9 * 200 / 300)
    assert config.final_learning_rate_share == 0.1
    for optimiser in finished.load_checkpoint()["optimisers"].values():
        assert [group["lr"] for group in optimiser["param_groups"]] == [pytest.approx(expected)]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished: RunDirectory, tmp_path: Path) -> None:
    again = train(tiny(tmp_path / "again"))
    assert without_times(again.metrics()) == without_times(finished.metrics())
    other = train(tiny(tmp_path / "other", seed=1, total_steps=200))
    assert without_times(other.metrics())[0] != without_times(finished.metrics())[0]


def interrupt_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the collection of real step number ``steps`` + 1."""
    collect_step = Group.collect_step

    def interrupted(self: Group[Any], *, random: bool) -> dict[Any, float]:
        if self.runs[0].steps == steps:
            raise KeyboardInterrupt
        return collect_step(self, random=random)

    monkeypatch.setattr(Group, "collect_step", interrupted)


@pytest.mark.parametrize(("steps", "kept"), [(50, [0]), (200, [0, 200]), (250, [0, 200])])
def test_an_interrupted_and_resumed_run_is_the_uninterrupted_one(
    steps: int, kept: list[int], finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "run"
    interrupt_after(steps, monkeypatch)
    assert main(tiny(path)) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.undo()
    stopped = RunDirectory.read(path)
    assert not stopped.complete
    assert [row["step"] for row in stopped.metrics()] == kept

    resumed = train(tiny(path, resume=True))
    assert resumed.complete
    assert_same_runs(resumed, finished)


@pytest.mark.parametrize("at", [0, 200, 300])
def test_a_crash_between_row_and_checkpoint_is_repaired(
    at: int, finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is written, its checkpoint is not: the resumed run writes that row once."""
    save, saved = RunDirectory.save_checkpoint, []

    def crash(self: RunDirectory, state: dict[str, Any]) -> None:
        if state["steps"] == at:
            raise KeyboardInterrupt
        save(self, state)
        saved.append(state["steps"])

    monkeypatch.setattr(RunDirectory, "save_checkpoint", crash)
    assert main(tiny(tmp_path / "run")) == 130
    monkeypatch.undo()
    assert saved == [step for step in (0, 200, 300) if step < at]
    assert [row["step"] for row in RunDirectory.read(tmp_path / "run").metrics()] == [*saved, at]
    resumed = train(tiny(tmp_path / "run", resume=True))
    assert without_times(resumed.metrics()) == without_times(finished.metrics())


def test_a_checkpoint_inside_an_episode_resumes_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"epoch_steps": 30, "rollout_interval": 10, "total_steps": 190}
    interrupt_after(145, monkeypatch)
    assert main(tiny(tmp_path / "run", **changes)) == 130
    monkeypatch.undo()
    resumed = train(tiny(tmp_path / "run", resume=True, **changes))
    assert [row["step"] for row in resumed.metrics()] == [0, 130, 160, 190]
    first = resumed.load_checkpoint()["environment_buffer"]["first"]
    assert torch.equal(first, torch.arange(190) // 100 * 100)
    whole = train(tiny(tmp_path / "whole", **changes))
    assert_same_runs(resumed, whole)


def test_resuming_a_complete_run_changes_nothing(finished: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:

    rows, checkpoint = finished.metrics(), (finished.path / "checkpoint.pt").read_bytes()
    assert main(tiny(finished.path, resume=True)) == 0
    captured = capsys.readouterr()
    assert "is complete already" in captured.err
    assert "300 steps, return" in captured.out
    assert finished.metrics() == rows
    assert (finished.path / "checkpoint.pt").read_bytes() == checkpoint


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "m3po-full"},
        {"history_length": 0},
        {"rollout_length": 3, "model_buffer_size": 10},
        {"total_steps": 100},
        {"env_id": "Pendulum-v1", "total_steps": 300, "initial_random_steps": 200},
        {"algorithm": "m3po-h", "final_model_share": 0.25},
        {"model_share": 0.0},
        {"model_share": 0.5, "context_training": "critic"},
        {"context_training": "critic", "algorithm": "m3po-full"},
        {"context_training": "critic", "history_length": 0},
        {"final_rollout_length": 3, "rollout_growth_start": 100, "rollout_growth_end": 150},
        {"elites": 1},
        {"temperature_tuning": "fixed"},
        {"env_options": '{"observe_reward": true, "switch_period": 20}'},
    ],
    ids=str,
)
def test_variants_run(changes: dict[str, Any], tmp_path: Path) -> None:
    run = train(tiny(tmp_path / "run", **{"total_steps": 200, **changes}))
    row = run.metrics()[-1]
    assert row["step"] == run.config.total_steps
    assert all(math.isfinite(number) for value in row.values() for number in numbers(value))


def test_full_rollouts_start_at_episode_starts_and_run_to_the_horizon(tmp_path: Path) -> None:
    training = M3PO(tiny(tmp_path, algorithm="m3po-full"))
    for _ in range(250):
        training.group.collect_step(random=True)
    training.group.add_rollouts(400)
    assert training.rollout_length == 100
    store: Any = training.model_buffer._store
    assert training.model_buffer.size == 4 * 100
    context = store.features[:400, 4:].reshape(100, 4, -1)
    # The first step of every rollout has no past, and its place on the unit circle.
    assert torch.equal(context[0], training.model.encoder.initial_context.detach().expand(4, -1))
    starts = training.environment_buffer.observations[training.environment_buffer.initial_indices()]
    distance = torch.cdist(store.features[:4, :4], training.model.encoder.observation_normaliser(starts))
    assert distance.min(dim=1).values.max() < 1e-6


def test_branched_rollouts_start_uniformly_in_the_buffer(tmp_path: Path) -> None:
    training = M3PO(tiny(tmp_path, rollout_length=2, model_buffer_size=5000))
    for _ in range(50):
        training.group.collect_step(random=True)
    training.group.add_rollouts(2000)
    assert training.model_buffer.size == 4000
    store: Any = training.model_buffer._store
    starts = training.model.encoder.observation_normaliser(training.environment_buffer.observations[:50])
    drawn = torch.cdist(store.features[:2000, :4], starts).argmin(dim=1)
    counts = np.bincount(drawn.numpy(), minlength=50)
    # Chi-square with 49 degrees of freedom: mean 49, standard deviation 9.9.
    assert ((counts - 40) ** 2 / 40).sum() < 49 + 4 * 9.9


def collected(tmp_path: Path, steps: int, **changes: Any) -> M3PO:
    """A training after ``steps`` random real steps, with a trained model."""
    training = M3PO(tiny(tmp_path, **{"initial_random_steps": steps, **changes}))
    for _ in range(steps):
        training.group.collect_step(random=True)
    training.group.begin_epoch()
    return training


@pytest.mark.parametrize(
    ("algorithm", "steps", "fictitious"), [("m3po", 200, 12), ("m3po-h", 150, 10), ("m3po-h", 250, 9)]
)
@pytest.mark.parametrize("context_training", ["model", "critic"])
def test_batches_mix_fictitious_and_real_transitions_in_the_share_of_the_moment(
    algorithm: str, steps: int, fictitious: int, context_training: str, tmp_path: Path
) -> None:
    """16 rows, a share of 3/4 that for m3po-h falls to 1/2 at step 300: 12, 12 - 4/2, 12 - 4 * 250/300."""
    training = collected(
        tmp_path, steps, algorithm=algorithm, model_share=0.75, final_model_share=0.5,
        context_training=context_training, updates_per_step=5,
    )  # fmt: skip
    store: Any = training.model_buffer._store
    store.reward[:] = 7.0  # no real reward is above 1
    _, batches_of = training.group.learn(1)
    batches: Any = batches_of(0)
    assert [len(batch.reward) for batch in batches] == [16] * 5
    assert [int((batch.reward == 7.0).sum()) for batch in batches] == [fictitious] * 5
    assert not torch.equal(batches[0].reward, batches[1].reward)
    real = torch.cat([batch.reward[batch.reward != 7.0] for batch in batches])
    assert torch.isin(real, training.environment_buffer.rewards[:steps]).all()


def test_real_transitions_are_encoded_like_fictitious_ones(tmp_path: Path) -> None:
    training = collected(tmp_path, 150, model_share=0.0)
    buffer, group = training.environment_buffer, training.group
    assert isinstance(group.data, StoredEncodings)
    (batches,) = group.data.batches(1, 16, 0, group.buffers, group.generators)
    batch = run_of(batches, 0)
    with torch.no_grad():
        everything = training.model.encoder.transitions(buffer.segments(torch.arange(150)))
    place = torch.cdist(batch.features, everything.features).argmin(dim=1)
    for name in ("features", "action", "reward", "next_features", "not_terminal"):
        torch.testing.assert_close(getattr(batch, name), getattr(everything, name)[place], rtol=1e-5, atol=1e-5)
    assert training.model_buffer.size == 0  # no rollouts are run that nobody asks for


def test_rollouts_grow_with_the_schedule(tmp_path: Path) -> None:
    training = collected(tmp_path, 120, final_rollout_length=4, rollout_growth_start=100, rollout_growth_end=160)
    sizes = []
    for steps in (90, 119, 120, 140, 160, 300):
        training.steps = steps
        training.model_buffer.clear()
        training.group.add_rollouts(10)
        sizes.append(training.model_buffer.size)
    assert sizes == [10, 10, 20, 30, 40, 40]


def test_a_fixed_temperature_stays_and_a_critic_trained_encoder_moves(tmp_path: Path) -> None:
    run = train(tiny(tmp_path / "run", total_steps=200, temperature_tuning="fixed", context_training="critic"))
    assert run.metrics()[-1]["temperature"] == pytest.approx(0.1, rel=1e-6)
    state = run.load_checkpoint()
    ours, models = state["networks"]["encoder"], state["model"]
    # Both read tokens in the same units, and each has its own weights.
    for name in ("mean", "std"):
        assert torch.equal(ours[f"token_normaliser.{name}"], models[f"encoder.token_normaliser.{name}"])
    assert not torch.equal(ours["gru.recurrent_weight"], models["encoder.gru.recurrent_weight"])
    untrained = M3PO(run.config).agent.encoder
    assert untrained is not None
    assert not torch.equal(ours["gru.recurrent_weight"], untrained.state_dict()["gru.recurrent_weight"])


def test_unknown_options_of_an_environment_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(cli, [*flags(tmp_path / "run"), "--env-options", '{"gravity": 3}'], capsys)
    assert "m3po/SwitchingPointMass-v0 does not take the options {'gravity': 3}" in message
    assert "--env-options must be a JSON object, got [1]" in refusal(
        cli, [*flags(tmp_path / "run"), "--env-options", "[1]"], capsys
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_writes_a_checkpoint_in_mid_epoch_and_nothing_is_lost(
    number: signal.Signals, finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect_step = Group.collect_step

    def signalled(self: Group[Any], *, random: bool) -> dict[Any, float]:
        if self.runs[0].steps == 250:
            os.kill(os.getpid(), number)
        return collect_step(self, random=random)

    monkeypatch.setattr(Group, "collect_step", signalled)
    previous = signal.signal(number, signal.default_int_handler)  # a background job may ignore it
    try:
        assert main(tiny(tmp_path / "run")) == 128 + number
    finally:
        signal.signal(number, previous)
    monkeypatch.undo()
    state = RunDirectory.read(tmp_path / "run").load_checkpoint()
    assert state["steps"] == 251
    assert state["epoch"]["step"] == 51
    assert_same_runs(train(tiny(tmp_path / "run", resume=True)), finished)


@pytest.mark.parametrize("context_training", ["model", "critic"])
def test_checkpoints_within_an_epoch_resume_exactly(
    context_training: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With D_model, the sums of the epoch and an episode under way."""
    changes = {"algorithm": "m3po-h", "context_training": context_training, "elites": 1}
    whole = train(tiny(tmp_path / "whole", **changes))
    changes["checkpoint_minutes"] = 1e-9  # after every step
    interrupt_after(277, monkeypatch)
    assert main(tiny(tmp_path / "run", **changes)) == 130
    monkeypatch.undo()
    state = RunDirectory.read(tmp_path / "run").load_checkpoint()
    assert (state["steps"], state["epoch"]["step"], state["episode_under_way"]) == (277, 77, True)
    assert_same_runs(train(tiny(tmp_path / "run", resume=True, **changes)), whole)


def resumed_until_killed(begin: Callable[[], object], seconds: float) -> bool:
    """``begin`` in a child process and kill it with SIGKILL after ``seconds``; whether it had finished by itself."""
    child = os.fork()
    if child == 0:
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 2)
            begin()
            os._exit(0)
        finally:
            os._exit(1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return True
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_as_the_undisturbed_one(kills: int, tmp_path: Path) -> None:
    """SIGKILL leaves no time to clean up. A checkpoint every few steps: kills fall into every kind of moment."""
    changes: dict[str, Any] = {"total_steps": 100 * kills, "rollout_interval": 10}
    whole = train(tiny(tmp_path / "whole", **changes))
    changes["checkpoint_minutes"] = 5e-4
    generator = np.random.default_rng(kills)
    path, killed = tmp_path / "run", 0
    while killed < kills:
        resumed = tiny(path, resume=(path / "config.json").exists(), **changes)
        if resumed_until_killed(lambda resumed=resumed: train(resumed), generator.uniform(0.02, 0.5)):  # type: ignore[misc]
            pytest.fail(f"the run ended after {killed} kills")
        killed += 1
    assert not (path / "COMPLETE").exists()
    assert_same_runs(train(tiny(path, resume=True, **changes)), whole)


def test_a_run_that_is_not_a_number_any_more_stops_with_the_cause_and_keeps_its_checkpoint(
    finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = SoftActorCritic.update
    calls = 0

    def poisoned(self: SoftActorCritic, batch: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 130:
            batch.reward[..., 2] = math.nan
        return update(self, batch, generator)

    monkeypatch.setattr(SoftActorCritic, "update", poisoned)
    assert main(tiny(tmp_path / "run")) == 1
    monkeypatch.undo()
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: the training diverged: critic_loss is nan in update 1 of 1 at real step 230")
    assert "reward up to" in message
    assert "(1 of 16 not finite)" in message
    assert not (tmp_path / "run" / "COMPLETE").exists()
    assert RunDirectory.read(tmp_path / "run").load_checkpoint()["steps"] == 200
    assert_same_runs(train(tiny(tmp_path / "run", resume=True)), finished)


def test_the_previous_checkpoint_is_offered_when_the_last_is_damaged(
    finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    interrupt_after(250, monkeypatch)
    assert main(tiny(path)) == 130
    monkeypatch.undo()
    content = bytearray((path / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "checkpoint.pt").write_bytes(content)
    capsys.readouterr()
    message = refusal(cli, [*flags(path), "--resume"], capsys)
    assert "checkpoint.pt is damaged" in message
    assert "The one before it, of step 0, is sound: --resume --from-previous" in message
    resumed = train(tiny(path, resume=True, from_previous=True))
    assert_same_runs(resumed, finished)
    assert [row["step"] for row in resumed.metrics()] == [0, 200, 300]


def test_cuda_without_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cuda: no CUDA device is available"):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"discount": 1.5}, "--discount must be in [0, 1), got 1.5"),
        ({"discount": "high"}, "high"),
        ({"rollout_length": 0}, "--rollout-length must be >= 1, got 0"),
        ({"rollout_length": 1.5}, "1.5"),
        ({"algorithm": "mbpo"}, "mbpo"),
        ({"device": "tpu"}, "tpu"),
        ({"env_id": "m3po/Nowhere-v0"}, "m3po/Nowhere-v0"),
        ({"env_id": "m3po/SwitchingPointMass-v9"}, "m3po/SwitchingPointMass-v9"),
        ({"env_id": "nomodule:Env-v0"}, "nomodule:Env-v0"),
        ({"env_id": "no spaces"}, "no spaces"),
        ({"env_id": "Ant-v2"}, "Ant-v2"),
        ({"env_id": "CartPole-v1"}, "CartPole-v1 has no flat Box"),
        ({"algorithm": "pearl", "history_length": 0}, "--history-length must be >= 1 for pearl"),
        ({"algorithm": "grbal", "history_length": 0}, "--history-length must be >= 1 for grbal"),
        ({"seed": 2**64}, str(2**64)),
        ({"horizon": 3}, "--horizon"),
    ],
    ids=str,
)
def test_a_bad_flag_is_one_line_and_leaves_no_run(
    changes: dict[str, Any], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refusal(cli, flags(tmp_path / "run", **changes), capsys)
    assert not (tmp_path / "run").exists()


def test_a_missing_run_directory_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--run-dir" in refusal(cli, [], capsys)


def test_runs_that_cannot_be_resumed_are_named(
    finished: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, foreign = tmp_path / "missing", tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    assert f"no run directory at {missing}" in refusal(cli, [*flags(missing), "--resume"], capsys)
    assert not missing.exists()
    assert f"{foreign} is not a run directory" in refusal(cli, [*flags(foreign), "--resume"], capsys)
    assert f"{foreign} already exists" in refusal(cli, flags(foreign), capsys)
    assert f"{finished.path} already exists" in refusal(cli, flags(finished.path), capsys)
    assert "seed=0, asked for 1" in refusal(cli, [*flags(finished.path, seed=1), "--resume"], capsys)
    assert [file.name for file in foreign.iterdir()] == ["notes.txt"]


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run interrupted in its second epoch."""
    path = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as monkeypatch:
        interrupt_after(250, monkeypatch)
        assert main(tiny(path)) == 130
    return path


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A copy of it; a run may move."""
    return Path(shutil.copytree(stopped_once, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("name", "damage", "named"),
    [
        ("checkpoint.pt", lambda data: data[: len(data) // 2], "is damaged"),
        ("checkpoint.pt", lambda data: data[:999] + bytes([data[999] ^ 1]) + data[1000:], "is damaged"),
        ("checkpoint.pt", None, "has no checkpoint.pt"),
        ("config.json", lambda data: data[:-20], "cannot be read"),
        (
            "config.json",
            lambda data: data.replace(b'"width": 8', b'"width": "8"'),
            "--width must be a whole number, got '8'",
        ),
        ("config.json", None, "it has no config.json"),
        ("provenance.json", lambda data: data[:-20], "cannot be read"),
        ("provenance.json", None, "cannot be read"),
        ("metrics.jsonl", lambda data: b"nonsense\n" + data, "line 1 is not JSON"),
        ("metrics.jsonl", None, "has no row for step 200"),
    ],
)
def test_a_damaged_run_is_named_and_left_alone(
    name: str, damage: Any, named: str, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stopped / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    kept = {each.name: each.read_bytes() for each in stopped.iterdir() if each.name != "provenance.json"}
    message = refusal(cli, [*flags(stopped), "--resume"], capsys)
    assert named in message
    assert str(stopped) in message
    assert {each.name: each.read_bytes() for each in stopped.iterdir() if each.name != "provenance.json"} == kept


def test_a_complete_run_without_metrics_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory.create(tiny(tmp_path / "run"))
    run.mark_complete()
    del run
    with pytest.raises(SystemExit) as stop:
        cli([*flags(tmp_path / "run"), "--resume"])
    assert stop.value.code == 2
    assert f"{tmp_path / 'run'} is marked complete and has no metrics" in capsys.readouterr().err


def test_ctrl_c_leaves_a_run_that_resumes_in_a_real_process(tmp_path: Path) -> None:
    path, steps = tmp_path / "run", 800  # many epochs: the signal has to arrive before the end, on any machine
    command = [sys.executable, "-m", "m3po.train", *flags(path, total_steps=steps)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would its children, this suite's among them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not (path / "metrics.jsonl").exists() or len(RunDirectory.read(path).metrics()) < 2:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "interrupted; continue with the same command and --resume" in err
    assert not (path / "COMPLETE").exists()

    whole = train(tiny(tmp_path / "whole", total_steps=steps))
    assert without_times(train(tiny(path, total_steps=steps, resume=True)).metrics()) == without_times(whole.metrics())
    assert len(json.loads((path / "provenance.json").read_text())) == 2


def test_a_bad_value_in_a_real_process_has_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "m3po.train", *flags(tmp_path / "run", discount=1.5)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "error: --discount must be in [0, 1), got 1.5\n"


class Brittle(gym.Env[Any, Any]):
    """Ends when its single observed number leaves [-1, 1]; the action moves it."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0.0
        return np.array([self.state]), {}

    def step(self, action):
        self.state += 0.4 * float(action[0]) + 0.1 * self.np_random.standard_normal()
        return np.array([self.state]), 1.0, abs(self.state) > 1.0, False, {}


class Telling(Brittle):
    def terminated(self, observation):
        return np.abs(observation[:, 0]) > 1.0


@pytest.fixture
def _brittle_environments():
    for kind in (Brittle, Telling, Moody, Broken):
        gym.register(id=f"test/{kind.__name__}-v0", entry_point=f"{__name__}:{kind.__name__}", max_episode_steps=20)
    yield
    for kind in (Brittle, Telling, Moody, Broken):
        del gym.registry[f"test/{kind.__name__}-v0"]


@pytest.mark.usefixtures("_brittle_environments")
def test_an_environment_that_ends_must_say_when_so_that_rollouts_in_the_model_end_too(tmp_path):
    with pytest.raises(ValueError, match=r"Brittle-v0 ended an episode but has no method terminated"):
        train(tiny(tmp_path / "brittle", env_id="test/Brittle-v0"))


class Moody(Telling):
    """Its seed does not decide what happens."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None, options=options)

    def terminated(self, observation):
        return np.zeros(len(observation), dtype=bool)

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


class Broken(Telling):
    """Returns no number after a while."""

    def step(self, action):
        self.steps = getattr(self, "steps", 0) + 1
        observation, *rest = super().step(action)
        return np.where(self.steps > 30, np.nan, observation), *rest


@pytest.mark.usefixtures("_brittle_environments")
def test_an_environment_that_does_not_repeat_itself_costs_the_episode_and_is_recorded(tmp_path, monkeypatch, capsys):
    changes = {"env_id": "test/Moody-v0", "epoch_steps": 30, "rollout_interval": 10, "total_steps": 190}
    interrupt_after(145, monkeypatch)
    assert main(tiny(tmp_path / "run", **changes)) == 130
    monkeypatch.undo()
    resumed = train(tiny(tmp_path / "run", resume=True, **changes))
    assert "does not repeat itself" in capsys.readouterr().err
    assert [session.get("episode_given_up_at_step") for session in resumed.provenance()] == [None, 130]
    first = resumed.load_checkpoint()["environment_buffer"]["first"]
    assert first[129] == 120
    assert first[130] == 130


@pytest.mark.parametrize("changed", ["rewards", "observations", "tokens"])
@pytest.mark.parametrize("step", [100, 149])
def test_an_episode_is_only_taken_up_where_everything_repeats(changed, step, tmp_path):
    """The reward, what was seen before the step, and what was seen after it, up to the last one."""
    training: Any = M3PO(tiny(tmp_path))
    for _ in range(150):
        training.group.collect_step(random=True)
    state = training.state()
    resumed: Any = M3PO(tiny(tmp_path))
    resumed.load_state(state)
    assert resumed.collection.resume_episode()
    assert torch.equal(resumed.collection.windows.tokens, training.collection.windows.tokens)
    assert torch.equal(resumed.collection.windows.observation, training.collection.windows.observation)
    array = getattr(resumed.environment_buffer, changed)
    array[step] = torch.nextafter(array[step], torch.full_like(array[step], torch.inf))
    assert not resumed.collection.resume_episode()


def training_to(training: M3PO, steps: int) -> None:
    while training.steps < steps:
        training.group.collect_step(random=True)


@pytest.mark.usefixtures("_brittle_environments")
def test_an_observation_that_is_no_number_stops_the_training_and_is_named(tmp_path, capsys):
    assert main(tiny(tmp_path / "run", env_id="test/Broken-v0")) == 1
    message = capsys.readouterr().err
    assert "test/Broken-v0 returned observation [nan] and reward 1.0 at step 15 of episode 5 of a trial" in message
    assert not (tmp_path / "run").exists()
    training = M3PO(tiny(tmp_path / "run", env_id="test/Broken-v0"))
    with pytest.raises(DivergenceError, match=r"observation \[nan\] and reward 1.0 at real step 31, for action \["):
        training_to(training, 31)


@pytest.mark.usefixtures("_brittle_environments")
def test_rollouts_in_the_model_end_where_the_environment_says(tmp_path):
    training = M3PO(tiny(tmp_path / "telling", env_id="test/Telling-v0", rollout_length=5))
    for _ in range(60):
        training.group.collect_step(random=True)
    assert training.environment_buffer.terminated[:60].any()
    seen: list[Any] = []
    training.model_buffer.add = seen.append  # type: ignore[method-assign,assignment]
    training.group.add_rollouts(200)
    ended = torch.cat([1 - each.not_terminal for each in seen])
    assert 0 < ended.sum() < 200
    counts = [len(each.reward) for each in seen]
    assert counts[1] == counts[0] - (1 - seen[0].not_terminal).sum()


@pytest.mark.slow
def test_a_terminal_that_is_closed_or_full_does_not_end_a_training(finished: RunDirectory, tmp_path: Path) -> None:
    """In real processes: stderr and stdout closed, full, and read by nobody."""
    read_end, nobody = os.pipe()
    os.close(read_end)
    with Path("/dev/full").open("w") as full:
        for name, stream in (("closed", None), ("full", full), ("broken", nobody)):
            close = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"] if stream is None else []
            command = [*close, sys.executable, "-m", "m3po.train", *flags(tmp_path / name)]
            done = subprocess.run(command, stdout=stream, stderr=stream, check=False, timeout=600)
            assert done.returncode == 0, name
            assert_same_runs(RunDirectory.read(tmp_path / name), finished)
    os.close(nobody)


def test_from_previous_goes_with_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--from-previous goes with --resume" in refusal(cli, [*flags(tmp_path / "run"), "--from-previous"], capsys)
    assert not (tmp_path / "run").exists()


def test_an_environment_that_goes_elsewhere_takes_no_run_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = trial.try_environment
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()

    def moving(*words: Any, **options: Any) -> Any:
        os.chdir(tmp_path / "elsewhere")
        return make(*words, **options)

    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(train_module, "try_environment", moving)
    run = train(tiny(Path("run"), total_steps=60, initial_random_steps=60))
    assert run.path == tmp_path / "here" / "run"
    assert run.complete
    assert not list((tmp_path / "elsewhere").iterdir())


def test_only_the_command_sets_what_the_whole_process_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's threads and malloc's habits are the process's: a training that is only looked at leaves them alone."""
    set_: list[Any] = []
    monkeypatch.setattr(torch, "set_num_threads", set_.append)
    monkeypatch.setattr(train_module, "keep_freed_memory", lambda: set_.append("malloc"))
    config = tiny(tmp_path / "run", total_steps=60, initial_random_steps=60, threads=2)
    M3PO(config).state()
    assert set_ == []
    train(config)
    assert set_ == [2, "malloc"]
