"""Memory that a training step frees is kept for the next step, not given back to the system.

glibc returns large blocks to the kernel when they are freed, and the kernel hands them out again
page by page, zeroed: a tenth of a small net's step on a CPU. Processes of our own (the commands,
local processes of a warm start) turn that off; a caller's process is the caller's.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = (1 << 30, 32 << 20)
"""Bytes of the largest block that is kept; an older glibc allows no more than the second."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; its peak memory is unchanged, and stays its own.

    Returns:
        Whether the C library can do so: glibc can, others may not need to.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    kept = any(mallopt(M_MMAP_THRESHOLD, largest) == 1 for largest in LARGEST_KEPT)
    return kept and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1) == 1
