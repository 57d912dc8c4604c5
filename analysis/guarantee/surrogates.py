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

from typing import Any

import numpy as np
import torch

from analysis.diagnostics.calibration import calibration, log_densities, pit
from analysis.diagnostics.intervals import span
from analysis.diagnostics.open_loop import k_step
from analysis.diagnostics.telescoping import return_gap
from analysis.guarantee.subject import Subject
from m3po.episodes import Trajectories
from m3po.errors import EncodedTrajectories
from m3po.networks.model import EnsembleModel

# Many rollouts start from each episode for the k-step error and the telescoped gap: so many episodes are enough.
ROLLOUT_EPISODES = 100


def surrogates(
    subject: Subject, trajectories: Trajectories, generator: torch.Generator, confidence: float
) -> dict[str, Any]:
    """Everything above on fresh episodes of the policy, JSON-ready.

    Args:
        subject: with an ensemble for a model; predicted rewards are clipped to its reward range.
        trajectories: episodes of its policy, which never entered the training; k-step errors and the telescoped gap use
            the first 100.
        generator: of all rollouts in the model.
        confidence: of the calibration band, and of each of the other intervals on its own.

    Raises:
        ValueError: when the model is no ensemble, whose moments the calibration is read off.
    """
    model, policy = subject.model, subject.policy
    if not isinstance(model, EnsembleModel):
        raise ValueError(f"calibration is read off the moments of an ensemble, got a {type(model).__name__}")
    length, device = model.encoder.history_length, policy.device
    data = EncodedTrajectories.of(trajectories, length, device)
    few = EncodedTrajectories.of(trajectories.first(ROLLOUT_EPISODES), length, device)
    bands = calibration(pit(model, data), trajectories.valid, confidence)
    distance = bands["distance"]
    worst = int(np.argmax(distance["estimate"]))
    return {
        "episodes": len(trajectories.rewards),
        "rollout_episodes": len(few.trajectories.rewards),
        "confidence": confidence,
        "nll": log_densities(model, data, confidence),
        "k_step": k_step(model, few, generator, confidence),
        "calibration": bands | {"worst": {"coordinate": worst} | {end: distance[end][worst] for end in distance}},
        "return_gap": return_gap(
            model,
            policy,
            data,
            few,
            generator,
            confidence,
            discount=subject.discount,
            low=subject.reward_low,
            high=subject.reward_high,
            terminated=subject.terminated,
        ),
    }


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
