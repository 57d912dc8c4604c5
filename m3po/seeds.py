"""Where every seed comes from: streams of random numbers that no two purposes share.

Fresh episodes are only fresh when their random numbers are. ``numpy.random.SeedSequence`` pads its words with zeros
([s] is [s, 0]) and cuts integers into words of 32 bits ([a + b 2^32] is [a, b]), so lists of numbers alone can meet;
spawn keys cannot, since they come after all words of the entropy and after at least four words.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Purpose(IntEnum):
    """What a stream of random numbers is for. Numbers are never reused: they are part of every published result.

    The two purposes of a training itself keep their plain lists of numbers, on which every existing run depends.
    """

    TRAINING_EPISODE = 0
    """Place: the episode's number."""
    TRAINING_MEASUREMENT = 1
    """Place: the real step. Held-out and evaluation episodes of a row of metrics."""
    GUARANTEE = 2
    """analysis.check_guarantee."""
    SURROGATES = 3
    """What analysis.report measures besides."""
    THROUGH_TRAINING = 4
    """analysis.through_training. Place: real step, age of the data policy."""
    NOISE_LEVEL = 5
    """analysis.noise_level. Place: kind of noise, level in millionths."""
    NOISE_FREE = 6
    """The noise-free reference of analysis.noise_level."""
    EVALUATION = 7
    """The actions that analysis.evaluation draws. (Its episodes have the user's seed itself, which environments of a
    training never get: theirs are drawn from a sequence.)"""
    NEW_GENERATOR = 8
    """What a training goes on with where a device of another kind wrote its checkpoint. Place: real step."""
    RESERVED_EPISODES = 9
    """Episodes of which a training learns nothing. Place: real step."""
    POLICY_LIMIT = 10
    """What m3po.agents.policy_limit draws. Place: real step."""
    LIMITED_MOVES = 11
    """analysis.limited_moves. Place: real step."""
    CERTIFIED_BY_AGE = 12
    """analysis.certified_by_age. Place: age of the data policy, which of its episodes."""
    MODEL_SAMPLES = 13
    """What the model of m3po.load draws."""
    COLLECTED = 14
    """analysis.collecting. Place: 0 for the episodes, 1 for the actions, 2 for the rollouts in a model."""
    TASK_IN_ENCODINGS = 15
    """analysis.task_in_encodings."""


TRAINING = (Purpose.TRAINING_EPISODE, Purpose.TRAINING_MEASUREMENT)


def sequence(purpose: Purpose, seed: int, *place: int) -> np.random.SeedSequence:
    """The seed sequence of ``purpose`` for the user's ``seed``, at a place within the purpose.

    Two calls give the same stream only if purpose, seed and place are the same. (The streams of a training whose seed
    is 2^32 or more may be those of another training; of no other purpose.)

    Args:
        seed: in [0, 2^128); of a training below 2^64.
        place: numbers in [0, 2^32), always as many for one purpose.

    Raises:
        ValueError: a negative number, or a place or the seed of a training that is too large.
    """
    words = 64 if purpose in TRAINING else 128
    if not 0 <= seed < 2**words:
        raise ValueError(f"--seed must be in [0, 2^{words}), got {seed}")
    if any(not 0 <= each < 2**32 for each in place):
        raise ValueError(f"the place of a stream must be numbers in [0, 2^32), got {place}")
    if purpose is Purpose.TRAINING_EPISODE:
        return np.random.SeedSequence([seed, *place])
    if purpose is Purpose.TRAINING_MEASUREMENT:
        return np.random.SeedSequence([seed, *place, 1])
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *place))


def environment_seeds(purpose: Purpose, seed: int, *place: int, count: int) -> list[int]:
    """``count`` seeds in [0, 2^32), which every environment takes; the first ones do not depend on ``count``."""
    return [int(each) for each in sequence(purpose, seed, *place).generate_state(count)]


def torch_generator(purpose: Purpose, seed: int, *place: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for ``purpose``; it shares nothing with ``environment_seeds`` of the same arguments."""
    import torch

    child = sequence(purpose, seed, *place).spawn(1)[0]
    return torch.Generator(device).manual_seed(int(child.generate_state(1, np.uint64)[0] >> np.uint64(1)))
