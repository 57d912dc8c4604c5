"""The flags that every figure's module has: where to draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro

from m3po.command_line import run
from m3po.flag_checks import check_fields, flag

SUFFIXES = (".png", ".pdf", ".svg")


def check_image(name: str, path: Path, *, default: Path, overwrite: bool) -> None:
    """A figure may be drawn into ``path``: a new file, the one that the docs show, or any with ``overwrite``.

    Raises:
        ValueError: names the flag and the path.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{flag(name)} must end in one of {', '.join(SUFFIXES)}, got {path}")
    if path.is_dir():
        raise ValueError(f"{flag(name)} must be a file, got the directory {path}")
    if path.exists() and path != default and not overwrite:
        raise ValueError(f"{flag(name)}: {path} exists; choose another file, or replace it with --overwrite")


def run_figure(
    main: Callable[..., Path | tuple[Path, ...]],
    images: Mapping[str, Path],
    arguments: Sequence[str] | None,
    *,
    module: str,
    text: str,
) -> NoReturn:
    """The command of one figure.

    Args:
        main: draws the figure into as many paths as there are ``images``.
        images: name of the field -> where the docs show the picture.
        arguments: the words after the program name; ``sys.argv[1:]`` when None.
        module: of the figure, for the help.
        text: the module's docstring, whose first line is the help.
    """
    where = Annotated[Path, tyro.conf.arg(help=f"Where to draw ({', '.join(SUFFIXES)}).")]
    switch = Annotated[bool, tyro.conf.arg(help="Replace files that are there.")]
    fields: list[tuple[str, Any, Any]] = [
        *((name, where, dataclasses.field(default=image)) for name, image in images.items()),
        ("overwrite", switch, dataclasses.field(default=False)),
    ]
    settings = dataclasses.make_dataclass(
        "FigureConfig", fields, frozen=True, namespace={"__doc__": text.splitlines()[0], "__post_init__": check_fields}
    )

    def draw(config: Any) -> int:
        paths = [getattr(config, name) for name in images]
        for name, path in zip(images, paths, strict=True):
            check_image(name, path, default=images[name], overwrite=config.overwrite)
        written = main(*paths)
        print(*(written if isinstance(written, tuple) else (written,)), sep="\n")
        return 0

    run(draw, settings, arguments, prog=f"python -m {module}")
