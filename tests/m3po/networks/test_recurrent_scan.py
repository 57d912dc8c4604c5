"""The scan and its hand-written derivative against torch's own GRU and against differences."""

import pytest
import torch
from torch import Tensor, nn

from m3po.networks.recurrent_scan import GRU, run_scan


def twins(inputs: int, size: int) -> tuple[GRU, nn.GRU]:
    """Ours and torch's with the same weights, in float64."""
    torch.manual_seed(0)
    ours, theirs = GRU(inputs, size).double(), nn.GRU(inputs, size).double()
    names = ("input_weight", "recurrent_weight", "input_bias", "recurrent_bias")
    with torch.no_grad():
        for name, value in zip(names, theirs.parameters(), strict=True):
            getattr(ours, name).copy_(value)
    return ours, theirs


def random_inputs(steps: int, count: int, inputs: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)  # noqa: E731
    return draw(steps, count, inputs), draw(count, size)


def gradient_of(value: Tensor) -> Tensor:
    assert value.grad is not None
    return value.grad


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_state_and_every_gradient_are_torchs(steps: int) -> None:
    ours, theirs = twins(3, 4)
    inputs, initial = random_inputs(steps, 5, 3, 4)
    full = torch.full((5,), steps)
    expected = theirs(inputs, initial[None])[1][0]
    expected.sin().sum().backward()
    gradients = [value.grad for value in (inputs, initial, *theirs.parameters())]
    inputs.grad = initial.grad = None
    result = ours.scan(ours.gates(inputs), initial, full)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    result.sin().sum().backward()
    for value, gradient in zip((inputs, initial, *ours.parameters()), gradients, strict=True):
        torch.testing.assert_close(value.grad, gradient, rtol=1e-10, atol=1e-12)


def test_padding_in_front_is_skipped_forward_and_backward() -> None:
    """Rows of different lengths give what each gives alone, and nothing flows into the padding."""
    ours, _ = twins(3, 4)
    inputs, initial = random_inputs(6, 7, 3, 4)
    lengths = torch.arange(7)
    gates = ours.gates(inputs).detach().requires_grad_()
    ours.scan(gates, initial, lengths).sin().sum().backward()
    together = [torch.clone(gradient_of(each)) for each in (ours.recurrent_weight, ours.recurrent_bias)]
    assert gates.grad is not None
    for row in range(7):
        assert not gates.grad[: 6 - row, row].any()
        assert row == 0 or gates.grad[6 - row :, row].all()
    from_initial = gradient_of(initial).clone()
    initial.grad = None
    ours.zero_grad()
    final = ours.scan(gates.detach(), initial.detach(), lengths)
    for row in range(1, 7):
        one = gates[6 - row :, row : row + 1].detach()
        alone = ours.scan(one, initial[row : row + 1], torch.tensor([row]))
        torch.testing.assert_close(alone, final[row : row + 1], rtol=1e-12, atol=1e-12)
        alone.sin().sum().backward()
    torch.testing.assert_close(gradient_of(initial)[1:], from_initial[1:])
    torch.testing.assert_close(from_initial[0], initial[0].detach().cos())  # no step: the state itself
    for parameter, expected in zip((ours.recurrent_weight, ours.recurrent_bias), together, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_derivatives_agree_with_differences() -> None:
    ours, _ = twins(2, 3)
    inputs, initial = random_inputs(4, 3, 2, 3)
    lengths = torch.tensor([4, 2, 0])
    assert torch.autograd.gradcheck(
        lambda *values: ours.scan(ours.gates(values[0]), values[1], lengths), (inputs, initial)
    )


def test_a_sequence_of_steps_gives_the_same_state_without_gradient() -> None:
    ours, _ = twins(3, 4)
    inputs, initial = random_inputs(5, 6, 3, 4)
    gates, lengths = ours.gates(inputs), torch.arange(6)
    expected = ours.scan(gates, initial, lengths)
    result = ours.scan(list(gates), initial, lengths)
    assert torch.equal(result, expected)
    assert not result.requires_grad


def test_large_gates_saturate_to_one_not_beyond() -> None:
    """tanh is computed from a sigmoid: no overflow, and within a rounding of torch's."""
    for value in (-1e4, -30.0, -1e-3, 0.0, 1e-3, 30.0, 1e4):
        gates = torch.tensor([[[0.0, 0.0, value]]])
        weight, bias = torch.zeros(3, 1), torch.tensor([0.0, -1e4, 0.0])  # the update gate is 0: h' is the candidate
        hidden, _ = run_scan(gates.unbind(), torch.zeros(1, 1), weight, bias, [torch.zeros(1, 1)])
        assert hidden.item() == pytest.approx(torch.tanh(torch.tensor(value)).item(), abs=2e-7)
