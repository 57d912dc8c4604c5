"""How much noise makes the half cheetah certifiable?"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from analysis.guarantee.estimates import STATEMENTS, Estimates, measure, return_interval
from analysis.guarantee.subject import Subject
from analysis.guarantee.verdicts import certificate_of, theorem_4
from analysis.runs.over_seeds import mean_and_error
from analysis.runs.resumable_table import ResumableTable, settings_of
from m3po.agents.m3po import M3PO
from m3po.agents.model_training import train_model
from m3po.config import Config
from m3po.data.replay_buffer import EnvironmentBuffer
from m3po.envs.simulated_dynamics import SimulatedDynamics
from m3po.episodes import Trajectories
from m3po.errors import EncodedTrajectories
from m3po.flag_checks import (
    Confidence,
    Count,
    EpisodeCount,
    Items,
    Positive,
    Seed,
    Steps,
    Units,
    check_directory,
    check_directory_of,
    check_fields,
)
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import HistoryPolicy
from m3po.seeds import Purpose, environment_seeds, torch_generator
from m3po.train import train

Array = NDArray[np.float64]

ENVIRONMENT = "m3po/HalfCheetahFwdBwd-v0"

HORIZON = 200

REWARD_RANGE = (-10.0, 10.0)

LENGTH = 1

# Other discounts at which the same error profiles are put into the certificate.
LOW_DISCOUNT, HIGH_DISCOUNT = 0.9, 0.99

KINDS = ("scaled", "equal")


@dataclass(frozen=True)
class NoiseLevelConfig:
    """Train a policy on m3po/HalfCheetahFwdBwd-v0 (running forward, 200 steps) at several levels of process noise, fit
    a model to data of that policy, and measure the certificate (k = 1) on fresh data of it. Resumable."""

    out: Path
    """CSV of the rows, written as they are measured."""
    runs: Path
    """Directory for the run directories of the trainings; finished ones are used again."""
    scaled: Annotated[tuple[Positive, ...], Items(least=0, different=True)] = (0.01, 0.03, 0.1, 0.3, 1.0)
    """Levels of noise in units of each coordinate's standard deviation over episodes of the noise-free policy, > 0."""
    equal: Annotated[tuple[Positive, ...], Items(least=0, different=True)] = (0.01, 0.1, 1.0)
    """Levels of the same noise on every coordinate, in rad, m, and their rates per second, > 0."""
    samples: Annotated[tuple[Count, ...], Items()] = (5000, 20000)
    """Real transitions of the policy that the model is fitted to, multiples of 200."""
    training_steps: Steps = 6000
    """Real steps of each policy's training (M3PO without memory)."""
    width: Units = 128
    """Units per hidden layer of the models."""
    model_updates: Steps = 2000
    """Most gradient steps of a fit."""
    episodes: EpisodeCount = 200
    """Fresh episodes that measure the certificate, >= 2."""
    confidence: Confidence = 0.95
    """Of everything said about one row, in (0, 1)."""
    seed: Seed = 0
    """Seed of everything."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the rows as JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        for count in self.samples:
            if count % HORIZON:
                raise ValueError(f"--samples must be multiples of {HORIZON}, got {count}")
        check_directory_of("out", self.out)
        check_directory("runs", self.runs)


@dataclass(frozen=True)
class NoiseRow:
    """The certificate at one noise level, from a model fitted to so many transitions.

    Attributes:
        kind, level: scaled: in standard deviations of each coordinate. equal: the same on every coordinate.
        samples: real transitions of the policy that the model was fitted to.
        share: the certificate at confidence, of the trivial gap R (1 - gamma^H)/(1 - gamma).
        share_at_estimates: without the cost of confidence; model_share and reward_share are its parts.
        share_low_discount, share_high_discount: at estimates, for gamma = 0.9 and 0.99.
        verdict: of the certificate against the measured gap.
        model_error: mean total variation over the episode's steps.
        median_bias: median over steps of |(mean of the model - true mean)/noise|, the distance in units of the noise.
        trained_return: undiscounted, of the policy trained at this noise, with its standard error.
        transferred_return: of the policy trained without noise, at this noise, with its standard error.
        clipped: share of steps whose reward is at the end of its range.
    """

    kind: str
    level: float
    samples: int
    share: float
    share_at_estimates: float
    model_share: float
    reward_share: float
    share_low_discount: float
    share_high_discount: float
    verdict: str
    model_error: float
    median_bias: float
    trained_return: float
    trained_error: float
    transferred_return: float
    transferred_error: float
    clipped: float


def options_of(noise: float | Array) -> dict[str, Any]:
    """What the environment is built with: one task, forward, so that the observation is the state."""
    return {
        "process_noise": noise if isinstance(noise, float) else noise.tolist(), "reward_range": REWARD_RANGE,
        "tasks": [0], "observe_reward": False, "max_episode_steps": HORIZON,
    }  # fmt: skip


def training_settings(config: NoiseLevelConfig, name: str, noise: float | Array) -> Config:
    """Of the training of a policy at this noise."""
    return Config(
        run_dir=config.runs / name, env_id=ENVIRONMENT, env_options=json.dumps(options_of(noise)), seed=config.seed,
        device="cpu", total_steps=config.training_steps, initial_random_steps=min(1000, config.training_steps),
        epoch_steps=500, history_length=0, rollout_length=LENGTH, measure_episodes=2, evaluation_episodes=2,
    )  # fmt: skip


def trained(settings: Config) -> Subject:
    """The policy of this training, from its run directory when that is complete, continued when it is not."""
    directory = train(dataclasses.replace(settings, resume=settings.run_dir.exists()))
    return Subject.restored(directory.path).on_own_data()


def fitted(
    training: Config, episodes: Trajectories, config: NoiseLevelConfig, generator: torch.Generator
) -> EnsembleModel:
    """A new model, fitted to ``episodes`` alone; ``training`` is what their policy was trained with."""
    settings = dataclasses.replace(
        training, width=config.width, model_updates=config.model_updates, model_patience=8,
        model_learning_rate=1e-3, model_weight_decay=0.0, forgetting=0.0, start_share=0.0, holdout=0.1,
    )  # fmt: skip
    fresh = M3PO(settings)
    data = EncodedTrajectories.of(episodes, 0, fresh.device)
    buffer = EnvironmentBuffer(
        len(data.actions), data.windows.observation.shape[1], fresh.action_size, history_length=0,
        members=settings.ensemble_size, holdout=settings.holdout, device=fresh.device,
    )  # fmt: skip
    rewards = episodes.rewards.reshape(-1)
    for step, reward in enumerate(rewards):
        buffer.add(
            data.windows.observation[step], data.actions[step], float(reward), data.next_observations[step],
            terminated=False, starts_episode=step % HORIZON == 0, generator=generator,
        )  # fmt: skip
    train_model(fresh.model, fresh.model_optimiser, buffer, settings, generator)
    fresh.environment.close()
    return fresh.model


def median_bias(model: EnsembleModel, dynamics: SimulatedDynamics, episodes: Trajectories) -> float:
    """Median over steps of |(mean of the model - f(o, a))/noise|, Euclidean over coordinates."""
    data = EncodedTrajectories.of(episodes, 0, torch.device("cpu"))
    size = data.windows.observation.shape[1]
    with torch.no_grad():
        means, _ = model.elite_moments(data.features(model.encoder), data.actions)
        change = means.mean(dim=0)[:, :size] * model.target_normaliser.std[:size]
        change = change + model.target_normaliser.mean[:size]
        predicted = (data.windows.observation + change).double().numpy()
    true = dynamics.mean(episodes.observations[:, :-1], episodes.actions.astype(np.float64), episodes.tasks)
    scaled = (predicted - true.reshape(-1, size)) / dynamics.process_noise
    return float(np.median(np.linalg.norm(scaled, axis=1)))


def level_rows(
    config: NoiseLevelConfig,
    kind: str,
    level: float,
    noise: Array,
    transferred: HistoryPolicy,
    missing: Sequence[int],
    table: ResumableTable[NoiseRow],
) -> None:
    """Measure one noise level with every sample size that is missing."""
    settings = training_settings(config, f"{kind}-{level:g}", noise)
    subject = trained(settings)
    dynamics = subject.dynamics
    assert isinstance(dynamics, SimulatedDynamics)
    stream = (Purpose.NOISE_LEVEL, config.seed, KINDS.index(kind), round(1e6 * level))
    seeds, generator = environment_seeds(*stream, count=3), torch_generator(*stream)
    episodes = subject.episodes(config.episodes, seed=seeds[0], generator=generator)
    noise_free = dataclasses.replace(subject, policy=transferred)
    other = noise_free.episodes(min(config.episodes, 50), seed=seeds[1], generator=generator).returns()
    own = mean_and_error(episodes.returns())
    each = 1 - (1 - config.confidence) / STATEMENTS
    true_return = return_interval(episodes.returns(subject.discount), subject.returns, each)
    trivial = subject.returns.trivial_gap(learned_reward=True)
    data = subject.episodes(max(config.samples) // HORIZON, seed=seeds[2], generator=generator)
    for count in missing:
        model = fitted(settings, data.first(count // HORIZON), config, generator)
        certified = dataclasses.replace(subject, model=model)
        measured = measure(certified, episodes, config.confidence, generator)
        check = certificate_of(certified, measured, true_return)

        def share(gamma: float, measured: Estimates = measured) -> float:
            returns = dataclasses.replace(subject.returns, discount=gamma)
            value = theorem_4(measured, "estimate", returns, rollout_length=LENGTH).value
            return value / returns.trivial_gap(learned_reward=True)

        estimated = theorem_4(measured, "estimate", subject.returns, rollout_length=LENGTH)
        table.add(
            NoiseRow(
                kind=kind, level=level, samples=count, share=check.discrepancy / trivial,
                share_at_estimates=estimated.value / trivial, model_share=estimated.model_part / trivial,
                reward_share=estimated.reward_part / trivial,
                share_low_discount=share(LOW_DISCOUNT), share_high_discount=share(HIGH_DISCOUNT), verdict=check.verdict,
                model_error=float(np.mean(measured.model_error.estimate)),
                median_bias=median_bias(model, dynamics, episodes), trained_return=own[0], trained_error=own[1],
                transferred_return=float(other.mean()), transferred_error=mean_and_error(other)[1],
                clipped=float(np.mean(np.abs(episodes.rewards) >= REWARD_RANGE[1])),
            )
        )  # fmt: skip


def measure_all(config: NoiseLevelConfig) -> tuple[list[NoiseRow], tuple[float, float]]:
    """Every level and sample size, from the file where it has them; and the noise-free policy's own return.

    Raises:
        ValueError: as ``ResumableTable``.
    """
    noise_free = trained(training_settings(config, "noise-free", 0.0))
    seed = environment_seeds(Purpose.NOISE_FREE, config.seed, count=1)[0]
    episodes = noise_free.episodes(50, seed=seed, generator=torch_generator(Purpose.NOISE_FREE, config.seed))
    scales = episodes.observations[:, 1:].reshape(-1, episodes.observations.shape[-1]).std(axis=0)
    reference = mean_and_error(episodes.returns())
    table = ResumableTable(config.out, NoiseRow, settings_of(config, "runs", "scaled", "equal", "samples"))
    levels = [("scaled", level, level * scales) for level in config.scaled]
    levels += [("equal", level, np.full(len(scales), level)) for level in config.equal]
    for kind, level, noise in tqdm(levels, desc="noise levels", file=sys.stderr):
        done = {row.samples for row in table.rows if (row.kind, row.level) == (kind, level)}
        missing = [count for count in sorted(config.samples) if count not in done]
        if missing:
            level_rows(config, kind, level, noise, noise_free.policy, missing, table)
    wanted = {(kind, level, count) for kind, level, _ in levels for count in config.samples}
    rows = [row for row in table.rows if (row.kind, row.level, row.samples) in wanted]
    return sorted(rows, key=lambda row: (KINDS.index(row.kind), row.level, row.samples)), reference
