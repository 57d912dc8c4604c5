"""The flags of ``m3po bounds verify``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from m3po.flag_checks import Seed, Steps, check_fields


@dataclass(frozen=True)
class VerifyConfig:
    """Verify the theory: proofs, exact instances of every theorem, and the instances that attain Theorem 3."""

    instances: Steps = 2000
    """Exact instances to hold every theorem against, at least 1 (2000 take about half a minute)."""

    attaining: Steps = 200
    """Random parameters at which Theorem 3 has to be attained, at least 1."""

    enumerated: Steps = 300
    """Small instances with every trajectory enumerated, on which Theorem 5 and the off-policy estimators are held, at
    least 1 (300 take about a quarter of a minute)."""

    seed: Seed = 0
    """Seed of the random instances, a natural number."""

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of the text."""

    latex: bool = False
    """Print the proofs as Markdown with LaTeX instead of plain text."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.as_json and self.latex:
            raise ValueError("--json and --latex exclude each other")
