"""Algorithm 2, readable from top to bottom, and its command line.

python -m m3po.train --env-id m3po/SwitchingPointMass-v0 --run-dir runs/first
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from tqdm import tqdm

from m3po.baselines.grbal import GrbalTraining
from m3po.baselines.pearl import PearlTraining
from m3po.captured_update import CapturedUpdate
from m3po.command_line import finish, run
from m3po.config import Config
from m3po.context_encoder import ContextEncoder
from m3po.environment_trial import try_environment
from m3po.evaluate import run_episodes
from m3po.foreign import check_environment, nothing_from_here
from m3po.health import DivergenceError, check_row
from m3po.interruption import Stopped, StopRequest
from m3po.measure import error_metrics
from m3po.model import EnsembleModel
from m3po.model_training import train_model
from m3po.policy import HistoryPolicy
from m3po.replay_buffer import ModelBuffer
from m3po.rollout import model_steps
from m3po.run_directory import RunDirectory
from m3po.sac import SoftActorCritic, agent_networks, agent_settings
from m3po.terminal import messages
from m3po.training_loop import TrainingLoop, choose_device
from m3po.types import Segments, Transitions, joined, rows_of


class Training(TrainingLoop):
    """Algorithm 2: a model, its rollouts, and the soft actor-critic that learns from them.

    Attributes:
        data_policy: the policy as it was when this epoch's collection began; held-out episodes are its.
    """

    algorithms = ("m3po", "m3po-h", "m3po-full")
    policy: HistoryPolicy

    # Line 1.
    def build(self, observation_size: int) -> None:
        config, action_size = self.config, self.action_size
        sizes = (observation_size, action_size, config.history_length, config.context_size)
        encoder = ContextEncoder(*sizes)
        self.model = EnsembleModel(
            encoder, action_size, config.ensemble_size, config.width, config.layers, config.elites
        ).to(self.device)
        network, critics = agent_networks(
            config, encoder.feature_size, action_size, self.device, gated=config.agent_units == "gated"
        )
        own = ContextEncoder(*sizes).to(self.device) if config.context_training == "critic" else None
        self.own_encoder = own  # None: policy and critics read the model's
        self.target_entropy, settings = agent_settings(config, action_size)
        self.agent = SoftActorCritic(network, critics, settings, config.initial_temperature, own)
        self.update = CapturedUpdate(self.agent) if config.cuda_graphs else self.agent.update
        self.policy = HistoryPolicy(encoder if own is None else own, network)
        self.data_policy = self.policy.snapshot()
        self.model_optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.model_learning_rate, weight_decay=config.model_weight_decay, fused=True
        )
        self.model_buffer: ModelBuffer[Any] = ModelBuffer(
            max(config.model_buffer_size, config.rollouts_per_step * config.rollout_interval)
        )
        self._model_losses: dict[str, float] = {}

    @property
    def rollout_length(self) -> int:
        """k of the rollouts that would be run now."""
        full = self.config.algorithm == "m3po-full"
        return self.horizon if full else self.config.rollout_length_at(self.steps)

    # Line 3.
    def begin_epoch(self) -> None:
        config = self.config
        with self.stopwatch.measure("model"):
            self._model_losses = train_model(
                self.model, self.model_optimiser, self.environment_buffer, config, self.generator
            )
            if self.own_encoder is not None:
                self.own_encoder.copy_normalisers(self.model.encoder)
        self.model_buffer.clear()
        self.data_policy = self.policy.snapshot()
        self.agent.set_learning_rate(config.learning_rate_at(self.steps))
        self.add_rollouts(config.rollouts_per_step * config.rollout_interval)

    # Lines 4-13; line 5 is TrainingLoop.collect_step.
    def learn(self, epoch_step: int) -> tuple[list[dict[str, Tensor]], list[Any]]:
        config = self.config
        if epoch_step % config.rollout_interval == 0:
            self.add_rollouts(config.rollouts_per_step * config.rollout_interval)
        with self.stopwatch.measure("update"):
            batches = self.draw_batches(config.updates_per_step)
            return [self.update(batch, self.generator) for batch in batches], batches

    # Lines 6-9.
    def add_rollouts(self, count: int) -> None:
        """``count`` k-step rollouts from uniformly drawn real histories (full: from initial ones) into D_model."""
        buffer, generator = self.environment_buffer, self.generator
        if self.config.model_share_at(self.steps) == 0:
            return
        with self.stopwatch.measure("rollout"):
            if self.config.algorithm == "m3po-full":
                initial = buffer.initial_indices()
                count = max(count // self.horizon, 1)
                indices = initial[torch.randint(len(initial), (count,), generator=generator, device=self.device)]
            else:
                indices = torch.randint(buffer.size, (count,), generator=generator, device=self.device)
            starts = buffer.windows(indices)
            for step in model_steps(self.model, self.policy, starts, self.rollout_length, generator, self.terminated):
                self.model_buffer.add(step.transitions if self.own_encoder is None else step.segments())

    # Line 11, and section 7.1 for the mixture.
    def draw_batches(self, count: int) -> list[Any]:
        """``count`` batches of fictitious and real transitions in the proportion that ``model_share_at`` says."""
        size = self.config.batch_size
        fictitious = round(self.config.model_share_at(self.steps) * size)
        parts: list[list[Any]] = []
        if fictitious > 0:
            drawn = self.model_buffer.sample(count * fictitious, self.generator)
            parts.append([rows_of(drawn, slice(i * fictitious, (i + 1) * fictitious)) for i in range(count)])
        if fictitious < size:
            real = size - fictitious
            segments: Any = self.environment_buffer.sample_segments(count * real, self.generator)
            if self.own_encoder is None:
                with torch.no_grad():
                    segments = self.model.encoder.transitions(segments)
            parts.append([rows_of(segments, slice(i * real, (i + 1) * real)) for i in range(count)])
        return [joined(each) if len(each) > 1 else each[0] for each in zip(*parts, strict=True)]

    def learned_metrics(self, means: Mapping[str, float]) -> dict[str, Any]:
        return {
            **self._model_losses,
            "rollout_length": self.rollout_length,
            "model_share": self.config.model_share_at(self.steps),
            **self.agent_warnings(means, self.target_entropy),
        }

    def measure_errors(self, seed: int, generator: torch.Generator) -> dict[str, Any]:
        """On held-out episodes of the data policy."""
        config = self.config
        held_out = run_episodes(
            config.env_id,
            self.data_policy,
            config.measure_episodes,
            seed=seed,
            generator=generator,
            options=self.options,
        )
        return error_metrics(
            self.model,
            self.policy,
            self.data_policy,
            held_out,
            self.dynamics,
            confidence=config.confidence,
            generator=generator,
        )

    def learned_state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "model_optimiser": self.model_optimiser.state_dict(),
            **self.agent.state(),
            "data_policy": {
                "encoder": self.data_policy.encoder.state_dict(),
                "network": self.data_policy.network.state_dict(),
            },
        }

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.model_optimiser.load_state_dict(state["model_optimiser"])
        self.agent.load_state(state)
        self.data_policy.encoder.load_state_dict(state["data_policy"]["encoder"])
        self.data_policy.network.load_state_dict(state["data_policy"]["network"])

    def epoch_state(self) -> dict[str, Any]:
        # D_model does not outlive its epoch.
        return {"model_losses": self._model_losses, "model_buffer": self.model_buffer.state()}

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        self._model_losses = state["model_losses"]
        self.model_buffer.load_state(state["model_buffer"], Transitions if self.own_encoder is None else Segments)


def training_of(config: Config) -> TrainingLoop:
    """The training of the algorithm that ``config`` names."""
    kinds: tuple[type[TrainingLoop], ...] = (Training, PearlTraining, GrbalTraining)
    return next(kind for kind in kinds if config.algorithm in kind.algorithms)(config)


Kind = TypeVar("Kind", bound=TrainingLoop)


@overload
def restored(directory: RunDirectory, *, trust_env: bool = False) -> TrainingLoop: ...
@overload
def restored(directory: RunDirectory, kind: type[Kind], *, trust_env: bool = False) -> Kind: ...
def restored(
    directory: RunDirectory, kind: type[TrainingLoop] | None = None, *, trust_env: bool = False
) -> TrainingLoop:
    """The training of a run as its last checkpoint has it, on the CPU, to look at.

    Args:
        directory: of the run, wherever it comes from.
        kind: the class that the run must be of; the one that its algorithm is of when None.
        trust_env: build its environment even if that imports a module or reads files that the run names.

    Raises:
        ValueError: when the run is of another kind, its environment asks for trust, or its checkpoint cannot be read.
    """
    config = directory.config.on_cpu()
    if trust_env:
        guard: AbstractContextManager[None] = nullcontext()
    else:
        check_environment(config.env_id, config.environment_options())
        guard = nothing_from_here()
    state = directory.load_checkpoint()
    with guard:
        training = training_of(config) if kind is None else kind(config)
    try:
        training.load_state(state)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the checkpoint in {directory.path} does not fit its config.json: {reason}") from error
    return training


def train(config: Config) -> RunDirectory:
    """Run or resume a training to its last step.

    Raises:
        ValueError: see RunDirectory and try_environment.
        DivergenceError: when a number is not finite any more; the last checkpoint is from before.
        Stopped: after Ctrl-C or SIGTERM, with everything so far in a checkpoint.
    """
    config = dataclasses.replace(config, run_dir=config.run_dir.absolute())  # an environment may go elsewhere
    # What cannot be trained must not leave a run directory behind.
    choose_device(config.device, cuda_graphs=config.cuda_graphs)
    try_environment(config)
    directory = RunDirectory.resume(config) if config.resume else RunDirectory.create(config)
    try:
        if directory.complete:
            print(f"{config.run_dir} is complete already", file=messages())
        else:
            run_to_end(start(config, directory), directory)
    finally:
        directory.release()
    return directory


def start(config: Config, directory: RunDirectory) -> TrainingLoop:
    """A new training with the first row of its metrics, or one where its checkpoint was."""
    training = training_of(config)
    if config.from_previous:
        directory.restore_previous()
    if directory.has_checkpoint or any(row["step"] > 0 for row in directory.metrics()):
        training.load_state(directory.load_checkpoint(training.device))
        directory.drop_metrics_after(training.measured_at)
        if training.new_generator:
            print(
                f"the checkpoint of {config.run_dir} was written on a device of another kind than {training.device}: "
                "its random numbers cannot go on here, and the resumed run draws new ones from its seed",
                file=messages(),
            )
            directory.record_new_generator(training.steps)
        if not training.resume_episode():
            print(
                f"{config.env_id} does not repeat itself for the same seed and actions: the episode under way at step "
                f"{training.steps} is given up, and the resumed run is not the one that would have been",
                file=messages(),
            )
            directory.record_restart(training.steps)
    else:  # a new run, or one stopped before its first checkpoint
        directory.drop_metrics_after(-1)
        row = {"step": 0, **training.measure()}  # the untrained start of every curve
        check_row(row)
        directory.append_metrics(row)
        training.measured_at = 0
        directory.save_checkpoint(training.state())
    return training


def run_to_end(training: TrainingLoop, directory: RunDirectory) -> None:
    """Advance to the last step, with a row of metrics and a checkpoint after every epoch."""
    config, told = training.config, messages()
    with (
        StopRequest() as stop,
        tqdm(
            total=config.total_steps,
            initial=training.steps,
            unit="step",
            file=told,
            dynamic_ncols=True,
            smoothing=0.05,
        ) as progress,
    ):
        saved_at = time.monotonic()
        while not training.finished:
            row = training.advance()
            progress.update(training.steps - progress.n)
            if row is not None:
                for warning in row.get("warnings", []):
                    progress.write(f"step {row['step']}: {warning}", file=told)
                directory.append_metrics(row | directory.checkpoint_cost)
                progress.set_postfix(describe(row), refresh=True)
            due = time.monotonic() - saved_at > 60 * config.checkpoint_minutes
            if row is not None or due or stop.number is not None:
                directory.save_checkpoint(training.state())
                saved_at = time.monotonic()
            if stop.number is not None and not training.finished:
                raise Stopped(stop.number)
    directory.mark_complete()


def describe(row: dict[str, Any]) -> dict[str, str]:
    """The part of a metrics row that the progress bar shows."""
    shown = {
        "return": "return", "eps_m": "eps_m", "eps_pi_mean": "eps_pi", "model_loss": "model", "critic_loss": "critic",
        "policy_loss": "policy",
    }  # fmt: skip
    return {label: f"{row[name]:.3g}" for name, label in shown.items() if name in row}


def main(config: Config) -> int:
    try:
        directory = train(config)
    except KeyboardInterrupt as interruption:
        print(f"\ninterrupted; continue with the same command and --resume (run {config.run_dir})", file=messages())
        return interruption.exit_code if isinstance(interruption, Stopped) else 130
    except DivergenceError as error:
        before = f" The last checkpoint in {config.run_dir} is from before." if config.run_dir.exists() else ""
        print(f"error: the training diverged: {error}.{before}", file=messages())
        return 1
    rows = directory.metrics()
    if not rows:
        raise ValueError(f"{config.run_dir} is marked complete and has no metrics")
    last = rows[-1]
    final = f"return {last['return']:.2f} +- {last['return_standard_error']:.2f}"
    with contextlib.suppress(OSError):  # the run is complete, whether anybody reads this or not
        print(f"{config.run_dir}: {last['step']} steps, {final}")
    finish(sys.stdout)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, Config, arguments, prog="python -m m3po.train")


if __name__ == "__main__":
    cli()
