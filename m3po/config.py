"""One flat, typed record of everything a run depends on: the flags, the --help and the config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from m3po.flag_checks import (
    Confidence,
    Count,
    Discount,
    EpisodeCount,
    Members,
    NotNegative,
    Positive,
    PositiveShare,
    Seed,
    Share,
    Steps,
    Threads,
    Units,
    Within,
    check_fields,
)

Algorithm = Literal["m3po", "m3po-h", "m3po-full", "pearl", "grbal"]

# Algorithms without a model of the environment, whose rollouts would have to know when an episode ends.
MODEL_FREE: tuple[Algorithm, ...] = ("pearl",)

# Settings that only some algorithms read; of runs of the others they say nothing.
ONLY_READ_BY: dict[str, tuple[Algorithm, ...]] = {
    "agent_units": ("m3po", "m3po-h", "m3po-full"),
    **dict.fromkeys(("latent_size", "kl_weight"), ("pearl",)),
    **dict.fromkeys(("adaptation_rate", "adaptation_steps", "meta_batch_size"), ("grbal",)),
    **dict.fromkeys(("planner_candidates", "planner_horizon", "planner_iterations"), ("grbal",)),
}


def options_in(text: str) -> dict[str, Any]:
    """The value of --env-options as keyword arguments.

    Raises:
        ValueError: when it is no JSON object.
    """
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--env-options must be a JSON object, got {text}") from error
    if not isinstance(options, dict):
        raise ValueError(f"--env-options must be a JSON object, got {text}")
    return options


@dataclass(frozen=True)
class Config:
    """Train M3PO (Algorithm 2 of Hiraoka et al. 2021) and log its own model error and policy divergence; or train a
    baseline, PEARL or GrBAL, under the same protocol.

    Defaults are those of the demo on SwitchingPointMass.
    """

    run_dir: Path
    """Where everything about the run is written; must not exist yet (or hold this very run, with --resume)."""
    env_id: str = "m3po/SwitchingPointMass-v0"
    """Gymnasium id; environments of this project register themselves."""
    env_options: str = "{}"
    """What to build the environment with, as a JSON object: '{"observe_reward": true}' puts rewards into histories."""
    algorithm: Algorithm = "m3po"
    """m3po: k-step branched rollouts. m3po-h: the same, and the share of fictitious data in the updates falls to
    --final-model-share. m3po-full: rollouts from initial histories to the horizon. All three as in the paper. pearl:
    soft actor-critic on a latent inferred from the last L steps. grbal: planning in a model that adapts itself to the
    last L steps by one gradient step (the paper's L2A). docs/baselines.md has the details."""
    rollout_length: Steps = 1
    """k, model steps per branched rollout, >= 1 (m3po-full does not use it)."""
    final_rollout_length: Steps | None = None
    """k grows linearly (rounded down) to this, as in MBPO, between the two steps below; constant when not given."""
    rollout_growth_start: NotNegative = 0
    """Real step at which k starts to grow."""
    rollout_growth_end: NotNegative | None = None
    """Real step at which k is full-grown; the end of the run when not given."""
    total_steps: Steps = 7000
    """Real environment steps, the initial random ones included."""
    seed: Seed = 0
    """Seed of everything: same seed, device and thread count, same run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    cuda_graphs: bool = False
    """Replay each update of the agent as one CUDA graph. Experimental: written without a GPU at hand, never run."""
    threads: Threads = 1
    """CPU threads for torch; two runs with one thread each beat one run with two."""
    resume: bool = False
    """Go on from the last checkpoint of this run directory."""
    from_previous: bool = False
    """With --resume: go on from the checkpoint before the last, when the last is damaged."""

    discount: Discount = 0.95
    """gamma in [0, 1), of the soft actor-critic and of the returns in the guarantee."""
    history_length: Annotated[int, Within(0, 10**4)] = 8
    """L, past steps in the truncated history; 0 makes every network memoryless, and M3PO is MBPO."""
    context_training: Literal["model", "critic"] = "model"
    """What trains the encoder that policy and critics read: the model's loss (one encoder for all, as in Figure 5; its
    encodings are stored), or the critics' own loss (a second encoder; slower)."""
    context_size: Units = 32
    """Hidden units of the GRU that encodes the history."""
    width: Units = 64
    """Units per hidden layer of model heads, policy and critics."""
    layers: Annotated[int, Within(1, 100)] = 2
    """Hidden layers of model heads, policy and critics."""

    agent_units: Literal["gated", "rectified"] = "gated"
    """Hidden units of M3PO's policy and critics. gated: swish(u) * v, as in the model; sharper certificates.
    rectified: relu, as in the sources (and in the baselines, always); critics of them do not overestimate where much
    real data is reused, as in m3po-h or with long training."""

    initial_random_steps: Steps = 400
    """Steps with uniform actions before the first epoch."""
    epoch_steps: Steps = 200
    """E, real steps between two trainings of the model."""

    ensemble_size: Members = 5
    """B, members of the model."""
    elites: Members | None = None
    """Members with the smallest held-out losses that make up the model, 1..B; all when not given."""
    model_learning_rate: Positive = 2e-3
    """Adam's, for the model and its encoder."""
    model_weight_decay: Annotated[float, Within(0)] = 0.3
    """Decoupled weight decay of the model and its encoder."""
    forgetting: Share = 0.3
    """Chance in [0, 1] that a training window loses some of its oldest steps (at least one stays), so that the model
    learns to predict from a short past as well (ours; the paper does not say)."""
    start_share: Share = 0.1
    """Share of each model batch drawn from steps whose history is shorter than L, on top of their natural share, in
    [0, 1]: eps_m is a maximum over time, and the first steps of episodes are rare (ours; the paper does not say)."""
    model_batch_size: Count = 256
    """Real transitions per gradient step of the model."""
    model_updates: Steps = 240
    """Most gradient steps of the model per epoch."""
    model_patience: Steps = 4
    """Stop the model's training after so many checks (one every 20 updates) without a better held-out loss."""
    holdout: Annotated[float, Within(0, 1, without=(0, 1))] = 0.15
    """Share of real transitions kept out of the model's training to decide when to stop it, in (0, 1)."""

    rollouts_per_step: Count = 40
    """M, model rollouts per real step."""
    rollout_interval: Steps = 20
    """Real steps between two batches of rollouts; a batch makes up for the steps since the last."""
    model_buffer_size: Steps = 20000
    """Capacity of D_model, in transitions."""

    model_share: Share = 1.0
    """Share of every update's batch that comes from D_model, in [0, 1]; the rest is real (MBPO uses 0.95)."""
    final_model_share: Share = 0.5
    """Only m3po-h: the share falls linearly over the run, from --model-share to this, in [0, --model-share] (ours; the
    paper's schedule is in its unavailable appendix)."""

    updates_per_step: Steps = 4
    """G, soft actor-critic updates per real step."""
    batch_size: Count = 128
    """Transitions per update."""
    learning_rate: Positive = 1e-3
    """Adam's, for policy, critics and temperature."""
    final_learning_rate_share: PositiveShare = 0.1
    """The learning rate falls linearly over the run to this share of itself, in (0, 1]; 1 keeps it constant."""
    target_rate: PositiveShare = 0.01
    """Step of the target critics towards the critics per update, in (0, 1]."""
    initial_temperature: Positive = 0.1
    """Of the entropy bonus."""
    temperature_tuning: Literal["automatic", "fixed"] = "automatic"
    """automatic: towards the target entropy. fixed: the temperature stays as it is."""
    target_entropy: float | None = None
    """In nats; minus the number of action coordinates when not given."""

    latent_size: Units = 5
    """Only pearl: coordinates of the latent task variable z."""
    kl_weight: Annotated[float, Within(0)] = 0.1
    """Only pearl: weight of KL(q(z|history) || N(0, I)) beside the critics' loss, >= 0."""
    adaptation_rate: Annotated[float, Within(0)] = 0.1
    """Only grbal: size of the gradient step on the last L steps, >= 0; 0 never adapts."""
    adaptation_steps: Count = 16
    """Only grbal: K, steps after the last L that the adapted model is trained to predict."""
    meta_batch_size: Count = 10
    """Only grbal: stretches of L + K real steps per gradient step of the model."""
    planner_candidates: Annotated[int, Within(2, 10**6)] = 500
    """Only grbal: action sequences tried per plan."""
    planner_horizon: Count = 10
    """Only grbal: steps per action sequence."""
    planner_iterations: Steps = 3
    """Only grbal: times that the candidates are drawn anew around the best of the last ones."""

    measure_episodes: EpisodeCount = 100
    """Held-out episodes of the data policy per epoch, for the error profiles; they never enter D_env. The baselines
    have no profiles and do not run them."""
    evaluation_episodes: EpisodeCount = 50
    """EpisodeCount of the deterministic policy per epoch, for the learning curve."""
    confidence: Confidence = 0.95
    """Of every interval that is logged, in (0, 1)."""
    checkpoint_minutes: Positive = 10.0
    """A checkpoint is written after every epoch, on Ctrl-C, and within an epoch after so many minutes, > 0."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.from_previous and not self.resume:
            raise ValueError("--from-previous goes with --resume, which is not given")
        if self.elites is not None and self.elites > self.ensemble_size:
            raise ValueError(f"--elites must be in 1..{self.ensemble_size} (--ensemble-size), got {self.elites}")
        if self.final_rollout_length is not None and self.final_rollout_length < self.rollout_length:
            raise ValueError(
                f"--final-rollout-length must be >= {self.rollout_length} (--rollout-length), "
                f"got {self.final_rollout_length}"
            )
        if self.rollout_growth_end is not None and self.rollout_growth_end < self.rollout_growth_start:
            raise ValueError(
                f"--rollout-growth-end must be >= {self.rollout_growth_start} (--rollout-growth-start), "
                f"got {self.rollout_growth_end}"
            )
        if self.rollout_growth_start > self.total_steps:
            raise ValueError(
                f"--rollout-growth-start must be <= {self.total_steps} (--total-steps), got {self.rollout_growth_start}"
            )
        if self.algorithm == "m3po-h" and self.final_model_share > self.model_share:
            raise ValueError(
                f"--final-model-share must be <= {self.model_share} (--model-share), got {self.final_model_share}"
            )
        if self.algorithm in ("pearl", "grbal") and self.history_length == 0:
            raise ValueError(f"--history-length must be >= 1 for {self.algorithm}, whose context is the history, got 0")
        self.environment_options()
        if self.initial_random_steps > self.total_steps:
            raise ValueError(
                f"--initial-random-steps must be <= --total-steps, got {self.initial_random_steps} > {self.total_steps}"
            )
        if self.rollout_interval > self.epoch_steps:
            raise ValueError(
                f"--rollout-interval must be <= --epoch-steps, got {self.rollout_interval} > {self.epoch_steps}"
            )

    def on_cpu(self) -> Config:
        """The same run, to be looked at on a processor, wherever it was trained."""
        return replace(self, device="cpu", cuda_graphs=False)

    def environment_options(self) -> dict[str, Any]:
        """``env_options`` as keyword arguments."""
        return options_in(self.env_options)

    def rollout_length_at(self, step: int) -> int:
        """k after ``step`` real steps: k_0 + floor((k_1 - k_0) (step - start)/(end - start)), within [k_0, k_1]."""
        if self.final_rollout_length is None:
            return self.rollout_length
        start, end = self.rollout_growth_start, self._rollout_growth_end()
        if step < start:
            return self.rollout_length
        if step >= end:
            return self.final_rollout_length
        growth = self.final_rollout_length - self.rollout_length
        return self.rollout_length + growth * (step - start) // (end - start)

    def _rollout_growth_end(self) -> int:
        return self.total_steps if self.rollout_growth_end is None else self.rollout_growth_end

    def learning_rate_at(self, step: int) -> float:
        """Of policy, critics and temperature after ``step`` real steps."""
        return self.learning_rate * (1 - (1 - self.final_learning_rate_share) * step / self.total_steps)

    def model_share_at(self, step: int) -> float:
        """Share of D_model in a batch after ``step`` real steps."""
        if self.algorithm != "m3po-h":
            return self.model_share
        return self.model_share + (self.final_model_share - self.model_share) * min(step / self.total_steps, 1.0)
