"""The paper's Figure 6: the six environments.

The pictures in ``data/`` are drawn by ``python -m analysis.portraits``, which needs EGL; this only lays them out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from paper_figures.command import run_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA = Path(__file__).parent / "data"
IMAGE = Path("docs/images/environments.png")
IMAGES = {"out": IMAGE}
# In the paper's order: name of the environment -> the paper's name for it.
TITLES = {
    "HalfCheetahFwdBwd": "Halfcheetah-fwd-bwd",
    "HalfCheetahPier": "Halfcheetah-pier",
    "Walker2dRandomParams": "Walker2D-randomparams",
    "AntFwdBwd": "Ant-fwd-bwd",
    "AntCrippledLeg": "Ant-crippled-leg",
    "HumanoidDirec": "Humanoid-direc",
}


def load(data: Path = DATA) -> dict[str, NDArray[np.float32]]:
    """The landed picture of each environment, [height, width, 3 or 4] in [0, 1].

    Raises:
        ValueError: names the file that is no picture.
    """
    return {name: _picture(data / f"environment_{name}.png") for name in TITLES}


def _picture(file: Path) -> NDArray[np.float32]:
    from matplotlib.image import imread
    from PIL.Image import DecompressionBombError

    try:
        picture = np.asarray(imread(file), dtype=np.float32)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, struct.error, zlib.error, DecompressionBombError) as error:
        raise ValueError(f"{file} is no picture: {error}") from error
    if picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise ValueError(f"{file} is no picture in colour")
    return picture


def draw(axes: Sequence[Axes], pictures: Mapping[str, NDArray[np.float32]]) -> None:
    """One picture in each of the axes, under the paper's name."""
    for here, (name, picture) in zip(axes, pictures.items(), strict=True):
        here.imshow(picture, interpolation="lanczos")
        here.set_title(TITLES[name])
        here.set_axis_off()


def figures() -> tuple[Figure]:
    """Lay the landed pictures out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.7), dpi=85, layout="constrained")
    draw(list(figure.subplots(2, 3).flat), load())
    return (figure,)


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.figure6", text=str(__doc__))


if __name__ == "__main__":
    cli()
