"""The settings of a training in blocks: each algorithm reads only the blocks that ``m3po.config.READ_BY`` gives it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from m3po.flag_checks import (
    Confidence,
    Count,
    Discount,
    EpisodeCount,
    Items,
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
)

CriticKind = Literal["target-networks", "batch-norm"]

Algorithm = Literal["m3po", "m3po-h", "m3po-full", "pearl", "grbal"]


@dataclass(frozen=True)
class RunSettings:
    """What is trained, on what, and where everything about it goes."""

    run_dir: Path
    """Where everything about the run is written; must not exist yet (or hold this very run, with --resume)."""
    env_id: str = "m3po/SwitchingPointMass-v0"
    """Gymnasium id; environments of this project register themselves."""
    env_options: str = "{}"
    """What to build the environment with, as a JSON object: '{"observe_reward": true}' puts rewards into histories."""
    algorithm: Algorithm = "m3po"
    """The paper's: m3po has k-step branched rollouts; with m3po-h the share of fictitious data falls to
    --final-model-share as well; m3po-full has rollouts from initial histories to the horizon. Baselines: pearl is soft
    actor-critic on a latent inferred from the last L steps; grbal (the paper's L2A) plans in a model that adapts
    itself to the last L steps by one gradient step. docs/baselines.md has the details."""
    total_steps: Steps = 7000
    """Real environment steps, the initial random ones included."""
    seed: Seed = 0
    """Seed of everything: same seed, device and thread count, same run."""
    seeds: Annotated[tuple[Seed, ...], Items(different=True)] | None = None
    """Instead of --seed: train these side by side in one process, each in a run directory RUN_DIR/seed-N of its own,
    for much less than as many processes. What a run draws does not depend on the others."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    cuda_graphs: bool = False
    """Replay each update of the agent as one CUDA graph. Experimental: written without a GPU at hand, never run."""
    threads: Threads = 1
    """CPU threads for torch; two runs with one thread each beat one run with two."""
    checkpoint_minutes: Positive = 10.0
    """A checkpoint is written after every epoch, on Ctrl-C, and within an epoch after so many minutes, > 0."""
    resume: bool = False
    """Go on from the last checkpoint of this run directory."""
    from_previous: bool = False
    """With --resume: go on from the checkpoint before the last, when the last is damaged."""


@dataclass(frozen=True)
class LoopSettings:
    """The loop of real steps, and what D_env keeps of them."""

    initial_random_steps: Steps = 400
    """Steps with uniform actions before the first epoch."""
    epoch_steps: Steps = 200
    """E, real steps between two trainings of the model."""
    updates_per_step: Steps = 4
    """G, gradient updates per real step: of the soft actor-critic, or of GrBAL's model."""
    ensemble_size: Members = 5
    """B, members of M3PO's model. Every real transition draws its weight for each, whatever is trained."""
    holdout: Annotated[float, Within(0, 1, without=(0, 1))] = 0.15
    """Share of real transitions kept out of the training of M3PO's model to decide when to stop it, in (0, 1)."""
    evaluation_episodes: EpisodeCount = 50
    """Episodes of the deterministic policy per epoch, for the learning curve."""


@dataclass(frozen=True)
class NetworkSettings:
    """What all networks share."""

    history_length: Annotated[int, Within(0, 10**4)] = 8
    """L, past steps in the truncated history; 0 makes every network memoryless, and M3PO is MBPO."""
    width: Units = 64
    """Units per hidden layer of policy and critics, and of a model that has no number of its own."""
    layers: Annotated[int, Within(1, 100)] = 2
    """Hidden layers of policy and critics, and of a model that has no number of its own."""


@dataclass(frozen=True)
class AgentSettings:
    """The soft actor-critic."""

    discount: Discount = 0.95
    """gamma in [0, 1), of the soft actor-critic and of the returns in the guarantee."""
    batch_size: Count = 128
    """Transitions per update."""
    learning_rate: Positive = 1e-3
    """Adam's, for policy, critics and temperature."""
    final_learning_rate_share: PositiveShare = 0.1
    """The learning rate falls linearly over the run to this share of itself, in (0, 1]; 1 keeps it constant."""
    critics: CriticKind = "target-networks"
    """What critics are held against. target-networks: copies that follow slowly, as in the sources. batch-norm: the
    critics themselves, with batch norm over both ends of the transitions together, and Adam's beta_1 = .5 (CrossQ; ours
    in M3PO). An update then takes twice as long; fewer updates are needed."""
    policy_interval: Count = 1
    """Updates of the critics per update of policy and temperature, which are then as much slower (CrossQ: 3)."""
    target_rate: PositiveShare = 0.01
    """Step of the target critics towards the critics per update, in (0, 1]; not read with --critics batch-norm."""
    initial_temperature: Positive = 0.1
    """Of the entropy bonus."""
    temperature_tuning: Literal["automatic", "fixed"] = "automatic"
    """automatic: towards the target entropy. fixed: the temperature stays as it is."""
    target_entropy: float | None = None
    """In nats; minus the number of action coordinates when not given."""


@dataclass(frozen=True)
class ModelRateSettings:
    """The optimiser of a model."""

    model_learning_rate: Positive = 2e-3
    """Adam's, for the model and its encoder."""


@dataclass(frozen=True)
class ModelSettings:
    """M3PO's model, its training, and the encoder of histories."""

    context_training: Literal["model", "critic"] = "model"
    """What trains the encoder that policy and critics read: the model's loss (one encoder for all, as in Figure 5; its
    encodings are stored), or the critics' own loss (a second encoder; slower)."""
    context_size: Units = 32
    """Hidden units of the GRU that encodes the history."""
    agent_units: Literal["gated", "rectified"] = "gated"
    """Hidden units of M3PO's policy and critics. gated: swish(u) * v, as in the model; sharper certificates.
    rectified: relu, as in the sources (and in the baselines, always); critics of them do not overestimate where much
    real data is reused, as in m3po-h or with long training."""
    model_units: Literal["gated", "swish"] = "gated"
    """Hidden units of the members of M3PO's model. gated: swish(u) * v. swish: as in the paper, and half the work in
    layers of the same size. The encoder of histories is gated either way."""
    model_width: Units | None = None
    """Units per hidden layer of each member; --width when not given."""
    model_layers: Annotated[int, Within(1, 100)] | None = None
    """Hidden layers of each member; --layers when not given."""
    elites: Members | None = None
    """Members with the smallest held-out losses that make up the model, 1..B; all when not given."""
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


@dataclass(frozen=True)
class RolloutSettings:
    """M3PO's rollouts in the model, and their share of what the agent learns from."""

    rollouts_per_step: Count = 40
    """M, model rollouts per real step."""
    rollout_interval: Steps = 20
    """Real steps between two batches of rollouts; a batch makes up for the steps since the last."""
    model_buffer_size: Steps = 20000
    """Capacity of D_model, in transitions."""
    model_share: Share = 1.0
    """Share of every update's batch that comes from D_model, in [0, 1]; the rest is real (MBPO uses 0.95)."""


@dataclass(frozen=True)
class BranchSettings:
    """How long branched rollouts are."""

    rollout_length: Steps = 1
    """k, model steps per branched rollout, >= 1."""
    final_rollout_length: Steps | None = None
    """k grows linearly (rounded down) to this, as in MBPO, between the two steps below; constant when not given."""
    rollout_growth_start: NotNegative = 0
    """Real step at which k starts to grow."""
    rollout_growth_end: NotNegative | None = None
    """Real step at which k is full-grown; the end of the run when not given."""


@dataclass(frozen=True)
class FadingSettings:
    """M3PO-h: the share of fictitious data falls over the run."""

    final_model_share: Share = 0.5
    """The share falls linearly over the run, from --model-share to this, in [0, --model-share] (ours; the
    paper's schedule is in its unavailable appendix)."""


@dataclass(frozen=True)
class ErrorSettings:
    """How M3PO measures its own model error and policy divergence after every epoch."""

    measure_episodes: EpisodeCount = 100
    """Held-out episodes of the data policy per epoch, for the error profiles; they never enter D_env. The baselines
    have no profiles and do not run them."""
    confidence: Confidence = 0.95
    """Of every interval that is logged, in (0, 1)."""


@dataclass(frozen=True)
class CertificationSettings:
    """M3PO with a guarantee after every epoch."""

    reserved_share: Annotated[float, Within(0, 1, without=(1,))] = 0.0
    """Share of the real steps, in [0, 1), that goes into whole episodes of which nothing is learned. They are collected
    by the policy at the end of epochs and give, after each, a lower bound of its return, valid with --confidence."""
    move_limit: PositiveShare | None = None
    """Most that a policy may move from the end of one epoch to the end of the next: mean total variation per step, in
    (0, 1]; not limited when not given. Small moves let earlier policies' reserved episodes speak of later ones."""


@dataclass(frozen=True)
class PearlSettings:
    """PEARL's latent task variable."""

    latent_size: Units = 5
    """Coordinates of the latent task variable z."""
    kl_weight: Annotated[float, Within(0)] = 0.1
    """Weight of KL(q(z|history) || N(0, I)) beside the critics' loss, >= 0."""


@dataclass(frozen=True)
class GrbalSettings:
    """GrBAL's adaptation of its model, and its planner."""

    adaptation_rate: Annotated[float, Within(0)] = 0.1
    """Size of the gradient step on the last L steps, >= 0; 0 never adapts."""
    adaptation_steps: Count = 16
    """K, steps after the last L that the adapted model is trained to predict."""
    meta_batch_size: Count = 10
    """Stretches of L + K real steps per gradient step of the model."""
    planner_candidates: Annotated[int, Within(2, 10**6)] = 500
    """Action sequences tried per plan."""
    planner_horizon: Count = 10
    """Steps per action sequence."""
    planner_iterations: Steps = 3
    """Times that the candidates are drawn anew around the best of the last ones."""
