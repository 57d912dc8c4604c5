"""Hand-made instances that are hard for a bound: those that attain Theorems 3 and 4, over a grid of errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analysis.theory.targets import Target
from bounds.finite.instance import Instance
from bounds.finite.worst_case import attaining_instance, profile_attaining_instance, with_true_action


@dataclass(frozen=True)
class Candidate:
    """An instance, its exact gap/discrepancy, and where it comes from."""

    instance: Instance
    ratio: float
    origin: str


def best_first(candidates: list[Candidate]) -> list[Candidate]:
    """By decreasing ratio; among equals up to rounding the one that was tried first, which is the less extreme."""
    return sorted(candidates, key=lambda candidate: -round(candidate.ratio, 9))


def effective_horizon(target: Target, longest: int, tail: float = 0.01) -> int:
    """The T after which at most the share ``tail`` of an infinite-horizon gap is left, at most ``longest``.

    A certificate counts the episode's own steps only and needs no long episode.
    """
    if target.longest_episode is not None:
        return min(target.longest_episode, longest)
    if target.discount == 0.0:
        return 1
    return int(np.clip(np.ceil(np.log(tail) / np.log(target.discount)), 2, longest))


def handmade_instances(target: Target, horizon: int) -> Iterator[Instance]:
    """The hard cases: the instances attaining Theorems 3 and 4 over a grid of errors."""
    levels = (0.1, 0.01, 1e-3, 0.3, 0.0, 1.0)
    for model_error in levels:
        for divergence in levels:
            instance = attaining_instance(model_error, divergence, horizon)
            yield instance
            if divergence > 0.0:
                yield with_true_action(instance)
    k = horizon if target.rollout == "full" else target.rollout_length
    for share in (0.5, 0.1, 0.9, 0.0):
        for fill in (0.3, 1.0):
            rate = fill * share / (horizon + 1)
            yield profile_attaining_instance(
                np.full(horizon, fill * (1.0 - share) / min(k, horizon)), np.full(horizon + 1, rate)
            )


def try_handmade(target: Target, *, horizon: int, longest: int) -> list[Candidate]:
    """The hand-made instances, best first; the best few again with a horizon of up to ``longest``."""
    tried = [Candidate(i, target.ratio(i), f"hand-made ({i.family})") for i in handmade_instances(target, horizon)]
    order = sorted(range(len(tried)), key=lambda n: -tried[n].ratio)
    if target.longest_episode is None and longest > horizon:
        chosen = set(order[:3])
        for n, instance in enumerate(handmade_instances(target, longest)):
            if n in chosen:
                tried.append(Candidate(instance, target.ratio(instance), f"hand-made ({instance.family})"))
    return best_first(tried)


def hardest_handmade(target: Target, horizon: int | None = None) -> list[Candidate]:
    """The hand-made instances of an episode's length, best first; by default ``effective_horizon``."""
    length = effective_horizon(target, 60) if horizon is None else horizon
    longest = length if horizon is not None else effective_horizon(target, 600, tail=1e-6)
    return try_handmade(target, horizon=min(length, 60), longest=longest)
