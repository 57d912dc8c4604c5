"""Algorithm 2, readable from top to bottom, and its command line.

python -m m3po.train --env-id m3po/SwitchingPointMass-v0 --run-dir runs/first
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

from m3po.agents.group import Group
from m3po.agents.loop import TrainingLoop, choose_device
from m3po.agents.training import training_of
from m3po.command_line import finish, run
from m3po.config import Config
from m3po.foreign.trial import try_environment
from m3po.runs.allocation import keep_freed_memory
from m3po.runs.health import DivergenceError, check_row
from m3po.runs.interruption import Stopped, StopRequest, exit_code
from m3po.runs.run_directory import RunDirectory, check_unborn
from m3po.runs.terminal import messages, shown
from m3po.training_flags import TrainingFlags, expanded


def train(config: Config) -> RunDirectory:
    """Run or resume a training to its last step.

    For the whole process it sets the number of torch's threads (``config.threads``), and has malloc keep freed memory.

    Raises:
        ValueError: see RunDirectory and try_environment; or there are ``config.seeds``, for ``train_seeds``.
        DivergenceError: when a number is not finite any more; the last checkpoint is from before.
        Stopped: after Ctrl-C or SIGTERM, with everything so far in a checkpoint.
    """
    if config.seeds is not None:
        raise ValueError(f"train is for one run; train_seeds takes seeds, got {config.seeds}")
    return train_seeds(config)[0]


def train_seeds(config: Config) -> list[RunDirectory]:
    """Run or resume the trainings of ``config.seeds`` side by side, each as ``train`` would alone.

    One that fails is told of, and stops where it was; the others go on.

    Raises:
        ValueError, DivergenceError: as ``train``, when no run is left.
        Stopped: as ``train``.
    """
    # An environment may change the working directory.
    configs = dataclasses.replace(config, run_dir=config.run_dir.absolute()).each_seed()
    failed: dict[Path, Exception] = {}
    directories = train_side_by_side(configs, failed)
    if failed and len(configs) == 1:
        raise next(iter(failed.values()))
    if failed:
        stopped = "; ".join(f"{path.name}: {error}" for path, error in failed.items())
        raise DivergenceError(f"{len(failed)} of {len(configs)} runs stopped: {stopped}")
    return directories


def train_side_by_side(configs: Sequence[Config], failed: dict[Path, Exception]) -> list[RunDirectory]:
    """Run or resume trainings that differ in their seeds, run directories and ``resume``, until none is left.

    Args:
        failed: gets what stopped a run, by its directory, when it happens; where that was no fault of the training but
            of the directory, the same error is raised, and all stop.

    Raises:
        ValueError, DivergenceError, Stopped: as ``train``.
    """
    # What cannot be trained must not leave a run directory behind.
    choose_device(configs[0].device, cuda_graphs=configs[0].cuda_graphs)
    try_environment(configs[0])
    torch.set_num_threads(configs[0].threads)
    keep_freed_memory()
    trainings = {each.run_dir: training_of(each) for each in configs if not each.resume}
    with contextlib.ExitStack() as held:
        directories = opened(configs, held, failed)
        started = {}
        for each, directory in zip(configs, directories, strict=True):
            if directory.complete:
                print(f"{each.run_dir} is complete already", file=messages())
                continue
            with blamed(each.run_dir, failed):
                started[start(trainings.get(each.run_dir) or training_of(each), directory)] = directory
        to_the_end(back_in_step(started, failed), failed)
    return directories


@contextlib.contextmanager
def blamed(path: Path, failed: dict[Path, Exception]) -> Iterator[None]:
    """An error here is one of the run in ``path``, and of no other."""
    try:
        yield
    except (DivergenceError, ValueError, OSError) as error:
        failed[path] = error
        raise


def opened(configs: Sequence[Config], held: contextlib.ExitStack, failed: dict[Path, Exception]) -> list[RunDirectory]:
    """The run directories, new or to be resumed; ``held`` releases them.

    Raises:
        ValueError: when one of them cannot be had.
    """
    for each in configs:
        if not each.resume:
            with blamed(each.run_dir, failed):
                check_unborn(each.run_dir)  # before any of them is made
    directories = []
    for each in configs:
        # Of seeds whose process was killed early, some have no directory yet.
        new = not each.resume or (len(configs) > 1 and not each.run_dir.exists())
        with blamed(each.run_dir, failed):
            directory = RunDirectory.create(each) if new else RunDirectory.resume(each)
        held.callback(directory.release)
        directories.append(directory)
    return directories


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


def back_in_step(
    started: Mapping[TrainingLoop, RunDirectory], failed: dict[Path, Exception]
) -> dict[TrainingLoop, RunDirectory]:
    """Runs that were killed while their group wrote its checkpoints: those that had theirs go back to the one before.

    Side by side from there on they are what they would have been, bit for bit. Runs that have nothing to go back to
    stay ahead.
    """
    least = min((training.steps for training in started), default=0)
    result = {}
    for training, directory in started.items():
        if training.steps > least and directory.previous_step() == least:
            with blamed(directory.path, failed):
                directory.restore_previous()
                result[start(training_of(training.config), directory)] = directory
        else:
            result[training] = directory
    return result


def to_the_end(started: Mapping[TrainingLoop, RunDirectory], failed: dict[Path, Exception]) -> None:
    """Advance all to their last step, side by side as far as they have come equally far."""
    left = dict(started)
    while left:
        least = min(training.steps for training in left)
        ahead = min((training.steps for training in left if training.steps > least), default=None)
        level = [training for training in left if training.steps == least]
        group = level[0].side_by_side(level)
        try:
            run_to_end(group, left, failed, ahead)
        except (DivergenceError, ValueError) as error:
            if len(group.runs) > 1:  # not of a run: of its directory, for one
                raise
            group.failed[group.runs.pop()] = error
        failed |= {left[training].path: reason for training, reason in group.failed.items()}
        gone = {*group.failed, *(run for run in group.runs if run.finished)}
        left = {training: directory for training, directory in left.items() if training not in gone}


def tell_failure(directory: RunDirectory, error: Exception) -> None:
    """A run that others ran beside has stopped."""
    print(f"{directory.path.name} stops here, and the others go on: {error}", file=messages())


def run_to_end(
    group: Group[Any],
    directories: Mapping[TrainingLoop, RunDirectory],
    failed: dict[Path, Exception],
    until: int | None = None,
) -> None:
    """Advance to the last step, or to step ``until``, with a row of metrics and a checkpoint after every epoch."""
    config, told = group.runs[0].config, messages()
    with (
        StopRequest() as stop,
        Progress(group.runs, told) as progress,
    ):
        saved_at = time.monotonic()
        while not group.finished and (until is None or group.runs[0].steps < until):
            known = len(group.failed)
            rows = group.advance()
            progress.update(group.runs[0].steps)
            for training, reason in list(group.failed.items())[known:]:
                failed[directories[training].path] = reason
                tell_failure(directories[training], reason)
            for training, row in rows.items():
                directory = directories[training]
                progress.tell(training, row)
                with blamed(directory.path, failed):
                    directory.append_metrics(row | directory.checkpoint_cost)
            due = time.monotonic() - saved_at > 60 * config.checkpoint_minutes
            if rows or due or stop.number is not None:
                for training in group.runs:
                    with blamed(directories[training].path, failed):
                        directories[training].save_checkpoint(training.state())
                saved_at = time.monotonic()
            if stop.number is not None and not group.finished:
                raise Stopped(stop.number)
    if group.finished:
        for training in group.runs:
            with blamed(directories[training].path, failed):
                directories[training].mark_complete()


class Progress:
    """A bar of the real steps, and of runs side by side a line for each with what its last row of metrics says."""

    def __init__(self, runs: Sequence[TrainingLoop], told: TextIO) -> None:
        self.told = told
        self.bar = tqdm(
            total=runs[0].config.total_steps, initial=runs[0].steps, unit="step", file=told, dynamic_ncols=True,
            smoothing=0.05,
        )  # fmt: skip
        self.lines: dict[TrainingLoop, Any] = {}
        if len(runs) > 1 and told.isatty():
            self.lines = {
                run: tqdm(total=0, position=place, file=told, bar_format="{desc}", desc=f"seed {run.config.seed}")
                for place, run in enumerate(runs, start=1)
            }
        self.several = len(runs) > 1

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*reversed(self.lines.values()), self.bar):
            each.close()

    def update(self, steps: int) -> None:
        """So many real steps are done."""
        self.bar.update(steps - self.bar.n)

    def tell(self, run: TrainingLoop, row: dict[str, Any]) -> None:
        """A run has a new row of metrics."""
        seed = f"seed {run.config.seed}"
        where = f"{seed}, step {row['step']}" if self.several else f"step {row['step']}"
        for warning in row.get("warnings", []):
            self.bar.write(f"{where}: {warning}", file=self.told)
        if not self.several:
            self.bar.set_postfix(describe(row), refresh=True)
            return
        told = f"{seed}: " + ", ".join(f"{name} {value}" for name, value in describe(row).items())
        if run in self.lines:
            self.lines[run].set_description_str(told)
        else:
            self.bar.write(f"step {row['step']}, {told}", file=self.told)


def describe(row: dict[str, Any]) -> dict[str, str]:
    """The part of a metrics row that the progress bar shows."""
    shown = {
        "return": "return", "eps_m": "eps_m", "eps_pi_mean": "eps_pi", "model_loss": "model", "critic_loss": "critic",
        "policy_loss": "policy",
    }  # fmt: skip
    return {label: f"{row[name]:.3g}" for name, label in shown.items() if name in row}


def main(config: Config) -> int:
    try:
        directories = train_seeds(config)
    except KeyboardInterrupt as interruption:
        print(
            f"\ninterrupted; continue with the same command and --resume (run {shown(config.run_dir)})", file=messages()
        )
        return exit_code(interruption)
    except DivergenceError as error:
        before = f" The last checkpoint in {config.run_dir} is from before." if config.run_dir.exists() else ""
        print(f"error: the training diverged: {error}.{before}", file=messages())
        return 1
    last = {each.path: last_row(each) for each in directories}
    with contextlib.suppress(OSError):  # the runs are complete, whether anybody reads this or not
        for path, row in last.items():
            final = f"return {row['return']:.2f} +- {row['return_standard_error']:.2f}"
            print(f"{shown(path)}: {row['step']} steps, {final}")
        if len(last) > 1:
            returns = [row["return"] for row in last.values()]
            mean, spread = statistics.fmean(returns), statistics.stdev(returns) / len(returns) ** 0.5
            print(f"{shown(config.run_dir)}: return {mean:.2f} +- {spread:.2f} in the mean of {len(returns)} seeds")
    finish(sys.stdout)
    return 0


def last_row(directory: RunDirectory) -> dict[str, Any]:
    """The last row of metrics of a complete run.

    Raises:
        ValueError: when it has none.
    """
    rows = directory.metrics()
    if not rows:
        raise ValueError(f"{directory.path} is marked complete and has no metrics")
    return rows[-1]


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, Config, arguments, prog="python -m m3po.train", expanded=expanded, flags=TrainingFlags)


if __name__ == "__main__":
    cli()
