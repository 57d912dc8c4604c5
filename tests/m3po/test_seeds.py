"""No two purposes share random numbers, and a training's own streams are what they always were."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.guarantee import subject
from analysis.report import findings
from m3po import episodes, seeds
from m3po.agents.collection import Collection
from m3po.config import Config
from m3po.seeds import TRAINING, Purpose, environment_seeds, sequence, torch_generator

PLACES: dict[Purpose, list[tuple[int, ...]]] = {
    Purpose.TRAINING_EPISODE: [(each,) for each in range(60)],
    Purpose.TRAINING_MEASUREMENT: [(each,) for each in (0, 1, 2, 3, 5, 60, 500, 10_000, 2**32 - 1)],
    Purpose.GUARANTEE: [()],
    Purpose.SURROGATES: [()],
    Purpose.THROUGH_TRAINING: list(itertools.product((0, 1, 3, 1000), (0, 1, 2, 4))),
    Purpose.NOISE_LEVEL: list(itertools.product((0, 1), (0, 1, 2, 100_000))),
    Purpose.NOISE_FREE: [()],
    Purpose.EVALUATION: [()],
    Purpose.TASK_IN_ENCODINGS: [()],
    Purpose.NEW_GENERATOR: [(each,) for each in (0, 1, 60)],
    Purpose.RESERVED_EPISODES: [(each,) for each in (0, 1, 60)],
    Purpose.POLICY_LIMIT: [(each,) for each in (0, 1, 60)],
    Purpose.LIMITED_MOVES: [(each,) for each in (0, 1, 60)],
    Purpose.MODEL_SAMPLES: [()],
    Purpose.COLLECTED: [(each,) for each in (0, 1, 2)],
    Purpose.CERTIFIED_BY_AGE: list(itertools.product((0, 1, 200), (0, 1, 2))),
}
SEEDS = (*range(40), 2**31, 2**32 - 1)


def streams() -> list[tuple[Any, np.random.SeedSequence]]:
    return [
        ((purpose, seed, place), sequence(purpose, seed, *place))
        for purpose in Purpose
        for seed in SEEDS
        for place in PLACES[purpose]
    ]


def state_of(stream: np.random.SeedSequence) -> tuple[int, ...]:
    """128 bits: two streams with the same are the same."""
    return tuple(stream.generate_state(4).tolist())


def test_no_two_purposes_seeds_or_places_share_a_sequence() -> None:
    seen: dict[tuple[int, ...], Any] = {}
    for where, stream in streams():
        state = state_of(stream)
        assert state not in seen, (where, seen[state])
        seen[state] = where
    assert len(seen) > 4000


def test_huge_seeds_share_nothing_with_another_purpose() -> None:
    """[a + b 2^32] is [a, b], so these would meet were the purposes words of the entropy. (The measurements of one
    training and the episodes of another with such a seed do: neither is fresh.)"""
    seen: dict[tuple[int, ...], Purpose] = {}
    for purpose in Purpose:
        for low, high in itertools.product((0, 1, 2, 5), (0, 1, 2, 60)):
            for place in PLACES[purpose][:12]:
                state = state_of(sequence(purpose, low + high * 2**32, *place))
                other = seen.setdefault(state, purpose)
                assert other is purpose or {other, purpose} == set(TRAINING)
    # The mistake this guards against: word lists of "another purpose" that are an episode of a training.
    assert state_of(np.random.SeedSequence([0, 2])) == state_of(sequence(Purpose.TRAINING_EPISODE, 0, 2))


def test_environment_seeds_and_generators_are_apart() -> None:
    """2^32 seeds are few: of some hundred thousand pairs a handful may meet, a shared stream would meet everywhere."""
    by_purpose = {
        purpose: {
            found
            for seed in SEEDS
            for place in PLACES[purpose]
            for found in environment_seeds(purpose, seed, *place, count=3)
        }
        for purpose in Purpose
    }
    for one, other in itertools.combinations(Purpose, 2):
        assert len(by_purpose[one] & by_purpose[other]) <= 1
    generators = {torch_generator(purpose, 0, *PLACES[purpose][0]).initial_seed() for purpose in Purpose}
    assert len(generators) == len(Purpose)
    assert generators.isdisjoint(by_purpose[Purpose.GUARANTEE])


def test_a_trainings_own_streams_are_what_they_always_were() -> None:
    assert environment_seeds(Purpose.TRAINING_EPISODE, 7, 3, count=1) == [
        int(np.random.SeedSequence([7, 3]).generate_state(1)[0])
    ]
    assert environment_seeds(Purpose.TRAINING_MEASUREMENT, 7, 500, count=3) == [
        int(each) for each in np.random.SeedSequence([7, 500, 1]).generate_state(3)
    ]
    assert environment_seeds(Purpose.TRAINING_EPISODE, 0, 2, count=1) == [3141116543]  # of numpy 1.17 and later


def test_the_first_seeds_do_not_depend_on_how_many_are_asked_for() -> None:
    assert environment_seeds(Purpose.GUARANTEE, 1, count=5)[:2] == environment_seeds(Purpose.GUARANTEE, 1, count=2)


def test_generators_repeat_themselves() -> None:
    one, two = (torch.rand(3, generator=torch_generator(Purpose.GUARANTEE, 4)) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: sequence(Purpose.GUARANTEE, -1), "got -1"),
        (lambda: sequence(Purpose.TRAINING_EPISODE, 2**64, 0), "--seed must be in [0, 2^64)"),
        (lambda: sequence(Purpose.GUARANTEE, 2**128), "--seed must be in [0, 2^128)"),
        (lambda: sequence(Purpose.THROUGH_TRAINING, 0, 2**32, 1), "(4294967296, 1)"),
    ],
)
def test_numbers_that_would_overlap_are_refused(call: Any, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        call()


def test_no_module_makes_a_seed_sequence_of_its_own() -> None:
    root = Path(seeds.__file__).parent.parent
    for package in ("m3po", "analysis"):
        for file in (root / package).rglob("*.py"):
            if file != Path(seeds.__file__):
                assert "SeedSequence(" not in file.read_text(), file


def test_fresh_episodes_of_the_commands_are_not_those_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every environment seed that a training uses, and every one that a check of it does."""
    from m3po.train import train
    from tests.analysis.conftest import tiny_config

    own: set[int] = set()
    episode_seed, run_episodes = Collection._episode_seed, episodes.run_episodes

    def noted(collection: Collection) -> int:
        own.add(episode_seed(collection))
        return episode_seed(collection)

    monkeypatch.setattr(Collection, "_episode_seed", noted)
    config: Config = tiny_config(tmp_path / "run", seed=0)
    train(config)
    fresh: list[int] = []

    def spied(*arguments: Any, seed: int, **keywords: Any) -> Any:
        fresh.append(seed)
        return run_episodes(*arguments, seed=seed, **keywords)

    monkeypatch.setattr(subject, "run_episodes", spied)
    findings.findings(tmp_path / "run", episodes=5, confidence=0.95, seed=0)
    assert len(own) >= 6
    assert len(fresh) == 3
    assert own.isdisjoint(fresh)
    assert set(TRAINING).isdisjoint({Purpose.GUARANTEE, Purpose.SURROGATES})
