"""k-step errors: the model's own rollouts beside what happened, from the same histories with the same actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from analysis.diagnostics.intervals import Array, ends
from m3po.data.types import ROWS_AT_A_TIME
from m3po.errors import EncodedTrajectories
from m3po.networks.model import LearnedModel

LONGEST = 20

# k steps ahead


@torch.no_grad()
def open_loop_errors(
    model: LearnedModel,
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
    model: LearnedModel,
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
