"""``make demo``: compare the bounds, train M3PO, check its guarantee; one self-contained page at the end.

Everything goes into one directory (``demo/``). An interrupted training is continued; a finished one is kept, and said
to be kept.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Sequence

import torch

from analysis import check_guarantee, compare_bounds, learning_curves
from analysis.drawing.curves import draw as draw_curves
from analysis.drawing.style import figure_style
from analysis.flags.demo import DemoConfig
from analysis.guarantee import figures
from analysis.guarantee.audit import CheckConfig, audit
from analysis.guarantee.guarantee import Guarantee
from analysis.report.demo_page import page
from analysis.runs.anchors import anchors_of
from analysis.runs.curves import load
from analysis.runs.outputs import Output, mark_of
from analysis.theory import comparison
from m3po import train
from m3po.command_line import run
from m3po.runs.interruption import exit_code
from m3po.runs.run_directory import RunDirectory
from m3po.runs.terminal import shown


def outputs_of(config: DemoConfig) -> dict[str, Output]:
    """The files that are written besides the run and the picture of the bounds, by name.

    Raises:
        ValueError: when one of them may not be replaced.
    """
    commands = {
        "learning_curves.png": "analysis.learning_curves",
        "guarantee.png": "analysis.check_guarantee",
        "index.html": "analysis.demo",
    }
    return {
        name: Output("out", config.out / name, mark_of(command), config.overwrite).check()
        for name, command in commands.items()
    }


def trained(config: DemoConfig) -> list[RunDirectory]:
    """The demo's runs: new, continued, or kept."""
    run_dirs = [each.run_dir for each in config.training(resume=False).each_seed()]
    begun = [path for path in run_dirs if (path / "config.json").exists()]
    if begun == run_dirs and all(RunDirectory.read(path).complete for path in run_dirs):
        print(
            f"keeping the finished training in {shown(config.out / 'run')} (delete {shown(config.out)} to train again)",
            file=sys.stderr,
        )
    elif begun:
        print(f"continuing the training in {shown(config.out / 'run')}", file=sys.stderr)
    return train.train_seeds(config.training(resume=bool(begun)))


def main(config: DemoConfig) -> int:
    began = time.monotonic()
    torch.set_num_threads(1)
    config.out.mkdir(parents=True, exist_ok=True)
    outputs = outputs_of(config)
    print("1/3 comparing the bounds", file=sys.stderr)
    bounds_text = io.StringIO()
    with contextlib.redirect_stdout(bounds_text):
        bounds_config = comparison.CompareConfig(
            discount=0.95, figure=config.out / "bounds.png", overwrite=config.overwrite
        )
        compare_bounds.main(bounds_config)
    print(bounds_text.getvalue())

    print(f"2/3 training M3PO, {config.total_steps} real steps", file=sys.stderr)
    try:
        directories = trained(config)
    except KeyboardInterrupt as interruption:
        print("\ninterrupted; make demo again continues the training", file=sys.stderr)
        return exit_code(interruption)
    directory = directories[0]
    curves = load([each.path for each in directories])
    anchors = anchors_of(curves.env_id)
    record = learning_curves.summary(curves, anchors)
    print(learning_curves.text(record))
    with figure_style():
        outputs["learning_curves.png"].write_figure(draw_curves(curves, anchors))

    print("3/3 checking the guarantee", file=sys.stderr)
    guarantee = audit(CheckConfig(run_dir=directory.path))
    assert isinstance(guarantee, Guarantee)  # the point mass has a known density
    check_text = check_guarantee.text(guarantee)
    print(check_text)
    figures.write_figure(guarantee, outputs["guarantee.png"])
    provenance = directory.provenance()[-1]
    outputs["index.html"].write(page(bounds_text.getvalue(), record, guarantee, check_text, config.out, provenance))
    print(f"\nopen {shown(config.out / 'index.html')} ({time.monotonic() - began:.0f} s)")
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, DemoConfig, arguments, prog="python -m analysis.demo")


if __name__ == "__main__":
    cli()
