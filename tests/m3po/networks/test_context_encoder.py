"""The encoder against a GRU cell stepped by hand, and the normalisers."""

import pytest
import torch
from torch import nn

from m3po.data.types import Windows
from m3po.networks.context_encoder import ContextEncoder, Normaliser
from m3po.networks.recurrent_scan import GRU
from tests.m3po.small import ACTION, OBSERVATION, encoder, episodes_of, filled_buffer, random_windows


@torch.no_grad()
def torch_cell(gru: GRU) -> nn.GRUCell:
    """torch's own cell with the same weights."""
    cell = nn.GRUCell(gru.input_weight.shape[1], gru.recurrent_weight.shape[1])
    for name, value in (
        ("weight_ih", gru.input_weight), ("weight_hh", gru.recurrent_weight), ("bias_ih", gru.input_bias),
        ("bias_hh", gru.recurrent_bias),
    ):  # fmt: skip
        getattr(cell, name).copy_(value)
    return cell


@torch.no_grad()
def by_hand(built: ContextEncoder, windows: Windows, row: int) -> torch.Tensor:
    """Features of one row: a GRU cell stepped over its valid tokens, from the learned state."""
    cell = torch_cell(built.gru)
    hidden = built.initial_context[None]
    linear = built.embed.linear
    for token in windows.tokens[row, windows.tokens.shape[1] - int(windows.lengths[row]) :]:
        normalised = (token - built.token_normaliser.mean) / built.token_normaliser.std
        gate, value = (linear.weight @ normalised + linear.bias).chunk(2)
        hidden = cell((gate * torch.sigmoid(gate) * value)[None], hidden)
    normaliser = built.observation_normaliser
    return torch.cat([(windows.observation[row] - normaliser.mean) / normaliser.std, hidden[0]])


@pytest.mark.parametrize("history_length", [1, 3, 6])
def test_features_are_a_recurrence_over_the_valid_tokens(history_length: int) -> None:
    built = encoder(history_length)
    windows = random_windows(20, history_length)
    assert set(windows.lengths.tolist()) == set(range(history_length + 1))
    features = built(windows)
    assert features.shape == (20, built.feature_size)
    for row in range(20):
        torch.testing.assert_close(features[row].detach(), by_hand(built, windows, row), rtol=1e-5, atol=1e-5)


def test_what_unused_places_hold_has_no_influence() -> None:
    built = encoder(4)
    windows = random_windows(16, 4)
    unused = torch.arange(4) < 4 - windows.lengths[:, None]
    assert unused.any()
    tokens = torch.where(unused[..., None], torch.full_like(windows.tokens, 1e3), windows.tokens)
    spoiled = Windows(tokens, windows.lengths, windows.observation)
    assert torch.equal(built(spoiled), built(windows))


def test_used_places_do_have_influence() -> None:
    built = encoder(4)
    windows = random_windows(16, 4)
    before = built(windows)
    for place in range(4):
        tokens = windows.tokens.clone()
        tokens[:, place] += 1.0
        changed = (built(Windows(tokens, windows.lengths, windows.observation)) != before).any(dim=1)
        assert torch.equal(changed, windows.lengths >= 4 - place)


def test_with_no_past_the_context_is_the_learned_initial_state() -> None:
    built = encoder(3)
    windows = Windows.initial(torch.randn(5, OBSERVATION, generator=torch.Generator().manual_seed(0)), 3, ACTION)
    context = built(windows)[:, OBSERVATION:]
    assert torch.equal(context, built.initial_context.expand(5, -1))
    fresh = ContextEncoder(OBSERVATION, ACTION, 3, 5)
    assert not fresh(windows)[:, OBSERVATION:].any()


def test_without_history_only_the_observation_is_left() -> None:
    built = encoder(0)
    windows = random_windows(6, 0)
    normaliser = built.observation_normaliser
    assert built.feature_size == OBSERVATION
    expected = (windows.observation - normaliser.mean) / normaliser.std
    torch.testing.assert_close(built(windows), expected, rtol=0, atol=0)
    assert list(built.parameters()) == []


def test_gradients_reach_every_weight() -> None:
    built = encoder(3)
    built(random_windows(12, 3))[:, OBSERVATION:].square().sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_normaliser_centres_and_scales_and_leaves_constants_alone() -> None:
    values = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.5, 1.0]) + 2.0
    values[:, 2] = 7.0
    normaliser = Normaliser(3)
    assert torch.equal(normaliser(values), values)
    normaliser.fit(values)
    normalised = normaliser(values)
    torch.testing.assert_close(normalised.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-5)
    expected = torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(normalised.std(dim=0, correction=0), expected, rtol=0, atol=1e-5)
    assert normaliser.std[2] == 1


def test_fit_takes_the_observation_from_the_front_of_the_tokens() -> None:
    built = ContextEncoder(OBSERVATION, ACTION, 2, 4)
    tokens = torch.randn(100, 2 * OBSERVATION + ACTION, generator=torch.Generator().manual_seed(0)) * 3 + 1
    built.fit(tokens)
    torch.testing.assert_close(built.token_normaliser.mean, tokens.mean(dim=0))
    torch.testing.assert_close(built.token_normaliser.std, tokens.std(dim=0, correction=0))
    assert torch.equal(built.observation_normaliser.mean, built.token_normaliser.mean[:OBSERVATION])
    assert torch.equal(built.observation_normaliser.std, built.token_normaliser.std[:OBSERVATION])


@pytest.mark.parametrize("history_length", [0, 1, 4])
def test_both_ends_of_a_transition_are_encoded_as_their_windows_are(history_length: int) -> None:
    built = encoder(history_length)
    buffer = filled_buffer(episodes_of([2, 7, 5], seed=6), history_length)
    indices = torch.arange(14)
    segments = buffer.segments(indices)
    transitions = built.transitions(segments)
    windows = buffer.windows(indices)
    following = windows.push(buffer.actions(indices), windows.observation + buffer.targets(indices)[:, :OBSERVATION])
    torch.testing.assert_close(transitions.features, built(windows), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(transitions.next_features, built(following), rtol=1e-5, atol=1e-5)
    assert torch.equal(transitions.action, buffer.actions(indices))
    assert torch.equal(transitions.reward, buffer.rewards[indices])
    assert transitions.features.requires_grad == (history_length > 0)
    assert not transitions.next_features.requires_grad


def test_the_gradient_through_transitions_is_that_through_windows() -> None:
    built = encoder(4)
    buffer = filled_buffer(episodes_of([3, 9], seed=6), 4)
    indices = torch.arange(12)
    gradients = []
    for encode in (
        lambda: built(buffer.windows(indices)),
        lambda: built.transitions(buffer.segments(indices)).features,
    ):
        built.zero_grad()
        encode().sin().sum().backward()
        gradients.append([parameter.grad for parameter in built.parameters()])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right)


def test_copied_normalisers_are_those_of_the_other_encoder() -> None:
    one, other = encoder(3, seed=0), encoder(3, seed=9)
    windows = random_windows(8, 3)
    other.copy_normalisers(one)
    assert torch.equal(other.token_normaliser.std, one.token_normaliser.std)
    assert torch.equal(other(windows)[:, :OBSERVATION], one(windows)[:, :OBSERVATION])
    assert not torch.equal(other(windows), one(windows))
