"""``python -m analysis.render RUN_DIR``: a video of a trained policy, and a strip of it like the paper's Figure 8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.drawing.episodes import RenderConfig, play, write_strip, write_video
from analysis.drawing.photographer import TASK_COLOURS, Photographer, Picture, TaskColours, choose_backend
from analysis.runs.outputs import Output, mark_of
from m3po.agents.training import restored
from m3po.command_line import run
from m3po.envs.switching_point_mass import TASK_COLOURS as POINT_MASS_COLOURS
from m3po.envs.switching_point_mass import SwitchingPointMass, picture
from m3po.runs.run_directory import RunDirectory


def main(config: RenderConfig) -> int:
    torch.set_num_threads(1)
    directory = RunDirectory.read(config.run_dir)
    video, strip = (
        Output(
            "out_dir", (config.out_dir or config.run_dir) / name, mark_of("analysis.render"), config.overwrite
        ).check()
        for name in ("episode.gif", "strip.png")
    )
    is_point_mass = directory.config.env_id.split(":")[-1] == "m3po/SwitchingPointMass-v0"
    if not is_point_mass:
        choose_backend()
    training = restored(directory, trust_env=config.trust_env)
    environment = training.environment
    bare: Any = environment.unwrapped
    if not (is_point_mass or hasattr(bare, "task_parameters")):
        raise ValueError(f"only the environments of this project can be drawn, not {directory.config.env_id}")
    with ExitStack() as stack:
        take_picture: Callable[[NDArray[np.float64], int], Picture]
        if is_point_mass:
            red_green_blue = np.array(POINT_MASS_COLOURS) / 255
            colours = TaskColours([tuple(colour) for colour in red_green_blue], by_number=True)
            seconds = 1 / SwitchingPointMass.metadata["render_fps"]
            take_picture = picture
        else:
            colours = TaskColours(TASK_COLOURS, by_number=bare.task_count <= len(TASK_COLOURS))
            seconds = bare.dt
            photographer = stack.enter_context(Photographer(bare, config.width, config.height))
            take_picture = lambda _, task: photographer.picture(colours(task))  # noqa: E731
        episode = play(environment, training.policy, config, take_picture)
    write_video(video, episode, colours, seconds)
    write_strip(strip, episode, colours, seconds, config.strip_pictures, with_path=is_point_mass)
    print(video.shown)
    print(strip.shown)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, RenderConfig, arguments, prog="python -m analysis.render")


if __name__ == "__main__":
    cli()
