"""Keep memory that a training step frees for the next step; peak memory, and what is free.

glibc returns large blocks to the kernel when they are freed, and the kernel hands them out again
page by page, zeroed: this takes a tenth of a small net's step on a CPU. Our own processes
(commands, local processes of a warm start) turn this off; in a caller's process nothing is changed.
A command does so before it knows whether it needs torch, so torch is imported where it is asked.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """Peak memory since it was made.

    On Linux the peak of the process is reset, so runs in one process are measured separately.
    Elsewhere it is the peak since the process began.

    Args:
        device: if it is an accelerator, its peak is measured too.

    >>> import torch
    >>> peak = PeakMemory(torch.device("cpu")).read()
    >>> list(peak), peak["process"] > 2**20
    (['process'], True)
    """

    def __init__(self, device: torch.device) -> None:
        from lipt_cords.base.devices import reset_peak

        self.device = device
        try:
            _CLEAR.write_text("5")
            self._since_now = True
        except OSError:
            self._since_now = False
        reset_peak(device)

    def read(self) -> dict[str, int]:
        """Bytes by ``process`` and, on a GPU, ``gpu``."""
        from lipt_cords.base.devices import peak_bytes

        peak = {"process": self._process()}
        there = peak_bytes(self.device)
        return peak if there is None else {**peak, "gpu": there}

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
"""Bytes of the largest block that is kept; older versions of glibc allow only the second."""


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees; its peak memory is unchanged.

    Returns:
        Whether the C library supports it: glibc does, others may not need it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    kept = any(mallopt(M_MMAP_THRESHOLD, largest) == 1 for largest in LARGEST_KEPT)
    return kept and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1) == 1


_UNKNOWN_FREE_BYTES = 1 << 31


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on a device."""
    from lipt_cords.base.devices import free_accelerator_bytes, is_accelerator

    if is_accelerator(device):
        there = free_accelerator_bytes(device)
        return _UNKNOWN_FREE_BYTES if there is None else there
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _UNKNOWN_FREE_BYTES
