"""Memory that a selection uses again and again.

Groups are solved one after the other with arrays of the same shapes. Fresh arrays of that size
come as fresh pages from the system, and touching those costs more than the arithmetic.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Scratch:
    """Arrays that one group after the other uses: fresh pages cost more than a step."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[Any]] = {}

    def array(self, name: str, *shape: int, dtype: type = np.float64) -> NDArray[Any]:
        """An array with whatever it held before; it takes the place of the last of this name."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name] = np.empty(size, dtype=dtype)
        return buffer[:size].reshape(shape)
