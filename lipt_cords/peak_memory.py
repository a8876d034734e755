"""The most memory that a stretch of work took: of the process, and of a GPU."""

from __future__ import annotations

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
