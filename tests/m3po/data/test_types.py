"""Histories that grow by pushing, against python lists."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from m3po.data.types import Windows
from tests.m3po.small import ACTION, OBSERVATION, assert_window, episodes_of, filled_buffer


@given(st.integers(0, 12), st.integers(0, 5), st.integers(0, 1000))
def test_pushing_an_episode_step_by_step_gives_its_windows(steps: int, history_length: int, seed: int) -> None:
    first, second = episodes_of([steps, steps], seed)
    windows = Windows.initial(torch.tensor([first.observations[0], second.observations[0]]), history_length, ACTION)
    for t in range(steps + 1):
        assert windows.tokens.shape == (2, history_length, 2 * OBSERVATION + ACTION)
        assert_window(windows, 0, *first.window(t, history_length))
        assert_window(windows, 1, *second.window(t, history_length))
        if t < steps:
            actions = torch.tensor([first.actions[t], second.actions[t]])
            windows = windows.push(actions, torch.tensor([first.observations[t + 1], second.observations[t + 1]]))


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.integers(0, 4), st.integers(0, 1000))
def test_push_treats_windows_of_different_lengths_each_in_its_own_place(
    lengths: list[int], history_length: int, seed: int
) -> None:
    episodes = episodes_of(lengths, seed)
    steps = [(episode, t) for episode in episodes for t in range(len(episode.rewards))]
    windows = filled_buffer(episodes, history_length).windows(torch.arange(len(steps)))
    tokens, lengths_before = windows.tokens.clone(), windows.lengths.clone()
    pushed = windows.push(
        torch.tensor([episode.actions[t] for episode, t in steps]),
        torch.tensor([episode.observations[t + 1] for episode, t in steps]),
    )
    for row, (episode, t) in enumerate(steps):
        assert_window(pushed, row, *episode.window(t + 1, history_length))
    # The histories that were pushed to stay what they were: rollouts branch from them again.
    assert torch.equal(windows.tokens, tokens)
    assert torch.equal(windows.lengths, lengths_before)


@given(st.integers(1, 10), st.integers(0, 5), st.integers(0, 1000), st.data())
def test_forget_drops_the_oldest_steps(steps: int, history_length: int, seed: int, data: st.DataObject) -> None:
    (episode,) = episodes_of([steps], seed)
    windows = filled_buffer([episode], history_length).windows(torch.arange(steps))
    kept = [data.draw(st.integers(0, min(t, history_length)), label=f"kept at {t}") for t in range(steps)]
    shorter = windows.forget(torch.tensor(kept))
    for t in range(steps):
        tokens, observation = episode.window(t, history_length)
        assert_window(shorter, t, tokens[len(tokens) - kept[t] :], observation)


def test_select_takes_rows_by_index_and_by_mask() -> None:
    (episode,) = episodes_of([6], seed=5)
    windows = filled_buffer([episode], history_length=2).windows(torch.arange(6))
    for chosen in (torch.tensor([4, 1]), torch.tensor([False, True, False, False, True, False])):
        selected = windows.select(chosen)
        order = chosen.tolist() if chosen.dtype == torch.int64 else [1, 4]
        assert len(selected.lengths) == 2
        for row, t in enumerate(order):
            assert_window(selected, row, *episode.window(t, 2))
