"""``python -m analysis.certify EVIDENCE.npz``: how much of a promised return is certain, from your own data.

Nothing here knows how policy or model were trained: evidence is arrays, one row per episode of the data policies. From
rewards and two log densities per action the return is bounded without a model; with densities of environment and model,
also through the model (Theorems 4 and 5, docs/theory.md). docs/certify.md says how to fill the arrays.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from analysis.collecting.collect import collect, from_dataset
from analysis.flags.certify import CertifyConfig
from analysis.guarantee.certification import Certification, certify
from analysis.guarantee.evidence import Evidence
from analysis.guarantee.evidence_file import load, save
from analysis.runs.outputs import Output, mark_of
from m3po.command_line import json_of, run

__all__ = [
    "Certification", "CertifyConfig", "Evidence", "certify", "cli", "collect", "from_dataset", "load", "main",
    "save", "text",
]  # fmt: skip


def text(report: Certification) -> str:
    """The report for people: what is certain, from which data, and what would make it more."""
    lines = [f"{report.verdict}: {report.reason}"]
    certain, promised = report.lower_bound, report.promised
    if report.verdict == "certified" and certain is not None and promised is not None:
        share = (certain - report.trivial) / (promised - report.trivial) if promised > report.trivial else 1.0
        lines.append(
            f"  certain             {certain:.4g} of {'' if report.model_return is not None else 'about '}"
            f"{promised:.4g} {'promised' if report.model_return is not None else 'estimated'}, "
            f"{100 * share:.0f}% of the way up from the least possible {report.trivial:.4g}"
        )
    lines.append(f"  from                {_data(report)}")
    if report.more:
        lines.append(f"  for more            {report.more}")
    if report.model_return is not None:
        lines.append(
            f"  the model promises  {report.model_return:.4g} over {report.horizon} steps ({report.episodes} episodes)"
        )
    if report.lower_bound is not None:
        lines.append(
            f"  lower bound         {report.lower_bound:.4g}, by {report.method}; trivial {report.trivial:.4g}"
        )
    if report.discrepancy:
        parts = ", ".join(f"{name} {value:.4g}" for name, value in report.discrepancy.items())
        lines.append(f"  Theorem 4 subtracts {sum(report.discrepancy.values()):.4g} at the estimated errors ({parts})")
    if report.true_return is not None:
        measured = report.true_return
        lines.append(
            f"  measured            {measured['estimate']:.4g} [{measured['lower']:.4g}, {measured['upper']:.4g}]"
        )
    if report.assumed_independent:
        lines.append(
            f"  assumed             {' and '.join(report.assumed_independent)} fitted on other episodes: the evidence "
            "does not say"
        )
    return "\n".join([*lines, "", *_table(report)])


def _data(report: Certification) -> str:
    sizes = [f"{each.episodes} of data policy {each.label} (worth {each.effective_sample_size:.0f})"
             for each in report.data]  # fmt: skip
    if len(sizes) > 1:
        return f"{report.episodes} episodes: {', '.join(sizes)} of the policy's own"
    worth = report.data[0].effective_sample_size
    if worth == report.episodes:
        return f"{report.episodes} episodes of the policy itself"
    return f"{report.episodes} episodes of another policy, worth {worth:.0f} of its own"


def _table(report: Certification) -> list[str]:
    """Every way to a bound, the answer marked."""
    lines = ["  way to a bound        lower bound   estimate   confidence   episodes worth"]
    for bound in report.lower_bounds:
        name = f"{bound.name}{' *' if bound.name == report.answer else ''}"
        if bound.value is None or bound.estimate is None:
            lines.append(f"  {name:<20}  none: {bound.reason}")
            continue
        size = report.episodes if bound.effective_sample_size is None else bound.effective_sample_size
        lines.append(
            f"  {name:<20}  {bound.value:>11.4g}  {bound.estimate:>9.4g}  {bound.confidence:>11.4g}  {size:>15.0f}"
            + (f"  ({bound.reason})" if bound.reason else "")
        )
    return lines


def main(config: CertifyConfig) -> int:
    mark = mark_of("analysis.certify")
    out = config.html and Output("html", config.html, mark, config.overwrite, (config.evidence,)).check()
    evidence = load(config.evidence)
    report = certify(evidence, config.confidence, config.candidates)
    if out:
        from analysis.report.certificate_page import page

        out.write(page(report, evidence, config.evidence.name, mark))
        print(f"page: {out.shown}", file=sys.stderr)
    print(json_of(dataclasses.asdict(report)) if config.as_json else text(report))
    return 0 if report.verdict == "certified" else 1


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CertifyConfig, arguments, prog="python -m analysis.certify")


if __name__ == "__main__":
    cli()
