"""Every proof, every theorem on exact instances, and the attaining instance, in one record."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from analysis.flags.verify import VerifyConfig
from bounds.catalogue import ALL_BOUNDS
from bounds.finite.checks import TheoremReport, check_attaining, check_instances
from bounds.finite.random_instances import FAMILIES
from bounds.finite.trajectory_checks import UNBIASED, TrajectoryReport, check_trajectories
from bounds.proof import Proof, solver_available
from bounds.proofs import prove_all

# The gap of an attaining instance is a sum of up to 91 products; its rounding stays far below this.
ATTAINED = 1e-10

NO_SOLVER = "z3 is not installed, so no proof was rechecked: pip install 'm3po-guarantees[verify]'"


@dataclass(frozen=True)
class Dossier:
    """Everything ``verify`` found.

    Attributes:
        proofs: in the order of ``bounds.proofs.PROOFS``.
        rechecked: by proof name, what z3 says; None where z3 is not installed.
        reports: the largest gap/discrepancy of every theorem on exact instances.
        attaining_error: the largest relative difference between a measured gap and Theorem 3's discrepancy.
        trajectories: Theorem 5 and the off-policy estimators on enumerated instances.
    """

    config: VerifyConfig
    proofs: tuple[Proof, ...]
    rechecked: dict[str, bool | None]
    reports: tuple[TheoremReport, ...]
    attaining_error: float
    trajectories: TrajectoryReport

    @property
    def ok(self) -> bool:
        """There are proofs and reports, all hold, z3 contradicts none, Theorem 3 is attained, nothing is biased."""
        return (
            bool(self.proofs and self.reports)
            and all(proof.holds for proof in self.proofs)
            and all(verdict is not False for verdict in self.rechecked.values())
            and all(report.holds for report in self.reports)
            and self.attaining_error <= ATTAINED
            and self.trajectories.holds
        )

    def as_dict(self) -> dict[str, Any]:
        """The ``--json`` object."""
        return {
            "proofs": [
                {"name": proof.name, "holds": proof.holds, "rechecked": self.rechecked[proof.name]}
                for proof in self.proofs
            ],
            "instances": {
                "count": self.config.instances,
                "seed": self.config.seed,
                "families": list(FAMILIES),
                "theorems": _as_dicts(self.reports),
                "attaining": {
                    "count": self.config.attaining,
                    "largest_error": self.attaining_error,
                    "holds": self.attaining_error <= ATTAINED,
                },
                "enumerated": {
                    "count": self.trajectories.instances,
                    "theorems": _as_dicts(self.trajectories.reports),
                    "weighted_error": self.trajectories.weighted_error,
                    "variate_error": self.trajectories.variate_error,
                    "least_left": self.trajectories.least_left,
                    "holds": self.trajectories.holds,
                },
            },
            "ok": self.ok,
        }

    def text(self) -> str:
        """The dossier for a reader."""
        checked = any(verdict is not None for verdict in self.rechecked.values())
        parts = ["PROOFS", ""]
        for proof in self.proofs:
            parts += [proof.latex() if self.config.latex else proof.text(recheck=checked), ""]
        proved = sum(proof.holds for proof in self.proofs)
        parts.append(f"{proved} of {len(self.proofs)} statements proved from the catalogue's expressions by sympy.")
        if checked:
            confirmed = sum(verdict is True for verdict in self.rechecked.values())
            parts.append(
                f"z3 confirms {confirmed} of them: every claim about rational functions, with gamma^k and (1-eps_pi)^t "
                "replaced by unknowns in (0, 1] and [0, 1]; claims that contain a sum or a minimum are not put to it."
            )
        else:
            parts.append(NO_SOLVER)
        parts += [
            "",
            f"EXACT INSTANCES ({self.config.instances} processes from {len(FAMILIES)} families: {', '.join(FAMILIES)})",
            "",
            f"{'theorem':30s} {'largest |gap| / discrepancy':>28s}  {'family':24s} verdict",
            *_lines(self.reports),
        ]
        attained = "attained" if self.attaining_error <= ATTAINED else "NOT ATTAINED"
        parts += [
            "",
            f"ATTAINING INSTANCE ({self.config.attaining} random parameters, every scheme)",
            "",
            f"largest relative difference of gap and discrepancy: {self.attaining_error:.3g}   {attained}",
            "",
            f"ENUMERATED INSTANCES ({self.trajectories.instances} small processes, every trajectory enumerated)",
            "",
            f"{'statement':30s} {'largest left / right side':>28s}  {'family':24s} verdict",
            *_lines(self.trajectories.reports),
            "",
            _biased("importance-weighted return", self.trajectories.weighted_error),
            _biased("budgeted control variate", self.trajectories.variate_error),
            f"smallest Z + L on any path, in shares of L: {self.trajectories.least_left:.3g}   "
            + ("nonnegative" if self.trajectories.least_left >= 0 else "NEGATIVE"),
            "",
            "Everything holds."
            if self.ok
            else "SOMETHING FAILS: see NOT PROVED, NOT CONFIRMED, VIOLATED, NOT ATTAINED, BIASED, NEGATIVE.",
        ]
        return "\n".join(parts)


def _as_dicts(reports: Sequence[TheoremReport]) -> list[dict[str, Any]]:
    return [
        {
            "name": report.name,
            "largest_ratio": report.largest_ratio,
            "family": report.family,
            "holds": report.holds,
        }
        for report in reports
    ]


def _lines(reports: Sequence[TheoremReport]) -> list[str]:
    return [
        f"{report.name:30s} {report.largest_ratio:28.12f}  {report.family:24s} "
        + ("holds" if report.holds else "VIOLATED")
        for report in reports
    ]


def _biased(name: str, error: float) -> str:
    return f"{name}: mean against the true return, relative error {error:.3g}   " + (
        "unbiased" if error <= UNBIASED else "BIASED"
    )


def verify(config: VerifyConfig) -> Dossier:
    """Prove, recheck and hold every theorem against exact instances; progress goes to stderr when it is a terminal."""
    proofs = prove_all()
    solver = solver_available()
    rechecked = {
        proof.name: proof.recheck() if solver else None
        for proof in tqdm(proofs, desc="proofs", leave=False, file=sys.stderr, disable=None)
    }
    with tqdm(total=config.instances, desc="exact instances", leave=False, file=sys.stderr, disable=None) as bar:
        reports = check_instances(
            config.instances, seed=config.seed, bounds=ALL_BOUNDS, progress=lambda done: bar.update(done - bar.n)
        )
    with tqdm(total=config.enumerated, desc="enumerated instances", leave=False, file=sys.stderr, disable=None) as bar:
        trajectories = check_trajectories(
            config.enumerated, seed=config.seed, progress=lambda done: bar.update(done - bar.n)
        )
    attaining = check_attaining(config.attaining, seed=config.seed)
    return Dossier(config, proofs, rechecked, reports, attaining, trajectories)
