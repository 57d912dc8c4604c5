"""Algorithm 2, readable from top to bottom, and its command line.

python -m m3po.train --env-id m3po/SwitchingPointMass-v0 --run-dir runs/first
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from m3po.allocation import keep_freed_memory
from m3po.captured_update import CapturedUpdate
from m3po.command_line import run
from m3po.config import Config
from m3po.context_encoder import ContextEncoder
from m3po.evaluate import make_environment, run_episodes, to_environment, to_tensor
from m3po.health import DivergenceError, check_updates, warnings_of
from m3po.interruption import Stopped, StopRequest
from m3po.measure import error_metrics
from m3po.model import EnsembleModel
from m3po.model_training import train_model
from m3po.networks import StackedMLP
from m3po.policy import GaussianPolicy, HistoryPolicy
from m3po.replay_buffer import EnvironmentBuffer, ModelBuffer
from m3po.rollout import model_steps, never_terminated, termination_of
from m3po.run_directory import RunDirectory
from m3po.sac import SoftActorCritic, SoftActorCriticSettings
from m3po.stopwatch import Stopwatch
from m3po.types import Segments, Transitions, Windows, joined, rows_of, token_of


class Training:
    """Everything a run holds in memory, and the loop of Algorithm 2 in units of one real step.

    Attributes:
        steps: real environment steps so far.
        measured_at: steps at the last row of metrics.
        data_policy: the policy as it was when this epoch's collection began; held-out episodes are its.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = choose_device(config.device, cuda_graphs=config.cuda_graphs)
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        self.options = config.environment_options()
        self.environment: gym.Env[Any, Any] = make_environment(config.env_id, **self.options)
        observation_size = self.environment.observation_space.shape[0]  # type: ignore[index]
        self.action_size: int = self.environment.action_space.shape[0]  # type: ignore[index]
        self.horizon: int = self.environment.spec.max_episode_steps  # type: ignore[union-attr,assignment]
        self.terminated = termination_of(self.environment)

        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.collection_generator = torch.Generator().manual_seed(config.seed + 1)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)  # initial weights come from torch's own generator
            self._build_networks(observation_size)
        self.environment_buffer = EnvironmentBuffer(
            config.total_steps,
            observation_size,
            self.action_size,
            history_length=config.history_length,
            members=config.ensemble_size,
            holdout=config.holdout,
            device=self.device,
        )
        self.model_buffer: ModelBuffer[Any] = ModelBuffer(
            max(config.model_buffer_size, config.rollouts_per_step * config.rollout_interval)
        )
        self.steps = 0
        self.episodes = 0
        self.measured_at = -1
        self.seconds = 0.0
        self.stopwatch = Stopwatch()
        self._epoch_step: int | None = None  # None between epochs
        self._sums: dict[str, Tensor] = {}  # of what the updates of this epoch reported
        self._updates = 0
        self._collected = 0.0
        self._model_losses: dict[str, float] = {}
        self._windows: Windows | None = None  # None between episodes
        self._episode_to_resume = False

    def _build_networks(self, observation_size: int) -> None:
        config, action_size = self.config, self.action_size
        sizes = (observation_size, action_size, config.history_length, config.context_size)
        encoder = ContextEncoder(*sizes)
        self.model = EnsembleModel(
            encoder, action_size, config.ensemble_size, config.width, config.layers, config.elites
        ).to(self.device)
        network = GaussianPolicy(encoder.feature_size, action_size, config.width, config.layers).to(self.device)
        critics = StackedMLP(2, encoder.feature_size + action_size, config.width, config.layers, 1).to(self.device)
        own = ContextEncoder(*sizes).to(self.device) if config.context_training == "critic" else None
        self.target_entropy = -float(action_size) if config.target_entropy is None else config.target_entropy
        tuned = self.target_entropy if config.temperature_tuning == "automatic" else None
        settings = SoftActorCriticSettings(
            config.discount, config.target_rate, tuned, config.learning_rate, capturable=config.cuda_graphs
        )
        self.agent = SoftActorCritic(network, critics, settings, config.initial_temperature, own)
        self.update = CapturedUpdate(self.agent) if config.cuda_graphs else self.agent.update
        self.policy = HistoryPolicy(encoder if own is None else own, network)
        self.data_policy = self.policy.snapshot()
        self.model_optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.model_learning_rate, weight_decay=config.model_weight_decay, fused=True
        )

    @property
    def finished(self) -> bool:
        """Whether the last epoch is over."""
        return self.steps >= self.config.total_steps and self._epoch_step is None and self.measured_at == self.steps

    @property
    def rollout_length(self) -> int:
        """k of the rollouts that would be run now."""
        full = self.config.algorithm == "m3po-full"
        return self.horizon if full else self.config.rollout_length_at(self.steps)

    # Lines 2-14 of Algorithm 2, one real step at a time: a run can be stopped and continued between any two calls.
    def advance(self) -> dict[str, Any] | None:
        """The next real step with all that belongs to it; a row of metrics when it completed an epoch.

        Raises:
            DivergenceError: when a loss, an observation or a reward is not a finite number.
        """
        began = time.perf_counter()
        row: dict[str, Any] | None = None
        if self.steps < self.config.initial_random_steps:
            self.collect_step(random=True)
        else:
            if self._epoch_step is None:
                self._begin_epoch()
            if self.steps < self.config.total_steps:
                self._step_of_epoch()
            if self._epoch_step == self.config.epoch_steps or self.steps == self.config.total_steps:
                row = self._end_epoch()
        self.seconds += time.perf_counter() - began
        return None if row is None else row | {"seconds": self.seconds}

    # Line 3.
    def _begin_epoch(self) -> None:
        config = self.config
        with self.stopwatch.measure("model"):
            self._model_losses = train_model(
                self.model, self.model_optimiser, self.environment_buffer, config, self.generator
            )
            if self.agent.encoder is not None:
                self.agent.encoder.copy_normalisers(self.model.encoder)
        self.model_buffer.clear()
        self.data_policy = self.policy.snapshot()
        decay = (1 - config.final_learning_rate_share) * self.steps / config.total_steps
        self.agent.set_learning_rate(config.learning_rate * (1 - decay))
        self._epoch_step, self._sums, self._updates, self._collected = 0, {}, 0, 0.0
        self.add_rollouts(config.rollouts_per_step * config.rollout_interval)

    # Lines 4-13.
    def _step_of_epoch(self) -> None:
        config = self.config
        assert self._epoch_step is not None
        self._collected += self.collect_step(random=False)
        self._epoch_step += 1
        if self._epoch_step % config.rollout_interval == 0:
            self.add_rollouts(config.rollouts_per_step * config.rollout_interval)
        with self.stopwatch.measure("update"):
            batches = self.draw_batches(config.updates_per_step)
            metrics = [self.update(batch, self.generator) for batch in batches]
            check_updates(metrics, batches, step=self.steps)
            for each in metrics:
                self._sums = {name: self._sums.get(name, 0.0) + value.double() for name, value in each.items()}
            self._updates += len(metrics)

    def _end_epoch(self) -> dict[str, Any]:
        assert self._epoch_step is not None
        row: dict[str, Any] = {"step": self.steps, **self._model_losses}
        row |= {name: value.item() / self._updates for name, value in self._sums.items()}
        row |= {"rollout_length": self.rollout_length, "model_share": self.config.model_share_at(self.steps)}
        row["collected_reward"] = self._collected / max(self._epoch_step, 1)
        if self._updates:
            row["warnings"] = warnings_of(
                row,
                largest_reward=self.environment_buffer.rewards[: self.steps].abs().max().item(),
                discount=self.config.discount,
                target_entropy=self.target_entropy,
            )
        with self.stopwatch.measure("measure"):
            row |= self.measure()
        row |= {f"{name}_seconds": seconds for name, seconds in self.stopwatch.seconds.items()}
        self.stopwatch = Stopwatch()
        self._epoch_step, self.measured_at = None, self.steps
        return row

    # Line 5.
    def collect_step(self, *, random: bool) -> float:
        """One real step, stored in D_env; starts a new episode when the last one ended. Returns the reward.

        Raises:
            DivergenceError: when the environment returns a number that is not finite.
            ValueError: when it ends an episode and has no method ``terminated``.
        """
        starts = self._windows is None
        windows = self._windows if self._windows is not None else self._start_episode()
        with self.stopwatch.measure("acting"):
            if random:
                action = 2 * torch.rand(1, self.action_size, generator=self.collection_generator).to(self.device) - 1
            else:
                action, _ = self.policy.act(windows, self.generator)
        following, reward, terminated, truncated = self._act(action)
        if not (np.isfinite(following).all() and math.isfinite(reward)):
            raise DivergenceError(
                f"{self.config.env_id} returned observation {following} and reward {reward} at real step "
                f"{self.steps + 1}, for action {action[0].tolist()}"
            )
        if terminated and self.terminated is never_terminated:
            raise ValueError(
                f"{self.config.env_id} ended an episode but has no method terminated(observation), "
                "which rollouts in the model need"
            )
        next_observation = to_tensor(following, self.device)[None]
        self.environment_buffer.add(
            windows.observation[0],
            action[0],
            reward,
            next_observation[0],
            terminated=terminated,
            starts_episode=starts,
            generator=self.collection_generator,
        )
        self._windows = None if terminated or truncated else windows.push(action, next_observation)
        self.steps += 1
        return reward

    def _start_episode(self) -> Windows:
        # Each episode has its own seed, so a resumed run meets the same episodes without storing the simulator.
        self.episodes += 1
        with self.stopwatch.measure("environment"):
            observation, _ = self.environment.reset(seed=self._episode_seed())
        return Windows.initial(to_tensor(observation, self.device)[None], self.config.history_length, self.action_size)

    def _episode_seed(self) -> int:
        return int(np.random.SeedSequence([self.config.seed, self.episodes - 1]).generate_state(1)[0])

    def _act(self, action: Tensor) -> tuple[NDArray[np.float64], float, bool, bool]:
        """The environment's answer to ``action`` [1, A]: o_{t+1}, r_t, terminated, truncated."""
        space = self.environment.action_space
        assert isinstance(space, gym.spaces.Box)
        with self.stopwatch.measure("environment"):
            following, reward, terminated, truncated, _ = self.environment.step(to_environment(action, space)[0])
        return following, float(reward), bool(terminated), bool(truncated)

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
                self.model_buffer.add(step.transitions if self.agent.encoder is None else step.segments())

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
            places = (count * real,)
            indices = torch.randint(self.environment_buffer.size, places, generator=self.generator, device=self.device)
            segments: Any = self.environment_buffer.segments(indices)
            if self.agent.encoder is None:
                with torch.no_grad():
                    segments = self.model.encoder.transitions(segments)
            parts.append([rows_of(segments, slice(i * real, (i + 1) * real)) for i in range(count)])
        return [joined(each) if len(each) > 1 else each[0] for each in zip(*parts, strict=True)]

    def measure(self) -> dict[str, Any]:
        """Errors on held-out episodes of the data policy, and the return of the deterministic policy."""
        config = self.config
        # Seeds of its own: looking at a run must not change it.
        seeds = np.random.SeedSequence([config.seed, self.steps, 1]).generate_state(3)
        generator = torch.Generator(self.device).manual_seed(int(seeds[2]))
        held_out = run_episodes(
            config.env_id,
            self.data_policy,
            config.measure_episodes,
            seed=int(seeds[0]),
            generator=generator,
            options=self.options,
        )
        dynamics = getattr(self.environment.unwrapped, "dynamics", None)
        errors = error_metrics(
            self.model,
            self.policy,
            self.data_policy,
            held_out,
            dynamics,
            confidence=config.confidence,
            generator=generator,
        )
        evaluation = run_episodes(
            config.env_id,
            self.policy,
            config.evaluation_episodes,
            seed=int(seeds[1]),
            generator=generator,
            deterministic=True,
            options=self.options,
        ).returns()
        return errors | {
            "return": float(evaluation.mean()),
            "return_standard_error": float(evaluation.std(ddof=1) / len(evaluation) ** 0.5),
        }

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values."""
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "episode_under_way": self._windows is not None,
            "measured_at": self.measured_at,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "model_optimiser": self.model_optimiser.state_dict(),
            "networks": {name: module.state_dict() for name, module in self.agent.modules().items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.agent.optimisers().items()},
            "log_temperature": self.agent.log_temperature.detach(),
            "data_policy": {
                "encoder": self.data_policy.encoder.state_dict(),
                "network": self.data_policy.network.state_dict(),
            },
            "environment_buffer": self.environment_buffer.state(),
            "generators": [self.generator.get_state(), self.collection_generator.get_state()],
            # What an epoch under way has so far; D_model does not outlive its epoch.
            "epoch": None
            if self._epoch_step is None
            else {
                "step": self._epoch_step,
                "sums": self._sums,
                "updates": self._updates,
                "collected": self._collected,
                "model_losses": self._model_losses,
                "stopwatch": self.stopwatch.seconds,
                "model_buffer": self.model_buffer.state(),
            },
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``, but for an episode that was under way: see ``resume_episode``."""
        self.steps, self.episodes, self.seconds = state["steps"], state["episodes"], state["seconds"]
        self.measured_at = state["measured_at"]
        self.model.load_state_dict(state["model"])
        self.model_optimiser.load_state_dict(state["model_optimiser"])
        for name, module in self.agent.modules().items():
            module.load_state_dict(state["networks"][name])
        for name, optimiser in self.agent.optimisers().items():
            optimiser.load_state_dict(state["optimisers"][name])
        with torch.no_grad():
            self.agent.log_temperature.copy_(state["log_temperature"])
        self.data_policy.encoder.load_state_dict(state["data_policy"]["encoder"])
        self.data_policy.network.load_state_dict(state["data_policy"]["network"])
        self.environment_buffer.load_state(state["environment_buffer"])
        self.generator.set_state(state["generators"][0].cpu())
        self.collection_generator.set_state(state["generators"][1].cpu())
        self._windows = None
        self._episode_to_resume = state["episode_under_way"]
        epoch = state["epoch"]
        self._epoch_step = None
        if epoch is not None:
            self._epoch_step, self._sums, self._updates = epoch["step"], epoch["sums"], epoch["updates"]
            self._collected, self._model_losses = epoch["collected"], epoch["model_losses"]
            self.stopwatch.seconds = epoch["stopwatch"]
            kind = Transitions if self.agent.encoder is None else Segments
            self.model_buffer.load_state(epoch["model_buffer"], kind)

    def resume_episode(self) -> bool:
        """Bring the environment to where the checkpoint was: same seed, same actions, so the same state.

        Returns:
            False when the environment did not repeat itself bit for bit; the episode is then given up and the next
            step starts a new one.
        """
        if not self._episode_to_resume:
            return True
        buffer, last = self.environment_buffer, self.steps - 1
        observation, _ = self.environment.reset(seed=self._episode_seed())
        current = to_tensor(observation, self.device)[None]
        for index in range(int(buffer.first[last]), last + 1):
            action = buffer.actions(torch.tensor([index], device=self.device))
            observation, reward, terminated, truncated = self._act(action)
            following = to_tensor(observation, self.device)[None]
            happened = (
                torch.equal(current[0], buffer.observations[index])
                and torch.equal(token_of(current, action, following)[0], buffer.tokens[index])
                and torch.equal(to_tensor(reward, self.device), buffer.rewards[index])
            )
            if terminated or truncated or not happened:
                return False
            current = following
        self._windows = buffer.windows(torch.tensor([last], device=self.device)).push(action, current)
        return True


def choose_device(name: str, *, cuda_graphs: bool = False) -> torch.device:
    """auto, cpu or cuda -> a device.

    Raises:
        ValueError: when cuda, or what needs it, is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available")
    device = torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
    if cuda_graphs and device.type != "cuda":
        raise ValueError(f"--cuda-graphs needs a CUDA device, and this run is on the {device.type}")
    return device


def train(config: Config) -> RunDirectory:
    """Run or resume a training to its last step.

    Raises:
        ValueError: see RunDirectory and make_environment.
        DivergenceError: when a number is not finite any more; the last checkpoint is from before.
        Stopped: after Ctrl-C or SIGTERM, with everything so far in a checkpoint.
    """
    # A wrong id or option must not leave a run directory behind.
    make_environment(config.env_id, **config.environment_options()).close()
    choose_device(config.device, cuda_graphs=config.cuda_graphs)
    directory = RunDirectory.resume(config) if config.resume else RunDirectory.create(config)
    try:
        if directory.complete:
            print(f"{config.run_dir} is complete already", file=sys.stderr)
        else:
            run_to_end(start(config, directory), directory)
    finally:
        directory.release()
    return directory


def start(config: Config, directory: RunDirectory) -> Training:
    """A new training with the first row of its metrics, or one where its checkpoint was."""
    training = Training(config)
    if directory.has_checkpoint or any(row["step"] > 0 for row in directory.metrics()):
        training.load_state(directory.load_checkpoint(training.device, previous=config.from_previous))
        directory.drop_metrics_after(training.measured_at)
        if not training.resume_episode():
            print(
                f"{config.env_id} does not repeat itself for the same seed and actions: the episode under way at step "
                f"{training.steps} is given up, and the resumed run is not the one that would have been",
                file=sys.stderr,
            )
            directory.record_restart(training.steps)
    else:  # a new run, or one stopped before its first checkpoint
        directory.drop_metrics_after(-1)
        directory.append_metrics({"step": 0, **training.measure()})  # the untrained start of every curve
        training.measured_at = 0
        directory.save_checkpoint(training.state())
    return training


def run_to_end(training: Training, directory: RunDirectory) -> None:
    """Advance to the last step, with a row of metrics and a checkpoint after every epoch."""
    config = training.config
    with (
        StopRequest() as stop,
        tqdm(
            total=config.total_steps,
            initial=training.steps,
            unit="step",
            file=sys.stderr,
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
                    progress.write(f"step {row['step']}: {warning}", file=sys.stderr)
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
        print(f"\ninterrupted; continue with the same command and --resume (run {config.run_dir})", file=sys.stderr)
        return interruption.exit_code if isinstance(interruption, Stopped) else 130
    except DivergenceError as error:
        print(
            f"error: the training diverged: {error}. The last checkpoint in {config.run_dir} is from before.",
            file=sys.stderr,
        )
        return 1
    rows = directory.metrics()
    if not rows:
        raise ValueError(f"{config.run_dir} is marked complete and has no metrics")
    last = rows[-1]
    print(f"{config.run_dir}: {last['step']} steps, return {last['return']:.2f} +- {last['return_standard_error']:.2f}")
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, Config, arguments, prog="python -m m3po.train")


if __name__ == "__main__":
    cli()
