"""What is attacked, with which settings, and what is told of the best instance found."""

from __future__ import annotations

from analysis.flags.attack import SearchConfig
from analysis.theory.hard_instances import Candidate
from analysis.theory.targets import BoundTarget, CertificateTarget, OverlapTarget, Target
from bounds import ALL_BOUNDS, get
from bounds.finite.checks import TOLERANCE, measure
from bounds.finite.instance import Rollout
from bounds.finite.trajectories import LARGEST_COUNT

CERTIFICATES = ("certificate", "certificate-full")

OVERLAPS: dict[str, Rollout] = {"overlap": "averaged", "overlap-full": "full", "overlap-exact": "exact"}


def target_of(config: SearchConfig) -> Target:
    """What the configuration attacks.

    Raises:
        ValueError: naming a bound that there is not, or sizes that leave too much to enumerate.
    """
    names = (*(bound.name for bound in ALL_BOUNDS), *CERTIFICATES, *OVERLAPS)
    if config.bound not in names:
        raise ValueError(
            f"--bound must be one of {', '.join(names)}, got {config.bound!r}; for one of your own see "
            "docs/tutorials/break_a_bound.md"
        )
    if config.bound in OVERLAPS:
        times = 1 + (config.horizon or OverlapTarget.longest_episode)
        if (config.states * config.actions) ** times > LARGEST_COUNT:
            raise ValueError(
                f"--states {config.states}, --actions {config.actions} and --horizon {times - 1} must leave at most "
                f"{LARGEST_COUNT} trajectories to enumerate for --bound {config.bound}, got "
                f"{(config.states * config.actions)}^{times}"
            )
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
