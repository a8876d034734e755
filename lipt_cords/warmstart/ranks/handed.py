"""Values on their way to a process that is being started, with their tensors.

torch hands each tensor over as a descriptor of shared memory, of which a process may send some 250
and hold some thousand. A net has as many small tensors, so these go by value; large ones, the data
set's, are moved to shared memory in place and not copied.
"""

from __future__ import annotations

import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

SMALL_BYTES = 2**20
"""Tensors below it are handed over by value."""
MOST_SHARED = 128
"""Large tensors that are shared; the others go by value."""


class Handed:
    """Values that a new process opens.

    Args:
        values: what pickle can hand over, with tensors anywhere in it.
    """

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __reduce__(self) -> Any:
        """Called while a process is started, which alone may be sent descriptors.

        Raises:
            ValueError: a value cannot be handed over.
        """
        buffer = io.BytesIO()
        try:
            _Pickler(buffer).dump(self._values)
        except Exception as error:  # what pickle raises depends on what the values hold
            raise ValueError(
                f"launch='processes' must hand model, data and loss to new processes, and cannot: "
                f"{error}. Define their classes and functions in a module, without lambdas; or set "
                "launch='serial', or run the script under torchrun"
            ) from error
        return _Received, (buffer.getvalue(),)


class _Received:
    """Handed values in the new process."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def open(self) -> Any:
        """The values.

        Raises:
            ValueError: this process cannot make them.
        """
        try:
            return pickle.loads(self._payload)
        except Exception as error:
            raise ValueError(
                f"a new process cannot make the model, data or loss that it was handed "
                f"({type(error).__name__}: {error}): define their classes and functions in a "
                "module that it can import, or set launch='serial'"
            ) from error


class _Pickler(ForkingPickler):
    """Pickles small storages by value, and shares large ones as torch does."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer)
        self._shared = 0

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not torch.UntypedStorage or value.device.type != "cpu":
            return NotImplemented
        if value.nbytes() >= SMALL_BYTES and self._shared < MOST_SHARED:
            self._shared += 1
            return NotImplemented
        return _storage_of, (_bytes_of(value),)


def _bytes_of(storage: torch.UntypedStorage) -> bytes:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()


def _storage_of(payload: bytes) -> torch.UntypedStorage:
    storage: torch.UntypedStorage = torch.empty(len(payload), dtype=torch.uint8).untyped_storage()
    if payload:
        values = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        torch.empty(0, dtype=torch.uint8).set_(storage).copy_(values)
    return storage
