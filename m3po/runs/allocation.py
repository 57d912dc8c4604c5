"""Keep freed memory for the next tensors instead of giving it back to the operating system at once."""

from __future__ import annotations

import ctypes
import sys

# glibc's names: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

# Older versions take no larger threshold for mappings than the second.
_MMAP_THRESHOLDS = (1 << 30, 32 << 20)


def keep_freed_memory() -> bool:
    """Make glibc's malloc reuse blocks of up to 1 GiB (32 MiB in older versions); False where there is no glibc.

    By default every larger tensor is a fresh mapping whose pages the kernel zeroes on first touch, which costs more
    than the arithmetic on it. For the whole process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    trimmed = bool(mallopt(_TRIM_THRESHOLD, _MMAP_THRESHOLDS[0]))
    return any(mallopt(_MMAP_THRESHOLD, threshold) for threshold in _MMAP_THRESHOLDS) and trimmed
