"""The inner step against plain torch and a closed form, the meta-gradient against differences, and what masks do."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from m3po.agents.adaptive_model import AdaptiveModel, Weights
from m3po.data.types import newest, token_of
from tests.m3po.small import ACTION, OBSERVATION

INPUTS, TOKEN = OBSERVATION + ACTION, 2 * OBSERVATION + ACTION


def small_model(width: int = 7, layers: int = 2, seed: int = 0) -> AdaptiveModel:
    """In float64, with units that are not the normalised ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AdaptiveModel(OBSERVATION, ACTION, width, layers).double()
        tokens = torch.randn(50, TOKEN).double() * torch.linspace(0.5, 2, TOKEN) + 0.4
        model.fit(tokens, 3 * torch.randn(50).double() - 1)
    return model


def steps(count: int, length: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random tokens [N, S, 2 O + A] and rewards [N, S]."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, length, TOKEN, generator=generator, dtype=torch.float64)
    return tokens, torch.randn(count, length, generator=generator, dtype=torch.float64)


def different_weights(model: AdaptiveModel, count: int, seed: int = 2) -> Weights:
    """N sets of weights around the shared ones, so that no two rows agree."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        (weight + 0.3 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)).detach()
        for weight in model.weights(count)
    )


def plain_network(model: AdaptiveModel, weights: Weights, row: int) -> nn.Sequential:
    """Row ``row`` as torch's own layers, on normalised inputs."""
    layers: list[nn.Module] = []
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        linear = nn.Linear(*weight.shape[1:]).double()
        linear.load_state_dict({"weight": weight[row].T, "bias": bias[row, 0]})
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def normalised(model: AdaptiveModel, token: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
    """One step -> the network's input [O + A] and target [O + 1], coordinate by coordinate."""
    inputs, targets = model.input_normaliser, model.target_normaliser
    x = torch.stack([(token[i] - inputs.mean[i]) / inputs.std[i] for i in range(INPUTS)])
    values = [*token[INPUTS:], reward]
    y = torch.stack([(values[i] - targets.mean[i]) / targets.std[i] for i in range(OBSERVATION + 1)])
    return x, y


def test_losses_are_those_of_plain_layers_over_the_used_steps() -> None:
    model = small_model()
    tokens, rewards = steps(4, 5)
    weights = different_weights(model, 4)
    used = newest(torch.tensor([5, 2, 0, 1]), 5)
    losses = model.losses(weights, tokens, rewards, used)
    change_losses = model.change_losses(weights, tokens, used)
    for row in range(4):
        network = plain_network(model, weights, row)
        squares: list[list[float]] = []
        for s in range(5):
            if used[row, s]:
                x, y = normalised(model, tokens[row, s], rewards[row, s])
                squares.append(((network(x) - y) ** 2).tolist())
        assert losses[row].item() == pytest.approx(np.mean(squares) if squares else 0.0, rel=1e-12)
        changes = [each[:-1] for each in squares]
        assert change_losses[row].item() == pytest.approx(np.mean(changes) if changes else 0.0, rel=1e-12)


def test_predictions_are_in_the_units_of_the_environment() -> None:
    model = small_model()
    weights = different_weights(model, 3)
    tokens, _ = steps(3, 4)
    outcome = model.predict(weights, tokens[..., :OBSERVATION], tokens[..., OBSERVATION:INPUTS])
    assert outcome.shape == (3, 4, OBSERVATION + 1)
    scale = model.target_normaliser
    for row in range(3):
        network = plain_network(model, weights, row)
        for s in range(4):
            x, _ = normalised(model, tokens[row, s], torch.zeros((), dtype=torch.float64))
            change = network(x) * scale.std + scale.mean
            expected = torch.cat([tokens[row, s, :OBSERVATION] + change[:-1], change[-1:]])
            torch.testing.assert_close(outcome[row, s], expected)


def test_what_is_predicted_exactly_costs_nothing() -> None:
    model = small_model()
    tokens, _ = steps(2, 4)
    observation, action = tokens[..., :OBSERVATION], tokens[..., OBSERVATION:INPUTS]
    outcome = model.predict(model.weights(2), observation, action)
    made = token_of(observation, action, outcome[..., :-1])
    losses = model.losses(model.weights(2), made, outcome[..., -1], torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(losses, torch.zeros_like(losses), rtol=0, atol=1e-25)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_inner_step_is_one_step_of_torchs_own_sgd(layers: int) -> None:
    """For every row by itself: torch.nn.Linear, a loss written as a loop, torch.optim.SGD."""
    model = small_model(layers=layers)
    tokens, rewards = steps(3, 4)
    weights = different_weights(model, 3)
    used = newest(torch.tensor([4, 1, 2]), 4)
    adapted = model.adapt(weights, tokens, used, 0.05)
    for row in range(3):
        network = plain_network(model, weights, row)
        loss = torch.zeros((), dtype=torch.float64)
        for s in range(4):
            if used[row, s]:
                x, y = normalised(model, tokens[row, s], rewards[row, s])
                loss = loss + ((network(x) - y)[:OBSERVATION] ** 2).sum() / (OBSERVATION * used[row].sum())
        optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
        loss.backward()
        optimiser.step()
        for after, expected in zip(adapted, network.parameters(), strict=True):
            value = after[row].T if expected.dim() == 2 else after[row, 0]
            torch.testing.assert_close(value, expected.data, rtol=1e-10, atol=1e-12)
        assert (adapted[-1][row] != weights[-1][row]).any()


def test_the_inner_step_of_a_linear_network_has_a_closed_form() -> None:
    """All units on: y = (x W1 + c1) W2 + c2, E = y - target, and with G = 2 E / (M O) the gradients in W2, c2, W1, c1
    are h'G, 1'G, x'(G W2'), 1'(G W2')."""
    model = small_model(width=6, layers=1)
    tokens, _ = steps(1, 5)
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(INPUTS, 6)), rng.normal(size=(6, OBSERVATION + 1))
    c1, c2 = np.full(6, 50.0), rng.normal(size=OBSERVATION + 1)
    scale_in, scale_out = model.input_normaliser, model.target_normaliser
    x = (tokens[0, :, :INPUTS].numpy() - scale_in.mean.numpy()) / scale_in.std.numpy()
    target = (tokens[0, :, INPUTS:].numpy() - scale_out.mean.numpy()[:OBSERVATION]) / scale_out.std.numpy()[
        :OBSERVATION
    ]
    h = x @ w1 + c1
    assert (h > 0).all()
    g = np.zeros((5, OBSERVATION + 1))
    g[:, :OBSERVATION] = 2 * ((h @ w2 + c2)[:, :OBSERVATION] - target) / (5 * OBSERVATION)
    expected = (
        w1 - 1e-3 * x.T @ (g @ w2.T),
        c1 - 1e-3 * (g @ w2.T).sum(axis=0),
        w2 - 1e-3 * h.T @ g,
        c2 - 1e-3 * g.sum(axis=0),
    )
    weights = tuple(torch.as_tensor(each).reshape(1, -1, each.shape[-1]) for each in (w1, c1, w2, c2))
    adapted = model.adapt(weights, tokens, torch.ones(1, 5, dtype=torch.bool), 1e-3)
    for value, each in zip(adapted, expected, strict=True):
        np.testing.assert_allclose(value[0].numpy(), each.reshape(value.shape[1:]), rtol=1e-10)


def test_the_rewards_output_takes_no_part_in_adaptation() -> None:
    model = small_model()
    tokens, _ = steps(2, 4)
    weights = different_weights(model, 2)
    adapted = model.adapt(weights, tokens, torch.ones(2, 4, dtype=torch.bool), 0.1)
    for before, after in zip(weights[-2:], adapted[-2:], strict=True):
        assert torch.equal(after[..., -1], before[..., -1])
        assert (after[..., :-1] != before[..., :-1]).any()


@pytest.mark.parametrize("junk", [7.0, math.inf, math.nan])
def test_unused_steps_do_not_matter(junk: float) -> None:
    """Neither to the losses, nor to adaptation, nor to any gradient."""
    model = small_model()
    past, _ = steps(3, 4, seed=1)
    following, rewards = steps(3, 5, seed=2)
    past_used, used = newest(torch.tensor([4, 2, 0]), 4), newest(torch.tensor([3, 5, 1]), 5)
    results = []
    for fill in (0.0, junk):
        filled_past = torch.where(past_used[..., None], past, fill)
        filled, filled_rewards = torch.where(used[..., None], following, fill), torch.where(used, rewards, fill)
        loss = model.meta_loss(filled_past, past_used, filled, filled_rewards, used, 0.1)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        adapted = model.adapt(model.weights(3), filled_past, past_used, 0.1)
        results.append([loss, *gradients, *adapted])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
        assert clean.isfinite().all()


def test_a_row_without_a_past_keeps_the_shared_weights() -> None:
    model = small_model()
    tokens, _ = steps(3, 4)
    adapted = model.adapt(model.weights(3), tokens, newest(torch.tensor([0, 4, 0]), 4), 0.5)
    for value, parameter in zip(adapted, model.parameters(), strict=True):
        for row in (0, 2):
            assert torch.equal(value[row], parameter[0])
        assert not torch.equal(value[1], parameter[0])


def test_rows_adapt_and_predict_as_each_alone() -> None:
    model = small_model()
    tokens, _ = steps(4, 6)
    used = newest(torch.tensor([6, 0, 3, 1]), 6)
    weights = different_weights(model, 4)
    adapted = model.adapt(weights, tokens, used, 0.1)
    outcome = model.predict(adapted, tokens[..., :OBSERVATION], tokens[..., OBSERVATION:INPUTS])
    for row in range(4):
        one = slice(row, row + 1)
        alone = model.adapt(tuple(weight[one] for weight in weights), tokens[one], used[one], 0.1)
        for together, single in zip(adapted, alone, strict=True):
            torch.testing.assert_close(together[one], single, rtol=1e-12, atol=1e-14)
        single = model.predict(alone, tokens[one, :, :OBSERVATION], tokens[one, :, OBSERVATION:INPUTS])
        torch.testing.assert_close(outcome[one], single, rtol=1e-12, atol=1e-13)


def test_adapting_to_act_needs_no_gradients_and_leaves_none() -> None:
    model = small_model()
    tokens, _ = steps(2, 4)
    used = torch.ones(2, 4, dtype=torch.bool)
    parameters = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        acting = model.adapt(model.weights(2), tokens, used, 0.1)
    with_grad_mode = model.adapt(model.weights(2), tokens, used, 0.1)
    training = model.adapt(model.weights(2), tokens, used, 0.1, create_graph=True)
    for one, two, three in zip(acting, with_grad_mode, training, strict=True):
        assert not one.requires_grad
        assert not two.requires_grad
        assert three.requires_grad
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    for parameter, before in zip(model.parameters(), parameters, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, before)


def meta_loss_of(model: AdaptiveModel, rate: float) -> Tensor:
    past, _ = steps(4, 6, seed=3)
    following, rewards = steps(4, 5, seed=4)
    past_used, used = newest(torch.tensor([6, 3, 0, 5]), 6), newest(torch.tensor([5, 5, 4, 1]), 5)
    return model.meta_loss(past, past_used, following, rewards, used, rate)


def first_order_gradients(model: AdaptiveModel, rate: float) -> tuple[Tensor, ...]:
    """The gradient of the same loss with the inner gradient taken for a constant."""
    past, _ = steps(4, 6, seed=3)
    following, rewards = steps(4, 5, seed=4)
    past_used, used = newest(torch.tensor([6, 3, 0, 5]), 6), newest(torch.tensor([5, 5, 4, 1]), 5)
    shared = model.weights(4)
    steps_taken = [
        after - before.detach()
        for after, before in zip(model.adapt(shared, past, past_used, rate), shared, strict=True)
    ]
    adapted = tuple(before + step for before, step in zip(shared, steps_taken, strict=True))
    loss = model.losses(adapted, following, rewards, used).mean()
    return torch.autograd.grad(loss, list(model.parameters()))


def test_the_meta_gradient_is_that_of_finite_differences_in_every_coordinate() -> None:
    """Central differences of the meta-loss see the second-order part; the first-order gradient is far from them."""
    model, rate, h = small_model(width=5), 0.3, 1e-6
    full = torch.autograd.grad(meta_loss_of(model, rate), list(model.parameters()))
    differences = []
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.view(-1)
            difference = torch.zeros_like(flat)
            for i in range(len(flat)):
                middle = flat[i].item()
                flat[i] = middle + h
                above = meta_loss_of(model, rate)
                flat[i] = middle - h
                difference[i] = (above - meta_loss_of(model, rate)) / (2 * h)
                flat[i] = middle
            differences.append(difference.view_as(parameter))
    largest = max(each.abs().max() for each in differences)
    error = max((one - two).abs().max() for one, two in zip(full, differences, strict=True))
    assert error < 1e-7 * largest
    first_order = first_order_gradients(model, rate)
    distance = max((one - two).abs().max() for one, two in zip(first_order, differences, strict=True))
    assert distance > 0.03 * largest


def test_the_meta_loss_is_the_mean_over_segments_of_the_loss_after_adapting() -> None:
    model = small_model()
    past, _ = steps(3, 4, seed=5)
    following, rewards = steps(3, 2, seed=6)
    every = torch.ones(3, 4, dtype=torch.bool)
    loss = model.meta_loss(past, every, following, rewards, every[:, :2], 0.2)
    with torch.no_grad():
        assert torch.equal(loss, model.meta_loss(past, every, following, rewards, every[:, :2], 0.2))
    losses = []
    for row in range(3):
        one = slice(row, row + 1)
        adapted = model.adapt(model.weights(1), past[one], every[one], 0.2)
        losses.append(model.losses(adapted, following[one], rewards[one], every[one, :2]).item())
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-12)


def family(count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Segments of one of two random linear systems each, o' = o + B_kind a and r = o'_1, with a fair kind."""
    kinds = torch.randn(2, ACTION, OBSERVATION, generator=torch.Generator().manual_seed(9)) * 0.5
    kind = torch.randint(2, (count,), generator=generator)
    action = 2 * torch.rand(count, length, ACTION, generator=generator) - 1
    change = torch.bmm(action, kinds[kind])
    path = torch.cat([torch.randn(count, 1, OBSERVATION, generator=generator), change], dim=1).cumsum(dim=1)
    return token_of(path[:, :-1], action, path[:, 1:]), path[:, 1:, 0]


def trained_on_family(rate: float, updates: int) -> AdaptiveModel:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AdaptiveModel(OBSERVATION, ACTION, 32, 2)
    tokens, rewards = family(200, 16, generator)
    model.fit(tokens.flatten(0, 1), rewards.flatten())
    used = torch.ones(10, 8, dtype=torch.bool)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(updates):
        tokens, rewards = family(10, 16, generator)
        loss = model.meta_loss(tokens[:, :8], used, tokens[:, 8:], rewards[:, 8:], used, rate)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def test_meta_training_makes_one_step_tell_two_systems_apart() -> None:
    """Two linear systems: not adapting can at best predict their mean; the step on eight transitions removes most."""
    rate, updates = 0.1, 400
    adaptive, fixed = trained_on_family(rate, updates), trained_on_family(0.0, updates)
    tokens, rewards = family(300, 16, torch.Generator().manual_seed(77))
    used = torch.ones(300, 8, dtype=torch.bool)

    def loss(model: AdaptiveModel, step: float) -> float:
        weights = model.adapt(model.weights(300), tokens[:, :8], used, step)
        return model.losses(weights, tokens[:, 8:], rewards[:, 8:], used).mean().item()

    before, after = loss(adaptive, 0.0), loss(adaptive, rate)
    not_adaptive, step_without_meta_training = loss(fixed, 0.0), loss(fixed, rate)
    assert after < 0.4 * before
    assert after < 0.5 * not_adaptive
    # Not the step alone does it, but having been trained for it.
    assert after < 0.5 * step_without_meta_training


def test_fit_takes_mean_and_spread_of_inputs_and_targets() -> None:
    model = AdaptiveModel(OBSERVATION, ACTION, 4, 1)
    tokens, rewards = (each[0].float() for each in steps(1, 30))
    model.fit(tokens, rewards)
    torch.testing.assert_close(model.input_normaliser.mean, tokens[:, :INPUTS].mean(dim=0))
    torch.testing.assert_close(model.input_normaliser.std, tokens[:, :INPUTS].std(dim=0, correction=0))
    torch.testing.assert_close(model.target_normaliser.mean[:OBSERVATION], tokens[:, INPUTS:].mean(dim=0))
    torch.testing.assert_close(model.target_normaliser.std[OBSERVATION], rewards.std(correction=0))


def test_the_state_of_a_model_is_all_there_is_to_it() -> None:
    model = small_model()
    other = copy.deepcopy(small_model(seed=5))
    other.load_state_dict(model.state_dict())
    tokens, _ = steps(2, 3)
    arguments = tokens[..., :OBSERVATION], tokens[..., OBSERVATION:INPUTS]
    assert torch.equal(model.predict(model.weights(2), *arguments), other.predict(other.weights(2), *arguments))


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match="layers must be >= 1, got 0"):
        AdaptiveModel(OBSERVATION, ACTION, 8, 0)
    with pytest.raises(ValueError, match="width must be >= 1, got -1"):
        AdaptiveModel(OBSERVATION, ACTION, -1, 2)
    model = small_model()
    tokens, rewards = steps(2, 3)
    used = torch.ones(2, 3, dtype=torch.bool)
    for rate in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"adaptation_rate must be a finite number >= 0, got {rate}"):
            model.adapt(model.weights(2), tokens, used, rate)
    with pytest.raises(ValueError, match=r"segments \[1\] have no step"):
        model.meta_loss(tokens, used, tokens, rewards, newest(torch.tensor([1, 0]), 3), 0.1)
