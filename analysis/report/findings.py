"""What ``analysis.report`` knows about a run: what it logged, and what is measured on fresh episodes of its policy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bounds
from analysis.guarantee.audit import CheckConfig, audit
from analysis.guarantee.guarantee import Guarantee, Uncertifiable
from analysis.guarantee.subject import ReturnRange, Subject
from analysis.guarantee.surrogates import surrogates
from analysis.guarantee.verdicts import Verdicts, reward_max_of, theorem_4
from m3po.runs.run_directory import RunDirectory
from m3po.seeds import Purpose, environment_seeds, torch_generator

Array = NDArray[np.float64]

# Where nothing can be certified episodes are often long, and intervals need no such precision.
SURROGATE_EPISODES = 100

NO_MODEL_DENSITY = "this algorithm has no model density (its metrics hold no one-step likelihood of a model)"


@dataclass(frozen=True)
class Findings:
    """Everything the page is made of.

    Attributes:
        directory: the run.
        rows: its metrics, one per epoch.
        audit: what ``check_guarantee`` reports; None where nothing could be measured.
        surrogates: what ``analysis.guarantee.surrogates`` found; None likewise.
        obstacle: why nothing could be measured; None where it could.
    """

    directory: RunDirectory
    rows: list[dict[str, Any]]
    audit: Guarantee | Uncertifiable | None
    surrogates: dict[str, Any] | None
    obstacle: str | None


def findings(run_dir: Path, *, episodes: int | None, confidence: float, seed: int, trust_env: bool = False) -> Findings:
    """Read the run, and measure what can be measured.

    Args:
        run_dir: of m3po.train.
        episodes: fresh ones per policy; None for 1000, or 100 where nothing can be certified.
        confidence: of the guarantee.
        seed: of the fresh episodes.
        trust_env: as of ``m3po.train.restored``.

    Raises:
        ValueError: when it is no run directory, or its metrics or checkpoint are damaged.
    """
    directory = RunDirectory.read(run_dir)
    rows = directory.metrics()
    directory.provenance()  # refused before anything is measured
    if not rows:
        return Findings(directory, rows, None, None, "the run has not completed an epoch yet")
    if "nll" not in rows[-1]:
        return Findings(directory, rows, None, None, NO_MODEL_DENSITY)
    if not directory.has_checkpoint:
        return Findings(directory, rows, None, None, "the run directory has no checkpoint, so no model to measure")
    episodes = episodes or (1000 if "eps_m" in rows[-1] else SURROGATE_EPISODES)
    audited = audit(
        CheckConfig(run_dir=run_dir, episodes=episodes, confidence=confidence, seed=seed, trust_env=trust_env)
    )
    return findings_of(directory, rows, audited, trust_env=trust_env)


def findings_of(
    directory: RunDirectory,
    rows: list[dict[str, Any]],
    audited: Guarantee | Uncertifiable,
    *,
    trust_env: bool = False,
) -> Findings:
    """What a run logged, its audit, and the surrogates of its model."""
    if isinstance(audited, Uncertifiable):
        return Findings(directory, rows, audited, audited.surrogates, None)
    print("measuring calibration and k-step errors", file=sys.stderr)
    subject = Subject.restored(directory.path, trust_env=trust_env).on_own_data()
    return Findings(directory, rows, audited, surrogates_of(subject, audited), None)


def surrogates_of(subject: Subject, guarantee: Guarantee) -> dict[str, Any]:
    """The surrogates of a run that is certified too, on episodes of their own, as many as the guarantee had."""
    generator = torch_generator(Purpose.SURROGATES, guarantee.seed)
    seed = environment_seeds(Purpose.SURROGATES, guarantee.seed, count=1)[0]
    trajectories = subject.episodes(guarantee.episodes, seed=seed, generator=generator)
    return surrogates(subject, trajectories, generator, guarantee.confidence)


def through_training(
    rows: list[dict[str, Any]], returns: ReturnRange, rollout_length: int, *, moved: bool
) -> dict[str, Array]:
    """Discrepancies at each epoch's logged errors: "step" [E], and every bound and "certificate" -> [E].

    Without ``moved`` they speak of the policy that collected the epoch's data (no divergence); with it of the policy
    after the epoch's updates. eps_m is the upper end of its interval; eps_pi the sample maximum, which is a lower
    estimate. The certificate uses both upper profiles, each at the logged confidence, and the known reward.
    """
    curves: dict[str, list[float]] = {"step": []}
    for row in rows:
        if not row.keys() >= {"eps_m_profile_upper", "policy_divergence_upper", "eps_pi_sample_max"}:
            continue
        curves["step"].append(row["step"])
        error = np.array(row["eps_m_profile_upper"])
        divergence = np.array(row["policy_divergence_upper"]) if moved else np.zeros(len(error))
        certificate = bounds.certificate(
            error,
            divergence,
            discount=returns.discount,
            reward_range=returns.reward_range,
            rollout_length=rollout_length,
            tail="absorbing",
        )
        curves.setdefault("certificate", []).append(certificate.value)
        for bound in bounds.ALL_BOUNDS:
            if moved and bound.name == "mbpo-4.3":
                continue  # its model error is the one under the current policy
            value = bound.evaluate(
                discount=returns.discount,
                model_error=float(error[:-1].max(initial=0.0)),
                policy_divergence=row["eps_pi_sample_max"] if moved else 0.0,
                rollout_length=rollout_length,
                reward_max=reward_max_of(bound.name, returns.reward_low, returns.reward_high),
            )
            curves.setdefault(bound.name, []).append(float(value))
    return {name: np.array(values) for name, values in curves.items()}


def decomposition(found: Verdicts, guarantee: Guarantee) -> dict[str, float]:
    """The certificate of one data policy in parts that add up to it: the errors as estimated, and what was added
    because they are estimates.

    The certificate is the smaller of two upper ends: of Theorem 4 at the profiles' upper ends, or of the mean weighted
    sum of errors. The parts are those of the one that was smaller, at the estimates.
    """
    value, measured, returns = found.certificate.discrepancy, found.estimates, guarantee.returns
    if measured.summed["branched"] <= value:
        weights = bounds.linear_weights(
            returns.horizon, discount=returns.discount, rollout_length=guarantee.rollout_length, learned_reward=True
        )
        parts = {
            "policy": float(returns.reward_range * weights.policy_divergence @ measured.policy_divergence.estimate),
            "model": float(returns.reward_range * weights.model_error @ measured.model_error.estimate),
            "reward": float(weights.reward_error @ measured.reward_error.estimate),
        }
    else:
        theorem = theorem_4(measured, "estimate", returns, rollout_length=guarantee.rollout_length)
        parts = {"policy": theorem.policy_part, "model": theorem.model_part, "reward": theorem.reward_part}
    return parts | {"sampling": value - sum(parts.values()), "tail": 0.0}
