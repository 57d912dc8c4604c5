"""``python -m m3po.sweep GRID.toml``: every run of a grid, as Ray tasks that survive the loss of workers and nodes.

What a run is and whether it is finished is told by its run directory alone: a sweep that was stopped, or lost its
machine, goes on when it is started again. The grid's format: ``m3po.sweeps.grid``. Clusters: docs/cluster.md.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m3po.command_line import json_of, run
from m3po.runs.interruption import Stopped, StopRequest, exit_code
from m3po.sweeps.display import Display
from m3po.sweeps.grid import GridRun, check_environments, packed, read_grid
from m3po.sweeps.ray_cluster import _PATIENCE, RayCluster, drive, import_ray
from m3po.sweeps.settings import SweepConfig
from m3po.sweeps.tracks import Track
from m3po.sweeps.worker import survey


def sweep(config: SweepConfig, runs: Sequence[GridRun], stop: StopRequest) -> list[Track]:
    """Train the runs until all have ended, or a signal asked to stop; returns where every run is then.

    Raises:
        ValueError: before anything starts, when the place of a run is taken or no node of a local Ray is large enough.
        ConnectionError: when there is no Ray cluster at ``config.address``.
    """
    ray = import_ray()
    survived = None if config.client else survey(runs, config.directory, patience=_PATIENCE)
    if survived is not None and all(found.state == "finished" for found in survived[1]):
        return [Track(each, "finished", row=found.row) for each, found in zip(runs, survived[1], strict=True)]
    cluster = RayCluster(config, ray)
    try:
        cluster.directory_id, states = cluster.survey(runs) if survived is None else survived
        tracks = [
            Track(each, "finished" if found.state == "finished" else "waiting", row=found.row)
            for each, found in zip(runs, states, strict=True)
        ]
        waiting = [track.run for track in tracks if not track.ended]
        unmet = cluster.unmet(waiting)
        if unmet:
            want = f"{unmet[0].name} wants {unmet[0].cpus:g} CPUs and {unmet[0].gpus:g} GPUs"
            if config.address == "local":
                raise ValueError(f"{want}, which this machine does not have; see cpus and gpus in the grid, and --cpus")
            print(f"{want} and no node has them; {len(unmet)} runs wait until one joins", file=sys.stderr)
        display = Display(tracks)
        resumed = sum(found.state == "unfinished" for found in states)
        tasks = f"{len(packed(waiting))} tasks for {len(waiting)} runs"
        display.say(
            f"{len(runs)} runs in {config.directory}: {display.summary()}, of these {resumed} to resume; {tasks}"
        )
        with stop:
            drive(tracks, cluster, stop, display, silence=config.silence)
    finally:
        cluster.close()
    return tracks


def results(config: SweepConfig, tracks: Sequence[Track]) -> dict[str, Any]:
    """The final table as a record; ``return`` is of the last evaluation, not of the best."""
    return {
        "grid": str(config.grid),
        "directory": str(config.directory),
        "finished": sum(track.state == "finished" for track in tracks),
        "runs": [
            {
                "run": track.run.name,
                "run_dir": str(track.run.config.run_dir),
                "state": track.state,
                "step": track.last[0],
                "total_steps": track.run.config.total_steps,
                "return": track.row.get("return"),
                "return_standard_error": track.row.get("return_standard_error"),
                "seconds_per_step": _seconds_per_step(track),
                "cpu_seconds_per_step": track.cpu_seconds_per_step,
                "restarts": track.attempt,
                "message": track.message,
            }
            for track in tracks
        ],
    }


def _seconds_per_step(track: Track) -> float | None:
    """Measured seconds of a real step with all that belongs to it, over the steps after the random ones."""
    steps = int(track.row.get("step", 0)) - track.run.config.initial_random_steps
    return track.row["seconds"] / steps if steps > 0 and "seconds" in track.row else None


def cost(runs: Sequence[GridRun], seconds_per_step: float | None) -> dict[str, Any]:
    """What a grid asks for: runs, tasks, real steps, and with a measured speed hours."""
    steps = [run.config.total_steps for run in runs]
    tasks = packed(runs)
    record: dict[str, Any] = {"runs": len(runs), "tasks": len(tasks), "steps": sum(steps)}
    if seconds_per_step is not None:
        hours = [each * seconds_per_step / 3600 for each in steps]
        record |= {
            "seconds_per_step": seconds_per_step,
            "run_hours": sum(hours),
            "cpu_hours": sum(run.cpus * each for run, each in zip(runs, hours, strict=True)),
            "gpu_hours": sum(run.gpus * each for run, each in zip(runs, hours, strict=True)),
            # Those that share a task end together.
            "longest_run_hours": max(sum(run.config.total_steps for run in task) for task in tasks)
            * seconds_per_step
            / 3600,
        }
    return record


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first aligned to the left and the others to the right."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    lines = []
    for line in (header, *rows):
        cells = [
            line[0].ljust(widths[0]),
            *(each.rjust(width) for each, width in zip(line[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def results_text(record: Mapping[str, Any]) -> str:
    """The final table."""
    rows = [
        (
            each["run"],
            each["state"],
            f"{each['step']:,}/{each['total_steps']:,}",
            "" if each["return"] is None else f"{each['return']:.2f}",
            "" if each["return_standard_error"] is None else f"{each['return_standard_error']:.2f}",
            "" if each["seconds_per_step"] is None else f"{each['seconds_per_step']:.3g}",
            "" if each["cpu_seconds_per_step"] is None else f"{each['cpu_seconds_per_step']:.3g}",
            str(each["restarts"]),
        )
        for each in record["runs"]
    ]
    notes = [f"{each['run']}: {each['message']}" for each in record["runs"] if each["message"]]
    last = f"{record['finished']} of {len(rows)} runs finished in {record['directory']}"
    return "\n".join(
        [aligned(("run", "state", "steps", "return", "+-", "s/step", "cpu s/step", "restarts"), rows), *notes, last]
    )


def plan(config: SweepConfig, runs: Sequence[GridRun]) -> str:
    """What ``--list`` prints."""
    total = cost(runs, config.seconds_per_step)
    tasks = {run.name: number for number, task in enumerate(packed(runs), start=1) for run in task}
    if config.as_json:
        entries = [
            {
                "run": run.name,
                "task": tasks[run.name],
                "cpus": run.cpus,
                "gpus": run.gpus,
                "config": {
                    name: str(value) if isinstance(value, Path) else value
                    for name, value in vars(run.config).items()
                    if name != "seeds"  # every run is one of its own
                },
            }
            for run in runs
        ]
        return json_of({**total, "list": entries})
    rows = [
        (
            run.name,
            run.config.algorithm,
            run.config.env_id,
            f"{run.config.total_steps:,}",
            f"{run.cpus:g}",
            f"{run.gpus:g}",
            f"{tasks[run.name]}",
        )
        for run in runs
    ]
    text = aligned(("run", "algorithm", "environment", "steps", "cpus", "gpus", "task"), rows)
    text += f"{packing(runs)}\n{total['runs']:,} runs, {total['steps']:,} real steps"
    if config.seconds_per_step is not None:
        text += (
            f"; at {config.seconds_per_step:g} s a step {total['run_hours']:,.0f} run-hours ({total['cpu_hours']:,.0f} "
            f"CPU-hours, {total['gpu_hours']:,.0f} GPU-hours), the longest run {total['longest_run_hours']:,.1f} hours"
        )
    return text


def packing(runs: Sequence[GridRun]) -> str:
    """What tasks the runs make and when others would be better, as a line; nothing where there is no choice."""
    tasks, cells = len(packed(runs)), len({run.cell for run in runs})
    if tasks < len(runs):
        return (
            f"\nseeds side by side: {tasks:,} tasks take less processor time than {len(runs):,} would "
            f"(docs/cluster.md); where more than {tasks:,} can run at once, a smaller seeds_per_task can end sooner"
        )
    if cells < len(runs):
        most = math.ceil(len(runs) / cells)
        return (
            f"\neach run is a task of its own; seeds_per_task = {most} makes {cells:,} tasks of them, which take less "
            f"processor time (docs/cluster.md): where no more than {cells:,} can run at once"
        )
    return ""


def main(config: SweepConfig) -> int:
    runs = read_grid(config.grid, config.directory)
    if config.only is not None:
        runs = [each for each in runs if fnmatch.fnmatchcase(each.name, config.only)]
        if not runs:
            raise ValueError(f"--only {config.only} fits no run of {config.grid}")
    check_environments(runs)
    if config.list_runs:
        print(plan(config, runs))
        return 0
    again, stop = "the same command goes on from the checkpoints", StopRequest()
    try:
        # Of a dead node Ray prints, on stdout, twenty lines of its own log; what matters of it is in our lines.
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            tracks = sweep(config, runs, stop)
    except KeyboardInterrupt as interruption:
        print(f"\ninterrupted; {again} in {config.directory}", file=sys.stderr)
        return exit_code(interruption)
    record = results(config, tracks)
    print(json_of(record) if config.as_json else results_text(record))
    if any(track.state == "stopped" for track in tracks):
        print(f"stopped with {record['finished']} of {len(tracks)} runs finished; {again}", file=sys.stderr)
        return exit_code(KeyboardInterrupt() if stop.number is None else Stopped(stop.number))
    return 0 if record["finished"] == len(tracks) else 1


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, SweepConfig, arguments, prog="python -m m3po.sweep")


if __name__ == "__main__":
    cli()
