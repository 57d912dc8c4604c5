"""``python -m analysis.certify EVIDENCE.npz``: how far your own model's promise can be trusted, from your own data.

Nothing here knows how the model was trained: evidence is arrays, one row per episode of the data policy. The statement
is Theorem 4 (docs/theory.md); what it needs of a model is its density at the real next observations, and returns of
rollouts in it. docs/certify.md says how to fill the arrays and works an example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.guarantee.certification import Certification, certify
from analysis.guarantee.evidence import Evidence, load
from m3po.command_line import json_of, run
from m3po.flag_checks import Confidence, Count, check_fields

__all__ = ["Certification", "CertifyConfig", "Evidence", "certify", "cli", "load", "main", "text"]


@dataclass(frozen=True)
class CertifyConfig:
    """Certify the return that a model promises from your own data: a lower bound on the true return with confidence, or
    an honest "not certifiable" and why. docs/certify.md says how to make the file."""

    evidence: tyro.conf.Positional[Path]
    """.npz file with the arrays of analysis.certify.Evidence."""
    confidence: Confidence = 0.95
    """Probability with which the lower bound holds, in (0, 1)."""
    candidates: Count = 1
    """How many models, checkpoints, rollout lengths or discounts you certify with the same episodes to choose the best,
    >= 1: each certificate gets that share of the error probability."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        check_fields(self)


def text(report: Certification) -> str:
    """The report for people, the answer first."""
    lines = [f"{report.verdict}: {report.reason}"]
    lines.append(
        f"  the model promises  {report.model_return:.4g} over {report.horizon} steps ({report.episodes} episodes)"
    )
    if report.lower_bound is not None:
        lines.append(
            f"  lower bound         {report.lower_bound:.4g}, by {report.method}; trivial {report.trivial:.4g}"
        )
        parts = ", ".join(f"{name} {value:.4g}" for name, value in report.discrepancy.items())
        lines.append(f"  discrepancy         {sum(report.discrepancy.values()):.4g} at the estimated errors ({parts})")
    if report.true_return is not None:
        measured = report.true_return
        lines.append(
            f"  measured            {measured['estimate']:.4g} [{measured['lower']:.4g}, {measured['upper']:.4g}]"
        )
    return "\n".join(lines)


def main(config: CertifyConfig) -> int:
    report = certify(load(config.evidence), config.confidence, config.candidates)
    print(json_of(dataclasses.asdict(report)) if config.as_json else text(report))
    return 0 if report.verdict == "certified" else 1


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, CertifyConfig, arguments, prog="python -m analysis.certify")


if __name__ == "__main__":
    cli()
