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

from analysis.drawing.portraits import NAMES
from analysis.drawing.style import page
from paper_figures.command import run_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA = Path(__file__).parent / "data"
IMAGE = Path("docs/images/environments.png")
IMAGES = {"out": IMAGE}


def load(data: Path = DATA) -> dict[str, NDArray[np.float32]]:
    """The landed picture of each environment, [height, width, 3 or 4] in [0, 1].

    Raises:
        ValueError: names the file that is no picture.
    """
    return {name: _picture(data / f"environment_{name}.png") for name in NAMES}


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
    """One picture in each of the axes, under its gymnasium id."""
    for here, (name, picture) in zip(axes, pictures.items(), strict=True):
        here.imshow(picture, interpolation="lanczos")
        here.set_title(f"m3po/{name}-v0")
        here.set_axis_off()


def figures() -> tuple[Figure]:
    """Lay the landed pictures out."""
    figure = page(8.2, dpi=90)  # about as many pixels as the pictures have
    draw(list(figure.subplots(3, 2).flat), load())
    return (figure,)


def cli(arguments: Sequence[str] | None = None) -> None:
    run_figure(figures, IMAGES, arguments, module="paper_figures.figure6", text=str(__doc__))


if __name__ == "__main__":
    cli()
