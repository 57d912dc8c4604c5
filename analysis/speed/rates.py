"""How often a second things can be done, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tqdm import tqdm

ROUNDS = 5


def rates(contenders: Mapping[str, Callable[[], object]], seconds: float, progress: tqdm[Any]) -> dict[str, float]:
    """Calls per second of each function, its fastest of ``ROUNDS`` alternating rounds."""
    best = dict.fromkeys(contenders, 0.0)
    for function in contenders.values():
        function()
    for _ in range(ROUNDS):
        for name, function in contenders.items():
            calls, began = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - began < seconds:
                function()
                calls += 1
            best[name] = max(best[name], calls / (time.perf_counter() - began))
        progress.update()
    return best


def synchronised(function: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """``function``, returning only when the device has done its work."""

    def call() -> None:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call
