"""What ``m3po`` can run: each command's group, name, module and one sentence. Nothing is imported to say so.

A command is a module with ``main(settings) -> exit code``, which ``python -m MODULE`` runs as well. Modules are named
in text: the commands of ``analysis`` stand above this package, and most import what takes seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from m3po.runs.interruption import ends_quietly


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: its word after the group's.
        module: what ``python -m`` runs as well.
        settings: ``module:class`` of the dataclass that its flags fill.
        text: one sentence.
        example: words that it can be given, for its help.
        also: other words for it.
        expanded: ``module:function`` that rewrites its arguments before they are parsed, as ``command_line.run`` takes.
        flags: ``module:class`` of a dataclass that also has the flags which it takes out of them.
    """

    name: str
    module: str
    settings: str
    text: str
    example: str
    also: tuple[str, ...] = ()
    expanded: str | None = None
    flags: str | None = None

    def flags_type(self) -> type:
        """A dataclass of all its flags."""
        found: type = _named(self.flags or self.settings)
        return found

    def settings_type(self) -> type:
        """What ``main`` takes."""
        found: type = _named(self.settings)
        return found

    def main(self, settings: Any) -> int:
        """Its work."""
        code: int = _named(f"{self.module}:main")(settings)
        return code

    def expansion(self) -> Callable[[Sequence[str], str], Sequence[str]]:
        """What rewrites its arguments; nothing for most."""
        return (lambda words, prog: words) if self.expanded is None else _named(self.expanded)


@dataclass(frozen=True)
class Group:
    """Commands that belong together.

    Attributes:
        short: whether the group's name may be left out before theirs.
    """

    name: str
    text: str
    commands: tuple[Command, ...]
    short: bool = True

    def find(self, word: str) -> Command | None:
        """The command of that name."""
        return next((each for each in self.commands if word in (each.name, *each.also)), None)


def _named(place: str) -> Any:
    """``module:name`` imported."""
    module, _, name = place.partition(":")
    with ends_quietly():
        return getattr(importlib.import_module(module), name)


GROUPS = (
    Group(
        "bounds",
        "What theorems say, and whether they hold.",
        (
            Command(
                "compare", "analysis.compare_bounds", "analysis.flags.compare:CompareConfig",
                "What every bound guarantees at given errors.",
                "--gamma 0.95 --eps-m 0.1 --eps-pi 0.1 --k 1 5",
                ("compare-bounds",),
            ),
            Command(
                "verify", "analysis.verify_theory", "analysis.flags.verify:VerifyConfig",
                "Check every proof, and every theorem on exact processes.",
                "--json",
                ("verify-theory",),
            ),
            Command(
                "attack", "analysis.search_counterexample", "analysis.flags.attack:SearchConfig",
                "Search for a process that refutes a bound.",
                "--bound m3po-th2 --gamma 0.9 --k 3",
                ("search-counterexample",),
            ),
            Command(
                "explore", "analysis.explorer.__main__", "analysis.flags.explore:ExplorerConfig",
                "Write one page on which every bound is live.",
                "--out explorer.html",
                ("explorer",),
            ),
        ),
    ),
    Group(
        "train",
        "Train policies and models, and watch them.",
        (
            Command(
                "train", "m3po.train", "m3po.config:Config",
                "Train M3PO, PEARL or GrBAL on one environment.",
                "--run-dir runs/first --total-steps 600",
                ("run",), "m3po.training_flags:expanded", "m3po.training_flags:TrainingFlags",
            ),
            Command(
                "sweep", "m3po.sweep", "m3po.sweeps.settings:SweepConfig",
                "Train a grid of environments, variants and seeds on Ray.",
                "sweeps/point_mass.toml --list",
            ),
            Command(
                "evaluate", "analysis.evaluation", "analysis.flags.evaluate:EvaluationConfig",
                "Evaluate trained policies on training or test tasks.",
                "runs/first --episodes 20",
                ("evaluation",),
            ),
            Command(
                "render", "analysis.render", "analysis.flags.render:RenderConfig",
                "Film an episode of a trained policy.",
                "runs/first",
            ),
            Command(
                "demo", "analysis.demo", "analysis.flags.demo:DemoConfig",
                "Compare the bounds, train, check the guarantee, and write one page about it.",
                "--total-steps 1000",
            ),
        ),
    ),
    Group(
        "guarantee",
        "How far a model's promise can be trusted.",
        (
            Command(
                "certify", "analysis.certify", "analysis.flags.certify:CertifyConfig",
                "A lower bound on the true return, from your own data.",
                "evidence.npz",
            ),
            Command(
                "check", "analysis.check_guarantee", "analysis.flags.check:CheckConfig",
                "Hold the measured gap of a trained run against every bound.",
                "runs/first --episodes 200",
                ("check-guarantee",),
            ),
            Command(
                "report", "analysis.report.__main__", "analysis.flags.report:ReportConfig",
                "Write one page: can this run's model be trusted?",
                "runs/first",
            ),
            Command(
                "example", "analysis.certify_example", "analysis.flags.example:ExampleConfig",
                "Write evidence for certify, of a process with a known answer.",
                "--out evidence.npz",
                ("certify-example",),
            ),
        ),
    ),
    Group(
        "results",
        "What finished runs say, and how surely.",
        (
            Command(
                "curves", "analysis.learning_curves", "analysis.flags.curves:CurvesConfig",
                "Draw learning curves and error curves.",
                "runs/first --figure curves.png",
                ("learning-curves",),
            ),
            Command(
                "compare", "analysis.comparison", "analysis.flags.compare_algorithms:ComparisonConfig",
                "Put algorithms beside each other, over environments.",
                "runs/m3po runs/pearl --out curves.csv",
                ("comparison",),
            ),
            Command(
                "variants", "analysis.variants", "analysis.flags.variants:VariantsConfig",
                "Put variants of one algorithm beside each other, in a table.",
                "runs/k1 runs/k3 --out table.csv",
            ),
            Command(
                "statistics", "analysis.statistics.__main__", "analysis.flags.statistics:StatisticsConfig",
                "Means, medians and intervals of a table of runs.",
                "table.csv --baseline k1",
            ),
        ),
    ),
    Group(
        "maintain",
        "For maintainers: what made the numbers and pictures of the docs.",
        (
            Command(
                "figures", "paper_figures.__main__", "paper_figures.__main__:FiguresConfig",
                "Draw every figure of the docs again.",
                "--only figure4 --out .",
            ),
            Command(
                "portraits", "analysis.portraits", "analysis.portraits:PortraitsConfig",
                "Photograph the environments.",
                "--out-dir .",
            ),
            Command(
                "anchors", "analysis.anchors", "analysis.runs.anchor_search:AnchorConfig",
                "Search for the ends of the scale of the point mass.",
                "--out anchors.json",
            ),
            Command(
                "benchmark", "analysis.benchmark", "analysis.speed.contenders:BenchmarkConfig",
                "Time the parts of a training beside plain code and peers.",
                "--seconds 1 --json",
            ),
            Command(
                "step-cost", "analysis.step_cost", "analysis.step_cost:StepCostConfig",
                "Time a step of each environment beside its body's.",
                "--steps 1000",
            ),
            Command(
                "vector-speed", "analysis.vector_speed", "analysis.vector_speed:VectorSpeedConfig",
                "Time many environments stepped at once.",
                "--num-envs 8",
            ),
            Command(
                "task-in-encodings", "analysis.task_in_encodings",
                "analysis.task_in_encodings:TaskInEncodingsConfig",
                "Measure whether a policy's encodings hold the hidden task.",
                "runs/m3po --episodes 20",
            ),
            Command(
                "interval-coverage", "analysis.interval_coverage",
                "analysis.studies.interval_coverage:IntervalCoverageConfig",
                "Measure how often intervals over seeds hold the truth.",
                "--seeds 5 --trials 100",
            ),
            Command(
                "certificate-coverage", "analysis.certificate_coverage",
                "analysis.studies.certificate_coverage:CertificateCoverageConfig",
                "Measure how often certificates hold.",
                "--data-sets 100",
            ),
            Command(
                "off-policy-coverage", "analysis.off_policy_coverage",
                "analysis.studies.off_policy_coverage:OffPolicyCoverageConfig",
                "Measure how often bounds from other policies' data hold.",
                "--data-sets 100",
            ),
            Command(
                "certified-by-age", "analysis.certified_by_age",
                "analysis.studies.certified_by_age:CertifiedByAgeConfig",
                "Measure what is certain from data of older policies.",
                "--out certified_by_age.csv",
            ),
            Command(
                "certify-mujoco", "analysis.certify_mujoco", "analysis.studies.certify_mujoco:MujocoConfig",
                "Measure what certify says of policies on MuJoCo bodies.",
                "--environments Hopper-v5",
            ),
            Command(
                "limited-moves", "analysis.limited_moves", "analysis.studies.limited_moves:LimitedMovesConfig",
                "Measure what is certain when a training limits the policy's moves.",
                "--out limited_moves.csv",
            ),
            Command(
                "noise-level", "analysis.noise_level", "analysis.studies.noise_level:NoiseLevelConfig",
                "Measure how the noise of an environment changes what is certain.",
                "--out noise_level.csv --runs .",
            ),
            Command(
                "through-training", "analysis.through_training",
                "analysis.studies.through_training:ThroughTrainingConfig",
                "Measure what is certain at each point of a training.",
                "--out through_training.csv",
            ),
        ),
        short=False,
    ),
)  # fmt: skip
