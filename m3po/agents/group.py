"""Runs side by side: what one step, one epoch and one failure are, for one run or for many that share shapes.

A run (``TrainingLoop``) owns everything of itself: environment, D_env, networks, random numbers, metrics, checkpoint.
A group advances its runs together. For the time being their tensors are views of those of the group, which have a run
axis, so that one matrix product serves all; nothing that a run is or draws depends on who runs beside it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from m3po.agents.measuring import measured
from m3po.data.types import side_by_side
from m3po.networks.policy import PoliciesOfRuns
from m3po.runs.health import DivergenceError, NamedTensors, check_updates
from m3po.runs.stopwatch import Stopwatch

if TYPE_CHECKING:
    from m3po.agents.loop import TrainingLoop

Run = TypeVar("Run", bound="TrainingLoop")
Value = TypeVar("Value")

# Of one update, of every run by name: [R].
UpdateMetrics = Mapping[str, Tensor]


class Group(ABC, Generic[Run]):
    """Runs of one algorithm, with settings that differ in their seeds, which have come equally far.

    Attributes:
        runs: those that still run.
        failed: what stopped the others; they stay as they were then.
        policy: of all runs.

    Raises:
        ValueError: when the runs have not come equally far.
    """

    policy: PoliciesOfRuns

    def __init__(self, runs: Sequence[Run]) -> None:
        steps = sorted({run.steps for run in runs})
        if len(steps) > 1:
            raise ValueError(f"runs at different steps cannot go on side by side: {steps}")
        self.runs = list(runs)
        self.failed: dict[Run, Exception] = {}
        self.stopwatch = Stopwatch()
        self._sums: dict[str, Tensor] = {}  # of what the updates of this epoch reported, [R] each
        self._assemble()

    def _assemble(self) -> None:
        """Put together what the runs have."""
        for run in self.runs:
            run.join(self)
        names = self.runs[0].update_sums
        self._sums = {name: torch.stack([run.update_sums[name] for run in self.runs]) for name in names}
        self.stack()

    def hand_out(self) -> None:
        """Give the runs what the group has added up for them."""
        for place, run in enumerate(self.runs):
            run.update_sums = {name: values[place] for name, values in self._sums.items()}
            for name, seconds in self.stopwatch.seconds.items():
                run.stopwatch.seconds[name] = run.stopwatch.seconds.get(name, 0.0) + seconds / len(self.runs)
        self.stopwatch.seconds = {}

    # What an algorithm does for all runs at once

    @abstractmethod
    def stack(self) -> None:
        """Make ``policy``, and the tensors of all runs that the methods below work on."""

    @abstractmethod
    def begin_epoch(self) -> None:
        """Before the first real step of an epoch."""

    @abstractmethod
    def learn(self, epoch_step: int) -> tuple[Sequence[UpdateMetrics], Callable[[int], Sequence[NamedTensors]]]:
        """After real step ``epoch_step`` >= 1 of the epoch: what each update reports, and the batches of a run."""

    # The loop: runs can be stopped and continued between any two calls.

    @property
    def finished(self) -> bool:
        """Whether the last epoch is over."""
        return self.runs[0].finished

    @property
    def generators(self) -> list[torch.Generator]:
        """Of every run."""
        return [run.generator for run in self.runs]

    def policy_too(self) -> list[bool]:
        """Which updates of the next real step are of policy and temperature too: every ``policy_interval``-th one."""
        first = self.runs[0]
        config = first.config
        return [(first.updates + i) % config.policy_interval == 0 for i in range(config.updates_per_step)]

    def advance(self) -> dict[Run, dict[str, Any]]:
        """The next real step of every run with all that belongs to it; rows of metrics when it completed an epoch.

        Raises:
            DivergenceError: when a loss, an observation or a reward is not a finite number, and no run is left.
            ValueError: when an environment does what it must not, and no run is left.
        """
        began = time.perf_counter()
        first = self.runs[0]
        rows: dict[Run, dict[str, Any]] = {}
        if first.steps < first.config.initial_random_steps:
            self.collect_step(random=True)
        else:
            if first.epoch_begins:
                self.begin_epoch()
                self._sums = {}
                for run in self.runs:
                    run.start_epoch()
            if self.runs[0].training_steps < self.runs[0].training_budget:
                self._step_of_epoch()
            if self.runs[0].epoch_is_over:
                self.hand_out()
                learned = self.for_each(lambda run: run.close_epoch())
                with self.stopwatch.measure("measure"):
                    found = measured(self)
                self.hand_out()
                rows = self.for_each(lambda run: run.end_epoch(learned[run], found[run]))
                self._sums = {}
        share = (time.perf_counter() - began) / len(self.runs)
        for run in self.runs:
            run.seconds += share
        return {run: row | {"seconds": run.seconds} for run, row in rows.items()}

    def act(self) -> list[Tensor]:
        """An action [1, A] of every run at its present history."""
        windows = side_by_side([run.collection.present() for run in self.runs])
        return list(self.policy.act(windows, self.generators)[0])

    def collect_step(self, *, random: bool) -> dict[Run, float]:
        """A real step of every run; their rewards."""
        self.for_each(lambda run: run.collection.present())
        with self.stopwatch.measure("acting"):
            actions = [run.collection.random_action() for run in self.runs] if random else self.act()
        taken = dict(zip(self.runs, actions, strict=True))
        return self.for_each(lambda run: run.take(taken[run]))

    def _step_of_epoch(self) -> None:
        for run, reward in self.collect_step(random=False).items():
            run.count_step(reward)
        metrics, batches_of = self.learn(self.runs[0].epoch_step)
        with self.stopwatch.measure("update"):
            for each in metrics:
                self._sums |= {name: self._sums.get(name, 0.0) + value.double() for name, value in each.items()}
            for run in self.runs:
                run.updates += len(metrics)
            if metrics:
                self._check(metrics, batches_of)

    def _check(self, metrics: Sequence[UpdateMetrics], batches_of: Callable[[int], Sequence[NamedTensors]]) -> None:
        total = torch.stack([value for each in metrics for value in each.values()]).sum()
        if torch.isfinite(total):
            return
        places = {run: place for place, run in enumerate(self.runs)}

        def check(run: Run) -> None:
            place = places[run]
            own = [{name: value[place] for name, value in each.items()} for each in metrics]
            check_updates(own, batches_of(place), step=run.steps)

        self.for_each(check)

    def for_each(self, act: Callable[[Run], Value]) -> dict[Run, Value]:
        """What ``act`` returns for every run; one that it fails for is stopped, and the others go on.

        Raises:
            DivergenceError, ValueError: when that was the last one; it is then the only one left.
        """
        values: dict[Run, Value] = {}
        failed: dict[Run, Exception] = {}
        for run in self.runs:
            try:
                values[run] = act(run)
            except (DivergenceError, ValueError) as error:
                if len(self.runs) == len(failed) + 1:
                    self._leave(failed)
                    raise
                failed[run] = error
        self._leave(failed)
        return values

    def _leave(self, failed: Mapping[Run, Exception]) -> None:
        """Go on without these."""
        if failed:
            self.hand_out()
            self.failed |= failed
            self.runs = [run for run in self.runs if run not in failed]
            self._assemble()
