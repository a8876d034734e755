"""Memory that a training step frees is kept for the next step, not given back to the system.

glibc returns large blocks to the kernel when they are freed, and the kernel hands them out again
page by page, zeroed: a tenth of a small net's step on a CPU. Processes of our own (the commands,
local processes of a warm start) turn that off; a caller's process is the caller's.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """High-water marks since it was made.

    On Linux the process's own mark is set back, so runs in one process are told apart. Elsewhere
    it is that of the process since it began.

    Args:
        device: a GPU whose mark is wanted too.

    >>> peak = PeakMemory(torch.device("cpu")).read()
    >>> list(peak), peak["process"] > 2**20
    (['process'], True)
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        try:
            _CLEAR.write_text("5")
            self._since_now = True
        except OSError:
            self._since_now = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> dict[str, int]:
        """Bytes by ``process`` and, on a GPU, ``gpu``."""
        peak = {"process": self._process()}
        if self.device.type == "cuda":
            peak["gpu"] = torch.cuda.max_memory_allocated(self.device)
        return peak

    def _process(self) -> int:
        if self._since_now:
            with suppress(OSError):
                for line in _STATUS.read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        return 1024 * int(line.split()[1])
        high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return high if sys.platform == "darwin" else 1024 * high


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
