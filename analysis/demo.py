"""``make demo``: compare the bounds, train M3PO, check its guarantee; one self-contained page at the end.

Everything goes into one directory (``demo/``). An interrupted training is continued; a finished one is kept, and said
to be kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import torch

from analysis import check_guarantee, compare_bounds, learning_curves
from analysis.explorer import __main__ as explorer
from analysis.flags.demo import CONFIDENCE, DemoConfig
from analysis.guarantee.audit import CheckConfig, audit
from analysis.guarantee.guarantee import Guarantee
from analysis.report import __main__ as report
from analysis.report.demo_page import Checked, answer_of, page, worst_of
from analysis.report.findings import findings_of
from analysis.runs.anchors import anchors_of
from analysis.runs.curves import load
from analysis.runs.outputs import Output, mark_of
from analysis.theory.comparison import CompareConfig, compare
from m3po import train
from m3po.command_line import run
from m3po.runs.interruption import exit_code
from m3po.runs.run_directory import RunDirectory
from m3po.runs.terminal import shown

MARK = mark_of("analysis.demo")


def outputs_of(config: DemoConfig) -> dict[str, Output]:
    """The pages that are written besides the runs, by name.

    Raises:
        ValueError: when one of them may not be replaced.
    """
    marks = {"index.html": MARK, "report.html": report.MARK, "explorer.html": explorer.MARK}
    return {name: Output("out", config.out / name, mark, config.overwrite).check() for name, mark in marks.items()}


def trained(config: DemoConfig) -> list[RunDirectory]:
    """The demo's runs: new, continued, or kept.

    Raises:
        ValueError: when they cannot be had, or one run lies where they go.
    """
    if (config.out / "run" / "config.json").exists():
        raise ValueError(
            f"--out: {shown(config.out / 'run')} is one training, and the demo's lie in seed-N below it; delete it, or "
            "choose another directory"
        )
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


def checked(config: DemoConfig, directories: Sequence[RunDirectory]) -> list[Checked]:
    """The guarantee of every training."""
    result = []
    for place, directory in enumerate(directories, start=1):
        of = f"seed {directory.config.seed} ({place} of {len(directories)})"
        print(f"3/3 checking the guarantee of {of} on fresh episodes", file=sys.stderr)
        found = audit(CheckConfig(run_dir=directory.path, confidence=config.confidence_each))
        assert isinstance(found, Guarantee)  # the point mass has a known density
        result.append(Checked(directory.config.seed, found))
    return result


def main(config: DemoConfig) -> int:
    began = time.monotonic()
    torch.set_num_threads(1)
    if config.out.exists() and not config.out.is_dir():
        raise ValueError(f"--out must be a directory, got the file {config.out}")
    config.out.mkdir(parents=True, exist_ok=True)
    outputs = outputs_of(config)
    print("1/3 comparing the bounds", file=sys.stderr)
    comparison = compare(CompareConfig(discount=0.95))
    print(compare_bounds.text(comparison), end="\n\n")

    print(f"2/3 training M3PO, {config.plan}", file=sys.stderr)
    try:
        directories = trained(config)
    except KeyboardInterrupt as interruption:
        print("\ninterrupted; make demo again continues the training", file=sys.stderr)
        return exit_code(interruption)
    run_dirs = [each.path for each in directories]
    curves = load(run_dirs)
    record = learning_curves.summary(curves, anchors_of(curves.env_id))
    print(learning_curves.text(record))

    trainings = checked(config, directories)
    worst = worst_of(trainings)
    print(f"\n{check_guarantee.text(worst.guarantee)}")
    directory = directories[trainings.index(worst)]
    outputs["report.html"].write(report.page(findings_of(directory, directory.metrics(), worst.guarantee)))
    outputs["explorer.html"].write(explorer.page())
    written = page(
        MARK, comparison, curves, record, trainings, config.out, run_dirs, directory.provenance()[-1],
        confidence=CONFIDENCE,
    )  # fmt: skip
    outputs["index.html"].write(written)
    print(f"\n{answer_of(trainings, CONFIDENCE).headline}")
    print(f"open {shown(config.out / 'index.html')} ({time.monotonic() - began:.0f} s)")
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, DemoConfig, arguments, prog="python -m analysis.demo")


if __name__ == "__main__":
    cli()
