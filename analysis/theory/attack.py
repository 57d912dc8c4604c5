"""What is attacked, with which settings, and what is told of the best instance found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.theory.hard_instances import Candidate
from analysis.theory.targets import BoundTarget, CertificateTarget, OverlapTarget, Target
from bounds import ALL_BOUNDS, get
from bounds.finite.checks import TOLERANCE, measure
from bounds.finite.instance import Rollout
from bounds.finite.trajectories import LARGEST_COUNT
from m3po.flag_checks import Count, Discount, Members, Seed, Steps, Within, check_directory_of, check_fields

CERTIFICATES = ("certificate", "certificate-full")

OVERLAPS: dict[str, Rollout] = {"overlap": "averaged", "overlap-full": "full", "overlap-exact": "exact"}


@dataclass(frozen=True)
class SearchConfig:
    """Search, by gradient ascent and hand-made hard cases, for a process on which a bound's discrepancy is too small.

    Prints the largest ratio gap/discrepancy found, recomputed exactly, and saves the process that reaches it.
    Exit code 1 if that ratio is above 1 beyond rounding: the bound is refuted.
    """

    bound: str
    """A name of the catalogue (m3po-th1, mbpo-4.2, optimal-branched, ...), `certificate` (Theorem 4, branched
    rollouts), `certificate-full` (Theorem 4, the model from the start), or `overlap`, `overlap-full`, `overlap-exact`
    (Theorem 5 in its smallest form; every trajectory is enumerated, so episodes are short)."""
    discount: Annotated[Discount, tyro.conf.arg(name="gamma")]
    """Discount, in [0, 1)."""
    rollout_length: Annotated[Steps, tyro.conf.arg(name="k")] = 1
    """Model steps of a branched rollout, >= 1; full-model bounds ignore it."""
    restarts: Count = 8
    """Random processes that gradient ascent starts from, >= 1."""
    steps: Steps = 300
    """Steps of the gradient ascent, >= 1."""
    horizon: Annotated[int, Within(1, 10**5)] | None = None
    """Transitions of an episode, >= 1; by default enough for 99% of an infinite one, at most 60 in the ascent."""
    states: Annotated[int, Within(2, 1000)] = 4
    """States per time of the ascended processes, >= 2."""
    actions: Members = 3
    """Actions of the ascended processes, >= 1."""
    seed: Seed = 0
    """Seed of the random processes, >= 0."""
    json: bool = False
    """Print one JSON object instead of text."""
    out: Path | None = None
    """Where to save the hardest instance (.npz, read by bounds.finite.load_instance); nothing is saved without it,
    unless the bound is refuted: then counterexample-BOUND.npz in the current directory."""
    overwrite: bool = False
    """Replace the file of --out even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        names = (*(bound.name for bound in ALL_BOUNDS), *CERTIFICATES, *OVERLAPS)
        if self.bound not in names:
            raise ValueError(f"--bound must be one of {', '.join(names)}, got {self.bound!r}")
        check_directory_of("out", self.out)
        if self.bound in OVERLAPS:
            times = 1 + (self.horizon or OverlapTarget.longest_episode)
            if (self.states * self.actions) ** times > LARGEST_COUNT:
                raise ValueError(
                    f"--states {self.states}, --actions {self.actions} and --horizon {times - 1} must leave at most "
                    f"{LARGEST_COUNT} trajectories to enumerate for --bound {self.bound}, got "
                    f"{(self.states * self.actions)}^{times}"
                )


def target_of(config: SearchConfig) -> Target:
    """What the configuration attacks."""
    if config.bound in CERTIFICATES:
        rollout: Rollout = "averaged" if config.bound == "certificate" else "full"
        return CertificateTarget(config.discount, config.rollout_length, rollout)
    if config.bound in OVERLAPS:
        return OverlapTarget(config.discount, config.rollout_length, OVERLAPS[config.bound])
    return BoundTarget(get(config.bound), config.discount, config.rollout_length)


def facts_of(config: SearchConfig, target: Target, best: Candidate) -> dict[str, float | int | str | bool]:
    """What is reported about the hardest instance, all of it recomputed by the exact engine."""
    measured = measure(best.instance, config.discount, config.rollout_length)
    profiles = measured.current_policy_profiles if target.errors_under_policy else measured.profiles
    gap, horizon = measured.gaps[target.rollout], best.instance.process.horizon
    largest = measured.profiles.policy_divergence_sup
    return {
        "bound": config.bound,
        "gamma": config.discount,
        "k": config.rollout_length,
        "best_ratio": best.ratio,
        "refuted": bool(best.ratio > 1.0 + TOLERANCE),
        "origin": best.origin,
        "return_gap": gap,
        "discrepancy": target.value(best.instance, measured),
        "model_error": profiles.model_error_max,
        "policy_divergence_sup": largest,
        "reward_range": measured.reward_range,
        "horizon": horizon,
        "visible_share": 1.0 if target.longest_episode is not None else 1.0 - config.discount**horizon,
        "restarts": config.restarts,
        "seed": config.seed,
    }
