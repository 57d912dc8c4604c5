"""Freed memory is kept where there is glibc, and nothing is touched elsewhere."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from m3po.runs.allocation import keep_freed_memory

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_freed_blocks_are_used_again() -> None:
    assert faults("kept") < 19
    assert faults("not kept") >= 19  # at least one page a round, however large pages are


@pytest.mark.parametrize("system", ["darwin", "win32", "linux"])
def test_where_there_is_no_glibc_nothing_happens(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        assert system == "linux", f"{name} was loaded"
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert keep_freed_memory() is False
