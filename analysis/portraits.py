"""``python -m analysis.portraits``: one picture of each MuJoCo environment, for paper_figures/figure6.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np

import m3po.envs  # noqa: F401 (registers the environments)
from analysis.pictures import TASK_COLOURS, Photographer, Picture, choose_backend
from m3po.command_line import run

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


@dataclass(frozen=True)
class PortraitsConfig:
    """Draw each MuJoCo environment once, in the colour of its task, as environment_NAME.png."""

    out_dir: Path = Path("paper_figures/data")
    """Where the pictures go; must exist."""
    width: int = 320
    """Of a picture, in pixels."""
    height: int = 240
    """Of a picture, in pixels."""

    def __post_init__(self) -> None:
        if not self.out_dir.is_dir():
            raise ValueError(f"--out-dir: no directory {self.out_dir}")
        for name in ("width", "height"):
            if not 16 <= getattr(self, name) <= 4096:
                raise ValueError(f"--{name} must be in [16, 4096], got {getattr(self, name)}")


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


def main(config: PortraitsConfig) -> int:
    choose_backend()
    from matplotlib.image import imsave

    for name in NAMES:
        path = config.out_dir / f"environment_{name}.png"
        imsave(path, portrait(name, config.width, config.height))
        print(path)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, PortraitsConfig, arguments, prog="python -m analysis.portraits")


if __name__ == "__main__":
    cli()
