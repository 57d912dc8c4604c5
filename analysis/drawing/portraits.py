"""Portraits of the MuJoCo environments, and strips of their random episodes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

import m3po.envs  # noqa: F401 (registers the environments)
from analysis.drawing.photographer import TASK_COLOURS, Colour, Photographer, Picture, TaskColours
from analysis.drawing.style import figure_style
from analysis.runs.outputs import Output

# In the order of the paper's Figure 6.
NAMES = (
    "HalfCheetahFwdBwd",
    "HalfCheetahPier",
    "Walker2dRandomParams",
    "AntFwdBwd",
    "AntCrippledLeg",
    "HumanoidDirec",
)

# Steps of small random actions before the picture is taken: enough to leave the pose of the model's file.
STEPS = {"HalfCheetahPier": 60, "AntFwdBwd": 20, "AntCrippledLeg": 20, "HumanoidDirec": 8, "Walker2dRandomParams": 10}

# The crippled leg that is in front.
TASKS = {"AntCrippledLeg": 3}

# Distance, azimuth and elevation of the camera.
VIEWS = {
    "HalfCheetahPier": (4.2, 55.0, -24.0),
    "HumanoidDirec": (3.4, 60.0, -8.0),
    "Walker2dRandomParams": (3.4, 60.0, -8.0),
}

VIEW = (2.8, 60.0, -18.0)

STRIP_PICTURES = 8

STRIP_SEED = 2

# Steps between two pictures of a strip: the bodies that fall over do so within a second.
STRIP_GAPS = {
    "HalfCheetahFwdBwd": 10,
    "HalfCheetahPier": 10,
    "Walker2dRandomParams": 3,
    "AntFwdBwd": 8,
    "AntCrippledLeg": 8,
    "HumanoidDirec": 3,
}


def portrait(name: str, width: int, height: int) -> Picture:
    """A few steps into an episode. Shape [height, width, 3]."""
    environment = gym.make(f"m3po/{name}-v0", switch_probability=0.0)
    environment.reset(seed=0, options={"task": TASKS.get(name, 0)})
    generator = np.random.default_rng(0)
    space = environment.action_space
    assert isinstance(space, gym.spaces.Box)
    for _ in range(STEPS.get(name, 15)):
        environment.step(0.5 * generator.uniform(space.low, space.high).astype(np.float32))
    with Photographer(environment.unwrapped, width, height, VIEWS.get(name, VIEW)) as photographer:
        return photographer.picture(TASK_COLOURS[0])


def strip(name: str, width: int, height: int) -> tuple[list[Picture], list[Colour], float]:
    """Random actions, a switch every two pictures: the pictures, their colours, seconds between two of them."""
    gap = STRIP_GAPS[name]
    environment = gym.make(f"m3po/{name}-v0", switch_period=2 * gap)
    _, info = environment.reset(seed=STRIP_SEED)
    environment.action_space.seed(0)
    bare: Any = environment.unwrapped
    pick = TaskColours(TASK_COLOURS, by_number=bare.task_count <= len(TASK_COLOURS))
    pictures, colours = [], []
    with Photographer(bare, width, height, VIEWS.get(name, VIEW)) as photographer:
        for step in range(STRIP_PICTURES * gap):
            if step % gap == 0:
                colours.append(pick(info["task"]))
                pictures.append(photographer.picture(colours[-1]))
            *_, info = environment.step(environment.action_space.sample())
    return pictures, colours, gap * bare.dt


def draw_strips(output: Output, width: int, height: int) -> None:
    """One row for each environment, from left to right in time, each picture framed in its task's colour."""
    with figure_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.25 * STRIP_PICTURES, 1.18 * len(NAMES)), layout="constrained")
        rows = figure.subplots(len(NAMES), STRIP_PICTURES)
        for row, name in zip(rows, NAMES, strict=True):
            pictures, colours, seconds = strip(name, width, height)
            for column, (here, picture, colour) in enumerate(zip(row, pictures, colours, strict=True)):
                here.imshow(picture)
                here.set_title(f"{name}, 0 s" if column == 0 else f"{column * seconds:.2f} s", fontsize=6)
                here.set_xticks([])
                here.set_yticks([])
                for spine in here.spines.values():
                    spine.set(visible=True, color=colour, linewidth=2)
        output.write_figure(figure, dpi=80)
