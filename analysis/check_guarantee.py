"""``python -m analysis.check_guarantee RUN_DIR``: the measured return gap of a trained run against every bound."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

import bounds
from analysis.certify import summed_errors
from analysis.evidence import CAUSES, HONESTY_LEVEL, refuse_dishonest
from analysis.outputs import Output, check_figure, files_of, mark_of
from analysis.surrogates import span, surrogates
from analysis.surrogates import text as surrogates_text
from bounds.confidence import Interval, betting
from bounds.honesty import honesty
from m3po.command_line import json_of, run
from m3po.envs.protocol import CertifiableDynamics, FilteredDynamics
from m3po.evaluate import Trajectories, run_episodes
from m3po.flag_checks import Confidence, Count, EpisodeCount, Seed, Steps, check_fields
from m3po.measure import (
    Array,
    EncodedTrajectories,
    action_log_density,
    history_log_density,
    model_error_samples,
    model_log_density,
    model_return_samples,
    policy_divergence_samples,
    profile,
    reward_error_samples,
    task_log_density,
)
from m3po.policy import HistoryPolicy
from m3po.run_directory import RunDirectory
from m3po.seeds import Purpose, environment_seeds, torch_generator
from m3po.train import Training, restored

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Verdict = Literal["holds", "violated", "surrogate"]
DataPolicy = Literal["current", "previous"]
SCHEMES = ("branched", "branched-exact", "full")
# What a confidence level is shared between: the true return, three error profiles, the weighted sums of errors for
# branched and full rollouts, and the model return of every scheme with the learned and with the known reward.
STATEMENTS = 6 + 2 * len(SCHEMES)
NO_DENSITY = (
    "the one-step density of this environment is not known, or a point mass, so no total variation can be measured"
)
# A discrepancy beyond this share of what any model satisfies guarantees nothing worth the name.
VACUOUS_SHARE = 0.99


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


@dataclass(frozen=True)
class Check:
    """One inequality held against the measurement.

    Attributes:
        name: of the bound, or "certificate".
        scheme: which model return it speaks of.
        learned_reward: whether that return is paid by the model's own reward (else by the environment's).
        discrepancy: the bound at the upper ends of the measured errors, in units of return.
        vacuous: it is not below 99% of the gap that any model at all can have.
        gap: true return - model return: estimate, lower, upper.
        tightness: |gap estimate| / discrepancy.
        verdict, reason: holds: the measured return is certainly above model return - discrepancy. violated: certainly
            below. surrogate: one of its inputs is not certified, or the intervals do not decide.
    """

    name: str
    scheme: str
    learned_reward: bool
    discrepancy: float
    vacuous: bool
    gap: dict[str, float]
    tightness: float
    verdict: Verdict
    reason: str


def judge(gap: dict[str, float], discrepancy: float, *, two_sided: bool, certified: str | None) -> tuple[Verdict, str]:
    """The verdict on ``gap >= -discrepancy`` (two-sided: |gap| <= discrepancy) and the reason for it.

    Args:
        gap: estimate, lower, upper.
        discrepancy: at the upper ends of the errors, so that a gap beyond it refutes the inequality itself.
        two_sided: whether the theorem bounds the gap from both sides.
        certified: None, or why the discrepancy is not certified.
    """
    if certified is not None:
        return "surrogate", certified
    if gap["upper"] < -discrepancy or (two_sided and gap["lower"] > discrepancy):
        return "violated", "the measured gap is certainly larger than the discrepancy"
    if gap["lower"] >= -discrepancy and (not two_sided or gap["upper"] <= discrepancy):
        return "holds", "the measured gap is certainly within the discrepancy"
    return "surrogate", "the intervals are too wide to decide; measure more episodes"


def gap_of(true_return: Interval, model_return: Interval) -> dict[str, float]:
    """True return - model return; the ends hold whenever both intervals do."""
    return {
        "estimate": float(true_return.estimate - model_return.estimate),
        "lower": float(true_return.lower - model_return.upper),
        "upper": float(true_return.upper - model_return.lower),
    }


def ends(interval: Interval) -> dict[str, float]:
    return {name: float(getattr(interval, name)) for name in ("estimate", "lower", "upper")}


@dataclass(frozen=True)
class Measured:
    """What one data policy's episodes say about the triple (data policy, policy, model).

    ``summed`` bounds the certificate of branched and of full rollouts without its caps from above: the mean over
    episodes of a weighted sum of errors needs one interval, where a profile needs one at every time.
    """

    model_error: Interval
    policy_divergence: Interval
    policy_divergence_sample_max: float
    reward_error: Interval
    model_returns: dict[tuple[str, bool], Interval]
    summed: dict[str, float]


def measure(
    training: Training,
    data_policy: HistoryPolicy,
    trajectories: Trajectories,
    dynamics: CertifiableDynamics,
    confidence: float,
    generator: torch.Generator,
    length: int,
) -> Measured:
    """Error profiles [H] and model returns (branched ones with k = ``length``), each with confidence
    1 - (1 - confidence)/STATEMENTS.

    Raises:
        ValueError: when the densities cannot be what they claim to be at what happened (``bounds.honesty``).
    """
    each = 1 - (1 - confidence) / STATEMENTS
    model, config = training.model, training.config
    data = EncodedTrajectories.of(trajectories, config.history_length, training.device)
    low, high = dynamics.reward_low, dynamics.reward_high
    log_density = (
        history_log_density(dynamics, trajectories)
        if isinstance(dynamics, FilteredDynamics)
        else task_log_density(dynamics, trajectories)
    )
    log_model_density = model_log_density(model, data)
    claims = {"log_model_density": (log_density, log_model_density)}
    if data_policy is not training.policy:
        claims["log_policy"] = (action_log_density(data_policy, data), action_log_density(training.policy, data))
    level = HONESTY_LEVEL / len(CAUSES)
    refuse_dishonest({name: honesty(*pair, trajectories.valid, level=level) for name, pair in claims.items()})
    errors = model_error_samples(log_density, log_model_density, trajectories.valid)
    divergence, sample_max = policy_divergence_samples(data_policy, training.policy, data, generator)
    reward_errors = reward_error_samples(model, data, low, high)
    returns: dict[tuple[str, bool], Interval] = {}
    for scheme in SCHEMES:
        if scheme == "branched-exact" and length == 1:  # one model step at every t: the same return
            returns |= {(scheme, paid): value for (other, paid), value in returns.items() if other == "branched"}
            continue
        samples = model_return_samples(
            model,
            training.policy,
            data,
            discount=config.discount,
            rollout_length=None if scheme == "full" else length,
            scheme="exact" if scheme == "branched-exact" else "averaged",
            dynamics=dynamics,
            generator=generator,
            terminated=training.terminated,
        )
        for learned, values in ((True, samples.learned_reward), (False, samples.known_reward)):
            if values is not None:
                returns[scheme, learned] = return_interval(values, dynamics, config.discount, training.horizon, each)
    certain_zero = data_policy is training.policy
    reward_errors = np.minimum(reward_errors, high - low)
    summed: dict[str, float] = {}
    for scheme, steps in (("branched", length), ("full", None)):
        sums, most = summed_errors(
            errors,
            None if certain_zero else divergence,
            reward_errors,
            discount=config.discount,
            reward_range=high - low,
            rollout_length=steps,
        )
        summed[scheme] = float(betting(sums, each, sides="upper", high=most).upper)
    nothing = np.zeros(training.horizon)
    return Measured(
        model_error=profile(errors, each),
        policy_divergence=Interval(nothing, nothing, nothing, 1.0, len(errors))
        if certain_zero
        else profile(divergence, each),
        policy_divergence_sample_max=sample_max,
        reward_error=profile(reward_errors, each, high=high - low),
        model_returns=returns,
        summed=summed,
    )


def return_interval(
    samples: Array, dynamics: CertifiableDynamics, discount: float, horizon: int, confidence: float
) -> Interval:
    """Betting interval for a mean discounted return, which lies in [r_lo, r_hi] * (1 - gamma^H)/(1 - gamma)."""
    weight = (1 - discount**horizon) / (1 - discount)
    low, high = dynamics.reward_low * weight, dynamics.reward_high * weight
    rounding = 1e-6 * (high - low)
    return betting(samples, confidence, low=low - rounding, high=high + rounding)


def trivial_gap(dynamics: CertifiableDynamics, discount: float, horizon: int, *, learned_reward: bool) -> float:
    """The largest gap that any model at all can have: R sum_t gamma^t over t < H.

    With the known reward the sum starts at t = 1, since the first reward is the same in model and reality.
    """
    first = 0 if learned_reward else 1
    reward_range = dynamics.reward_high - dynamics.reward_low
    return reward_range * (discount**first - discount**horizon) / (1 - discount)


def stated_with_range(name: str) -> bool:
    """Whether a bound of the catalogue is the project's own: stated with the reward range R, and two-sided."""
    return name.startswith(("linear", "optimal"))


def reward_max_of(name: str, low: float, high: float) -> float:
    """What a bound of the catalogue takes as r_max for rewards in [low, high]; R/2 where it is stated with R."""
    return (high - low) / 2 if stated_with_range(name) else max(abs(low), abs(high))


def checks_of(
    training: Training, measured: Measured, true_return: Interval, on_policy: bool, branched: int
) -> list[Check]:
    """Every bound of the catalogue and both certificates against the measurement."""
    config = training.config
    dynamics = training.dynamics
    low, high = dynamics.reward_low, dynamics.reward_high
    trivial = {
        paid: trivial_gap(dynamics, config.discount, training.horizon, learned_reward=paid) for paid in (True, False)
    }
    # No transition after the last reward time H - 1 is ever paid for.
    model_error = float(np.max(measured.model_error.upper[:-1], initial=0.0))
    divergence = 0.0 if on_policy else measured.policy_divergence_sample_max
    rows: list[Check] = []

    def add(name: str, scheme: str, learned: bool, discrepancy: float, two_sided: bool, certified: str | None) -> None:
        if (scheme, learned) not in measured.model_returns:
            return
        gap = gap_of(true_return, measured.model_returns[scheme, learned])
        verdict, reason = judge(gap, discrepancy, two_sided=two_sided, certified=certified)
        tightness = abs(gap["estimate"]) / discrepancy if discrepancy > 0 else math.inf
        vacuous = discrepancy >= VACUOUS_SHARE * trivial[learned]
        rows.append(Check(name, scheme, learned, discrepancy, vacuous, gap, tightness, verdict, reason))

    for length, scheme in ((branched, "branched"), (None, "full")):
        value = bounds.certificate(
            measured.model_error.upper,
            measured.policy_divergence.upper,
            discount=config.discount,
            reward_range=high - low,
            rollout_length=length,
            reward_error_profile=measured.reward_error.upper,
            tail="absorbing",
        ).value
        add("certificate", scheme, True, min(value, measured.summed[scheme]), True, None)
    why = None if on_policy else "eps_pi is a sample maximum: the supremum over histories cannot be certified"
    for bound in bounds.ALL_BOUNDS:
        if bound.name == "mbpo-4.3" and not on_policy:
            continue  # its model error is the one under the current policy
        value = float(
            bound.evaluate(
                discount=config.discount,
                model_error=model_error,
                policy_divergence=divergence,
                rollout_length=branched,
                reward_max=reward_max_of(bound.name, low, high),
            )
        )
        add(bound.name, bound.scheme, False, value, stated_with_range(bound.name), why)
    return rows


def check(config: CheckConfig) -> dict[str, Any]:
    """Everything the command reports, JSON-ready.

    Raises:
        ValueError: when the run directory or its checkpoint cannot be read.
    """
    directory = RunDirectory.read(config.run_dir)
    training = restored(directory, Training, trust_env=config.trust_env)
    training.check_fitted()
    dynamics = training.dynamics
    length = config.rollout_length or training.config.rollout_length_at(training.steps)
    report: dict[str, Any] = {
        "run_dir": str(config.run_dir),
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


def describe(measured: Measured, rows: list[Check]) -> dict[str, Any]:
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


def text(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [
        f"{report['run_dir']}: {report['env_id']}, {report['steps']} steps, k = {report['k']}, "
        f"gamma = {report['gamma']}, horizon {report['horizon']}",
    ]
    if not report["data_policies"]:
        return "\n".join(
            [*lines, f"verdict: {report['verdict']} ({report['reason']})", *surrogates_text(report["surrogates"])]
        )
    lines += [
        f"{report['episodes']} fresh episodes per policy; all intervals of a data policy hold together with "
        + f"probability {report['confidence']}",
        f"true return          {span(report['true_return'])}   (discounted, {report['horizon']} steps; should it "
        f"go on, up to {report['tail_if_the_process_went_on']:.3f} more or less)",
    ]
    for name, part in report["data_policies"].items():
        meaning = {
            "current": "fresh data of the policy itself, policy divergence 0",
            "previous": "data of the policy one epoch ago",
        }[name]
        lines += [
            "",
            f"data policy: {name} ({meaning})",
            f"  eps_m {span(part['eps_m'])} (largest over time), eps_pi at least {part['eps_pi_sample_max']:.3f}",
            *(f"  model return, {scheme:<32} {span(value)}" for scheme, value in part["model_returns"].items()),
            f"  {'bound':<18}{'rollouts':<16}{'reward':<9}{'discrepancy':>12}  "
            f"{'measured gap':<28}{'tightness':>9}  verdict",
        ]
        for row in part["checks"]:
            value = f"{row['discrepancy']:.3f}" + ("*" if row["vacuous"] else " ")
            lines.append(
                f"  {row['name']:<18}{row['scheme']:<16}{'learned' if row['learned_reward'] else 'known':<9}"
                f"{value:>13} {span(row['gap']):<28}{row['tightness']:>9.3f}  "
                + (f"{row['verdict']}, vacuously" if row["vacuous"] and row["verdict"] == "holds" else row["verdict"])
            )
    lines += [
        "",
        f"* vacuous: not below 99% of the gap that any model at all can have ({report['trivial']:.3f} here)",
        conclusion(report),
    ]
    return "\n".join(lines)


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


def draw(report: dict[str, Any]) -> Figure:
    """Left: the measured gap inside every discrepancy. Right: the error profiles over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
    draw_gaps(left, report, "current")
    left.set_title("fresh data of the policy itself: " + report["verdict"], loc="left")
    draw_profiles(right, report)
    right.set_title("measured error profiles", loc="left")
    return figure


def draw_gaps(axes: Axes, report: dict[str, Any], policy: DataPolicy) -> None:
    """The measured |gap| inside every discrepancy, from one data policy's episodes."""
    rows = report["data_policies"][policy]["checks"][::-1]
    colours = {"holds": "#0072b2", "violated": "#d55e00", "surrogate": "#8a8a8a"}
    for place, row in enumerate(rows):
        colour = colours["surrogate"] if row["vacuous"] else colours[row["verdict"]]
        axes.barh(place, row["discrepancy"], color=colour, alpha=0.35, height=0.62)
        ends_of_gap = sorted((abs(row["gap"]["lower"]), abs(row["gap"]["upper"])))
        straddles = row["gap"]["lower"] < 0 < row["gap"]["upper"]
        axes.plot([1e-9 if straddles else ends_of_gap[0], ends_of_gap[1]], [place, place], color="#262626", lw=3)
        axes.plot(abs(row["gap"]["estimate"]), place, "o", color="#262626", ms=4)
    axes.axvline(report["trivial"], color="#8a8a8a", ls="--", lw=1.2)
    axes.text(report["trivial"], len(rows) - 0.35, "trivial", ha="center", va="bottom", color="#5a5a5a", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{row['name']}, {row['scheme']}" for row in rows])
    axes.set_xscale("log")
    smallest = min(max(abs(row["gap"]["estimate"]), 1e-3) for row in rows)
    axes.set_xlim(smallest / 3, 2 * max(report["trivial"], *(row["discrepancy"] for row in rows)))
    axes.set_xlabel("units of return: bar = discrepancy (grey: vacuous), dot and line = measured |gap|")


def draw_profiles(axes: Axes, report: dict[str, Any]) -> None:
    """Model error and policy divergence over the time steps of an episode, both data policies."""
    for name, colour, label in (
        ("current", "#0072b2", "policy's own data"),
        ("previous", "#e69f00", "previous policy's data"),
    ):
        profiles = report["data_policies"][name]["profiles"]
        axes.plot(profiles["model_error"]["estimate"][:-1], color=colour, lw=1.4, label=f"model error, {label}")
        if name == "previous":
            axes.plot(
                profiles["policy_divergence"]["estimate"], color=colour, lw=1.4, ls=":", label="policy divergence"
            )
    axes.set_ylim(0, 1)
    axes.set_xlabel("time step $t$ of the episode")
    axes.set_ylabel("mean total variation")
    axes.legend(loc="upper right")


def figure_output(path: Path, run_dir: Path, *, overwrite: bool = False) -> Output:
    """The figure as a file that may be written."""
    return Output("figure", path, mark_of("analysis.check_guarantee"), overwrite, files_of(run_dir)).check()


def write_figure(report: dict[str, Any], output: Output) -> None:
    from analysis.figure_style import figure_style

    with figure_style():
        output.write_figure(draw(report))


def main(config: CheckConfig) -> int:
    torch.set_num_threads(1)
    RunDirectory.read(config.run_dir)  # before anything is written there
    path = config.figure or config.run_dir / "guarantee.png"
    output = figure_output(path, config.run_dir, overwrite=config.overwrite)
    report = check(config)
    print(json_of(report) if config.as_json else text(report))
    if report["data_policies"]:
        write_figure(report, output)
        print(f"figure: {path}", file=sys.stderr)
    return 1 if report["verdict"] == "violated" else 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CheckConfig, arguments, prog="python -m analysis.check_guarantee")


if __name__ == "__main__":
    cli()
