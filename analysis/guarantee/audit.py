"""A trained run audited: fresh episodes, estimates, checks, and the answer in words."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from analysis.diagnostics.intervals import span
from analysis.diagnostics.surrogates import surrogates
from analysis.guarantee.estimates import STATEMENTS, Estimates, measure, return_interval, trivial_gap
from analysis.guarantee.verdicts import Check, checks_of, ends
from analysis.runs.outputs import check_figure
from m3po.agents.m3po import M3PO
from m3po.agents.training import restored
from m3po.envs.protocol import CertifiableDynamics
from m3po.episodes import Trajectories, run_episodes
from m3po.flag_checks import Confidence, Count, EpisodeCount, Seed, Steps, check_fields
from m3po.networks.policy import HistoryPolicy
from m3po.runs.run_directory import RunDirectory
from m3po.runs.terminal import shown
from m3po.seeds import Purpose, environment_seeds, torch_generator

DataPolicy = Literal["current", "previous"]

NO_DENSITY = (
    "the one-step density of this environment is not known, or a point mass, so no total variation can be measured"
)


def no_density(obstacle: str | None) -> str:
    """Why no total variation can be measured; ``obstacle`` is the wrapper that stands between, None without one."""
    if obstacle is None:
        return NO_DENSITY
    return (
        f"the environment offers a one-step density, and {obstacle} may change the observations, actions or rewards "
        "that it speaks of, so no total variation can be measured"
    )


@dataclass(frozen=True)
class CheckConfig:
    """Measure the true return, the model return and the errors of a trained run, and hold the gap against every bound.

    Needs the run directory of m3po.train. Two data policies are looked at: "current", fresh data of the trained policy
    itself (no policy divergence), and "previous", the policy that collected the last epoch's data.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run directory of a training."""
    episodes: EpisodeCount = 1000
    """Fresh episodes per policy, at least 2; they are the iid units of every interval."""
    confidence: Confidence = 0.95
    """All intervals of one data policy hold together with this probability, in (0, 1)."""
    candidates: Count = 1
    """How many checkpoints, runs or rollout lengths you check to take the best, >= 1: each gets that share of the error
    probability."""
    rollout_length: Steps | None = None
    """k of the branched returns that are held against the bounds, >= 1; the run's own when not given. A policy trained
    with long rollouts may be certified with short ones, which lose less."""
    seed: Seed = 0
    """Seed of the fresh episodes."""
    trust_env: bool = False
    """Build the run's environment even if that imports a module or reads files that its config.json names."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of the report."""
    figure: Path | None = None
    """Where to draw the figure (.png, .pdf, .svg); RUN_DIR/guarantee.png when not given."""
    overwrite: bool = False
    """Replace the file of --figure even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_figure("figure", self.figure)


def check(config: CheckConfig) -> dict[str, Any]:
    """Everything the command reports, JSON-ready.

    Raises:
        ValueError: when the run directory or its checkpoint cannot be read.
    """
    directory = RunDirectory.read(config.run_dir)
    training = restored(directory, M3PO, trust_env=config.trust_env)
    training.check_fitted()
    dynamics = training.dynamics
    length = config.rollout_length or training.config.rollout_length_at(training.steps)
    report: dict[str, Any] = {
        "run_dir": str(shown(config.run_dir)),
        "env_id": training.config.env_id,
        "steps": training.steps,
        "complete": directory.complete,
        "gamma": training.config.discount,
        "k": length,
        "horizon": training.horizon,
        "episodes": config.episodes,
        "confidence": config.confidence,
        "candidates": config.candidates,
        "seed": config.seed,
    }
    seeds = environment_seeds(Purpose.GUARANTEE, config.seed, count=2)
    generator = torch_generator(Purpose.GUARANTEE, config.seed)
    policies: dict[DataPolicy, HistoryPolicy] = {"current": training.policy, "previous": training.data_policy}
    if not isinstance(dynamics, CertifiableDynamics):
        del policies["previous"]  # surrogates speak of the policy on its own data
    progress = tqdm(
        total=2 * len(policies), desc="measuring", file=sys.stderr, disable=config.as_json and not sys.stderr.isatty()
    )
    episodes: dict[DataPolicy, Trajectories] = {}
    for (name, policy), seed in zip(policies.items(), seeds, strict=False):
        episodes[name] = run_episodes(
            training.config.env_id,
            policy,
            config.episodes,
            seed=seed,
            generator=generator,
            options=training.options,
        )
        progress.update()
    returns = episodes["current"].returns(training.config.discount)
    if not isinstance(dynamics, CertifiableDynamics):
        low, high = training.offers.reward_range
        found = surrogates(
            training,
            episodes["current"],
            generator,
            1 - (1 - config.confidence) / config.candidates,
            low=low,
            high=high,
        )
        progress.update()
        progress.close()
        return report | {
            "verdict": "surrogate",
            "reason": no_density(training.offers.obstacle),
            "nll": found["nll"]["estimate"],
            "true_return": found["return_gap"]["true_return"],
            "surrogates": found,
            "data_policies": {},
        }
    low, high = dynamics.reward_low, dynamics.reward_high
    report |= {
        "reward_low": low,
        "reward_high": high,
        "trivial": trivial_gap(dynamics, training.config.discount, training.horizon, learned_reward=True),
        "tail_if_the_process_went_on": (high - low)
        * training.config.discount**training.horizon
        / (1 - training.config.discount),
    }
    shared = 1 - (1 - config.confidence) / config.candidates
    each = 1 - (1 - shared) / STATEMENTS
    true_return = return_interval(returns, dynamics, training.config.discount, training.horizon, each)
    report["true_return"] = ends(true_return)
    report["data_policies"] = {}
    for name, policy in policies.items():
        measured = measure(training, policy, episodes[name], dynamics, shared, generator, length)
        rows = checks_of(training, measured, true_return, policy is training.policy, length)
        report["data_policies"][name] = describe(measured, rows)
        progress.update()
    progress.close()
    first = report["data_policies"]["current"]["checks"][0]
    at_least, rest = guaranteed(report), training.config.discount**training.horizon / (1 - training.config.discount)
    return report | {
        "verdict": first["verdict"],
        "reason": f"certificate, branched: {first['reason']}",
        "guaranteed": at_least,
        "guaranteed_should_it_go_on": None if at_least is None else at_least + low * rest,
    }


def describe(measured: Estimates, rows: list[Check]) -> dict[str, Any]:
    """One data policy's part of the report."""
    profiles = {
        "model_error": measured.model_error,
        "policy_divergence": measured.policy_divergence,
        "reward_error": measured.reward_error,
    }
    largest = {
        "eps_m": {end: float(np.max(getattr(measured.model_error, end)[:-1])) for end in ("estimate", "lower", "upper")}
    }
    return {
        **largest,
        "eps_pi_sample_max": measured.policy_divergence_sample_max,
        "profiles": {
            name: {"estimate": each.estimate.tolist(), "upper": each.upper.tolist()} for name, each in profiles.items()
        },
        "model_returns": {
            scheme + (" (learned reward)" if learned else ""): ends(interval)
            for (scheme, learned), interval in measured.model_returns.items()
        },
        "summed_errors": measured.summed,
        "checks": [dataclasses.asdict(row) for row in rows],
    }


def promise(report: dict[str, Any]) -> dict[str, float]:
    """The model's return that the verdict is about: branched, with the learned reward, from the policy's own data."""
    found: dict[str, float] = report["data_policies"]["current"]["model_returns"]["branched (learned reward)"]
    return found


def guaranteed(report: dict[str, Any]) -> float | None:
    """What the true return over the steps of an episode is at least, with the report's confidence: lower end of the
    promise - certificate.

    None where that says nothing: the certificate is vacuous, or any policy's return is at least that.
    """
    row = report["data_policies"]["current"]["checks"][0]
    at_least = float(promise(report)["lower"] - row["discrepancy"])
    floor = report["reward_low"] * (1 - report["gamma"] ** report["horizon"]) / (1 - report["gamma"])
    return None if at_least <= floor or row["vacuous"] else at_least


def conclusion(report: dict[str, Any]) -> str:
    """The answer in a sentence or two."""
    row = report["data_policies"]["current"]["checks"][0]
    promised, at_least = promise(report), guaranteed(report)
    share = row["discrepancy"] / report["trivial"]
    opening = "At these errors nothing is guaranteed about the real return"
    if at_least is not None:
        opening = (
            f"The model promises {promised['estimate']:.2f}; with confidence {report['confidence']} the real return "
            f"over {report['horizon']} steps is at least {at_least:.2f} (certificate {row['discrepancy']:.2f}, "
            f"{share:.0%} of the trivial discrepancy)"
        )
    return f"{opening}; measured: {span(report['true_return'])}. Verdict: {report['verdict']}."
