"""``python -m analysis.portraits``: pictures of the MuJoCo environments, for Figure 6 and the documentation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.drawing.photographer import choose_backend
from analysis.drawing.portraits import NAMES, draw_strips, portrait
from analysis.flags.figure_files import check_figure
from analysis.runs.outputs import Output, mark_of
from m3po.command_line import run
from m3po.flag_checks import Pixels, check_directory, check_fields


@dataclass(frozen=True)
class PortraitsConfig:
    """Draw each MuJoCo environment in the colour of its task: environment_NAME.png, and a figure of time-lapse strips
    under random actions while the task switches."""

    out_dir: Path = Path("paper_figures/data")
    """Where the pictures go; must exist."""
    strips: Path | None = None
    """Where the figure of strips goes; it is not drawn when not given."""
    width: Pixels = 320
    """Of a picture, in pixels."""
    height: Pixels = 240
    """Of a picture, in pixels."""
    overwrite: bool = False
    """Replace files of these names even if this command did not write them; those that it wrote are replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_figure("strips", self.strips)
        check_directory("out_dir", self.out_dir)


def main(config: PortraitsConfig) -> int:
    choose_backend()
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    mark = mark_of("analysis.portraits")
    outputs = {
        name: Output("out_dir", config.out_dir / f"environment_{name}.png", mark, config.overwrite).check()
        for name in NAMES
    }
    strips = None if config.strips is None else Output("strips", config.strips, mark, config.overwrite).check()
    maker = PngInfo()
    maker.add_text("Software", mark)
    for name, output in outputs.items():
        drawn = io.BytesIO()
        Image.fromarray(portrait(name, config.width, config.height)).save(drawn, "PNG", pnginfo=maker)
        output.write(drawn.getvalue())
        print(output.shown)
    if strips is not None:
        draw_strips(strips, config.width // 2, config.height // 2)
        print(strips.shown)
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, PortraitsConfig, arguments, prog="python -m analysis.portraits")


if __name__ == "__main__":
    cli()
