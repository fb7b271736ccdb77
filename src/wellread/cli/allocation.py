"""Freed memory stays with the process.

By default glibc gives a large block back to the system as soon as it is freed. Reading makes the same large blocks
again in every batch, and the system has to find and clear their pages each time.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# Parameters of mallopt(3).
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
NEVER = -1
AHEAD = 64 << 20  # bytes asked of the system at a time


def keep_freed_memory() -> bool:
    """Tell this process's allocator so; False where it has no such settings (macOS, Windows, musl)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):
        return False
    return all(mallopt(name, value) for name, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER), (TOP_PAD, AHEAD)))
