"""The flags that every figure's module has: where to draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import tyro

from analysis.drawing.style import figure_style
from analysis.flags.figure_files import FIGURE_SUFFIXES, check_figure
from analysis.runs.outputs import Output, mark_of
from m3po.command_line import run
from m3po.flag_checks import check_fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def outputs(module: str, images: Sequence[tuple[str, Path]], *, overwrite: bool) -> list[Output]:
    """Where a figure's pictures go, checked: new files, the module's own, or any with ``overwrite``.

    Args:
        module: that draws them.
        images: name of the field, for messages, and file.
        overwrite: replace a file that the module did not draw.

    Raises:
        ValueError: names the flag and the path.
    """
    for name, path in images:
        check_figure(name, path)
    return [Output(name, path, mark_of(module), overwrite).check() for name, path in images]


def draw(figures: Callable[[], tuple[Figure, ...]], pictures: Sequence[Output]) -> None:
    """Draw, write, and print where."""
    with figure_style():
        for figure, picture in zip(figures(), pictures, strict=True):
            picture.write_figure(figure, dpi="figure")
    print(*(picture.shown for picture in pictures), sep="\n")


def run_figure(
    figures: Callable[[], tuple[Figure, ...]],
    images: Mapping[str, Path],
    arguments: Sequence[str] | None,
    *,
    module: str,
    text: str,
) -> NoReturn:
    """The command of one figure.

    Args:
        figures: draws as many as there are ``images``.
        images: name of the field -> where the docs show the picture.
        arguments: the words after the program name; ``sys.argv[1:]`` when None.
        module: of the figure, for the help.
        text: the module's docstring, whose first line is the help.
    """
    where = Annotated[Path, tyro.conf.arg(help=f"Where to draw ({', '.join(FIGURE_SUFFIXES)}).")]
    switch = Annotated[bool, tyro.conf.arg(help="Replace files that this command did not draw.")]
    fields: list[tuple[str, Any, Any]] = [
        *((name, where, dataclasses.field(default=image)) for name, image in images.items()),
        ("overwrite", switch, dataclasses.field(default=False)),
    ]
    settings = dataclasses.make_dataclass(
        "FigureConfig", fields, frozen=True, namespace={"__doc__": text.splitlines()[0], "__post_init__": check_fields}
    )

    def main(config: Any) -> int:
        paths = [(name, getattr(config, name)) for name in images]
        draw(figures, outputs(module, paths, overwrite=config.overwrite))
        return 0

    run(main, settings, arguments, prog=f"python -m {module}")
