"""Episodes of a trained policy as videos, paths and strips."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from analysis.drawing.photographer import Picture, TaskColours
from analysis.drawing.style import figure_style
from analysis.flags.render import RenderConfig
from analysis.runs.outputs import Output
from m3po.data.types import Windows
from m3po.envs.switching_point_mass import PICTURE_EXTENT, REWARD_WIDTH
from m3po.foreign.checked_environment import to_environment, to_tensor
from m3po.networks.policy import Policy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of the band at the foot of each picture of the video, in pixels.
BAND_HEIGHT = 6


@dataclass(frozen=True)
class Episode:
    """T steps that a policy took, and what they looked like.

    Attributes:
        pictures: before every ``every``-th step and after the last one.
        steps: when each picture was taken.
        observations: [T + 1, O].
        tasks: [T + 1], the task that rules the next step.
        rewards: [T].
    """

    pictures: list[Picture]
    steps: list[int]
    observations: NDArray[np.float64]
    tasks: list[int]
    rewards: list[float]


def play(
    environment: gym.Env[Any, Any],
    policy: Policy,
    config: RenderConfig,
    take_picture: Callable[[NDArray[np.float64], int], Picture],
) -> Episode:
    """Run the mean of the policy for at most ``config.steps`` steps."""
    space = environment.action_space
    assert isinstance(space, gym.spaces.Box)
    device = policy.device
    generator = torch.Generator(device).manual_seed(config.seed)
    observation, info = environment.reset(seed=config.seed)
    windows = Windows.initial(to_tensor(observation, device)[None], policy.history_length, space.shape[0])
    observations, tasks, rewards = [observation], [int(info["task"])], []
    pictures, steps = [take_picture(observation, tasks[0])], [0]
    for step in range(1, config.steps + 1):
        action, _ = policy.act(windows, generator, deterministic=True)
        observation, reward, terminated, truncated, info = environment.step(to_environment(action, space)[0])
        windows = windows.push(action, to_tensor(observation, device)[None])
        observations.append(observation)
        tasks.append(int(info["task"]))
        rewards.append(float(reward))
        last = terminated or truncated or step == config.steps
        if last or step % config.every == 0:
            pictures.append(take_picture(observation, tasks[-1]))
            steps.append(step)
        if last:
            break
    return Episode(pictures, steps, np.array(observations), tasks, rewards)


def write_video(output: Output, episode: Episode, colours: TaskColours, seconds_per_step: float) -> None:
    """A looping GIF in real time; the band at its foot has the colour of the task."""
    from PIL import Image

    frames = []
    for shown, step in zip(episode.pictures, episode.steps, strict=True):
        framed = shown.copy()
        framed[-BAND_HEIGHT:] = np.round(255 * np.array(colours(episode.tasks[step])))
        frames.append(Image.fromarray(framed).quantize(128))
    durations = [
        max(20, round(1000 * seconds_per_step * gap)) for gap in np.diff([*episode.steps, episode.steps[-1] + 1])
    ]
    video = io.BytesIO()
    frames[0].save(
        video, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, comment=output.mark
    )
    output.write(video.getvalue())


def draw_strip(axes: Sequence[Axes], episode: Episode, colours: TaskColours, seconds_per_step: float) -> None:
    """Evenly spaced pictures from left to right, each in a frame of its task's colour, under its time."""
    chosen = np.linspace(0, len(episode.pictures) - 1, len(axes)).round().astype(int)
    for here, index in zip(axes, chosen, strict=True):
        step = episode.steps[index]
        here.imshow(episode.pictures[index])
        here.set_title(f"{step * seconds_per_step:.2f} s", fontsize=8)
        here.set_xticks([])
        here.set_yticks([])
        for spine in here.spines.values():
            spine.set_visible(True)
            spine.set_color(colours(episode.tasks[step]))
            spine.set_linewidth(2.5)


def draw_path(here: Axes, episode: Episode, colours: TaskColours) -> None:
    """The path of the point mass, each step in the colour of the task that ruled it; the reward in grey."""
    axis = np.linspace(-PICTURE_EXTENT, PICTURE_EXTENT, 200)
    reward = np.exp(-(axis[None] ** 2 + axis[:, None] ** 2) / (2 * REWARD_WIDTH**2))
    extent = (-PICTURE_EXTENT, PICTURE_EXTENT, -PICTURE_EXTENT, PICTURE_EXTENT)
    here.imshow(reward, extent=extent, cmap="Greys", vmax=3.0, origin="lower")
    for step, task in enumerate(episode.tasks[:-1]):
        here.plot(*episode.observations[step : step + 2, :2].T, color=colours(task), linewidth=1.4)
    here.plot(*episode.observations[0, :2], "o", color="#262626", markersize=4)
    for task in sorted(set(episode.tasks[:-1])):
        here.plot([], [], color=colours(task), label=f"task {task}")
    here.legend(loc="upper right")
    here.set_xlabel("x")
    here.set_ylabel("y")
    here.set_title("path from the dot on")


def write_strip(
    output: Output, episode: Episode, colours: TaskColours, seconds: float, count: int, *, with_path: bool
) -> None:
    with figure_style():
        from matplotlib.figure import Figure

        count = min(count, len(episode.pictures))
        figure = Figure(
            figsize=(1.5 * count + (3.2 if with_path else 0.0), 3.2 if with_path else 1.5), layout="constrained"
        )
        grid = figure.add_gridspec(1, count + with_path, width_ratios=[*([2.2] * with_path), *([1.0] * count)])
        axes = [figure.add_subplot(grid[0, column]) for column in range(count + with_path)]
        if with_path:
            draw_path(axes.pop(0), episode, colours)
        draw_strip(axes, episode, colours, seconds)
        output.write_figure(figure, dpi=110)
