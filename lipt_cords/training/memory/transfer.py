"""What a way to the host offers: transfers, their lateness, and the link that starts them."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Transfer(Protocol):
    """A storage that is swapped out: on the way to the host, there, or on the way back."""

    def fetch(self) -> None:
        """Start to fetch it, if not started."""

    def get(self) -> Tensor:
        """All its bytes on the device; what the step does next waits for them."""

    def stay(self) -> None:
        """It will not be fetched: its storage is kept, so it need not leave."""

    def settle(self) -> None:
        """Wait until it is on the host and its memory on the device is free."""

    @property
    def arrival(self) -> Arrival:
        """Its lateness; keeps none of its memory."""


class Arrival:
    """How late a storage came back."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._events: tuple[Any, Any] | None = None

    def between(self, wanted: Any, came: Any) -> None:
        """Set it from two timed events of a device, to be read later."""
        self._events = wanted, came

    def late(self) -> float:
        """Seconds that the step waited for it; call it after the step."""
        if self._events is not None:
            wanted, came = self._events
            came.synchronize()
            wanted.synchronize()
            self.seconds = max(0.0, wanted.elapsed_time(came) / 1000)
            self._events = None
        return self.seconds


class Link(Protocol):
    """Transfers between the device and the host, one at a time in each direction."""

    bandwidth: float
    """Bytes a second, each way."""

    def send(self, whole: Tensor) -> Transfer:
        """Start to copy all bytes of a storage to the host, then free it."""
