"""A run that is marked complete and is not whole is refused, by name, by everything that reads runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import comparison, render
from analysis import evaluation as evaluation_command
from analysis.demo import DemoConfig, trained
from analysis.drawing import episodes
from analysis.guarantee.audit import CheckConfig, check
from analysis.report import __main__
from analysis.runs import collection, curves, evaluation
from m3po.config import Config
from m3po.sweeps.worker import state_of
from tests.analysis.recorded_runs import recorded

READERS: dict[str, Callable[[Path], Any]] = {
    "learning_curves": lambda path: curves.load([path]),
    "variants": lambda path: collection.load([path]),
    "comparison": lambda path: comparison.load([path]),
    "check_guarantee": lambda path: check(CheckConfig(run_dir=path)),
    "report": lambda path: __main__.main(__main__.ReportConfig(run_dir=path)),
    "demo": lambda path: trained(DemoConfig(out=path.parent.parent, total_steps=1000, seeds=(0,))),
    "evaluation": lambda path: evaluation_command.main(evaluation.EvaluationConfig(run_dirs=(path,))),
    "sweep": lambda path: state_of(Config(run_dir=path, total_steps=1000, width=8)),
    "render": lambda path: render.main(episodes.RenderConfig(run_dir=path)),
}


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_it(reader: str, cut: bool, tmp_path: Path) -> None:
    path = recorded(tmp_path / "run" / "seed-0", [1.0, 2.0, 3.0], errors=True)
    metrics = path / "metrics.jsonl"
    if cut:
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    else:
        metrics.unlink()
    why = "has 2 rows, the run ended with 3" if cut else "is marked complete and has no metrics"
    with pytest.raises(ValueError, match=f"{path}.*{why}"):
        READERS[reader](path)
