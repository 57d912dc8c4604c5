"""The settings of a sweep."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from m3po.flag_checks import Positive, Within, check_fields


@dataclass(frozen=True)
class SweepConfig:
    """Train every run of a grid on Ray. Finished runs are skipped, unfinished ones go on from their checkpoints, as do
    those whose worker or node dies meanwhile. The table at the end shows final evaluations."""

    grid: tyro.conf.Positional[Path]
    """TOML file: seeds, algorithms, environments, variants (m3po/sweeps/grid.py, sweeps/point_mass.toml)."""
    out: Path | None = None
    """Where the runs lie, a directory each, called environment/variant/seed-N. On a cluster: on a file system that all
    nodes share. runs/ with the name of the grid when not given."""
    address: str = "local"
    """local: a Ray of its own on this machine, gone at the end. auto: the cluster this machine belongs to. Also
    HOST:PORT of its head, or ray://HOST:10001 from outside it (then --out is a path on the cluster)."""
    cpus: Annotated[int, Within(1, 10**4)] | None = None
    """Only with --address local: CPUs to use, >= 1; all when not given."""
    only: str | None = None
    """Only the runs whose name fits this pattern, such as '*/k1/*'."""
    silence: Annotated[float, Within(1)] = 30.0
    """Seconds, >= 1. A training that cannot reach the sweep for so long stops itself, and a run whose node is lost is
    taken up when so much time has passed since its last word: two never write one run, even when the node was only cut
    off."""
    list_runs: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Print the runs, and what they cost with --seconds-per-step, and start none."""
    seconds_per_step: Positive | None = None
    """Only with --list: measured seconds of one real step of one run with all that belongs to it, > 0; of a run that
    shares its task, its share of them, which is what the last table of a sweep has."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.address not in ("local", "auto") and not re.fullmatch(r"(ray://)?[^/\s:]+:\d+", self.address):
            raise ValueError(f"--address must be local, auto, HOST:PORT or ray://HOST:PORT, got {self.address}")
        if self.cpus is not None and self.address != "local":
            raise ValueError(f"--cpus is for --address local; a cluster knows its own CPUs, got {self.address}")
        if self.client and (self.out is None or not self.out.is_absolute()):
            raise ValueError(f"--address {self.address} needs --out, an absolute path on the cluster, got {self.out}")
        if self.seconds_per_step is not None and not self.list_runs:
            raise ValueError(f"--seconds-per-step goes with --list, got {self.seconds_per_step} without it")

    @property
    def client(self) -> bool:
        """Whether this process is outside the cluster and need not see its files."""
        return self.address.startswith("ray://")

    @property
    def directory(self) -> Path:
        """Of the sweep; absolute, since workers have another working directory."""
        return (Path("runs") / self.grid.stem if self.out is None else self.out).absolute()
