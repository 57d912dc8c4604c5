"""An instance: a process with a model and two policies, everything a theorem speaks about; its file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from bounds.finite.process import (
    Array,
    ErrorProfiles,
    FiniteProcess,
    Kernels,
    Layers,
    Process,
    SparseProcess,
    branched_laws,
    branched_return,
    error_profiles,
    full_model_return,
    state_laws,
    true_return,
)
from bounds.readable import readable

Rollout: TypeAlias = Literal["full", "averaged", "exact"]


@dataclass(frozen=True, eq=False)
class Instance:
    """What one theorem is checked on.

    Attributes:
        process: the true process.
        model: another kernel of it.
        data_policy: the data-collection policy pi_D.
        policy: the policy being trained, pi.
        family: where the instance comes from, for reports.
    """

    process: Process
    model: Array | Layers
    data_policy: Array | Layers
    policy: Array | Layers
    family: str = "unnamed"

    __repr__ = readable

    @property
    def reward_range(self) -> float:
        """R = reward_high - reward_low."""
        return self.process.reward_high - self.process.reward_low

    def profiles(self) -> ErrorProfiles:
        """The errors on the data policy's distribution."""
        return error_profiles(self.process, self.model, self.data_policy, self.policy)

    def current_policy_profiles(self) -> ErrorProfiles:
        """The errors on the current policy's own distribution, as MBPO 4.3 wants them."""
        return error_profiles(self.process, self.model, self.policy, self.policy)

    def model_return(
        self, discount: float, rollout: Rollout, rollout_length: int = 1, *, model_reward: Kernels | None = None
    ) -> float:
        """J_full (rollout "full"), or J_branch(rollout_length) with the scheme "averaged" or "exact"."""
        if rollout == "full":
            return full_model_return(self.process, self.model, self.policy, discount, model_reward=model_reward)
        return branched_return(
            self.process,
            self.model,
            self.data_policy,
            self.policy,
            discount,
            rollout_length,
            rollout,
            model_reward=model_reward,
        )

    def return_gap(
        self, discount: float, rollout: Rollout, rollout_length: int = 1, *, model_reward: Kernels | None = None
    ) -> float:
        """``J - J_model``, signed."""
        truth = true_return(self.process, self.policy, discount)
        return truth - self.model_return(discount, rollout, rollout_length, model_reward=model_reward)

    def with_hardest_reward(self, rollout: Rollout, rollout_length: int = 1) -> Instance:
        """The same instance with the reward that makes ``J_model - J`` largest, at every discount at once.

        It pays reward_high where the model's law exceeds the true one, and reward_low elsewhere; the gap is then
        ``R sum_t discount^t TV(true law of h_t, model law of h_t)``.
        """
        truth = state_laws(self.process, self.policy)
        if rollout == "full":
            modelled = state_laws(self.process, self.policy, self.model)
        else:
            modelled = tuple(
                branched_laws(self.process, self.model, self.data_policy, self.policy, rollout_length, rollout)
            )
        low, high = self.process.reward_low, self.process.reward_high
        reward = [
            np.where((q > p)[:, None], high, low) * np.ones_like(layer)
            for p, q, layer in zip(truth, modelled, self.process.rewards, strict=True)
        ]
        return replace(self, process=self.process.with_reward(reward))


def save_instance(path: Path, instance: Instance, **facts: float | str) -> None:
    """Write ``instance`` to an .npz file, with ``facts`` (scalars) beside it; ``load_instance`` reads it.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays_of(instance, **facts))


def arrays_of(instance: Instance, **facts: float | str) -> dict[str, Any]:
    """The entries of the .npz file that ``save_instance`` writes."""
    process = instance.process
    arrays: dict[str, Any] = {f"fact_{name}": np.array(value) for name, value in facts.items()}
    arrays |= {
        "family": np.array(instance.family),
        "initial": process.initial,
        "reward_range": np.array([process.reward_low, process.reward_high]),
    }
    if isinstance(process, FiniteProcess):
        arrays |= {"transition": process.transition, "reward": process.reward, "sizes": np.array(process.sizes)}
        arrays |= {"model": instance.model, "data_policy": instance.data_policy, "policy": instance.policy}
    else:
        layered = {
            "successors": process.successors,
            "probabilities": process.probabilities,
            "reward": process.reward,
            "model": instance.model,
            "data_policy": instance.data_policy,
            "policy": instance.policy,
        }
        arrays |= {f"{name}_{t}": layer for name, layers in layered.items() for t, layer in enumerate(layers)}
        arrays["horizon"] = np.array(process.horizon)
    return arrays


def load_instance(path: Path) -> Instance:
    """Read an instance that ``save_instance`` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file.
    """
    with np.load(path, allow_pickle=False) as stored:
        missing = {"family", "initial", "reward_range"} - set(stored.files)
        if missing:
            raise ValueError(f"{path} is not a stored instance: it has no {sorted(missing)}")
        low, high = (float(value) for value in stored["reward_range"])
        family = str(stored["family"])
        if "transition" in stored.files:
            dense = FiniteProcess(
                stored["initial"], stored["transition"], stored["reward"], low, high, tuple(stored["sizes"])
            )
            return Instance(dense, stored["model"], stored["data_policy"], stored["policy"], family)
        horizon = int(stored["horizon"])

        def layers(name: str, count: int) -> tuple[Any, ...]:
            return tuple(stored[f"{name}_{t}"] for t in range(count))

        sparse = SparseProcess(
            stored["initial"],
            layers("successors", horizon),
            layers("probabilities", horizon),
            layers("reward", horizon + 1),
            low,
            high,
        )
        return Instance(
            sparse,
            layers("model", horizon),
            layers("data_policy", horizon + 1),
            layers("policy", horizon + 1),
            family,
        )
