"""What a run depends on: the blocks of m3po.settings in one flat record, of which flags and config.json are made."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from typing import Any

from m3po.flag_checks import check_fields
from m3po.presets import preset_values
from m3po.settings import (
    AgentSettings,
    Algorithm,
    BranchSettings,
    CertificationSettings,
    ErrorSettings,
    FadingSettings,
    GrbalSettings,
    LoopSettings,
    ModelRateSettings,
    ModelSettings,
    NetworkSettings,
    PearlSettings,
    RolloutSettings,
    RunSettings,
)

M3PO_KINDS: tuple[Algorithm, ...] = ("m3po", "m3po-h", "m3po-full")
ALGORITHMS: tuple[Algorithm, ...] = (*M3PO_KINDS, "pearl", "grbal")

# Algorithms without a model of the environment, whose rollouts would have to know when an episode ends.
MODEL_FREE: tuple[Algorithm, ...] = ("pearl",)

# Every block, and the algorithms that read it; of runs of the others it says nothing.
READ_BY: dict[type, tuple[Algorithm, ...]] = {
    RunSettings: ALGORITHMS,
    LoopSettings: ALGORITHMS,
    NetworkSettings: ALGORITHMS,
    AgentSettings: (*M3PO_KINDS, "pearl"),
    ModelRateSettings: (*M3PO_KINDS, "grbal"),
    ModelSettings: M3PO_KINDS,
    RolloutSettings: M3PO_KINDS,
    BranchSettings: ("m3po", "m3po-h"),
    FadingSettings: ("m3po-h",),
    ErrorSettings: M3PO_KINDS,
    CertificationSettings: M3PO_KINDS,
    PearlSettings: ("pearl",),
    GrbalSettings: ("grbal",),
}


def blocks_of(algorithm: str) -> list[type]:
    """The blocks that an algorithm reads."""
    return [block for block, algorithms in READ_BY.items() if algorithm in algorithms]


def fields_of(*blocks: type) -> list[str]:
    """The names of the settings in some blocks."""
    return [field.name for block in blocks for field in dataclasses.fields(block)]


def options_in(text: str) -> dict[str, Any]:
    """The value of --env-options as keyword arguments.

    Raises:
        ValueError: when it is no JSON object.
    """
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--env-options must be a JSON object, got {text}") from error
    if not isinstance(options, dict):
        raise ValueError(f"--env-options must be a JSON object, got {text}")
    return options


@dataclass(frozen=True)
class Config(
    GrbalSettings,
    PearlSettings,
    CertificationSettings,
    ErrorSettings,
    FadingSettings,
    BranchSettings,
    RolloutSettings,
    ModelSettings,
    ModelRateSettings,
    AgentSettings,
    NetworkSettings,
    LoopSettings,
    RunSettings,
):
    """Train M3PO (Algorithm 2 of Hiraoka et al. 2021) and log its own model error and policy divergence; or train a
    baseline, PEARL or GrBAL, under the same protocol.

    Defaults are those of the demo on SwitchingPointMass. What takes the settings of a block takes a Config.
    """

    @classmethod
    def preset(cls, name: str, **settings: Any) -> Config:
        """The settings of a preset, but for those that are given: see ``m3po.presets``.

        Raises:
            ValueError: when there is no such preset, or a value is wrong.
        """
        return cls(**preset_values(name, settings.get("algorithm", cls.algorithm)) | settings)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.from_previous and not self.resume:
            raise ValueError("--from-previous goes with --resume, which is not given")
        if self.elites is not None and self.elites > self.ensemble_size:
            raise ValueError(f"--elites must be in 1..{self.ensemble_size} (--ensemble-size), got {self.elites}")
        if self.final_rollout_length is not None and self.final_rollout_length < self.rollout_length:
            raise ValueError(
                f"--final-rollout-length must be >= {self.rollout_length} (--rollout-length), "
                f"got {self.final_rollout_length}"
            )
        if self.rollout_growth_end is not None and self.rollout_growth_end < self.rollout_growth_start:
            raise ValueError(
                f"--rollout-growth-end must be >= {self.rollout_growth_start} (--rollout-growth-start), "
                f"got {self.rollout_growth_end}"
            )
        if self.rollout_growth_start > self.total_steps:
            raise ValueError(
                f"--rollout-growth-start must be <= {self.total_steps} (--total-steps), got {self.rollout_growth_start}"
            )
        if self.algorithm == "m3po-h" and self.final_model_share > self.model_share:
            raise ValueError(
                f"--final-model-share must be <= {self.model_share} (--model-share), got {self.final_model_share}"
            )
        if self.algorithm in ("pearl", "grbal") and self.history_length == 0:
            raise ValueError(f"--history-length must be >= 1 for {self.algorithm}, whose context is the history, got 0")
        if self.policy_interval > 1 and self.cuda_graphs:
            raise ValueError(
                "--policy-interval must be 1 with --cuda-graphs, whose graph is a whole update, "
                f"got {self.policy_interval}"
            )
        self.environment_options()
        if self.initial_random_steps > self.total_steps:
            raise ValueError(
                f"--initial-random-steps must be <= --total-steps, got {self.initial_random_steps} > {self.total_steps}"
            )
        if self.rollout_interval > self.epoch_steps:
            raise ValueError(
                f"--rollout-interval must be <= --epoch-steps, got {self.rollout_interval} > {self.epoch_steps}"
            )

    def each_seed(self) -> list[Config]:
        """One configuration for each of ``seeds``, with a run directory of its own; this one where there are none."""
        if self.seeds is None:
            return [self]
        return [replace(self, seed=seed, seeds=None, run_dir=self.run_dir / f"seed-{seed}") for seed in self.seeds]

    def on_cpu(self) -> Config:
        """The same run, to be looked at on a processor, wherever it was trained."""
        return replace(self, device="cpu", cuda_graphs=False)

    def environment_options(self) -> dict[str, Any]:
        """``env_options`` as keyword arguments."""
        return options_in(self.env_options)

    def rollout_length_at(self, step: int) -> int:
        """k after ``step`` real steps: k_0 + floor((k_1 - k_0) (step - start)/(end - start)), within [k_0, k_1]."""
        if self.final_rollout_length is None:
            return self.rollout_length
        start, end = self.rollout_growth_start, self._rollout_growth_end()
        if step < start:
            return self.rollout_length
        if step >= end:
            return self.final_rollout_length
        growth = self.final_rollout_length - self.rollout_length
        return self.rollout_length + growth * (step - start) // (end - start)

    def _rollout_growth_end(self) -> int:
        return self.total_steps if self.rollout_growth_end is None else self.rollout_growth_end

    def learning_rate_at(self, step: int) -> float:
        """Of policy, critics and temperature after ``step`` real steps."""
        return self.learning_rate * (1 - (1 - self.final_learning_rate_share) * step / self.total_steps)

    def model_share_at(self, step: int) -> float:
        """Share of D_model in a batch after ``step`` real steps."""
        if self.algorithm != "m3po-h":
            return self.model_share
        return self.model_share + (self.final_model_share - self.model_share) * min(step / self.total_steps, 1.0)
