"""What a sample takes in memory, by the tensors that hold it."""

from __future__ import annotations

import torch

from m3po.data.replay_buffer import EnvironmentBuffer

# Coordinates of a humanoid's body, and its actions': the largest of the environments.
LARGEST = 45, 17


def bytes_per_sample(observation_size: int, action_size: int, members: int) -> float:
    """Bytes that D_env keeps of a real transition."""
    capacity = 8
    buffer = EnvironmentBuffer(
        capacity,
        observation_size,
        action_size,
        history_length=1,
        members=members,
        holdout=0.1,
        device=torch.device("cpu"),
    )
    return sum(getattr(buffer, name).nbytes for name in buffer.arrays) / capacity
