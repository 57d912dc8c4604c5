"""One flat, typed record of everything a run depends on: the flags, the --help and the config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Algorithm = Literal["m3po", "m3po-full"]


@dataclass(frozen=True)
class Config:
    """Train M3PO (Algorithm 2 of Hiraoka et al. 2021) and log its own model error and policy divergence.

    Defaults are those of the demo on SwitchingPointMass.
    """

    run_dir: Path
    """Where everything about the run is written; must not exist yet (or hold this very run, with --resume)."""
    env_id: str = "m3po/SwitchingPointMass-v0"
    """Gymnasium id; environments of this project register themselves."""
    algorithm: Algorithm = "m3po"
    """m3po: k-step branched rollouts. m3po-full: rollouts from initial histories to the horizon, as in the paper."""
    rollout_length: int = 1
    """k, model steps per branched rollout, >= 1 (m3po-full does not use it)."""
    total_steps: int = 7000
    """Real environment steps, the initial random ones included."""
    seed: int = 0
    """Seed of everything: same seed, device and thread count, same run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    threads: int = 1
    """CPU threads for torch; two runs with one thread each beat one run with two."""
    resume: bool = False
    """Go on from the last checkpoint of this run directory."""

    discount: float = 0.95
    """gamma in [0, 1), of the soft actor-critic and of the returns in the guarantee."""
    history_length: int = 8
    """L, past steps in the truncated history; 0 makes every network memoryless."""
    context_size: int = 32
    """Hidden units of the GRU that encodes the history."""
    width: int = 64
    """Units per hidden layer of model heads, policy and critics."""
    layers: int = 2
    """Hidden layers of model heads, policy and critics."""

    initial_random_steps: int = 400
    """Steps with uniform actions before the first epoch."""
    epoch_steps: int = 200
    """E, real steps between two trainings of the model."""

    ensemble_size: int = 5
    """B, members of the model."""
    model_learning_rate: float = 2e-3
    """Adam's, for the model and its encoder."""
    model_weight_decay: float = 0.3
    """Decoupled weight decay of the model and its encoder."""
    forgetting: float = 0.3
    """Chance in [0, 1] that a training window loses some of its oldest steps (at least one stays), so that the model
    learns to predict from a short past as well (ours; the paper does not say)."""
    start_share: float = 0.1
    """Share of each model batch drawn from steps whose history is shorter than L, on top of their natural share, in
    [0, 1]: eps_m is a maximum over time, and the first steps of episodes are rare (ours; the paper does not say)."""
    model_batch_size: int = 256
    """Real transitions per gradient step of the model."""
    model_updates: int = 240
    """Most gradient steps of the model per epoch."""
    model_patience: int = 4
    """Stop the model's training after so many checks (one every 20 updates) without a better held-out loss."""
    holdout: float = 0.15
    """Share of real transitions kept out of the model's training to decide when to stop it, in (0, 1)."""

    rollouts_per_step: int = 40
    """M, model rollouts per real step."""
    rollout_interval: int = 20
    """Real steps between two batches of rollouts; a batch makes up for the steps since the last."""
    model_buffer_size: int = 20000
    """Capacity of D_model, in transitions."""

    updates_per_step: int = 4
    """G, soft actor-critic updates per real step."""
    batch_size: int = 128
    """Fictitious transitions per update."""
    learning_rate: float = 1e-3
    """Adam's, for policy, critics and temperature."""
    final_learning_rate_share: float = 0.1
    """The learning rate falls linearly over the run to this share of itself, in (0, 1]; 1 keeps it constant."""
    target_rate: float = 0.01
    """Step of the target critics towards the critics per update, in (0, 1]."""
    initial_temperature: float = 0.1
    """Of the entropy bonus; tuned automatically from there."""
    target_entropy: float | None = None
    """In nats; minus the number of action coordinates when not given."""

    measure_episodes: int = 100
    """Held-out episodes of the data policy per epoch, for the error profiles; they never enter D_env."""
    evaluation_episodes: int = 50
    """Episodes of the deterministic policy per epoch, for the learning curve."""
    confidence: float = 0.95
    """Of every interval that is logged, in (0, 1)."""

    def __post_init__(self) -> None:
        at_least = {
            "rollout_length": 1, "total_steps": 1, "seed": 0, "threads": 1, "history_length": 0, "context_size": 1,
            "width": 1, "layers": 1, "initial_random_steps": 1, "epoch_steps": 1, "ensemble_size": 1,
            "model_batch_size": 1, "model_updates": 1, "model_patience": 1, "rollouts_per_step": 1,
            "rollout_interval": 1, "model_buffer_size": 1, "updates_per_step": 1, "batch_size": 1,
            "measure_episodes": 2, "evaluation_episodes": 2,
        }  # fmt: skip
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{flag(name)} must be >= {least}, got {getattr(self, name)}")
        for name, most in {"seed": 2**63 - 2, "threads": 1024}.items():
            if getattr(self, name) > most:
                raise ValueError(f"{flag(name)} must be <= {most}, got {getattr(self, name)}")
        if not 0 <= self.discount < 1:
            raise ValueError(f"--discount must be in [0, 1), got {self.discount}")
        for name in ("holdout", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{flag(name)} must be in (0, 1), got {getattr(self, name)}")
        for name in ("model_learning_rate", "learning_rate", "initial_temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{flag(name)} must be a finite number > 0, got {getattr(self, name)}")
        if not 0 <= self.model_weight_decay < math.inf:
            raise ValueError(f"--model-weight-decay must be a finite number >= 0, got {self.model_weight_decay}")
        for name in ("forgetting", "start_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{flag(name)} must be in [0, 1], got {getattr(self, name)}")
        if self.target_entropy is not None and not math.isfinite(self.target_entropy):
            raise ValueError(f"--target-entropy must be a finite number, got {self.target_entropy}")
        for name in ("target_rate", "final_learning_rate_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{flag(name)} must be in (0, 1], got {getattr(self, name)}")
        if self.initial_random_steps > self.total_steps:
            raise ValueError(
                f"--initial-random-steps must be <= --total-steps, got {self.initial_random_steps} > {self.total_steps}"
            )
        if self.rollout_interval > self.epoch_steps:
            raise ValueError(
                f"--rollout-interval must be <= --epoch-steps, got {self.rollout_interval} > {self.epoch_steps}"
            )


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return "--" + name.replace("_", "-")
