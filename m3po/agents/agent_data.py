"""What the agents of M3PO learn from: batches of fictitious transitions (D_model) and real ones (D_env), in a given
mixture.

Policy and critics read histories either through the model's encoder, whose encodings are stored, or through an encoder
of their own, which their loss trains and which reads every batch anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic

import torch
from torch import Tensor

from m3po.agents.captured_update import CapturedUpdate, Update
from m3po.agents.rollout import ModelStep
from m3po.agents.sac import SoftActorCritic
from m3po.data.draws import Generators
from m3po.data.replay_buffer import EnvironmentBuffers, ModelBuffers
from m3po.data.types import Batch, Segments, Transitions, joined, rows_of
from m3po.networks.context_encoder import ContextEncoder


class AgentData(ABC, Generic[Batch]):
    """D_model, the batches drawn from it and from D_env, and the agent's updates on them; all of R runs.

    Args:
        agent: policy and critics.
        encoder: what they read histories through.
        model_buffers: D_model.
        captured: replay updates as one CUDA graph.
    """

    def __init__(
        self,
        agent: SoftActorCritic,
        encoder: ContextEncoder,
        model_buffers: ModelBuffers[Batch],
        *,
        captured: bool = False,
    ) -> None:
        self.agent = agent
        self.encoder = encoder
        self.model_buffers: ModelBuffers[Batch] = model_buffers
        self.update: Update[Batch] = self._update
        if captured:
            self.update = CapturedUpdate(self._update, agent.optimisers().values())

    @abstractmethod
    def fictitious(self, step: ModelStep) -> Batch:
        """A step of rollouts as D_model keeps it."""

    @abstractmethod
    def real(self, segments: Segments) -> Batch:
        """Real transitions in the same form."""

    @abstractmethod
    def transitions(self, batch: Batch) -> Transitions:
        """A batch as the agent's networks read it."""

    @abstractmethod
    def follow(self, model_encoder: ContextEncoder) -> None:
        """After the model's training: D_model is emptied, and the agent sees the world in the model's units."""

    def add(self, step: ModelStep) -> None:
        """Store a step of rollouts in D_model."""
        self.model_buffers.add(self.fictitious(step), step.valid)

    def batches(
        self, count: int, size: int, fictitious: int, buffers: EnvironmentBuffers, generators: Generators
    ) -> list[Batch]:
        """``count`` batches of ``size`` transitions, ``fictitious`` of them from D_model and the others real."""
        parts: list[list[Batch]] = []
        if fictitious > 0:
            parts.append(in_parts(self.model_buffers.sample(count * fictitious, generators), count))
        if fictitious < size:
            indices = buffers.drawn(count * (size - fictitious), generators)
            parts.append(in_parts(self.real(buffers.segments(indices)), count))
        return [joined(each) if len(each) > 1 else each[0] for each in zip(*parts, strict=True)]

    def learn(
        self,
        policy_too: Sequence[bool],
        size: int,
        fictitious: int,
        buffers: EnvironmentBuffers,
        generators: Generators,
    ) -> tuple[list[dict[str, Tensor]], list[Batch]]:
        """An update on each of as many ``batches``, of the ``policy_too`` or not: what each reports, and its batch."""
        batches = self.batches(len(policy_too), size, fictitious, buffers, generators)
        reports = [
            self.update(batch, generators)
            if whole
            else self.agent.update(self.transitions(batch), generators, policy_too=False)
            for batch, whole in zip(batches, policy_too, strict=True)
        ]
        return reports, batches

    def _update(self, batch: Batch, generators: Generators) -> dict[str, Tensor]:
        return self.agent.update(self.transitions(batch), generators)


class StoredEncodings(AgentData[Transitions]):
    """The agent reads the model's encodings, which are stored: they die with the training that made them."""

    def fictitious(self, step: ModelStep) -> Transitions:
        return step.transitions

    @torch.no_grad()
    def real(self, segments: Segments) -> Transitions:
        return self.encoder.transitions(segments)

    def transitions(self, batch: Transitions) -> Transitions:
        return batch

    def follow(self, model_encoder: ContextEncoder) -> None:
        self.model_buffers.clear()


class OwnEncodings(AgentData[Segments]):
    """The agent has an encoder of its own, trained by its critics; transitions are stored with their histories."""

    def fictitious(self, step: ModelStep) -> Segments:
        return step.segments()

    def real(self, segments: Segments) -> Segments:
        return segments

    def transitions(self, batch: Segments) -> Transitions:
        return self.encoder.transitions(batch)

    def follow(self, model_encoder: ContextEncoder) -> None:
        self.encoder.copy_normalisers(model_encoder)
        self.model_buffers.clear()


def in_parts(batch: Batch, count: int) -> list[Batch]:
    """``count`` records of equally many rows of every run each, in order."""
    size = batch.reward.shape[-1] // count
    return [rows_of(batch, slice(i * size, (i + 1) * size)) for i in range(count)]
