"""M3PO with a guarantee: policies that move little from epoch to epoch, and reserved episodes that certify each."""

from __future__ import annotations

from typing import Any

import torch

from m3po.agents.policy_limit import limit_move
from m3po.agents.reserved_episodes import ReservedEpisodes, ReservedShare
from m3po.config import Config
from m3po.data.replay_buffer import EnvironmentBuffer
from m3po.episodes import run_episodes
from m3po.networks.policy import HistoryPolicy
from m3po.seeds import Purpose, environment_seeds, torch_generator

# Newest real histories that a policy's move is limited and measured on.
MOST_HISTORIES = 4000


class Certification:
    """What happens to a run's policy between its last update in an epoch and its evaluation.

    Args:
        config: of the run; --move-limit and --reserved-share say what happens.
        policy: of the run; changed in place by ``limit``.
        horizon: H, most steps of an episode.
        reward_range: (low, high) that all rewards lie in, by the environment's word.

    Attributes:
        split: of the run's steps between learning and reserved episodes.
        reference: the policy when the last epoch ended.
        reserved: the episodes of which nothing is learned.

    Raises:
        ValueError: when episodes are to be reserved, and the range of rewards is not known, or the steps do not make
            one episode, or leave too few to learn from.
    """

    def __init__(self, config: Config, policy: HistoryPolicy, horizon: int, reward_range: tuple[float, float]) -> None:
        self.config = config
        self.policy = policy
        self.horizon = horizon
        self.reward_low, self.reward_high = reward_range
        self.split = ReservedShare(config.total_steps, horizon, config.reserved_share)
        self.reference = policy.snapshot()
        self.reserved = ReservedEpisodes(config.history_length)
        if config.reserved_share > 0:
            self._check()

    def _check(self) -> None:
        share = f"--reserved-share {self.config.reserved_share}"
        if not -torch.inf < self.reward_low <= self.reward_high < torch.inf:
            raise ValueError(
                f"{share} is there to bound returns from below, and {self.config.env_id} does not say in which range "
                "its rewards lie (an attribute reward_range = (low, high) would)"
            )
        if self.split.episodes == 0:
            raise ValueError(
                f"{share} of {self.config.total_steps} steps (--total-steps) is less than an episode of {self.horizon}"
            )
        if self.split.training_steps < self.config.initial_random_steps:
            raise ValueError(
                f"{share} leaves {self.split.training_steps} steps to learn from, fewer than "
                f"--initial-random-steps {self.config.initial_random_steps}"
            )

    def limit(self, buffer: EnvironmentBuffer, step: int) -> dict[str, Any]:
        """Bring the policy back to --move-limit from what it was when the last epoch ended."""
        if self.config.move_limit is None:
            return {}
        held_out = buffer.held_out[: buffer.size]
        kept, measured = (each.nonzero()[-MOST_HISTORIES:, 0] for each in (~held_out, held_out))
        if len(measured) == 0 or len(kept) == 0:
            kept = measured = torch.arange(buffer.size, device=held_out.device)[-MOST_HISTORIES:]
        generator = torch_generator(Purpose.POLICY_LIMIT, self.config.seed, step, device=self.policy.device)
        move = limit_move(
            self.policy,
            self.reference,
            buffer.windows(kept),
            buffer.windows(measured),
            self.config.move_limit,
            generator,
        )
        self.reference = self.policy.snapshot()
        return {"move_wanted": move.wanted, "move": move.taken, "move_share": move.share}

    def reserve(self, training_steps: int, step: int) -> int:
        """Collect the episodes that are due; the real steps that they count for.

        Each counts as a whole one, however early it ended: nothing that is learned later may depend on it.
        """
        count = self.split.due(training_steps) - self.reserved.count
        if count > 0:
            config, place = self.config, (Purpose.RESERVED_EPISODES, self.config.seed, step)
            episodes = run_episodes(
                config.env_id,
                self.policy,
                count,
                seed=environment_seeds(*place, count=1)[0],
                generator=torch_generator(*place, device=self.policy.device),
                options=config.environment_options(),
            )
            self.reserved.add(self.policy, episodes)
        return count * self.horizon

    def report(self) -> dict[str, Any]:
        """What all reserved episodes say about the present policy, as a part of a row of metrics."""
        certified = self.reserved.certified(
            self.policy,
            discount=self.config.discount,
            reward_low=self.reward_low,
            reward_high=self.reward_high,
            confidence=self.config.confidence,
        )
        if certified is None:
            return {}
        return {
            "certified_return": certified.value,
            "trivial_return": certified.trivial,
            "certifying_episodes": certified.used,
            "certifying_effective": certified.effective,
            "reserved_episodes": self.reserved.count,
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores; empty when nothing is asked for."""
        state: dict[str, Any] = {}
        if self.config.move_limit is not None:
            state["reference"] = self.reference.state_dict()
        if self.config.reserved_share > 0:
            state["reserved"] = self.reserved.state()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``."""
        if "reference" in state:
            self.reference.load_state_dict(state["reference"])
        if "reserved" in state:
            self.reserved.load_state(state["reserved"])
