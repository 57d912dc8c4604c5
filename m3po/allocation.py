"""Keep freed memory for the next tensors instead of giving it back to the operating system at once."""

from __future__ import annotations

import ctypes
import sys

# glibc's names: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_ONE_GIBIBYTE = 1 << 30


def keep_freed_memory() -> bool:
    """Make glibc's malloc reuse blocks of up to 1 GiB; False where there is no glibc.

    By default every larger tensor is a fresh mapping whose pages the kernel zeroes on first touch, which costs more
    than the arithmetic on it. For the whole process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _ONE_GIBIBYTE)) and bool(mallopt(_TRIM_THRESHOLD, _ONE_GIBIBYTE))
