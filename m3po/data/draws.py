"""Random numbers of several runs, each from the generator of its own run: what one draws does not depend on the others.

A single generator stands for no run axis, R of them for a first axis of R.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]


def normal(
    shape: Sequence[int], generators: Generators, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """N(0, 1), of the given shape [*R, ...]; of torch's default ``dtype`` where none is given."""
    return _of_each(torch.randn, shape, generators, device, dtype)


def normal_rows(shape: Sequence[int], generators: Generators, device: torch.device, valid: Tensor | None) -> Tensor:
    """N(0, 1), of the given shape [*R, ..., N, D], for the rows that are ``valid``, the first ones of each run.

    A run draws no numbers for the rows that are not, as if it were alone; theirs are 0. ``valid`` [R, N] booleans;
    None: all are.
    """
    if valid is None:
        return normal(shape, generators, device)
    assert isinstance(generators, Sequence)
    result = torch.zeros(tuple(shape), device=device)
    *before, _, size = shape[1:]
    for part, count, each in zip(result, valid.sum(dim=-1).tolist(), generators, strict=True):
        part[..., :count, :] = torch.randn((*before, count, size), generator=each, device=device)
    return result


def uniform(shape: Sequence[int], generators: Generators, device: torch.device) -> Tensor:
    """Uniform on [0, 1), of the given shape [*R, ...]."""
    return _of_each(torch.rand, shape, generators, device, None)


def integers(high: int | Sequence[int], shape: Sequence[int], generators: Generators, device: torch.device) -> Tensor:
    """Uniform on 0..high - 1, of the given shape [*R, ...]; ``high`` of every run where it is a sequence."""
    if not isinstance(generators, Sequence):
        assert isinstance(high, int)
        return torch.randint(high, tuple(shape), generator=generators, device=device)
    highs = [high] * len(generators) if isinstance(high, int) else high
    parts = [
        torch.randint(limit, tuple(shape[1:]), generator=each, device=device)
        for limit, each in zip(highs, generators, strict=True)
    ]
    return torch.stack(parts)


def _of_each(
    draw: Callable[..., Tensor],
    shape: Sequence[int],
    generators: Generators,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Tensor:
    if not isinstance(generators, Sequence):
        return draw(tuple(shape), generator=generators, device=device, dtype=dtype)
    result: Any = torch.empty(tuple(shape), device=device, dtype=dtype)
    for part, each in zip(result, generators, strict=True):
        draw(part.shape, generator=each, device=device, dtype=dtype, out=part)
    return result
