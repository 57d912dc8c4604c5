"""Stacked networks are the separate networks they stand for."""

import pytest
import torch
from torch import nn

from m3po.networks.stacked import Gated, StackedLinear, StackedMLP, SwishGate
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


def plain_gate(inputs: torch.Tensor) -> torch.Tensor:
    gate, value = inputs.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * value


def gate_inputs(layout: str) -> torch.Tensor:
    """Random [..., 2 W] in float64 in different layouts of memory."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "matrix": lambda: drawn(5, 6),
        "vector": lambda: drawn(4),
        "stacked": lambda: drawn(3, 5, 6),
        "transposed": lambda: drawn(6, 5).T,
        "time first": lambda: drawn(5, 3, 6).transpose(0, 1),
        "strided": lambda: drawn(5, 12)[:, ::2],
        "part": lambda: drawn(4, 5, 9)[1:, :, 2:8],
        "expanded": lambda: drawn(1, 6).expand(5, 6),
    }[layout]()


LAYOUTS = ["matrix", "vector", "stacked", "transposed", "time first", "strided", "part", "expanded"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gate_and_its_derivative_are_those_of_plain_operations(layout: str) -> None:
    values = gate_inputs(layout)
    before = values.clone()
    results, gradients = [], []
    for gate in (SwishGate.apply, plain_gate):
        leaf = values.detach().requires_grad_()
        result = gate(leaf)
        weights = torch.linspace(-1, 2, result.numel(), dtype=torch.float64).reshape(result.shape)
        (gradient,) = torch.autograd.grad((weights * result).sum(), leaf)
        results.append(result.detach())
        gradients.append(gradient)
    assert results[0].shape == (*values.shape[:-1], values.shape[-1] // 2)
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-14)
    assert torch.equal(values, before)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gates_derivative_is_the_limit_of_differences(layout: str) -> None:
    values = gate_inputs(layout).clone(memory_format=torch.preserve_format).requires_grad_()
    assert torch.autograd.gradcheck(SwishGate.apply, (values,))


def test_the_gates_derivative_takes_any_layout_of_the_gradient() -> None:
    """A sum passes down one number expanded to the shape, a transposition a transposed gradient."""
    values = gate_inputs("matrix")
    for reduce in (torch.sum, lambda result: (result.T @ torch.ones(5, 2, dtype=torch.float64)).square().sum()):
        gradients = []
        for gate in (SwishGate.apply, plain_gate):
            leaf = values.clone().requires_grad_()
            gradients.append(torch.autograd.grad(reduce(gate(leaf)), leaf)[0])
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-14)


def test_the_gate_has_no_second_derivative_and_says_so() -> None:
    leaf = gate_inputs("matrix").requires_grad_()
    (gradient,) = torch.autograd.grad(SwishGate.apply(leaf).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
