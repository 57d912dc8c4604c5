"""What ``analysis.report`` knows about a run: what it logged, and what is measured on fresh episodes of its policy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bounds
from analysis.diagnostics.surrogates import surrogates
from analysis.guarantee import audit
from analysis.guarantee.audit import CheckConfig
from analysis.guarantee.verdicts import reward_max_of
from m3po.agents.m3po import M3PO
from m3po.agents.training import restored
from m3po.config import Config
from m3po.episodes import run_episodes
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
        check: the report of ``check_guarantee``; None where nothing could be measured.
        surrogates: what ``analysis.diagnostics.surrogates`` found; None likewise.
        obstacle: why nothing could be measured; None where it could.
    """

    directory: RunDirectory
    rows: list[dict[str, Any]]
    check: dict[str, Any] | None
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
    check = audit.check(
        CheckConfig(run_dir=run_dir, episodes=episodes, confidence=confidence, seed=seed, trust_env=trust_env)
    )
    found = check.get("surrogates")
    if found is None:
        print("measuring calibration and k-step errors", file=sys.stderr)
        found = surrogates_of(restored(directory, M3PO, trust_env=trust_env), check)
    return Findings(directory, rows, check, found, None)


def surrogates_of(training: M3PO, check: dict[str, Any]) -> dict[str, Any]:
    """The surrogates of a run that is certified too, on episodes of their own, as many as ``check`` had."""
    training.check_fitted()
    generator = torch_generator(Purpose.SURROGATES, check["seed"])
    trajectories = run_episodes(
        training.config.env_id,
        training.policy,
        check["episodes"],
        seed=environment_seeds(Purpose.SURROGATES, check["seed"], count=1)[0],
        generator=generator,
        options=training.options,
    )
    return surrogates(
        training, trajectories, generator, check["confidence"], low=check["reward_low"], high=check["reward_high"]
    )


def through_training(
    rows: list[dict[str, Any]], check: dict[str, Any], config: Config, *, moved: bool
) -> dict[str, Array]:
    """Discrepancies at each epoch's logged errors: "step" [E], and every bound and "certificate" -> [E].

    Without ``moved`` they speak of the policy that collected the epoch's data (no divergence); with it of the policy
    after the epoch's updates. eps_m is the upper end of its interval; eps_pi the sample maximum, which is a lower
    estimate. The certificate uses both upper profiles, each at the logged confidence, and the known reward.
    """
    low, high = check["reward_low"], check["reward_high"]
    curves: dict[str, list[float]] = {"step": []}
    for row in rows:
        if not row.keys() >= {"eps_m_profile_upper", "policy_divergence_upper", "eps_pi_sample_max"}:
            continue
        length = row.get("rollout_length", config.rollout_length_at(row["step"]))
        curves["step"].append(row["step"])
        error = np.array(row["eps_m_profile_upper"])
        divergence = np.array(row["policy_divergence_upper"]) if moved else np.zeros(len(error))
        certificate = bounds.certificate(
            error,
            divergence,
            discount=check["gamma"],
            reward_range=high - low,
            rollout_length=length,
            tail="absorbing",
        )
        curves.setdefault("certificate", []).append(certificate.value)
        for bound in bounds.ALL_BOUNDS:
            if moved and bound.name == "mbpo-4.3":
                continue  # its model error is the one under the current policy
            value = bound.evaluate(
                discount=check["gamma"],
                model_error=float(error[:-1].max(initial=0.0)),
                policy_divergence=row["eps_pi_sample_max"] if moved else 0.0,
                rollout_length=length,
                reward_max=reward_max_of(bound.name, low, high),
            )
            curves.setdefault(bound.name, []).append(float(value))
    return {name: np.array(values) for name, values in curves.items()}


def decomposition(check: dict[str, Any], policy: str) -> dict[str, float]:
    """The certificate's discrepancy in parts that add up to it: the errors as estimated, and what was added because
    they are estimates. ``policy`` is "current" or "previous".

    The certificate is the smaller of two upper ends: of Theorem 4 at the profiles' upper ends, or of the mean weighted
    sum of errors. The parts are those of the one that was smaller, at the estimates.
    """
    part = check["data_policies"][policy]
    value = part["checks"][0]["discrepancy"]
    error, divergence, reward = (
        np.array(part["profiles"][name]["estimate"]) for name in ("model_error", "policy_divergence", "reward_error")
    )
    span = check["reward_high"] - check["reward_low"]
    if part["summed_errors"]["branched"] <= value:
        weights = bounds.linear_weights(
            len(error), discount=check["gamma"], rollout_length=check["k"], learned_reward=True
        )
        parts = {
            "policy": float(span * weights.policy_divergence @ divergence),
            "model": float(span * weights.model_error @ error),
            "reward": float(weights.reward_error @ reward),
        }
    else:
        found = bounds.certificate(
            error,
            divergence,
            discount=check["gamma"],
            reward_range=span,
            rollout_length=check["k"],
            reward_error_profile=reward,
            tail="absorbing",
        )
        parts = {"policy": found.policy_part, "model": found.model_part, "reward": found.reward_part}
    return parts | {"sampling": value - sum(parts.values()), "tail": 0.0}
