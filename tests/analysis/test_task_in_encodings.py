"""The readout finds what is there and nothing else, and the command says so about a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.guarantee.subject import Subject
from analysis.task_in_encodings import cli, measure, named
from m3po.errors import EncodedTrajectories
from tests.command_errors import refusal


def steps_of_three_tasks(episodes: int = 12, steps: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Tasks [N, H] that change within episodes, half of them task 7, and one coordinate that has noise alone."""
    rng = np.random.default_rng(0)
    tasks = rng.choice([2, 7, 9], p=[0.25, 0.5, 0.25], size=(episodes, steps // 10)).repeat(10, axis=1)
    return tasks, rng.standard_normal((episodes, steps))


def test_what_is_there_is_read_and_noise_is_not():
    tasks, noise = steps_of_three_tasks()
    valid = np.ones_like(tasks, dtype=bool)
    told = np.stack([(tasks == 2) * 3.0, noise, (tasks == 9) * -1e4], axis=-1)
    assert named(told, tasks, valid).mean == 1.0
    judged = tasks[1::2]
    commonest = named(told[..., :0], tasks, valid)
    assert commonest.mean == pytest.approx((judged == 7).mean())
    assert commonest.error == pytest.approx((judged == 7).mean(axis=1).std(ddof=1) / np.sqrt(len(judged)))
    assert abs(named(noise[..., None], tasks, valid).mean - commonest.mean) < 0.1
    assert named(told[..., :2], tasks, valid).mean == pytest.approx((judged != 9).mean())


def test_what_is_not_valid_neither_fits_nor_counts():
    tasks, _ = steps_of_three_tasks()
    valid = np.ones_like(tasks, dtype=bool)
    valid[:, 20:] = False
    told = np.stack([tasks == 2, tasks == 9], axis=-1) * 1.0
    told[:, 20:] = told[:, 20:, ::-1]
    assert named(told, tasks, valid).mean == 1.0
    assert named(told, tasks, np.ones_like(valid)).mean < 0.9


def test_the_readout_is_judged_on_episodes_that_did_not_fit_it():
    tasks, _ = steps_of_three_tasks()
    valid = np.ones_like(tasks, dtype=bool)
    by_episode = np.zeros((*tasks.shape, len(tasks) * 5))
    for episode in range(len(tasks)):  # a coordinate for every stretch of every episode
        for step in range(tasks.shape[1]):
            by_episode[episode, step, 5 * episode + step // 10] = 1.0
    assert named(by_episode, tasks, valid).mean < 0.65


def printed(capsys, *flags: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli(list(flags))
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_the_command_tells_of_a_run(tiny_run: Path, capsys):
    record = json.loads(printed(capsys, str(tiny_run), "--episodes", "8", "--json"))
    assert list(record["shares"]) == ["the commonest", "observation", "encoding", "both"]
    assert all(0 <= share["mean"] <= 1 and share["error"] >= 0 for share in record["shares"].values())
    assert record["shares"]["encoding"] != record["shares"]["observation"]
    lines = printed(capsys, str(tiny_run), "--episodes", "8").splitlines()
    for line, (name, share) in zip(lines[1:], record["shares"].items(), strict=True):
        assert line.split("+-")[0].split() == [*name.split(), f"{share['mean']:.3f}"]
    again = json.loads(printed(capsys, str(tiny_run), "--episodes", "8", "--seed", "1", "--json"))
    assert again["shares"] != record["shares"]


def test_each_share_is_that_of_its_part_of_the_features(tiny_run: Path):
    subject = Subject.restored(tiny_run).on_own_data()
    trajectories = subject.episodes(8, seed=3, generator=torch.Generator().manual_seed(0))
    encoder, (tasks, valid) = subject.policy.encoder, (trajectories.tasks, trajectories.valid)
    shares = measure(encoder, trajectories)
    kinds, counts = np.unique(tasks[::2][valid[::2]], return_counts=True)
    assert shares["the commonest"].mean == pytest.approx((tasks[1::2] == kinds[counts.argmax()])[valid[1::2]].mean())
    data = EncodedTrajectories.of(trajectories, encoder.history_length, torch.device("cpu"))
    features = data.features(encoder).double().numpy().reshape(*tasks.shape, -1)
    size = trajectories.observations.shape[-1]
    for name, part in (("observation", slice(size)), ("encoding", slice(size, None)), ("both", slice(None))):
        assert shares[name] == named(features[..., part], tasks, valid)


def test_wrong_values_are_named(tiny_run: Path, tmp_path: Path, capsys):
    assert "--episodes must be >= 4, got 3" in refusal(cli, [tiny_run, "--episodes", 3], capsys)
    assert "none" in refusal(cli, [tmp_path / "none"], capsys)
