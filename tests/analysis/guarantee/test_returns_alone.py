"""What real returns say without the model, in an audit of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from analysis import check_guarantee
from analysis.guarantee.audit import CheckConfig, audit
from analysis.guarantee.returns_alone import ReturnsAlone
from analysis.guarantee.subject import Subject
from analysis.report.answer import alone_sentence
from bounds.confidence import betting
from m3po.agents.reserved_episodes import ReservedEpisodes
from m3po.runs.run_directory import RunDirectory
from m3po.seeds import Purpose, torch_generator
from m3po.train import train
from tests.analysis.conftest import tiny_config


@pytest.fixture(scope="module")
def reserving_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that reserved two of its episodes."""
    path = tmp_path_factory.mktemp("runs") / "reserving"
    train(dataclasses.replace(tiny_config(path), initial_random_steps=200, reserved_share=0.4))
    return path


def test_reserved_episodes_answer_before_fresh_ones(reserving_run: Path) -> None:
    found = audit(CheckConfig(run_dir=reserving_run, episodes=20, confidence=0.9))
    logged = last_row(reserving_run)
    alone = found.alone
    assert alone.reserved is not None
    assert alone.reserved_episodes == logged["reserved_episodes"] == 2
    assert alone.reserved.used == 2
    # the run logs its bound with confidence .95; with .9 it is larger
    assert logged["certified_return"] < alone.reserved.value < alone.mean
    lines = check_guarantee.text(found).splitlines()
    assert any(f"the return is at least {alone.reserved.value:.2f}, from the newest 2 of 2" in each for each in lines)
    assert f"already guarantee at least {alone.reserved.value:.2f}".replace("-", "\N{MINUS SIGN}") in alone_sentence(
        found
    )
    record = found.record()["without_a_model"]
    assert record["reserved"]["value"] == alone.reserved.value
    assert record["reserved"]["episodes"] == 2


def last_row(run_dir: Path) -> dict[str, float]:
    return RunDirectory.read(run_dir).metrics()[-1]


def test_the_bound_from_fresh_returns_is_that_of_betting(tiny_run: Path) -> None:
    subject = Subject.restored(tiny_run).on_own_data()
    assert subject.reserved is None
    episodes = subject.episodes(40, seed=1, generator=torch_generator(Purpose.GUARANTEE, 1))
    alone = ReturnsAlone.of(subject, episodes, 0.9)
    returns = episodes.returns(subject.discount)
    span = subject.returns.highest - subject.returns.lowest
    above = (returns - subject.returns.lowest) / span
    assert alone.fresh is not None
    expected = subject.returns.lowest + span * float(betting(above, 0.8).lower)  # two sides of .8: one of .9
    assert alone.fresh == pytest.approx(expected, abs=0.02 * span)
    assert subject.returns.lowest < alone.fresh < returns.mean()
    assert alone.standard_deviation == pytest.approx(np.std(returns, ddof=1))
    assert [alone.episodes_for(share) for share in (0.1, 0.05)] == sorted(
        alone.episodes_for(share) or 0 for share in (0.1, 0.05)
    )


def test_without_a_range_of_rewards_nothing_is_said(tiny_run: Path) -> None:
    subject = Subject.restored(tiny_run).on_own_data()
    episodes = subject.episodes(5, seed=1, generator=torch_generator(Purpose.GUARANTEE, 1))
    reserved = ReservedEpisodes(subject.policy.history_length)
    reserved.add(subject.policy, episodes)
    unknown = dataclasses.replace(subject, reward_low=-np.inf, reserved=reserved)
    alone = ReturnsAlone.of(unknown, episodes, 0.9)
    assert (alone.fresh, alone.reserved) == (None, None)
    assert alone.lines() == []
