"""Line 3 of Algorithm 2: maximum likelihood for the meta-model, with a bootstrap and a holdout."""

from __future__ import annotations

import math

import torch

from m3po.data.replay_buffer import EnvironmentBuffer, drawn
from m3po.data.types import ROWS_AT_A_TIME, Segments, rows_of
from m3po.networks.model import EnsembleModel
from m3po.runs.health import DivergenceError, magnitudes
from m3po.settings import ModelSettings

UPDATES_PER_CHECK = 20

# MBPO's; more would make every check cost more than the training between two of them.
HELD_OUT_AT_MOST = 5000

# The loss that pulls the learned bounds of the log variance together, as in PETS.
BOUND_WEIGHT = 0.01


@torch.no_grad()
def choose_elites_by_loss(model: EnsembleModel, segments: Segments) -> float:
    """Choose the elites by their mean negative log likelihood on ``segments``, and return that of their mixture.

    In nats, up to a constant.
    """
    parts = []
    for rows in torch.arange(len(segments.reward), device=segments.reward.device).split(ROWS_AT_A_TIME):
        windows, actions, targets = rows_of(segments, rows).examples(model.encoder.observation_size)
        parts.append(model.member_losses(model.encoder(windows), actions, targets))
    losses = torch.cat(parts, dim=1)
    model.choose_elites(losses.mean(dim=1))
    return (math.log(len(model.elite)) - torch.logsumexp(-losses[model.elite], dim=0)).mean().item()


def train_model(
    model: EnsembleModel,
    optimiser: torch.optim.Optimizer,
    buffer: EnvironmentBuffer,
    config: ModelSettings,
    generator: torch.Generator,
) -> dict[str, float]:
    """Gradient steps on sum_b w_b * NLL_b until the held-out loss stops falling; keeps the best parameters.

    w_b, the bootstrap counts of a transition, average to 1. Normalisers are refitted to the data first. At most
    ``HELD_OUT_AT_MOST`` of the held-out transitions, drawn anew for every training, judge and choose the elites.

    Returns:
        model_loss (training), model_held_out_loss, model_updates.

    Raises:
        ValueError: when there is nothing to train on or nothing held out.
        DivergenceError: when the held-out loss is not a finite number.
    """
    used = torch.arange(buffer.size, device=buffer.held_out.device)
    held_out = used[buffer.held_out[: buffer.size]]
    training = used[~buffer.held_out[: buffer.size]]
    if len(training) == 0 or len(held_out) == 0:
        raise ValueError(f"too few real transitions to train the model: {buffer.size}")
    if len(held_out) > HELD_OUT_AT_MOST:
        order = torch.randperm(len(held_out), generator=generator, device=held_out.device)
        held_out = held_out[order[:HELD_OUT_AT_MOST]]
    model.encoder.fit(buffer.tokens[: buffer.size])
    model.target_normaliser.fit(buffer.targets(used))
    model.fit_reach(buffer.outcomes())

    judges = buffer.segments(held_out)
    short = training[training - buffer.first[training] < buffer.history_length]
    from_starts = round(config.start_share * config.model_batch_size) if len(short) else 0
    best, best_state, checks_since, losses = float("inf"), None, 0, []
    update = 0
    while True:
        if update % UPDATES_PER_CHECK == 0 or update == config.model_updates:
            loss = choose_elites_by_loss(model, judges)
            if not math.isfinite(loss):
                raise DivergenceError(
                    f"the model's held-out loss is {loss} after {update} of its updates, on {buffer.size} real "
                    f"transitions; {magnitudes(targets=buffer.targets(held_out), tokens=judges.tokens)}"
                )
            if loss < best:
                best, checks_since = loss, 0
                best_state = {name: value.detach().clone() for name, value in model.state_dict().items()}
            else:
                checks_since += 1
            if checks_since >= config.model_patience or update >= config.model_updates:
                break
        indices = drawn(training, config.model_batch_size - from_starts, generator)
        if from_starts:
            indices = torch.cat([indices, drawn(short, from_starts, generator)])
        windows, actions, targets = buffer.segments(indices).examples(model.encoder.observation_size)
        chance = torch.rand(2, len(indices), generator=generator, device=indices.device)
        # At least one step stays: an empty past means the start of an episode, and only that.
        shortened = (1 + chance[0] * windows.lengths).long().minimum(windows.lengths)
        windows = windows.forget(torch.where(chance[1] < config.forgetting, shortened, windows.lengths))
        member_losses = model.member_losses(model.encoder(windows), actions, targets)
        weighted = (member_losses * buffer.member_weights[indices].T).mean(dim=1).sum()
        bounds = (model.log_variance_high - model.log_variance_low).sum()
        optimiser.zero_grad()
        (weighted + BOUND_WEIGHT * bounds).backward()
        optimiser.step()
        losses.append(weighted.detach() / model.members)
        update += 1
    assert best_state is not None
    model.load_state_dict(best_state)
    return {
        "model_loss": torch.stack(losses).mean().item(),
        "model_held_out_loss": best,
        "model_updates": float(update),
    }
