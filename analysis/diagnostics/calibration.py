"""Calibration of a model with a density: probability integral transform and likelihood on held-out episodes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.diagnostics.intervals import Array, ends
from bounds.confidence import betting, simultaneous
from m3po.data.types import ROWS_AT_A_TIME
from m3po.errors import EncodedTrajectories, model_log_density
from m3po.networks.model import EnsembleModel

LEVELS = np.arange(1, 20) / 20


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
