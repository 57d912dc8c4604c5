"""``python -m paper_figures``: draw every figure again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from m3po.command_line import run
from m3po.flag_checks import Items, check_fields
from paper_figures import (
    certificate_through_training,
    certified_by_age,
    figure4,
    figure4_optimal,
    figure6,
    figure7,
    figure9_point_mass,
)
from paper_figures.command import draw, outputs

FIGURES = {
    "figure4": figure4,
    "figure4_optimal": figure4_optimal,
    "figure6": figure6,
    "figure7": figure7,
    "figure9_point_mass": figure9_point_mass,
    "certificate_through_training": certificate_through_training,
    "certified_by_age": certified_by_age,
}
Name = Literal[
    "figure4", "figure4_optimal", "figure6", "figure7", "figure9_point_mass", "certificate_through_training",
    "certified_by_age",
]  # fmt: skip


@dataclass(frozen=True)
class FiguresConfig:
    """Draw the figures of the docs again, from the data that lie beside their modules."""

    only: Annotated[tuple[Name, ...], Items(least=0, different=True)] = ()
    """The figures to draw; all when not given."""
    out: Path | None = None
    """Directory for the pictures; where the docs show them when not given."""
    overwrite: bool = False
    """Replace files that these commands did not draw."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out must be a directory, got {self.out}")


def main(config: FiguresConfig) -> int:
    """Draw each figure and print the files written; exit code 0."""
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
    planned = []
    for name in config.only or FIGURES:
        figure = FIGURES[name]
        paths = [image if config.out is None else config.out / image.name for image in figure.IMAGES.values()]
        pictures = outputs(figure.__name__, [("out", path) for path in paths], overwrite=config.overwrite)
        planned.append((figure.figures, pictures))
    for figures, pictures in planned:
        draw(figures, pictures)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, FiguresConfig, arguments, prog="python -m paper_figures")


if __name__ == "__main__":
    cli()
