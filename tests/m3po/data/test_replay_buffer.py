"""The real transitions against python lists; the ring of model transitions against a deque."""

from collections import deque
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3po.data.replay_buffer import EnvironmentBuffer, ModelBuffer
from m3po.data.types import Transitions
from tests.m3po.small import ACTION, CPU, OBSERVATION, assert_window, episodes_of, filled_buffer

EPISODE_LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(EPISODE_LENGTHS, st.integers(0, 5), st.integers(0, 1000))
def test_windows_are_the_last_steps_of_their_own_episode(lengths: list[int], history_length: int, seed: int) -> None:
    episodes = episodes_of(lengths, seed)
    buffer = filled_buffer(episodes, history_length)
    windows = buffer.windows(torch.arange(buffer.size))
    row = 0
    for episode in episodes:
        for t in range(len(episode.rewards)):
            assert_window(windows, row, *episode.window(t, history_length))
            row += 1
    assert row == buffer.size == len(windows.lengths)


def test_windows_come_in_the_order_asked_for() -> None:
    episodes = episodes_of([4, 3], seed=1)
    buffer = filled_buffer(episodes, history_length=2)
    windows = buffer.windows(torch.tensor([6, 0, 6, 3]))
    for row, (episode, t) in enumerate([(1, 2), (0, 0), (1, 2), (0, 3)]):
        assert_window(windows, row, *episodes[episode].window(t, 2))


@given(EPISODE_LENGTHS, st.integers(0, 1000))
def test_actions_targets_outcomes_and_episode_starts(lengths: list[int], seed: int) -> None:
    episodes = episodes_of(lengths, seed)
    buffer = filled_buffer(episodes, history_length=2)
    indices = torch.arange(buffer.size)
    actions = [action for episode in episodes for action in episode.actions]
    torch.testing.assert_close(buffer.actions(indices), torch.tensor(actions), rtol=0, atol=0)
    targets = []
    for episode in episodes:
        for t, reward in enumerate(episode.rewards):
            pair = zip(episode.observations[t], episode.observations[t + 1], strict=True)
            targets.append([*(after - before for before, after in pair), reward])
    torch.testing.assert_close(buffer.targets(indices), torch.tensor(targets), rtol=0, atol=1e-6)
    outcomes = [[*e.observations[t + 1], reward] for e in episodes for t, reward in enumerate(e.rewards)]
    torch.testing.assert_close(buffer.outcomes(), torch.tensor(outcomes), rtol=0, atol=1e-6)
    assert buffer.initial_indices().tolist() == [sum(lengths[:i]) for i in range(len(lengths))]


def test_termination_is_stored_with_its_step() -> None:
    buffer = EnvironmentBuffer(3, 1, 1, history_length=1, members=1, holdout=0.5, device=CPU)
    generator = torch.Generator().manual_seed(0)
    for terminated in (False, True, False):
        buffer.add(
            torch.zeros(1),
            torch.zeros(1),
            0.0,
            torch.zeros(1),
            terminated=terminated,
            starts_episode=True,
            generator=generator,
        )
    assert buffer.terminated.tolist() == [False, True, False]


def test_a_full_buffer_refuses_and_forgets_nothing() -> None:
    (episode,) = episodes_of([3], seed=0)
    buffer = filled_buffer([episode], history_length=1)
    before = buffer.state()
    with pytest.raises(ValueError, match="full \\(3 transitions\\)"):
        buffer.add(
            torch.zeros(OBSERVATION),
            torch.zeros(ACTION),
            0.0,
            torch.zeros(OBSERVATION),
            terminated=False,
            starts_episode=True,
            generator=torch.Generator(),
        )
    assert buffer.size == 3
    assert all(torch.equal(values, before[name]) for name, values in buffer.state().items())


def test_bootstrap_counts_are_poisson_and_the_holdout_has_its_share() -> None:
    count, members, holdout = 4000, 3, 0.2
    buffer = filled_buffer(episodes_of([100] * 40, seed=2), 0, members=members, holdout=holdout)
    weights = buffer.member_weights.double()
    assert torch.equal(weights, weights.round())
    # Poisson(1): mean 1 and variance 1; the variance of the sample variance is (mu_4 - 1) / n = 3 / n.
    assert weights.mean() == pytest.approx(1.0, abs=4 / (count * members) ** 0.5)
    assert weights.var() == pytest.approx(1.0, abs=4 * (3 / (count * members)) ** 0.5)
    # Members draw independently of each other and of the holdout.
    correlations = torch.corrcoef(torch.cat([weights, buffer.held_out.double()[:, None]], dim=1).T)
    assert (correlations - torch.eye(members + 1)).abs().max() < 4.5 / count**0.5
    share = buffer.held_out.double().mean()
    assert share == pytest.approx(holdout, abs=4 * (holdout * (1 - holdout) / count) ** 0.5)


@given(EPISODE_LENGTHS, st.integers(0, 3))
def test_state_survives_a_checkpoint(lengths: list[int], seed: int) -> None:
    buffer = filled_buffer(episodes_of(lengths, seed), history_length=2, seed=seed)
    copy = EnvironmentBuffer(
        buffer.capacity + 2, OBSERVATION, ACTION, history_length=2, members=2, holdout=0.2, device=CPU
    )
    copy.load_state(buffer.state())
    assert copy.size == buffer.size
    indices = torch.arange(buffer.size)
    assert torch.equal(copy.windows(indices).tokens, buffer.windows(indices).tokens)
    assert torch.equal(copy.targets(indices), buffer.targets(indices))
    for name in ("terminated", "first", "member_weights", "held_out"):
        assert torch.equal(getattr(copy, name)[: copy.size], getattr(buffer, name)), name


def numbered(values: list[int]) -> Transitions:
    """Transitions whose every field tells which one it is."""
    base = torch.tensor(values, dtype=torch.float32)
    return Transitions(
        features=torch.stack([base, base + 0.1], dim=1),
        action=base[:, None] + 0.2,
        reward=base + 0.3,
        next_features=torch.stack([base + 0.4, base + 0.5], dim=1),
        not_terminal=base + 0.6,
    )


def sampled(buffer: ModelBuffer[Transitions], count: int, seed: int = 0) -> list[int]:
    """The numbers of a sample, after checking that the fields of each row belong together."""
    batch = buffer.sample(count, torch.Generator().manual_seed(seed))
    values = [round(value) for value in batch.features[:, 0].tolist()]
    expected = numbered(values)
    for field in fields(Transitions):
        torch.testing.assert_close(getattr(batch, field.name), getattr(expected, field.name), rtol=0, atol=0)
    return values


@given(st.integers(1, 7), st.lists(st.integers(0, 7), max_size=6), st.integers(0, 1000))
def test_model_buffer_holds_the_newest(capacity: int, counts: list[int], seed: int) -> None:
    buffer: ModelBuffer[Transitions] = ModelBuffer(capacity)
    reference: deque[int] = deque(maxlen=capacity)
    number = 0
    for count in counts:
        values = list(range(number, number + min(count, capacity)))
        number += len(values)
        buffer.add(numbered(values))
        reference.extend(values)
    assert buffer.size == len(reference)
    if reference:
        assert set(sampled(buffer, 60 * capacity, seed)) == set(reference)


def test_model_buffer_samples_uniformly() -> None:
    buffer: ModelBuffer[Transitions] = ModelBuffer(5)
    buffer.add(numbered([0, 1, 2, 3]))
    values = torch.tensor(sampled(buffer, 4000))
    for each in range(4):
        assert (values == each).double().mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)


def test_model_buffer_refuses_what_does_not_fit_and_what_is_not_there() -> None:
    buffer: ModelBuffer[Transitions] = ModelBuffer(3)
    with pytest.raises(ValueError, match="model buffer is empty"):
        buffer.sample(1, torch.Generator())
    with pytest.raises(ValueError, match="4 transitions do not fit into a model buffer of 3"):
        buffer.add(numbered([0, 1, 2, 3]))
    buffer.add(numbered([0, 1]))
    buffer.clear()
    assert buffer.size == 0
    with pytest.raises(ValueError, match="model buffer is empty"):
        buffer.sample(1, torch.Generator())
    buffer.add(numbered([7]))
    assert set(sampled(buffer, 20)) == {7}


@given(st.integers(1, 7), st.lists(st.integers(0, 7), max_size=6), st.integers(0, 7))
def test_model_buffer_goes_on_from_its_state_as_if_nothing_had_happened(
    capacity: int, counts: list[int], more: int
) -> None:
    buffer: ModelBuffer[Transitions] = ModelBuffer(capacity)
    number = 0
    for count in counts:
        buffer.add(numbered(list(range(number, number + min(count, capacity)))))
        number += min(count, capacity)
    copy: ModelBuffer[Transitions] = ModelBuffer(capacity)
    copy.load_state(buffer.state(), Transitions)
    for each in (buffer, copy):
        each.add(numbered(list(range(number, number + min(more, capacity)))))
    assert copy.size == buffer.size
    if buffer.size:
        assert sampled(copy, 50) == sampled(buffer, 50)


@given(EPISODE_LENGTHS, st.integers(0, 4), st.integers(0, 1000))
def test_segments_hold_the_window_and_the_step_after_it(lengths: list[int], history_length: int, seed: int) -> None:
    buffer = filled_buffer(episodes_of(lengths, seed), history_length, seed=seed)
    buffer.terminated[::3] = True
    indices = torch.arange(buffer.size).flip(0)
    segments, windows = buffer.segments(indices), buffer.windows(indices)
    assert torch.equal(segments.tokens[:, :-1], windows.tokens)
    assert torch.equal(segments.tokens[:, -1], buffer.tokens[indices])
    assert torch.equal(segments.lengths, windows.lengths)
    assert torch.equal(segments.reward, buffer.rewards[indices])
    assert segments.not_terminal.tolist() == [0.0 if index % 3 == 0 else 1.0 for index in indices.tolist()]


@given(EPISODE_LENGTHS, st.integers(0, 4), st.integers(1, 4), st.integers(0, 1000), st.integers(0, 2))
def test_stretches_are_the_steps_around_a_step_within_its_episode(
    lengths: list[int], past: int, following: int, seed: int, room: int
) -> None:
    buffer = filled_buffer(episodes_of(lengths, seed), history_length=2, seed=seed, capacity=sum(lengths) + room)
    buffer.terminated[::3] = True
    stretches = buffer.stretches(torch.arange(buffer.size), past, following)
    assert stretches.tokens.shape[:2] == stretches.used.shape == (buffer.size, past + following)
    assert stretches.reward.shape == stretches.not_terminal.shape == (buffer.size, following)
    for index in range(buffer.size):
        for place, step in enumerate(range(index - past, index + following)):
            same = 0 <= step < buffer.size and bool(buffer.first[step] == buffer.first[index])
            assert bool(stretches.used[index, place]) == same
            if same:
                assert torch.equal(stretches.tokens[index, place], buffer.tokens[step])
            if same and place >= past:
                assert stretches.reward[index, place - past] == buffer.rewards[step]
                assert stretches.not_terminal[index, place - past] == float(step % 3 != 0)
