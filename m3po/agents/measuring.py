"""What is measured of runs after an epoch, on fresh episodes of all of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from m3po.data.types import side_by_side
from m3po.episodes import EpisodesUnderWay, Trajectories
from m3po.networks.policy import PoliciesOfRuns, Policy
from m3po.seeds import Purpose, environment_seeds

if TYPE_CHECKING:
    from m3po.agents.group import Group
    from m3po.agents.loop import TrainingLoop

Run = TypeVar("Run", bound="TrainingLoop")

# Of more, an evaluation's few episodes say nothing.
MOST_TASKS = 20


def measured(group: Group[Run]) -> dict[Run, dict[str, Any]]:
    """Of every run: its errors on held-out episodes of its data policy, and the return of its deterministic policy.

    Raises:
        DivergenceError, ValueError: as ``Group.for_each``.
    """
    # Seeds of their own: looking at a run must not change it.
    seeds = {
        run: environment_seeds(Purpose.TRAINING_MEASUREMENT, run.config.seed, run.steps, count=3) for run in group.runs
    }
    generators = {run: torch.Generator(run.device).manual_seed(seeds[run][2]) for run in group.runs}
    errors: dict[Run, dict[str, Any]] = {}
    first = group.runs[0]
    data_policies = {run: policy for run in group.runs if (policy := run.held_out_policy) is not None}
    if data_policies:
        held_out = episodes_of(
            group,
            data_policies,
            first.config.measure_episodes,
            seeds={run: seeds[run][0] for run in group.runs},
            generators=generators,
        )
        errors = group.for_each(lambda run: run.errors(held_out[run], generators[run]))
    evaluations = episodes_of(
        group,
        {run: run.policy for run in group.runs},
        first.config.evaluation_episodes,
        seeds={run: seeds[run][1] for run in group.runs},
        generators=generators,
        deterministic=True,
    )
    return {run: errors.get(run, {}) | summary(evaluations[run]) for run in group.runs}


def summary(evaluation: Trajectories) -> dict[str, float]:
    """The mean return of episodes, its standard error, and the mean reward of the steps under each of the tasks, which
    are named by their numbers; of no task where there are more than ``MOST_TASKS``."""
    returns = evaluation.returns()
    tasks = np.unique(evaluation.tasks[evaluation.valid & (evaluation.tasks >= 0)])
    by_task = {
        f"reward_in_task_{task}": float(evaluation.rewards[evaluation.valid & (evaluation.tasks == task)].mean())
        for task in (tasks if len(tasks) <= MOST_TASKS else ())
    }
    return {
        "return": float(returns.mean()),
        "return_standard_error": float(returns.std(ddof=1) / len(returns) ** 0.5),
        **by_task,
    }


def episodes_of(
    group: Group[Run],
    policies: Mapping[Run, Policy],
    episodes: int,
    *,
    seeds: Mapping[Run, int],
    generators: Mapping[Run, torch.Generator],
    deterministic: bool = False,
) -> dict[Run, Trajectories]:
    """``run_episodes`` of every run, whose policies act as one; the draws of each are those that it would make alone.

    Raises:
        DivergenceError, ValueError: as ``Group.for_each``.
    """
    with ExitStack() as open_ones:

        def begun(run: Run) -> EpisodesUnderWay:
            policy = policies[run]
            episodes_of_run = EpisodesUnderWay(
                run.config.env_id,
                episodes,
                seed=seeds[run],
                history_length=policy.history_length,
                device=policy.device,
                options=run.options,
            )
            return open_ones.enter_context(closing(episodes_of_run))

        def step(run: Run) -> None:
            if not under_way[run].over:
                under_way[run].take(*given[run])

        given: dict[Run, tuple[Tensor, Tensor]] = {}
        under_way = group.for_each(begun)
        acting = list(group.runs)
        policy: PoliciesOfRuns = type(policies[acting[0]]).of_runs([policies[run] for run in acting])  # type: ignore[attr-defined]
        unused = torch.Generator(acting[0].device)  # a run whose episodes are over would not draw any more
        while any(not under_way[run].over for run in group.runs):
            drawing = [unused if under_way[run].over else generators[run] for run in acting]
            windows = side_by_side([under_way[run].windows for run in acting])
            actions, raws = policy.act(windows, drawing, deterministic=deterministic)
            given.update(zip(acting, zip(actions, raws, strict=True), strict=True))
            group.for_each(step)
        return {run: under_way[run].trajectories() for run in group.runs}
