"""Stacked networks are the separate networks they stand for."""

import pytest
import torch
from torch import nn

from m3po.networks import Gated, StackedLinear, StackedMLP
from tests.m3po.small import output_layer


def separate(stacked: StackedLinear, index: int) -> nn.Linear:
    """Network ``index`` of a stack as torch's own layer."""
    _, inputs, outputs = stacked.weight.shape
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(stacked.weight[index].T)
        layer.bias.copy_(stacked.bias[index, 0])
    return layer


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_stacked_networks_are_separate_networks(layers: int, shared: bool) -> None:
    torch.manual_seed(layers)
    count, inputs, width, outputs = 4, 3, 6, 2
    stacked = StackedMLP(count, inputs, width, layers, outputs)
    values = torch.randn(7, inputs) if shared else torch.randn(count, 7, inputs)
    result = stacked(values)
    assert result.shape == (count, 7, outputs)
    for index in range(count):
        hidden = values if shared else values[index]
        for layer in list(stacked.layers)[:-1]:
            assert isinstance(layer, Gated)
            assert isinstance(layer.linear, StackedLinear)
            gate, value = separate(layer.linear, index)(hidden).chunk(2, dim=-1)
            hidden = gate * torch.sigmoid(gate) * value
        expected = separate(output_layer(stacked), index)(hidden)
        torch.testing.assert_close(result[index], expected, rtol=1e-5, atol=1e-6)


def test_networks_of_a_stack_start_differently_and_learn_apart() -> None:
    torch.manual_seed(0)
    stacked = StackedMLP(3, 2, 4, 1, 1)
    result = stacked(torch.randn(5, 2))
    assert not torch.allclose(result[0], result[1])
    result[1].sum().backward()
    for parameter in stacked.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().sum() > 0
        assert not parameter.grad[[0, 2]].any()


def test_initial_weights_are_those_of_torch_layers() -> None:
    """Uniform in +-1/sqrt(inputs)."""
    torch.manual_seed(0)
    layer = StackedLinear(8, 25, 40)
    for parameter in layer.parameters():
        assert parameter.abs().max() <= 0.2
        assert parameter.abs().max() > 0.19
    # The variance of a uniform variable on [-c, c] is c^2 / 3, that of its square 4 c^4 / 45.
    weights = layer.weight.detach().double()
    standard_error = (4 * 0.2**4 / 45 / weights.numel()) ** 0.5
    assert weights.square().mean() == pytest.approx(0.2**2 / 3, abs=4 * standard_error)


def test_gate_multiplies_the_first_half_into_the_second() -> None:
    gated = Gated(nn.Identity())
    result = gated(torch.tensor([[0.0, 2.0, -1.0, 5.0, 3.0, 4.0]]))
    expected = torch.tensor([[0.0, 3 * 2 / (1 + torch.exp(torch.tensor(-2.0))), -4 / (1 + torch.e)]])
    torch.testing.assert_close(result, expected)
