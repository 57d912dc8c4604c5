"""Freed memory is kept where there is glibc, left alone elsewhere, and never shows in a result."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from m3po.runs.allocation import keep_freed_memory

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")

# 20 times 40 MB, which is above any threshold glibc picks by itself; prints the page faults of the last 19.
ROUNDS = """
import ctypes, resource, sys
from m3po.runs.allocation import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory() is True
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def once():
    block = libc.malloc(40_000_000)
    libc.memset(block, 1, 40_000_000)
    libc.free(block)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(19):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept: str) -> int:
    done = subprocess.run([sys.executable, "-c", ROUNDS, kept], capture_output=True, text=True, check=True)
    return int(done.stdout)


@needs_glibc
def test_glibc_obeys() -> None:
    assert keep_freed_memory() is True


@needs_glibc
def test_freed_blocks_are_used_again() -> None:
    assert faults("kept") < 19
    assert faults("not kept") >= 19  # at least one page a round, however large pages are


@pytest.mark.parametrize("name", ["darwin", "win32"])
def test_other_systems_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> None:
        raise AssertionError(f"a library was loaded: {words}")

    monkeypatch.setattr(sys, "platform", name)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_freed_memory() is False


def library(answer: Callable[[int, int], int] | None) -> Callable[[str], object]:
    """A stand-in for ctypes.CDLL; None is a library that does not know mallopt."""

    class Library:
        pass

    if answer is not None:
        Library.mallopt = staticmethod(answer)  # type: ignore[attr-defined]
    return lambda name: Library()


def missing(name: str) -> object:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize("load", [missing, library(None), library(lambda option, value: 0)])
def test_linux_without_glibc_is_left_alone(load: Callable[[str], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert keep_freed_memory() is False


def test_both_thresholds_are_one_gibibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    """malloc.h: M_TRIM_THRESHOLD is -1, M_MMAP_THRESHOLD is -3."""
    asked: dict[int, int] = {}

    def mallopt(option: int, value: int) -> int:
        asked[option] = value
        return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", library(mallopt))
    assert keep_freed_memory() is True
    assert asked == {-1: 2**30, -3: 2**30}


def test_results_stay_the_same() -> None:
    def result() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        left = torch.randn(700, 700, generator=generator)
        return torch.tanh(left @ left).cumsum(dim=0)

    before = result()
    keep_freed_memory()
    assert torch.equal(result(), before)
