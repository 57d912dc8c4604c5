"""Stacked networks are the separate networks they stand for."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from m3po.networks.run_axis import stacked as with_run_axis
from m3po.networks.stacked import NARROW, Gated, StackedLinear, StackedMLP, affine, product
from m3po.networks.units import HiddenUnits, SwishGate
from tests.m3po.small import output_layer

KINDS: tuple[HiddenUnits, ...] = get_args(HiddenUnits)


def separate(stacked: StackedLinear, index: int) -> nn.Linear:
    """Network ``index`` of a stack as torch's own layer."""
    _, inputs, outputs = stacked.weight.shape
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(stacked.weight[index].T)
        layer.bias.copy_(stacked.bias[index, 0])
    return layer


ACTIVATIONS = {"rectified": nn.ReLU, "swish": nn.SiLU}


@pytest.mark.parametrize("units", KINDS)
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_stacked_networks_are_separate_networks(units: HiddenUnits, layers: int, shared: bool) -> None:
    torch.manual_seed(layers)
    count, inputs, width, outputs = 4, 3, 6, 2
    stacked = StackedMLP(count, inputs, width, layers, outputs, units=units)
    values = torch.randn(7, inputs) if shared else torch.randn(count, 7, inputs)
    result = stacked(values)
    assert result.shape == (count, 7, outputs)
    for index in range(count):
        hidden = values if shared else values[index]
        *linear, _ = (each for each in stacked.modules() if isinstance(each, StackedLinear))
        for layer in linear:
            hidden = separate(layer, index)(hidden)
            if units == "gated":
                gate, value = hidden.chunk(2, dim=-1)
                hidden = gate * torch.sigmoid(gate) * value
            else:
                hidden = ACTIVATIONS[units]()(hidden)
        expected = separate(output_layer(stacked), index)(hidden)
        torch.testing.assert_close(result[index], expected, rtol=1e-5, atol=1e-6)


def layer_by_layer(network: StackedMLP, *parts: Tensor) -> Tensor:
    """The networks by their layers and autograd, every product as it is written."""
    stack = output_layer(network).weight.shape[:-2]
    inputs = torch.cat(parts, dim=-1)
    if inputs.dim() == len(stack) + 1:
        inputs = inputs.unsqueeze(-3).expand(*stack, -1, -1)
    result: Tensor = network.layers(inputs.flatten(0, -3))
    return result.unflatten(0, stack)


@pytest.mark.parametrize("units", KINDS)
@pytest.mark.parametrize("runs", [None, 1, 3])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("width", "rows", "outputs", "layers"), [(5, 7, 1, 2), (NARROW, 60, 1, 1), (NARROW + 2, 60, 12, 3), (6, 1, 2, 0)]
)
def test_one_pass_is_the_networks_layer_by_layer_and_so_are_its_gradients(
    units: HiddenUnits, runs: int | None, shared: bool, width: int, rows: int, outputs: int, layers: int
) -> None:
    torch.manual_seed(0)
    built = [StackedMLP(2, 7, width, layers, outputs, units=units).double() for _ in range(runs or 1)]
    network = built[0] if runs is None else with_run_axis(built)
    shape = [*([] if runs is None else [runs]), *([] if shared else [2]), rows]
    parts = [torch.randn(*shape, size, dtype=torch.float64, requires_grad=True) for size in (4, 1, 2)]
    everything = [*parts, *network.parameters()]
    found = []
    for evaluate in (network, lambda *each: layer_by_layer(network, *each)):
        result = evaluate(*parts)
        weights = torch.linspace(-1, 2, result.numel(), dtype=torch.float64).view_as(result)
        found.append([result, *torch.autograd.grad((weights * result).sum(), everything)])
    with torch.no_grad():
        torch.testing.assert_close(network(*parts), found[1][0].detach(), rtol=1e-12, atol=1e-12)
    for one_pass, expected in zip(*found, strict=True):
        torch.testing.assert_close(one_pass, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (True, False, True), (False,) * 3])
@pytest.mark.parametrize("learning", [True, False])
def test_nothing_is_computed_that_nobody_asks_for(wanted: tuple[bool, ...], learning: bool) -> None:
    """Products: forward, those of the inputs from the first wanted one to the last, and the weights' gradients."""
    count, rows, sizes, width = 2, 60, (4, 3, 2), 50
    torch.manual_seed(0)
    network = StackedMLP(count, sum(sizes), width, 2, 1, units="rectified").requires_grad_(learning)
    parts = [torch.randn(rows, size, requires_grad=each) for size, each in zip(sizes, wanted, strict=True)]
    with FlopCounterMode(display=False) as counter:
        result = network(*parts)
        if result.requires_grad:
            result.sum().backward()
    assert [each.grad is not None for each in parts] == list(wanted)
    assert all((each.grad is not None) == learning for each in network.parameters())
    products = [sum(sizes) * width, width * width, width]
    first, last = (wanted.index(True), 2 - wanted[::-1].index(True)) if any(wanted) else (0, -1)
    expected = sum(products) * (1 + learning)
    if learning or any(wanted):
        expected += width * width + width * sum(sizes[first : last + 1])  # what comes through the outputs has no sum
    assert counter.get_total_flops() == 2 * count * rows * expected


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 60, 1, 50), (2, 60, 50, 1), (3, 60, 5, 7), (2, 5, 60, 7), (2, 90, 3, 80)]
)
def test_products_in_any_order_are_products(shape: tuple[int, int, int, int]) -> None:
    count, rows, inner, outputs = shape
    left, right = torch.randn(count, rows, inner).double(), torch.randn(count, inner, outputs).double()
    bias = torch.randn(count, 1, outputs).double()
    torch.testing.assert_close(product(left, right), left @ right, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(affine(left, right, bias), left @ right + bias, rtol=1e-12, atol=1e-12)


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
