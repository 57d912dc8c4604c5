"""Is the training still sound? Guards that stop it with the cause, and warnings about values that ran away."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor


class NamedTensors(Protocol):
    """Tensors by name, one of them the reward."""

    @property
    def reward(self) -> Tensor: ...


class DivergenceError(ArithmeticError):
    """A number that everything depends on is not finite any more; the message says which and where."""

    exit_code = 1  # of a command that trains: a finding, not a fault of the program


def magnitudes(**arrays: Tensor) -> str:
    """Largest absolute values and how many entries are not finite, as ``reward up to 310 (2 of 256 not finite)``."""
    parts = []
    for name, values in arrays.items():
        finite = torch.isfinite(values)
        largest = float(values[finite].double().abs().max()) if finite.any() else math.nan
        lost = values.numel() - int(finite.sum())
        parts.append(f"{name} up to {largest:.3g}" + (f" ({lost} of {values.numel()} not finite)" if lost else ""))
    return ", ".join(parts)


def check_updates(metrics: Sequence[Mapping[str, Tensor]], batches: Sequence[NamedTensors], *, step: int) -> None:
    """Every metric of every update since the last check is a finite number.

    Args:
        metrics: what the updates returned, oldest first.
        batches: what they were given.
        step: real environment steps so far, for the message.

    Raises:
        DivergenceError: names the loss, the update and its batch.
    """
    names = list(metrics[0])
    values = torch.stack([torch.stack([each[name] for name in names]) for each in metrics])
    if torch.isfinite(values.sum()):
        return
    finite = torch.isfinite(values)
    if finite.all():  # only their sum overflowed
        return
    update, column = (int(place) for place in (~finite).nonzero()[0])
    batch = batches[update]
    raise DivergenceError(
        f"{names[column]} is {values[update, column].item()} in update {update + 1} of {len(metrics)} at real step "
        f"{step}; its batch of {len(batch.reward)}: {magnitudes(**vars(batch))}"
    )


def check_row(row: Mapping[str, object]) -> None:
    """Every number of a row of metrics is finite: they are written as JSON, which has no others.

    Raises:
        DivergenceError: names the metric and the step.
    """
    for name, value in row.items():
        values = value if isinstance(value, list | tuple) else [value]
        lost = next((each for each in values if isinstance(each, float) and not math.isfinite(each)), None)
        if lost is not None:
            raise DivergenceError(f"{name} is {lost} at real step {row.get('step')}")


def unresolved_coordinates(observations: Tensor, changes: Tensor) -> list[str]:
    """Which coordinates float32 cannot resolve: its numbers are apart by more than a tenth of a usual change.

    Args:
        observations, changes: o_t and o_{t+1} - o_t of real steps, each [N, O].
    """
    largest = observations.abs().amax(dim=0).double()
    apart = 2.0 ** (torch.floor(torch.log2(largest.clamp(min=1e-30))) - 23)
    usual = changes.double().square().mean(dim=0).sqrt()
    return [
        f"coordinate {place} is around {largest[place]:.3g}, where float32 numbers are {apart[place]:.2g} apart, and "
        f"changes by {usual[place]:.2g} in a step: the networks cannot see it move (subtract an offset)"
        for place in ((usual > 0) & (usual < 10 * apart)).nonzero()[:, 0].tolist()
    ]


def warnings_of(
    row: Mapping[str, float], *, largest_reward: float, discount: float, target_entropy: float
) -> list[str]:
    """What a reader of this row of metrics should worry about, in words; empty when nothing stands out.

    Args:
        row: with critic_loss, q_mean, entropy and temperature, means over an epoch.
        largest_reward: largest absolute reward seen in the real environment.
        discount: gamma.
        target_entropy: of the policy, or what it would be, in nats.
    """
    found = []
    reachable = (largest_reward + row["temperature"] * abs(row["entropy"])) / (1 - discount)
    if abs(row["q_mean"]) > reachable:
        found.append(
            f"Q diverges: its mean target is {row['q_mean']:.3g}, and no policy can earn more than {reachable:.3g} "
            f"(rewards up to {largest_reward:.3g})"
        )
    if row["critic_loss"] > (2 * reachable) ** 2:
        found.append(
            f"critics diverge: their mean loss is {row['critic_loss']:.3g}, where errors as large as every return that "
            f"can be earned, {reachable:.3g}, make {reachable**2:.3g}"
        )
    # One nat per action coordinate; the target is minus one nat per coordinate by default.
    if row["entropy"] < target_entropy - max(abs(target_entropy), 1.0):
        found.append(f"entropy collapse: {row['entropy']:.3g} nats, the target is {target_entropy:.3g}")
    return found
