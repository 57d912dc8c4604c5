"""What can be said about a model where total variation cannot be measured: surrogates, which certify nothing.

Everything is estimated on N fresh real episodes of the policy itself. The iid unit is one episode, and every quantity
is first averaged within an episode and then over episodes, so that episodes weigh equally however long they are. The
calibration band is valid at every N (betting intervals of shares in [0, 1]); all other intervals are Student's for the
mean over episodes and approximate, since errors and rewards have no known range here.

**The return gap, telescoped.** Let W_t(h) be what the first C steps of a rollout in the model from history h at time t
are paid, W_t(h) = E_{pi, p_theta}[sum_{i < min(C, H-t)} gamma^i r_theta | h_t = h], and 0 once an episode has ended.
With a ~ pi on real histories,

    J - J_full = sum_{t<H} gamma^t E_real[ r_t - r_theta(h_t, a_t) ]                                      (reward part)
               + sum_{t<H-1} gamma^{t+1} E_real[ W_{t+1}(h_{t+1}) - E_{o' ~ p_theta} W_{t+1}(h_t, a_t, o') ]  (dynamics)
               + sum_{t<H-C} gamma^{t+C} (E_real - E_model)[ U_t(h_t) ],                                    (remainder)

U_t(h) = E_{pi, p_theta}[r_theta(h_{t+C}, a_{t+C}) | h_t = h]. *Proof.* Write T W_t(h) = E_{pi, p_theta}[r_theta + gamma
W_{t+1}(h')]. Since W_H = 0, sum_t gamma^t E_real[r_t + gamma W_{t+1}(h_{t+1}) - W_t(h_t)] telescopes to J - E W_0, and
in the model sum_t gamma^t E_model[T W_t - W_t] to J_full - E W_0; subtract, and add and subtract sum_t gamma^t
E_real[T W_t]. T W_t - W_t is gamma^C U_t where t + C < H and 0 elsewhere. QED. Real and model histories agree at t = 0,
so with C >= H - 1 there is no remainder; it never exceeds gamma^C R/(1 - gamma) in size. The critic is not used for W:
it estimates a *soft* value, entropy bonus included, whose residual T W - W does not vanish. The sum says where along an
episode, and by which of the two errors, the return is mispredicted; its size can be held against the plain difference
of measured returns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.variants import student_interval
from bounds.confidence import betting, simultaneous
from m3po.evaluate import Trajectories
from m3po.measure import EncodedTrajectories, model_log_density, predicted_rewards
from m3po.model import EnsembleModel
from m3po.policy import HistoryPolicy
from m3po.rollout import Terminated, model_steps, never_terminated
from m3po.train import Training
from m3po.types import ROWS_AT_A_TIME, Windows

Array = NDArray[np.float64]
LEVELS = np.arange(1, 20) / 20
LONGEST = 20
# Times drawn from each episode for the telescoped gap, and what is reported together.
STRATA, GROUPS = 40, 10
# Many rollouts start from each episode for the k-step error and the telescoped gap: so many episodes are enough.
ROLLOUT_EPISODES = 100
# The remainder of the telescoped gap is below this share of the trivial gap.
REMAINDER_SHARE = 0.01


def ends(samples: Array, confidence: float) -> dict[str, float]:
    """The mean of one number per episode [N] with Student's interval, as estimate, lower, upper."""
    estimate, lower, upper = student_interval(samples, confidence)
    return {"estimate": estimate, "lower": lower, "upper": upper}


def episode_means(values: Array, valid: NDArray[np.bool_]) -> Array:
    """Means within episodes over their valid steps. [N, H, ...] -> [N, ...]."""
    mask = valid.reshape(*valid.shape, *(1,) * (values.ndim - 2))
    return np.asarray(np.where(mask, values, 0.0).sum(axis=1) / mask.sum(axis=1))


# One-step density


@torch.no_grad()
def pit(model: EnsembleModel, data: EncodedTrajectories) -> Array:
    """F_j(o'_j | h, a) = (1/E) sum_{b elite} Phi((o'_j - mu_bj)/sigma_bj), the probability integral transform.

    Uniform on [0, 1] for each coordinate when the model's marginals are the truth's. Shape [N, H, O].
    """
    size = data.next_observations.shape[1]
    mean, std = model.target_normaliser.mean[:size], model.target_normaliser.std[:size]
    columns = (data.features(model.encoder), data.actions, data.changes)
    parts = []
    for features, action, change in zip(*(each.split(ROWS_AT_A_TIME) for each in columns), strict=True):
        centre, log_variance = (each[..., :size].double() for each in model.elite_moments(features, action))
        target = ((change - mean) / std).double()
        parts.append(torch.special.ndtr((target - centre) * torch.exp(-0.5 * log_variance)).mean(dim=0))
    values: Array = torch.cat(parts).cpu().numpy()
    return values.reshape(*data.trajectories.rewards.shape, size)


def calibration(transforms: Array, valid: NDArray[np.bool_], confidence: float) -> dict[str, Any]:
    """P(F_j(o'_j) <= u) at 19 levels u, with a band that holds for all levels and coordinates at once, at every N.

    Args:
        transforms: [N, H, O] of ``pit``.
        valid: [N, H].
        confidence: of the band, in (0, 1).

    Returns:
        levels [19]; coverage, lower, upper [19][O]; distance: max_u |coverage - u| for each coordinate, as estimate,
        lower, upper [O]: the lower end is above 0 only where the model is certainly miscalibrated. The estimate of a
        perfectly calibrated model is above 0 too, by chance; its lower end is not.
    """
    below = np.stack([episode_means((transforms <= level).astype(np.float64), valid) for level in LEVELS], axis=1)
    band = simultaneous(betting, below, confidence)
    nominal = LEVELS[:, None]
    return {
        "levels": LEVELS.tolist(),
        "coverage": band.estimate.tolist(),
        "lower": band.lower.tolist(),
        "upper": band.upper.tolist(),
        "distance": {
            "estimate": np.abs(band.estimate - nominal).max(axis=0).tolist(),
            "lower": np.maximum(np.maximum(band.lower - nominal, nominal - band.upper), 0.0).max(axis=0).tolist(),
            "upper": np.maximum(band.upper - nominal, nominal - band.lower).max(axis=0).tolist(),
        },
    }


def log_densities(model: EnsembleModel, data: EncodedTrajectories, confidence: float) -> dict[str, float]:
    """One-step negative log likelihood in nats, mean over episodes, with Student's interval.

    ``baseline`` is that of the Gaussian with the training data's mean and deviation of o' - o, which knows neither
    history nor action.
    """
    valid = data.trajectories.valid
    size = data.next_observations.shape[1]
    mean, std = (
        getattr(model.target_normaliser, name)[:size].double().cpu().numpy().astype(np.float64)
        for name in ("mean", "std")
    )
    changes = np.diff(data.trajectories.observations, axis=1)
    ignorant = 0.5 * (((changes - mean) / std) ** 2 + 2 * np.log(std) + math.log(2 * math.pi)).sum(axis=2)
    found = ends(episode_means(-model_log_density(model, data), valid), confidence)
    return found | {"baseline": float(episode_means(ignorant, valid).mean())}


# k steps ahead


@torch.no_grad()
def open_loop_errors(
    model: EnsembleModel,
    data: EncodedTrajectories,
    generator: torch.Generator,
    *,
    longest: int = LONGEST,
    starts: int = 8,
    draws: int = 8,
) -> tuple[Array, Array]:
    """(E[o^_{t+k} | h_t, a_t .. a_{t+k-1}] - o_{t+k})^2 of the model's mean prediction, k = 1..K, and of "nothing
    changes", (o_t - o_{t+k})^2.

    From ``starts`` random times of every episode the model is run with the actions that were really taken. Its mean is
    not known, so the square is estimated without bias from ``draws`` rollouts: their mean's squared error minus their
    sample variance / draws. The real actions reacted to the real observations, so even the true process leaves an error
    here; compare with the baseline, not with 0.

    Returns:
        two arrays [N', K, O], the means over starts, of the N' episodes that last at least K steps.

    Raises:
        ValueError: when no episode lasts K steps, or there are fewer than 2 draws.
    """
    if draws < 2:
        raise ValueError(f"draws must be >= 2, got {draws}")
    trajectories = data.trajectories
    horizon = trajectories.rewards.shape[1]
    lengths = torch.as_tensor(trajectories.valid.sum(axis=1))
    episodes = torch.nonzero(lengths >= longest)[:, 0]
    if len(episodes) == 0:
        raise ValueError(f"no episode lasts {longest} steps, the longest has {int(lengths.max())}")
    room = (lengths[episodes] - longest + 1)[:, None]
    times = (torch.rand(len(episodes), starts, generator=generator) * room).long().clamp(max=room - 1)
    rows = (episodes[:, None] * horizon + times).reshape(-1)
    real = np.asarray(trajectories.observations)
    episode, time = (rows // horizon).numpy(), (rows % horizon).numpy()
    windows = data.windows.select(rows.repeat_interleave(draws))
    shape = (len(episodes), starts, real.shape[2])
    squares, unchanged = [], []
    for k in range(1, longest + 1):
        action = data.actions[(rows + k - 1).repeat_interleave(draws)]
        predicted = []
        for part in torch.arange(len(action)).split(ROWS_AT_A_TIME):
            chosen = windows.select(part)
            features = model.encoder(chosen)
            predicted.append(model.sample(features, chosen.observation, action[part], generator)[0])
        windows = windows.push(action, torch.cat(predicted))
        outcome = windows.observation.double().cpu().numpy().reshape(len(rows), draws, -1)
        truth = real[episode, time + k]
        error = (outcome.mean(axis=1) - truth) ** 2 - outcome.var(axis=1, ddof=1) / draws
        squares.append(error.reshape(shape).mean(axis=1))
        unchanged.append(((real[episode, time] - truth) ** 2).reshape(shape).mean(axis=1))
    return np.stack(squares, axis=1), np.stack(unchanged, axis=1)


def k_step(
    model: EnsembleModel,
    data: EncodedTrajectories,
    generator: torch.Generator,
    confidence: float,
    *,
    longest: int = LONGEST,
    starts: int = 8,
) -> dict[str, Any]:
    """Root mean square errors in units of each coordinate's standard deviation over the real episodes.

    Returns:
        k [K]; model, unchanged [K][O]; model_all: root of the mean over coordinates, with the ends of Student's
        interval, K times; unchanged_all [K]; scale [O]; episodes: how many lasted K steps. An estimated square below 0
        (which its lack of bias allows) is reported as the error 0.
    """
    valid = data.trajectories.valid
    longest = min(longest, int(valid.sum(axis=1).max()))
    squares, unchanged = open_loop_errors(model, data, generator, longest=longest, starts=starts)
    scale = data.trajectories.observations[:, :-1][valid].std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1.0)
    squares, unchanged = squares / scale**2, unchanged / scale**2

    def root(values: Any) -> Any:
        return np.sqrt(np.maximum(values, 0.0))

    together = [ends(squares[:, k].mean(axis=1), confidence) for k in range(longest)]
    return {
        "k": list(range(1, longest + 1)),
        "model": root(squares.mean(axis=0)).tolist(),
        "unchanged": root(unchanged.mean(axis=0)).tolist(),
        "model_all": [{end: float(root(value)) for end, value in each.items()} for each in together],
        "unchanged_all": root(unchanged.mean(axis=(0, 2))).tolist(),
        "scale": scale.tolist(),
        "starts": starts,
        "episodes": len(squares),
    }


# The return gap


@torch.no_grad()
def rollout_values(
    model: EnsembleModel,
    policy: HistoryPolicy,
    windows: Windows,
    steps: Tensor,
    discount: float,
    generator: torch.Generator,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    terminated: Terminated = never_terminated,
) -> Array:
    """sum_{i < steps} gamma^i r_theta(h_i, a_i) of one rollout in the model from each history, [N]."""
    values = torch.zeros(len(steps), dtype=torch.float64)
    for part in torch.arange(len(steps)).split(ROWS_AT_A_TIME):
        longest = int(steps[part].max())
        if longest == 0:
            continue
        rollouts = model_steps(model, policy, windows.select(part), longest, generator, terminated)
        for i, step in enumerate(rollouts):
            rows = part[step.rows.cpu()]
            reward = model.expected_reward(step.transitions.features, step.transitions.action, low, high)
            values[rows] += torch.where(i < steps[rows], discount**i * reward.double().cpu(), 0.0)
    return np.asarray(values.numpy(), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class TelescopedGap:
    """Samples per episode whose means are the parts of the telescoped gap. Times are cut into S strata.

    Attributes:
        reward: [N, H] gamma^t (r_t - r_theta(h_t, a_t)), 0 after an episode's end.
        dynamics: [N, S], unbiased for sum_{t in stratum} gamma^{t+1} (W real - W model); strata of equal discount
            weight, which share the times at their borders.
        borders: [S + 1] times: stratum s reaches from borders[s] to borders[s + 1].
    """

    reward: Array
    dynamics: Array
    borders: NDArray[np.int64]


def telescoped_gap(
    model: EnsembleModel,
    policy: HistoryPolicy,
    data: EncodedTrajectories,
    generator: torch.Generator,
    *,
    discount: float,
    value_steps: int,
    strata: int = STRATA,
    low: float = -math.inf,
    high: float = math.inf,
    terminated: Terminated = never_terminated,
) -> TelescopedGap:
    """The reward and the dynamics part of the telescoped gap (see the module) on episodes of ``policy``.

    One time is drawn from each of ``strata`` equal parts of the law proportional to gamma^t, t < H - 1. From the real
    next observation and from one drawn from the model, one rollout each of at most ``value_steps`` = C steps, with the
    same random numbers.

    Raises:
        ValueError: when ``value_steps`` or ``strata`` < 1, or the discount is not in [0, 1).
    """
    if value_steps < 1 or strata < 1:
        raise ValueError(f"value_steps and strata must be >= 1, got {value_steps} and {strata}")
    if not 0 <= discount < 1:
        raise ValueError(f"discount must be in [0, 1), got {discount}")
    trajectories = data.trajectories
    episodes, horizon = trajectories.rewards.shape
    powers = np.power(float(discount), np.arange(horizon))
    features = data.features(model.encoder)
    paid = predicted_rewards(model, data, low, high)
    reward = powers * np.where(trajectories.valid, trajectories.rewards - paid, 0.0)
    if horizon == 1:
        return TelescopedGap(reward, np.zeros((episodes, strata)), np.zeros(strata + 1, dtype=np.int64))

    law = np.cumsum(powers[:-1]) / powers[:-1].sum()
    borders = np.minimum(np.searchsorted(law, np.arange(strata + 1) / strata, side="right"), horizon - 2)
    places = (np.arange(strata) + torch.rand(episodes, strata, generator=generator).double().numpy()) / strata
    times = torch.as_tensor(np.minimum(np.searchsorted(law, places, side="right"), horizon - 2))
    rows = (torch.arange(episodes)[:, None] * horizon + times).reshape(-1)
    left = (horizon - 1 - rows % horizon).clamp(max=value_steps)
    valid = torch.as_tensor(trajectories.valid.reshape(-1))
    happened, goes_on = valid[rows], valid[rows] & valid[rows + 1]

    with torch.no_grad():
        before = data.windows.select(rows)
        drawn = [
            model.sample(features[part], data.windows.observation[part], data.actions[part], generator)[0]
            for part in rows.split(ROWS_AT_A_TIME)
        ]
    imagined = before.push(data.actions[rows], torch.cat(drawn))
    ended = terminated(imagined.observation).cpu()
    seed = int(torch.randint(2**62, (1,), generator=generator))
    values = [
        rollout_values(
            model,
            policy,
            windows,
            torch.where(alive, left, 0),
            discount,
            torch.Generator().manual_seed(seed),
            low=low,
            high=high,
            terminated=terminated,
        )
        for windows, alive in ((data.windows.select(rows + 1), goes_on), (imagined, happened & ~ended))
    ]
    weight = discount * powers[:-1].sum() / strata
    return TelescopedGap(reward, weight * (values[0] - values[1]).reshape(episodes, strata), borders)


def value_steps_for(discount: float, horizon: int) -> int:
    """The smallest C with gamma^C <= 1%, at most H - 1, with which the remainder is 0."""
    if discount == 0:
        return 1
    return max(1, min(horizon - 1, math.ceil(math.log(REMAINDER_SHARE) / math.log(discount))))


def return_gap(
    training: Training,
    data: EncodedTrajectories,
    few: EncodedTrajectories,
    generator: torch.Generator,
    confidence: float,
    *,
    rollouts: int = 4,
    low: float = -math.inf,
    high: float = math.inf,
) -> dict[str, Any]:
    """True return - full-model return with the learned reward: measured as a difference on the episodes of ``data``,
    and telescoped on those of ``few``.

    Returns:
        true_return, model_return, direct (their difference, paired by the first observation), telescoped, reward_part,
        dynamics_part: each estimate, lower, upper. value_steps C; remainder_at_most: its share of R/(1 - gamma), 0 when
        rollouts reach the horizon; profile: the parts of 10 spans of time of equal discount weight, reward_part of
        the times from <= t < to (a span may be empty), dynamics_part with shared times at the borders.
    """
    model, policy, discount = training.model, training.policy, training.config.discount
    trajectories = data.trajectories
    episodes, horizon = trajectories.rewards.shape
    first = (torch.arange(episodes) * horizon).repeat_interleave(rollouts)
    imagined = rollout_values(
        model,
        policy,
        data.windows.select(first),
        torch.full((len(first),), horizon),
        discount,
        generator,
        low=low,
        high=high,
        terminated=training.terminated,
    )
    model_returns = imagined.reshape(episodes, rollouts).mean(axis=1)
    true_returns = trajectories.returns(discount)
    steps = value_steps_for(discount, horizon)
    gap = telescoped_gap(
        model,
        policy,
        few,
        generator,
        discount=discount,
        value_steps=steps,
        low=low,
        high=high,
        terminated=training.terminated,
    )
    # A stratum's last time opens the next one.
    borders = gap.borders[:: STRATA // GROUPS]
    dynamics = gap.dynamics.mean(axis=0).reshape(GROUPS, -1).sum(axis=1)
    reward = np.append(gap.reward.mean(axis=0).cumsum(), 0.0)  # the last entry is that before time 0
    stops = np.append(borders[1:-1], horizon)
    return {
        "true_return": ends(true_returns, confidence),
        "model_return": ends(model_returns, confidence),
        "direct": ends(true_returns - model_returns, confidence),
        "telescoped": ends(gap.reward.sum(axis=1) + gap.dynamics.sum(axis=1), confidence),
        "reward_part": ends(gap.reward.sum(axis=1), confidence),
        "dynamics_part": ends(gap.dynamics.sum(axis=1), confidence),
        "value_steps": steps,
        "remainder_at_most": 0.0 if steps >= horizon - 1 else discount**steps,
        "profile": [
            {
                "from": int(borders[place]),
                "to": int(stops[place]),
                "reward_part": float(reward[stops[place] - 1] - reward[borders[place] - 1]),
                "dynamics_part": float(dynamics[place]),
            }
            for place in range(GROUPS)
        ],
    }


def surrogates(
    training: Training,
    trajectories: Trajectories,
    generator: torch.Generator,
    confidence: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
) -> dict[str, Any]:
    """Everything above on fresh episodes of the trained policy, JSON-ready.

    Args:
        training: with the checkpoint loaded.
        trajectories: episodes of ``training.policy``, which never entered the training; k-step errors and the
            telescoped gap use the first 100.
        generator: of all rollouts in the model.
        confidence: of the calibration band, and of each of the other intervals on its own.
        low, high: the reward range, where it is known: predicted rewards are clipped to it.
    """
    length, device = training.config.history_length, training.device
    data = EncodedTrajectories.of(trajectories, length, device)
    few = EncodedTrajectories.of(trajectories.first(ROLLOUT_EPISODES), length, device)
    bands = calibration(pit(training.model, data), trajectories.valid, confidence)
    distance = bands["distance"]
    worst = int(np.argmax(distance["estimate"]))
    return {
        "episodes": len(trajectories.rewards),
        "rollout_episodes": len(few.trajectories.rewards),
        "confidence": confidence,
        "nll": log_densities(training.model, data, confidence),
        "k_step": k_step(training.model, few, generator, confidence),
        "calibration": bands | {"worst": {"coordinate": worst} | {end: distance[end][worst] for end in distance}},
        "return_gap": return_gap(training, data, few, generator, confidence, low=low, high=high),
    }


def span(value: dict[str, float]) -> str:
    """estimate [lower, upper]."""
    return f"{value['estimate']:.3f} [{value['lower']:.3f}, {value['upper']:.3f}]"


def text(found: dict[str, Any]) -> list[str]:
    """The surrogates as lines for a person."""
    nll, steps, worst, gap = found["nll"], found["k_step"], found["calibration"]["worst"], found["return_gap"]
    lines = [
        f"surrogates, on {found['episodes']} fresh episodes of the policy; they certify nothing. Intervals are "
        f"Student's over episodes, {found['confidence']:g} each, and approximate; k-step errors and the telescoped gap "
        f"are of the first {found['rollout_episodes']}",
        f"  one-step NLL            {span(nll)} nats; a Gaussian without history and action: {nll['baseline']:.3f}",
        "  k-step error            root mean square in standard deviations; in brackets of 'nothing changes':",
    ]
    shown = [place for place, k in enumerate(steps["k"]) if k in (1, 2, 5, 10, 20) or k == steps["k"][-1]]
    lines += [
        f"    k = {steps['k'][place]:<4}              {span(steps['model_all'][place])} "
        f"({steps['unchanged_all'][place]:.3f})"
        for place in shown
    ]
    lines += [
        f"  calibration             largest distance from the nominal level {span(worst)}, coordinate "
        f"{worst['coordinate']} (0 is calibrated; band valid for all coordinates at once)",
        f"  true return             {span(gap['true_return'])}",
        f"  full-model return       {span(gap['model_return'])}",
        f"  return gap, measured    {span(gap['direct'])}",
        f"  return gap, telescoped  {span(gap['telescoped'])} = reward {span(gap['reward_part'])} + dynamics "
        f"{span(gap['dynamics_part'])}",
    ]
    if gap["remainder_at_most"] > 0:
        lines.append(
            f"    values look {gap['value_steps']} steps ahead; what they leave out is at most "
            f"{gap['remainder_at_most']:.1%} of R/(1-gamma)"
        )
    return lines
