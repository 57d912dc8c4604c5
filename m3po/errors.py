"""Per-step error samples and return samples of a (data policy, policy, model) triple, from fresh real episodes.

Every array here is [N, H]: N iid episodes of the data policy, H steps. Its mean along axis 0 is a profile of THEORY.md,
and the N rows are the iid units that a confidence interval may count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bounds.confidence import Interval, betting, simultaneous
from bounds.divergence import diagonal_gaussian_tv_bounds, midpoint_sample_tv, one_sample_tv
from m3po.data.replay_buffer import windows_ending_at
from m3po.data.types import ROWS_AT_A_TIME, Windows, token_of
from m3po.envs.protocol import CertifiableDynamics, FilteredDynamics
from m3po.episodes import Trajectories
from m3po.foreign.checked_environment import change_of, to_tensor
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel, LearnedModel
from m3po.networks.policy import HistoryPolicy, gaussian_log_density

Array = NDArray[np.float64]

# Nats per coordinate beyond which an average step is nothing that the model could have been trained for.
UNLIKELY = 1000.0


@dataclass(frozen=True)
class EncodedTrajectories:
    """Trajectories as tensors, with the window before every step. ``windows`` has N * H rows, episode by episode.

    ``changes`` are o_{t+1} - o_t, [N * H, O], whatever the magnitude of o.
    """

    trajectories: Trajectories
    windows: Windows
    actions: Tensor
    next_observations: Tensor
    changes: Tensor
    _features: dict[ContextEncoder, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(trajectories: Trajectories, history_length: int, device: torch.device) -> EncodedTrajectories:
        episodes, horizon = trajectories.rewards.shape
        observations = to_tensor(trajectories.observations[:, :-1].reshape(episodes * horizon, -1), device)
        following = to_tensor(trajectories.observations[:, 1:].reshape(episodes * horizon, -1), device)
        moved = change_of(trajectories.observations[:, :-1], trajectories.observations[:, 1:])
        changes = to_tensor(moved.reshape(episodes * horizon, -1), device)
        actions = to_tensor(trajectories.actions.reshape(episodes * horizon, -1), device)
        steps = torch.arange(episodes * horizon, device=device)
        windows = windows_ending_at(
            steps,
            token_of(observations, actions, following, changes),
            steps // horizon * horizon,
            observations,
            history_length,
        )
        return EncodedTrajectories(trajectories, windows, actions, following, changes)

    @torch.no_grad()
    def features(self, encoder: ContextEncoder) -> Tensor:
        """The encodings of all N * H windows, [N * H, F], computed once: the encoder must not be trained meanwhile."""
        if encoder not in self._features:
            parts = torch.arange(len(self.actions), device=self.actions.device).split(ROWS_AT_A_TIME)
            self._features[encoder] = torch.cat([encoder(self.windows.select(part)) for part in parts])
        return self._features[encoder]

    def per_step(self, values: Tensor) -> Array:
        """[N * H] -> [N, H], zero after the end of an episode."""
        grid = values.double().cpu().numpy().reshape(self.trajectories.rewards.shape)
        return np.where(self.trajectories.valid, grid, 0.0)


def task_log_density(dynamics: CertifiableDynamics, trajectories: Trajectories) -> Array:
    """log p(o_{t+1} | task_t, o_t, a_t) of the true task, in nats. Shape [N, H]."""
    observations = trajectories.observations
    actions = trajectories.actions.astype(np.float64)
    return dynamics.log_density(observations[:, 1:], observations[:, :-1], actions, trajectories.tasks)


def history_log_density(dynamics: FilteredDynamics, trajectories: Trajectories, window: int | None = None) -> Array:
    """log p(o_{t+1} | h_t, a_t), in nats; ``window``: of the filter that sees only so many past steps. Shape [N, H]."""
    return dynamics.history_log_density(trajectories.observations, trajectories.actions.astype(np.float64), window)


@torch.no_grad()
def model_log_density(model: LearnedModel, data: EncodedTrajectories) -> Array:
    """log p_theta(o_{t+1} | h_{L:t}, a_t) of the ensemble's mixture, in nats. Shape [N, H]."""
    whole = [data.features(model.encoder), data.windows.observation, data.actions, data.next_observations]
    if not torch.equal(data.changes, data.next_observations - data.windows.observation):  # far from 0
        whole.append(data.changes)
    parts = zip(*(values.split(ROWS_AT_A_TIME) for values in whole), strict=True)
    return data.per_step(torch.cat([model.observation_log_density(*part) for part in parts]))


def unlikely(model: EnsembleModel, trajectories: Trajectories) -> str:
    """Which coordinate moved least like in the model's training, and how, in words."""
    size = trajectories.observations.shape[2]
    std = model.target_normaliser.std[:size].double().cpu().numpy()
    mean = model.target_normaliser.mean[:size].double().cpu().numpy()
    changes = np.diff(trajectories.observations, axis=1)[trajectories.valid]
    distances = np.abs(changes - mean) / std
    step, place = np.unravel_index(distances.argmax(), distances.shape)
    return (
        f"the model holds held-out steps for all but impossible: coordinate {place} changed by "
        f"{changes[step, place]:.3g}, {distances[step, place]:.3g} standard deviations of its changes in training "
        f"({std[place]:.2g})"
    )


def model_error_samples(log_density: Array, log_model_density: Array, valid: NDArray[np.bool_]) -> Array:
    """Z = max(0, 1 - p_theta(o')/p(o')) in [0, 1]; E[Z | h, a] is the total variation exactly. Shape [N, H].

    With the density given the history, the mean over episodes estimates m_t of Definition 1; with the density given the
    true task, an upper bound of it (joint convexity).
    """
    return np.where(valid, one_sample_tv(log_density, log_model_density), 0.0)


@torch.no_grad()
def action_log_density(policy: HistoryPolicy, data: EncodedTrajectories) -> Array:
    """log pi(u_t | h_t) of the data's actions before tanh, in nats. Shape [N, H]."""
    raw = to_tensor(data.trajectories.raw_actions.reshape(len(data.actions), -1), data.actions.device)
    return data.per_step(gaussian_log_density(raw, *policy.network(data.features(policy.encoder))))


@torch.no_grad()
def gaussian_tv_samples(
    moments: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], generator: torch.Generator, draws: int = 8
) -> Tensor:
    """Unbiased estimates in [0, 1] of TV(N(mean, diag std^2), N(other_mean, diag other_std^2)), pair by pair.

    E over u ~ (p + q)/2 of |p - q|/(p + q) = |tanh((log p - log q)/2)| is the total variation.

    Args:
        moments, other: (mean, log std), [N, A] each.
        generator: of the draws.
        draws: from each of the two.

    Returns:
        [N] float64, on the CPU.
    """
    pair = (moments, other)
    total = torch.zeros(len(moments[0]), dtype=torch.float64)
    for mean, log_std in pair:
        for _ in range(draws):
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            raw = mean + torch.exp(log_std) * noise
            log_densities = [gaussian_log_density(raw, *each).double().cpu().numpy() for each in pair]
            total += torch.as_tensor(midpoint_sample_tv(*log_densities))
    return total / (2 * draws)


@torch.no_grad()
def policy_divergence_samples(
    data_policy: HistoryPolicy | None,
    policy: HistoryPolicy,
    data: EncodedTrajectories,
    generator: torch.Generator,
    draws: int = 8,
) -> tuple[Array, float]:
    """TV(pi_D(.|h), pi(.|h)) at every visited history, and a lower estimate of its supremum.

    tanh is a bijection, so this is the TV of the Gaussians before it. Each history gets an unbiased Monte-Carlo
    estimate in [0, 1]: ``draws`` actions from each of the two policies, |tanh((log p - log q)/2)| averaged. Without a
    ``data_policy`` the data are of ``policy`` itself, which does not differ from itself.

    Returns:
        [N, H] estimates; and the largest *certain lower bound* of the TV over the visited histories. The supremum over
        all histories is at least that and cannot be certified from samples.
    """
    if data_policy is None:
        return np.zeros(data.trajectories.rewards.shape), 0.0
    moments = [each.network(data.features(each.encoder)) for each in (data_policy, policy)]
    samples = gaussian_tv_samples(moments[0], moments[1], generator, draws)
    lower, _ = diagonal_gaussian_tv_bounds(
        moments[0][0].double().cpu().numpy(), moments[0][1].double().exp().cpu().numpy(),
        moments[1][0].double().cpu().numpy(), moments[1][1].double().exp().cpu().numpy(),
    )  # fmt: skip
    visited = data.trajectories.valid.reshape(-1)
    return data.per_step(samples), float(np.max(lower[visited], initial=0.0))


@torch.no_grad()
def predicted_rewards(model: LearnedModel, data: EncodedTrajectories, low: float, high: float) -> Array:
    """r_theta(h_t, a_t), clipped to the reward range. [N, H]."""
    parts = zip(*(values.split(ROWS_AT_A_TIME) for values in (data.features(model.encoder), data.actions)), strict=True)
    return data.per_step(
        torch.cat([model.expected_reward(features, actions, low, high) for features, actions in parts])
    )


def reward_error_samples(model: LearnedModel, data: EncodedTrajectories, low: float, high: float) -> Array:
    """|r_t - r_theta(h_t, a_t)|, with r_theta clipped to the reward range; its mean bounds e_t by Jensen. [N, H]."""
    predicted = predicted_rewards(model, data, low, high)
    return np.where(data.trajectories.valid, np.abs(data.trajectories.rewards - predicted), 0.0)


def profile(samples: Array, confidence: float, high: float = 1.0, *, order: int | None = 0) -> Interval:
    """Means over episodes per time step, with betting intervals that hold for all steps at once. [N, H] -> [H].

    ``order``: of the episodes, as in ``bounds.confidence.betting``.
    """
    return simultaneous(partial(betting, order=order), samples, confidence, high=high)


def largest(interval: Interval) -> dict[str, float]:
    """The maximum of a profile over time, as estimate and simultaneous interval ends."""
    return {name: float(np.max(getattr(interval, name))) for name in ("estimate", "lower", "upper")}


def error_metrics(
    model: EnsembleModel,
    policy: HistoryPolicy,
    data_policy: HistoryPolicy | None,
    trajectories: Trajectories,
    dynamics: object,
    *,
    confidence: float,
    generator: torch.Generator,
) -> dict[str, Any]:
    """One row of logged errors, measured on held-out episodes of the data policy (None: of ``policy`` itself).

    ``eps_m`` refers to p(o'|h, a) where the dynamics carry an exact filter (Definition 1 to the letter) and otherwise
    to p(o'|task, o, a), an upper bound; ``eps_m_task`` always to the latter. ``bayes_*`` are the same quantities for
    the filter restarted at the first step of the model's window, at which a model of that history length should aim.
    Profiles are lists over time steps. Environments whose density is unknown get the surrogates only.
    """
    device = next(policy.network.parameters()).device
    data = EncodedTrajectories.of(trajectories, model.encoder.history_length, device)
    valid = trajectories.valid
    log_model = model_log_density(model, data)
    row: dict[str, Any] = {"nll": float(-log_model[valid].mean())}
    if row["nll"] > UNLIKELY * trajectories.observations.shape[2]:
        row["warnings"] = [unlikely(model, trajectories)]

    divergence, lower_sup = policy_divergence_samples(data_policy, policy, data, generator)
    # Independent simulations, so no order is needed; and an interval of a log must not end a training.
    divergences = profile(divergence, confidence, order=None)
    row |= {
        "eps_pi_mean": float(divergence[valid].mean()),
        "eps_pi_sample_max": lower_sup,
        "policy_divergence_profile": divergences.estimate.tolist(),
        "policy_divergence_upper": divergences.upper.tolist(),
    }
    if not isinstance(dynamics, CertifiableDynamics):
        return row

    reward_error = reward_error_samples(model, data, dynamics.reward_low, dynamics.reward_high)
    row["reward_error"] = float(reward_error[valid].mean())
    references = {"eps_m_task": task_log_density(dynamics, trajectories)}
    if isinstance(dynamics, FilteredDynamics):
        references["eps_m"] = history_log_density(dynamics, trajectories)
        log_floor = history_log_density(dynamics, trajectories, window=model.encoder.history_length)
    for name, log_density in references.items():
        samples = model_error_samples(log_density, log_model, valid)
        errors = profile(samples, confidence, order=None)
        row |= {f"{name}{ending}": value for ending, value in _named(largest(errors)).items()}
        row[f"{name}_mean"] = float(samples[valid].mean())
        row[f"{name}_profile"] = errors.estimate.tolist()
        row[f"{name}_profile_upper"] = errors.upper.tolist()
        if isinstance(dynamics, FilteredDynamics):
            floor = model_error_samples(log_density, log_floor, valid)
            row[f"bayes_{name}"] = float(floor.mean(axis=0).max())
            row[f"bayes_{name}_mean"] = float(floor[valid].mean())
    if "eps_m" not in references:
        row |= {"eps_m" + key.removeprefix("eps_m_task"): row[key] for key in list(row) if key.startswith("eps_m_task")}
    return row


def _named(ends: dict[str, float]) -> dict[str, float]:
    return {"": ends["estimate"], "_lower": ends["lower"], "_upper": ends["upper"]}
