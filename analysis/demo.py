"""``make demo``: compare the bounds, train M3PO, check its guarantee; one self-contained page at the end.

Everything goes into one directory (``demo/``). An interrupted training is continued; a finished one is kept, and said
to be kept.
"""

from __future__ import annotations

import contextlib
import html
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from analysis import check_guarantee, compare_bounds, learning_curves
from analysis.figure_style import figure_style
from analysis.page import document, picture
from m3po import train
from m3po.command_line import run
from m3po.config import Config
from m3po.flag_checks import Seed, Steps, check_fields
from m3po.run_directory import RunDirectory


@dataclass(frozen=True)
class DemoConfig:
    """Compare the bounds, train M3PO on SwitchingPointMass, check its guarantee, and write one page about it."""

    out: Path = Path("demo")
    """Directory for the page, its pictures and the run."""
    total_steps: Steps = 7000
    """Real environment steps of the training."""
    seed: Seed = 0
    """Seed of the training."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.training(resume=False)

    def training(self, *, resume: bool) -> Config:
        """The settings of the training."""
        return Config(
            run_dir=self.out / "run", total_steps=self.total_steps, seed=self.seed, device="cpu", resume=resume
        )


def returns_table(record: dict[str, Any]) -> str:
    """The final evaluation between its anchors, best first."""
    labels = learning_curves.ANCHOR_LABELS
    rows = [(labels[name], value) for name, value in record["anchors"].items()]
    rows.append(("M3PO, this run's final evaluation", record["final_returns"][0]))
    rows.sort(key=lambda row: -row[1])
    body = "".join(f'<tr><td>{html.escape(name)}</td><td class="number">{value:.1f}</td></tr>' for name, value in rows)
    return f"<table><tr><th>policy</th><th>return of an episode</th></tr>{body}</table>"


def page(
    bounds_text: str, record: dict[str, Any], report: dict[str, Any], out: Path, provenance: dict[str, Any]
) -> str:
    """The whole page as HTML."""
    answer = check_guarantee.conclusion(report)
    share = record["closed"][0]
    first, final = (record["eps_m_mean"][when][0] for when in ("first", "final"))
    commit = provenance["commit"] or "unknown"
    run_dir = html.escape(str(out / "run"))
    body = f"""<h1>How far can I trust the return my learned model promises?</h1>
<p class="answer">{html.escape(answer)}</p>
<p>M3PO was trained here for {record["steps"]} real steps on <code>{html.escape(record["env_id"])}</code>: a point robot
whose push is reversed at random moments, without telling. Everything below was computed by this run.</p>

<h2>1. What the theorems promise before any training</h2>
<p>Every bound says: true return &ge; model return &minus; discrepancy. The smaller the discrepancy, the better the
guarantee; at the trivial value it says nothing.</p>
{picture(out / "bounds.png", "Discrepancy of every bound against the rollout length k")}
<pre>{html.escape(bounds_text)}</pre>

<h2>2. Training: it learns, and it logs its own errors</h2>
<p>The final evaluation closes <b>{share:.0%}</b> of the distance from the best policy without memory to the
one that knows the task. The model error, averaged over the steps of an episode, went from {first:.2f}
(untrained) to {final:.2f}.</p>
{returns_table(record)}
{picture(out / "learning_curves.png", "Return between its anchors, model error beside the exact filter's, divergence")}
<p class="note">Anchors: <code>python -m analysis.anchors</code> (committed figures). Largest over time: the model
has to learn the rare first steps of episodes from few examples, and one such step can decide the maximum that the
paper's theorems use; the certificate uses the whole profile.</p>

<h2>3. The guarantee, held against measurement</h2>
<p>{report["episodes"]} fresh episodes per policy. A bound <i>holds</i> when the measured gap is certainly inside
it, is <i>violated</i> when it certainly is not, and is a <i>surrogate</i> when one of its inputs cannot be certified
from data.</p>
{picture(out / "guarantee.png", "Measured gap inside every discrepancy, and the measured error profiles")}
<pre>{html.escape(check_guarantee.text(report))}</pre>

<h2>Provenance</h2>
<p class="note">Commit {html.escape(commit)}{" (with uncommitted changes)" if provenance["dirty"] else ""}, started
{html.escape(provenance["start_utc"])}, seed {record["seeds"][0]}; run directory
<code>{run_dir}</code> (TensorBoard: <code>tensorboard --logdir {run_dir}</code>).</p>"""
    return document("M3PO: how far can I trust the return my learned model promises?", body)


def trained(config: DemoConfig) -> RunDirectory:
    """The demo's run: new, continued, or kept."""
    run_dir = config.out / "run"
    exists = (run_dir / "config.json").exists()
    if exists and RunDirectory.read(run_dir).complete:
        print(f"keeping the finished training in {run_dir} (delete {config.out} to train again)", file=sys.stderr)
    elif exists:
        print(f"continuing the training in {run_dir}", file=sys.stderr)
    return train.train(config.training(resume=exists))


def main(config: DemoConfig) -> int:
    began = time.monotonic()
    torch.set_num_threads(1)
    config.out.mkdir(parents=True, exist_ok=True)
    print("1/3 comparing the bounds", file=sys.stderr)
    bounds_text = io.StringIO()
    with contextlib.redirect_stdout(bounds_text):
        compare_bounds.main(compare_bounds.Config(discount=0.95, figure=config.out / "bounds.png"))
    print(bounds_text.getvalue())

    print(f"2/3 training M3PO, {config.total_steps} real steps", file=sys.stderr)
    try:
        directory = trained(config)
    except KeyboardInterrupt:
        print("\ninterrupted; make demo again continues the training", file=sys.stderr)
        return 130
    curves = learning_curves.load([directory.path])
    anchors = learning_curves.anchors_of(curves.env_id)
    record = learning_curves.summary(curves, anchors)
    print(learning_curves.text(record))
    with figure_style():
        learning_curves.draw(curves, anchors).savefig(config.out / "learning_curves.png")

    print("3/3 checking the guarantee", file=sys.stderr)
    report = check_guarantee.check(check_guarantee.CheckConfig(run_dir=directory.path))
    print(check_guarantee.text(report))
    check_guarantee.write_figure(report, config.out / "guarantee.png")
    (config.out / "index.html").write_text(
        page(bounds_text.getvalue(), record, report, config.out, directory.provenance()[-1])
    )
    print(f"\nopen {config.out / 'index.html'} ({time.monotonic() - began:.0f} s)")
    return 0


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, DemoConfig, arguments, prog="python -m analysis.demo")


if __name__ == "__main__":
    cli()
