"""Batch-normalised networks are torch's own layers, one network at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from m3po.networks.batch_normalised import LEAST_VARIANCE, RATE, BatchNorm, BatchNormalisedMLP, Standardise
from m3po.networks.run_axis import stacked
from m3po.networks.units import HiddenUnits


def theirs(network: BatchNormalisedMLP, index: int) -> nn.Sequential:
    """Network ``index`` of a rectified stack, in torch's own layers."""
    layers: list[nn.Module] = []
    for norm, linear in network.pairs():
        _, inputs, outputs = linear.weight.shape
        own, layer = nn.BatchNorm1d(inputs, eps=LEAST_VARIANCE, momentum=RATE), nn.Linear(inputs, outputs)
        copied = {
            "weight": norm.scale, "bias": norm.shift, "running_mean": norm.mean, "running_var": norm.variance
        }  # fmt: skip
        with torch.no_grad():
            for name, values in copied.items():
                getattr(own.double(), name).copy_(values[index, 0])
            layer.double().weight.copy_(linear.weight[index].T)
            layer.bias.copy_(linear.bias[index, 0])
        layers += [own, layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def norms_of(peer: nn.Sequential) -> list[nn.BatchNorm1d]:
    return [each for each in peer if isinstance(each, nn.BatchNorm1d)]


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def network(seed: int = 0, *, units: HiddenUnits = "rectified") -> BatchNormalisedMLP:
    torch.manual_seed(seed)
    result = BatchNormalisedMLP(2, 3, 6, 2, 1, units=units).double()
    with torch.no_grad():
        for each in result.modules():
            if isinstance(each, BatchNorm):
                each.scale.uniform_(0.5, 2.0)
                each.shift.uniform_(-1.0, 1.0)
                each.mean.uniform_(-1.0, 1.0)
                each.variance.uniform_(0.5, 2.0)
    return result


def rows(seed: int = 1, *shape: int) -> Tensor:
    return 3 * torch.randn(*(shape or (9, 3)), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 1


def test_with_batch_statistics_it_is_torchs_layers_in_training_and_so_are_its_gradients() -> None:
    ours, values = network(), rows().requires_grad_()
    peers = [theirs(ours, index).train() for index in range(2)]
    result = ours.with_batch_statistics(values)
    result.sin().sum().backward()
    gradient, values.grad = values.grad, None
    expected = torch.stack([peer(values) for peer in peers])
    expected.sin().sum().backward()
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(gradient, values.grad)
    for index, peer in enumerate(peers):
        linear = [each for each in peer if isinstance(each, nn.Linear)]
        for norm, layer, (own_norm, own_linear) in zip(norms_of(peer), linear, ours.pairs(), strict=True):
            pairs = [
                (own_norm.scale, norm.weight), (own_norm.shift, norm.bias), (own_linear.bias, layer.bias)
            ]  # fmt: skip
            for mine, other in pairs:
                torch.testing.assert_close(gradient_of(mine)[index, 0], gradient_of(other))
            torch.testing.assert_close(gradient_of(own_linear.weight)[index], gradient_of(layer.weight).T)


def test_the_running_statistics_follow_those_of_batches_and_serve_everything_else() -> None:
    ours, values = network(), rows()
    peers = [theirs(ours, index) for index in range(2)]
    torch.testing.assert_close(ours(values), torch.stack([peer.eval()(values) for peer in peers]))
    ours.with_batch_statistics(values)
    for peer in peers:
        variances = [each.get_buffer("running_var") for each in norms_of(peer)]
        before = [each.clone() for each in variances]
        peer.train()(values)
        for each, old in zip(variances, before, strict=True):
            # torch's running variance is that of a sample, N / (N - 1) times that of the rows.
            each -= (each - (1 - RATE) * old) / len(values)
    torch.testing.assert_close(ours(values), torch.stack([peer.eval()(values) for peer in peers]))


def test_what_running_statistics_make_of_inputs_has_the_gradients_of_torchs_layers() -> None:
    ours, values = network(), rows().requires_grad_()
    peers = [theirs(ours, index).eval() for index in range(2)]
    ours(values).sin().sum().backward()
    gradient, values.grad = values.grad, None
    torch.stack([peer(values) for peer in peers]).sin().sum().backward()
    torch.testing.assert_close(gradient, values.grad)
    for index, peer in enumerate(peers):
        for norm, (mine, _) in zip(norms_of(peer), ours.pairs(), strict=True):
            torch.testing.assert_close(gradient_of(mine.scale)[index, 0], gradient_of(norm.weight))


def test_the_gradient_of_a_standardised_batch_is_that_of_its_values() -> None:
    values = rows(2, 2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda inputs: Standardise.apply(inputs)[0], (values,))
    result, mean, variance = Standardise.apply(values)
    torch.testing.assert_close(mean, values.mean(dim=-2, keepdim=True))
    torch.testing.assert_close(variance, values.var(dim=-2, keepdim=True, correction=0))
    torch.testing.assert_close(result, (values - mean) / (variance + LEAST_VARIANCE).sqrt())
    assert not mean.requires_grad
    assert not variance.requires_grad


@pytest.mark.parametrize("units", ["gated", "rectified", "swish"])
def test_networks_of_runs_side_by_side_are_those_of_each(units: HiddenUnits) -> None:
    alone = [network(seed, units=units) for seed in range(3)]
    values = rows(3, 3, 9, 3)
    expected = [each.with_batch_statistics(part) for each, part in zip(alone, values, strict=True)]
    after = [each(part) for each, part in zip(alone, values, strict=True)]
    fresh = [network(seed, units=units) for seed in range(3)]
    joint = stacked(fresh)
    torch.testing.assert_close(joint.with_batch_statistics(values), torch.stack(expected))
    torch.testing.assert_close(joint(values), torch.stack(after))
    # The runs' own running statistics are views of the joint ones.
    for one, part, found in zip(fresh, values, after, strict=True):
        torch.testing.assert_close(one(part), found)


@pytest.mark.parametrize("units", ["gated", "swish"])
def test_other_units_stand_behind_their_norms(units: HiddenUnits) -> None:
    ours, values = network(units=units), rows()
    hidden = values.expand(2, -1, -1)
    for place, (norm, linear) in enumerate(ours.pairs()):
        mean, variance = hidden.mean(dim=1, keepdim=True), hidden.var(dim=1, keepdim=True, correction=0)
        hidden = linear((hidden - mean) / (variance + LEAST_VARIANCE).sqrt() * norm.scale + norm.shift)
        if place < 2 and units == "gated":
            gate, value = hidden.chunk(2, dim=-1)
            hidden = gate * torch.sigmoid(gate) * value
        elif place < 2:
            hidden = hidden * torch.sigmoid(hidden)
    torch.testing.assert_close(ours.with_batch_statistics(values), hidden)
