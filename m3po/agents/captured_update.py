"""The soft actor-critic's update as one CUDA graph: hundreds of small kernels, launched at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic

import torch
from torch import Tensor

from m3po.data.draws import Generators
from m3po.data.types import Batch

# torch asks for a few ordinary runs on a side stream before a capture.
EAGER_UPDATES = 3

# One gradient step on a batch; detached scalars, of every run one, by name.
Update = Callable[[Batch, Generators], dict[str, Tensor]]


class CapturedUpdate(Generic[Batch]):
    """Calls like ``update``; from the fourth call on, a replay on a static copy of the batch.

    Args:
        update: of networks on a CUDA device.
        optimisers: all that it steps, each of which may be captured (``SoftActorCriticSettings.capturable``).

    Every batch has to have the shapes of the first.
    """

    def __init__(self, update: Update[Batch], optimisers: Iterable[torch.optim.Optimizer]) -> None:
        self._update: Update[Batch] = update
        self._optimisers = tuple(optimisers)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Batch | None = None
        self._metrics: dict[str, Tensor] = {}

    def __call__(self, batch: Batch, generator: Generators) -> dict[str, Tensor]:
        """One update; returns detached scalars by name."""
        self._calls += 1
        if self._calls <= EAGER_UPDATES:
            return self._on_a_side_stream(batch, generator)
        if self._graph is None:
            self._capture(batch, generator)
        assert self._graph is not None
        for name, value in vars(self._batch).items():
            value.copy_(getattr(batch, name))
        self._graph.replay()
        return {name: value.clone() for name, value in self._metrics.items()}

    def _on_a_side_stream(self, batch: Batch, generator: Generators) -> dict[str, Tensor]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            metrics = self._update(batch, generator)
        torch.cuda.current_stream().wait_stream(stream)
        return metrics

    def _capture(self, batch: Batch, generator: Generators) -> None:
        """Record an update without running it."""
        self._batch = static = type(batch)(**{name: value.clone() for name, value in vars(batch).items()})
        graph = torch.cuda.CUDAGraph()
        for each in [generator] if isinstance(generator, torch.Generator) else generator:
            graph.register_generator_state(each)
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._metrics = self._update(static, generator)
        self._graph = graph
