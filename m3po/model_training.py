"""Line 3 of Algorithm 2: maximum likelihood for the meta-model, with a bootstrap and a holdout."""

from __future__ import annotations

import math

import torch

from m3po.config import Config
from m3po.model import EnsembleModel
from m3po.replay_buffer import EnvironmentBuffer

UPDATES_PER_CHECK = 20
# The loss that pulls the learned bounds of the log variance together, as in PETS.
BOUND_WEIGHT = 0.01


@torch.no_grad()
def held_out_loss(model: EnsembleModel, buffer: EnvironmentBuffer, indices: torch.Tensor) -> float:
    """Mean negative log likelihood of the mixture on the given transitions, in nats up to a constant."""
    features = model.encoder(buffer.windows(indices))
    losses = model.member_losses(features, buffer.actions(indices), buffer.targets(indices))
    return (math.log(model.members) - torch.logsumexp(-losses, dim=0)).mean().item()


def drawn(indices: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """``count`` of ``indices`` [N], uniformly with replacement."""
    return indices[torch.randint(len(indices), (count,), generator=generator, device=indices.device)]


def train_model(
    model: EnsembleModel,
    optimiser: torch.optim.Optimizer,
    buffer: EnvironmentBuffer,
    config: Config,
    generator: torch.Generator,
) -> dict[str, float]:
    """Gradient steps on sum_b w_b * NLL_b until the held-out loss stops falling; keeps the best parameters.

    w_b, the bootstrap counts of a transition, average to 1. Normalisers are refitted to the data first.

    Returns:
        model_loss (training), model_held_out_loss, model_updates.

    Raises:
        ValueError: when there is nothing to train on or nothing held out, or the loss is not finite.
    """
    used = torch.arange(buffer.size, device=buffer.held_out.device)
    held_out = used[buffer.held_out[: buffer.size]]
    training = used[~buffer.held_out[: buffer.size]]
    if len(training) == 0 or len(held_out) == 0:
        raise ValueError(f"too few real transitions to train the model: {buffer.size}")
    model.encoder.fit(buffer.tokens[: buffer.size])
    model.target_normaliser.fit(buffer.targets(used))

    short = training[training - buffer.first[training] < config.history_length]
    from_starts = round(config.start_share * config.model_batch_size) if len(short) else 0
    best, best_state, checks_since, losses = float("inf"), None, 0, []
    update = 0
    while True:
        if update % UPDATES_PER_CHECK == 0 or update == config.model_updates:
            loss = held_out_loss(model, buffer, held_out)
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
        windows = buffer.windows(indices)
        chance = torch.rand(2, len(indices), generator=generator, device=indices.device)
        # At least one step stays: an empty past means the start of an episode, and only that.
        shortened = (1 + chance[0] * windows.lengths).long().minimum(windows.lengths)
        windows = windows.forget(torch.where(chance[1] < config.forgetting, shortened, windows.lengths))
        features = model.encoder(windows)
        member_losses = model.member_losses(features, buffer.actions(indices), buffer.targets(indices))
        weighted = (member_losses * buffer.member_weights[indices].T).mean(dim=1).sum()
        bounds = (model.log_variance_high - model.log_variance_low).sum()
        optimiser.zero_grad()
        (weighted + BOUND_WEIGHT * bounds).backward()
        optimiser.step()
        losses.append(weighted.detach() / model.members)
        update += 1
    if best_state is None:
        raise ValueError(
            "the model's held-out loss is not a finite number: the transitions or the weights have diverged"
        )
    model.load_state_dict(best_state)
    return {
        "model_loss": torch.stack(losses).mean().item(),
        "model_held_out_loss": best,
        "model_updates": float(update),
    }
