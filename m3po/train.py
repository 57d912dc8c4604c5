"""Algorithm 2, readable from top to bottom, and its command line.

python -m m3po.train --env-id m3po/SwitchingPointMass-v0 --run-dir runs/first
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from m3po.agents.loop import TrainingLoop, choose_device
from m3po.agents.training import training_of
from m3po.command_line import finish, run
from m3po.config import Config
from m3po.foreign.trial import try_environment
from m3po.runs.allocation import keep_freed_memory
from m3po.runs.health import DivergenceError, check_row
from m3po.runs.interruption import Stopped, StopRequest, exit_code
from m3po.runs.run_directory import RunDirectory
from m3po.runs.terminal import messages, shown
from m3po.training_flags import expanded


def train(config: Config) -> RunDirectory:
    """Run or resume a training to its last step.

    For the whole process it sets the number of torch's threads (``config.threads``), and has malloc keep freed memory.

    Raises:
        ValueError: see RunDirectory and try_environment.
        DivergenceError: when a number is not finite any more; the last checkpoint is from before.
        Stopped: after Ctrl-C or SIGTERM, with everything so far in a checkpoint.
    """
    config = dataclasses.replace(config, run_dir=config.run_dir.absolute())  # an environment may go elsewhere
    # What cannot be trained must not leave a run directory behind.
    choose_device(config.device, cuda_graphs=config.cuda_graphs)
    try_environment(config)
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    training = None if config.resume else training_of(config)
    directory = RunDirectory.resume(config) if config.resume else RunDirectory.create(config)
    try:
        if directory.complete:
            print(f"{config.run_dir} is complete already", file=messages())
        else:
            run_to_end(start(training or training_of(config), directory), directory)
    finally:
        directory.release()
    return directory


def start(training: TrainingLoop, directory: RunDirectory) -> TrainingLoop:
    """A new training with the first row of its metrics, or one where its checkpoint was."""
    config = training.config
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
        if not training.collection.resume_episode():
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
        print(
            f"\ninterrupted; continue with the same command and --resume (run {shown(config.run_dir)})", file=messages()
        )
        return exit_code(interruption)
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
        print(f"{shown(config.run_dir)}: {last['step']} steps, {final}")
    finish(sys.stdout)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, Config, arguments, prog="python -m m3po.train", expanded=expanded)


if __name__ == "__main__":
    cli()
