"""Line 3 of Algorithm 2: maximum likelihood for the meta-model, with a bootstrap and a holdout; of R runs at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from m3po.agents.descent import take_step
from m3po.data.draws import uniform
from m3po.data.replay_buffer import EnvironmentBuffer, EnvironmentBuffers, drawn
from m3po.data.types import ROWS_AT_A_TIME, Segments, rows_of
from m3po.networks.model import EnsembleModel
from m3po.networks.run_axis import stacked
from m3po.runs.health import DivergenceError, magnitudes
from m3po.settings import ModelSettings

UPDATES_PER_CHECK = 20

# MBPO's; more would make every check cost more than the training between two of them.
HELD_OUT_AT_MOST = 5000

# The loss that pulls the learned bounds of the log variance together, as in PETS.
BOUND_WEIGHT = 0.01


@torch.no_grad()
def choose_elites_by_loss(model: EnsembleModel, segments: Segments, counts: Tensor | None = None) -> Tensor:
    """Choose the elites by their mean negative log likelihood on ``segments``, and return that of their mixture.

    In nats, up to a constant.

    Args:
        model: of one run, or of R with a run axis.
        segments: [N], or [R, N].
        counts: [R], how many of the N are a run's, those behind being padding; None: all.

    Returns:
        A scalar, or [R].
    """
    parts = []
    for rows in range(0, segments.reward.shape[-1], ROWS_AT_A_TIME):
        part = rows_of(segments, slice(rows, rows + ROWS_AT_A_TIME))
        windows, actions, targets = part.examples(model.encoder.observation_size)
        parts.append(model.member_losses(model.encoder(windows), actions, targets))
    losses = torch.cat(parts, dim=-1)
    if counts is None:
        counts = torch.full(losses.shape[:-2], losses.shape[-1], device=losses.device)
    counted = torch.arange(losses.shape[-1], device=losses.device) < counts.unsqueeze(-1)
    # Padding must not count, and 0 times what is not finite would.
    losses = torch.where(counted.unsqueeze(-2), losses, 0.0)
    model.choose_elites(losses.sum(dim=-1) / counts.unsqueeze(-1))
    elites = torch.take_along_dim(losses, model.elite[..., None], dim=-2)
    mixture = math.log(elites.shape[-2]) - torch.logsumexp(-elites, dim=-2)
    return torch.where(counted, mixture, 0.0).sum(dim=-1) / counts


@torch.no_grad()
def explained_share(model: EnsembleModel, segments: Segments) -> float:
    """1 - sum_n (y_n - mu(h_n, a_n))^2 / sum_n (y_n - mean y)^2, mu the mean of the elites; mean over the coordinates
    of y = (o' - o, r) that vary.

    0 is what always predicting the mean has; noise of the process keeps it below 1. NaN where nothing varies.
    """
    windows, actions, targets = segments.examples(model.encoder.observation_size)
    mean, _ = model.elite_moments(model.encoder(windows), actions)
    targets = model.target_normaliser(targets)
    left = (targets - mean.mean(dim=-3)).square().mean(dim=0)
    spread = targets.var(dim=0, correction=0)
    varies = spread > 1e-6
    return float((1 - left[varies] / spread[varies]).mean())


@dataclass
class Fit:
    """One run's model while it is trained.

    Attributes:
        training, short, held_out: [n] which of its transitions it learns from, those of them with less than L steps
            before them, and which judge.
        best: smallest held-out loss so far, and ``best_state`` the parameters that had it.
        updates: taken.
        losses: of each, summed over the members.
        failure: what stopped it.
    """

    model: EnsembleModel
    optimiser: torch.optim.AdamW
    buffer: EnvironmentBuffer
    training: Tensor
    short: Tensor
    held_out: Tensor
    best: float = math.inf
    best_state: dict[str, Tensor] = field(default_factory=dict)
    checks_since: int = 0
    updates: int = 0
    losses: list[Tensor] = field(default_factory=list)
    failure: DivergenceError | None = None

    @classmethod
    def begun(
        cls,
        model: EnsembleModel,
        optimiser: torch.optim.AdamW,
        buffer: EnvironmentBuffer,
        generator: torch.Generator,
    ) -> Fit:
        """Normalisers and reach are refitted to the data.

        At most ``HELD_OUT_AT_MOST`` of the held-out transitions, drawn anew for every training, judge.

        Raises:
            ValueError: when there is nothing to train on or nothing held out.
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
        short = training[training - buffer.first[training] < buffer.history_length]
        return cls(model, optimiser, buffer, training, short, held_out)

    def judge(self, loss: float) -> None:
        """Take notice of the held-out loss of the present parameters."""
        if not math.isfinite(loss):
            judges = self.buffer.segments(self.held_out)
            self.failure = DivergenceError(
                f"the model's held-out loss is {loss} after {self.updates} of its updates, on {self.buffer.size} real "
                f"transitions; {magnitudes(targets=self.buffer.targets(self.held_out), tokens=judges.tokens)}"
            )
        elif loss < self.best:
            self.best, self.checks_since = loss, 0
            self.best_state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        else:
            self.checks_since += 1

    def batch(self, size: int, start_share: float, generator: torch.Generator) -> Tensor:
        """``size`` indices of what it learns from; a share of them from near the starts of episodes, where L > 0."""
        from_starts = round(start_share * size) if len(self.short) else 0
        indices = drawn(self.training, size - from_starts, generator)
        return torch.cat([indices, drawn(self.short, from_starts, generator)]) if from_starts else indices

    def finish(self) -> dict[str, float]:
        """Back to the best parameters; what a row of metrics says.

        Raises:
            DivergenceError: when the held-out loss was not a finite number.
        """
        if self.failure is not None:
            raise self.failure
        self.model.load_state_dict(self.best_state)
        explained = explained_share(self.model, self.buffer.segments(self.held_out))
        return {
            "model_loss": torch.stack(self.losses).mean().item(),
            "model_held_out_loss": self.best,
            **({"model_explained": explained} if math.isfinite(explained) else {}),
            "model_updates": float(self.updates),
        }


def train_models(
    model: EnsembleModel,
    buffers: EnvironmentBuffers,
    fits: Sequence[Fit],
    config: ModelSettings,
    generators: Sequence[torch.Generator],
) -> None:
    """Gradient steps on sum_b w_b * NLL_b until the held-out loss stops falling, of every run by itself.

    w_b, the bootstrap counts of a transition, average to 1. The held-out transitions choose the elites.

    Args:
        model: of all runs; ``fits`` have its views.
        buffers: D_env of all runs.
        fits: as they are begun; ``Fit.finish`` has the outcome.
        config: of all.
        generators: of each.
    """
    most = max(len(fit.held_out) for fit in fits)
    judging = [torch.nn.functional.pad(fit.held_out, (0, most - len(fit.held_out))) for fit in fits]
    judges = buffers.segments(torch.stack(judging))
    counts = torch.tensor([len(fit.held_out) for fit in fits], device=judges.reward.device)
    learning = list(range(len(fits)))
    while True:
        update = fits[learning[0]].updates
        if update % UPDATES_PER_CHECK == 0 or update == config.model_updates:
            found = choose_elites_by_loss(model, judges, counts).tolist()
            for run in learning:
                fits[run].judge(found[run])
            learning = [
                run
                for run in learning
                if fits[run].failure is None
                and fits[run].checks_since < config.model_patience
                and update < config.model_updates
            ]
            if not learning:
                return
        gradient_step(model, buffers, fits, learning, config, generators)


def gradient_step(
    model: EnsembleModel,
    buffers: EnvironmentBuffers,
    fits: Sequence[Fit],
    learning: Sequence[int],
    config: ModelSettings,
    generators: Sequence[torch.Generator],
) -> None:
    """One step down sum_b w_b * NLL_b on a batch, of the runs that are still ``learning``; all draw.

    The other arguments are those of ``train_models``.
    """
    drawn_now = [
        fit.batch(config.model_batch_size, config.start_share, each) for fit, each in zip(fits, generators, strict=True)
    ]
    indices = torch.stack(drawn_now)
    windows, actions, targets = buffers.segments(indices).examples(model.encoder.observation_size)
    chance = uniform((len(fits), 2, indices.shape[1]), generators, indices.device)
    # At least one step stays: an empty past means the start of an episode, and only that.
    shortened = (1 + chance[:, 0] * windows.lengths).long().minimum(windows.lengths)
    windows = windows.forget(torch.where(chance[:, 1] < config.forgetting, shortened, windows.lengths))
    member_losses = model.member_losses(model.encoder(windows), actions, targets)
    weighted = (member_losses * buffers.weights(indices)).mean(dim=-1).sum(dim=-1)
    bounds = (model.log_variance_high - model.log_variance_low).sum()
    gradients = torch.autograd.grad(weighted.sum() + BOUND_WEIGHT * bounds, list(model.parameters()), allow_unused=True)
    losses = (weighted.detach() / model.members).unbind()
    for run in learning:
        fit = fits[run]
        take_step(fit.optimiser, [None if gradient is None else gradient[run] for gradient in gradients])
        fit.losses.append(losses[run])
        fit.updates += 1


def train_model(
    model: EnsembleModel,
    optimiser: torch.optim.AdamW,
    buffer: EnvironmentBuffer,
    config: ModelSettings,
    generator: torch.Generator,
) -> dict[str, float]:
    """``train_models`` of one run.

    Returns:
        model_loss (training), model_held_out_loss, model_explained (``explained_share``), model_updates.

    Raises:
        ValueError: when there is nothing to train on or nothing held out.
        DivergenceError: when the held-out loss is not a finite number.
    """
    fit = Fit.begun(model, optimiser, buffer, generator)
    train_models(stacked([model]), EnvironmentBuffers([buffer]), [fit], config, [generator])
    return fit.finish()
