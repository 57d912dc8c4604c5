"""The flags of ``m3po bounds attack``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from m3po.flag_checks import Count, Discount, Members, Seed, Steps, Within, check_directory_of, check_fields


@dataclass(frozen=True)
class SearchConfig:
    """Search, by gradient ascent and hand-made hard cases, for a process on which a bound's discrepancy is too small.

    Prints the largest ratio gap/discrepancy found, recomputed exactly, and saves the process that reaches it.
    Exit code 1 if that ratio is above 1 beyond rounding: the bound is refuted.
    """

    bound: str
    """A name of the catalogue (m3po-th1, mbpo-4.2, optimal-branched, ...), `certificate` (Theorem 4, branched
    rollouts), `certificate-full` (Theorem 4, the model from the start), or `overlap`, `overlap-full`, `overlap-exact`
    (Theorem 5 in its smallest form; every trajectory is enumerated, so episodes are short)."""
    discount: Annotated[Discount, tyro.conf.arg(name="gamma")]
    """Discount, in [0, 1)."""
    rollout_length: Annotated[Steps, tyro.conf.arg(name="k")] = 1
    """Model steps of a branched rollout, >= 1; full-model bounds ignore it."""
    restarts: Count = 8
    """Random processes that gradient ascent starts from, >= 1."""
    steps: Steps = 300
    """Steps of the gradient ascent, >= 1."""
    horizon: Annotated[int, Within(1, 10**5)] | None = None
    """Transitions of an episode, >= 1; by default enough for 99% of an infinite one, at most 60 in the ascent."""
    states: Annotated[int, Within(2, 1000)] = 4
    """States per time of the ascended processes, >= 2."""
    actions: Members = 3
    """Actions of the ascended processes, >= 1."""
    seed: Seed = 0
    """Seed of the random processes, >= 0."""
    json: bool = False
    """Print one JSON object instead of text."""
    out: Path | None = None
    """Where to save the hardest instance (.npz, read by bounds.finite.load_instance); nothing is saved without it,
    unless the bound is refuted: then counterexample-BOUND.npz in the current directory."""
    overwrite: bool = False
    """Replace the file of --out even if this command did not write it; one that it wrote is replaced anyway."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_directory_of("out", self.out)
