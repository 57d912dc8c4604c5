"""The flags of ``m3po guarantee certify``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from m3po.flag_checks import Confidence, Count, check_directory_of, check_fields


@dataclass(frozen=True)
class CertifyConfig:
    """Certify a policy's return, or what a model promises of it, from your own data: a lower bound on the true return
    with confidence, or an honest "not certifiable" and why. docs/certify.md says how to make the file."""

    evidence: tyro.conf.Positional[Path]
    """.npz file with the arrays of analysis.certify.Evidence."""
    confidence: Confidence = 0.95
    """Probability with which the lower bound holds, in (0, 1)."""
    candidates: Count = 1
    """How many policies, models, checkpoints, rollout lengths or discounts you certify with the same episodes to choose
    the best, >= 1: each gets that share of the error probability."""
    html: Path | None = None
    """Also write the answer as a page of its own, like that of analysis.report."""
    overwrite: bool = False
    """Replace the file of --html even if this command did not write it; one that it wrote is replaced anyway."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory_of("html", self.html)
