"""Small messages between the ranks, through the store of torch.distributed.

A collective call waits in C++, where signals are not handled and the wait for a dead process may
never end. So ranks exchange messages first: every message is a key of the store, rank 0 gathers
them and decides which ranks take part, and only then do these exchange weights. A rank that makes
no progress for a while counts as lost. The store itself may be lost with the network; a thread of
its own makes all requests, so that this process can always stop waiting.
"""

from __future__ import annotations

import itertools
import pickle
import queue
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

BEAT_SECONDS = 0.5
POLL_SECONDS = 0.002, 0.1
"""Shortest and longest pause between two looks at the store."""
PART_BYTES = 4 * 2**20
"""Largest value that is handed to the store at once; TCPStore refuses more than 8 MiB."""


class LostContact(ConnectionError):
    """Another process, or the store of the messages, does not respond."""


class Excluded(LostContact):
    """The others continue without this rank."""


class Conversation:
    """The messages of one rank.

    Args:
        store: shared by all ranks, with its own prefix.
        rank: the number of this process.
        size: how many there are.
        patience: seconds without progress after which a rank counts as lost; seconds without an
            answer after which the store does.
        on_wait: called while waiting; may raise, to stop waiting.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        patience: float,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank, self.size, self.patience = rank, size, patience
        self.live = list(range(size))
        """The ranks that take part."""
        self.bytes_sent = 0
        """Payload bytes that this rank has sent, counted once per reader."""
        self._store: Any = store  # its type stubs do not allow bytes
        self._numbers = itertools.count()
        self._read_by_all: list[str] = []
        self._progress, self.on_wait = 0, on_wait
        self._store_thread = _StoreThread(store, f"beat/{rank}", lambda: self._progress)

    def close(self) -> None:
        """End the thread; one that hangs in the network is not waited for."""
        self._store_thread.close()

    def progress(self) -> None:
        """Heartbeat: note progress of this rank; the others can read it within a second."""
        self._progress += 1

    def gather(self, payload: bytes, *, tolerate: bool = False) -> dict[int, bytes]:
        """Give all live ranks the payloads of all.

        Args:
            payload: of this rank.
            tolerate: continue without lost ranks, and remove them from :attr:`live`.

        Raises:
            LostContact: a rank is lost, or the store.
            Excluded: the others continue without this rank.
        """
        number = next(self._numbers)
        if self.rank != 0:
            self.put(f"{number}/{self.rank}", payload)
            return self._judged(pickle.loads(self._from_main(f"{number}/verdict")))
        others = {rank: f"{number}/{rank}" for rank in self.live[1:]}
        heard = {0: payload} | self._await(others)
        lost = sorted(set(self.live) - set(heard))
        verdict: Any = dict(sorted(heard.items()))
        if lost and not tolerate:
            verdict = LostContact(
                f"{rank_names(lost)} made no progress for {self.patience:g} s (worker_timeout): "
                "look at the logs there and run again; with min_workers the others would continue"
            )
        # A lost rank may come back late, and must still find the message for which it waited.
        for key in [] if lost else self._read_by_all:
            self._ask(partial(self._store.delete_key, key))
        self.put(f"{number}/verdict", pickle.dumps(verdict), readers=len(self.live) - 1)
        read = [f"{number}/verdict", *(others[rank] for rank in heard if rank)]
        self._read_by_all = [] if lost else read
        return self._judged(verdict)

    def publish(self, payload: bytes | None) -> bytes:
        """Give all ranks the payload of rank 0.

        Args:
            payload: of rank 0; None elsewhere.

        Raises:
            LostContact: rank 0 or the store is lost.
        """
        key = f"{next(self._numbers)}/word"
        if payload is None:
            return self._from_main(key)
        self.put(key, payload, readers=len(self.live) - 1)
        return payload

    def final_result(self, payload: bytes | None) -> bytes:
        """The result, stored by rank 0 for ranks that were excluded but still run."""
        if payload is None:
            return self._from_main("result")
        self.put("result", payload)
        return payload

    def _judged(self, verdict: Any) -> dict[int, bytes]:
        if isinstance(verdict, LostContact):
            raise verdict
        if self.rank not in verdict:
            raise Excluded(
                f"rank {self.rank} made no progress for {self.patience:g} s (worker_timeout) and "
                "the others went on without its workers"
            )
        self.live = list(verdict)
        return dict(verdict)

    def _from_main(self, key: str) -> bytes:
        found = self._await({0: key})
        if not found:
            raise LostContact(
                f"rank 0 made no progress for {self.patience:g} s (worker_timeout): look at its "
                "log and run again"
            )
        return found[0]

    def _await(self, keys: dict[int, str]) -> dict[int, bytes]:
        """The values of keys by owner, without those whose owner counts as lost."""
        found: dict[int, bytes] = {}
        waiting = dict(keys)
        looked = time.monotonic()
        seen = dict.fromkeys(waiting, (b"", looked))
        pause, longest = POLL_SECONDS
        while waiting:
            self.progress()
            self.on_wait()
            for rank in [r for r, key in waiting.items() if self._has(key)]:
                found[rank] = self._get(waiting.pop(rank))
            now = time.monotonic()
            if now - looked > BEAT_SECONDS:
                looked = now
                for rank in list(waiting):
                    beat, changed = self._beat_of(rank), now
                    if beat == seen[rank][0]:
                        changed = seen[rank][1]
                    seen[rank] = (beat, changed)
                    if now - changed > self.patience:
                        del waiting[rank]
            if waiting:
                time.sleep(pause)
                pause = min(pause * 1.5, longest)
        return found

    def _beat_of(self, rank: int) -> bytes:
        key = f"beat/{rank}"
        return bytes(self._ask(partial(self._store.get, key))) if self._has(key) else b""

    def value_of(self, key: str) -> bytes:
        """The value of a key; empty if it is not set."""
        return self._get(key) if self._has(key) else b""

    def _has(self, key: str) -> bool:
        return bool(self._ask(partial(self._store.check, [key])))

    def put(self, key: str, payload: bytes, readers: int = 1) -> None:
        """Write a value in parts; the first part is written last and holds their number."""
        self.bytes_sent += len(payload) * max(readers, 0)
        parts = [payload[at : at + PART_BYTES] for at in range(0, len(payload), PART_BYTES)]
        for number, part in list(enumerate(parts))[1:]:
            self._ask(partial(self._store.set, f"{key}+{number}", part))
        first = len(parts).to_bytes(4, "big") + (parts[0] if parts else b"")
        self._ask(partial(self._store.set, key, first))

    def _get(self, key: str) -> bytes:
        first = bytes(self._ask(partial(self._store.get, key)))
        parts = [first[4:]]
        for number in range(1, int.from_bytes(first[:4], "big")):
            parts.append(bytes(self._ask(partial(self._store.get, f"{key}+{number}"))))
        return b"".join(parts)

    def _ask(self, request: Callable[[], T]) -> T:
        """Send a request by the thread; without an answer the store counts as lost."""
        answer = self._store_thread.ask(request)
        try:
            for _ in range(9):  # this process may have been paused: then the store is not at fault
                with suppress(FutureTimeout):
                    return answer.result(timeout=self.patience / 10)
            return answer.result(timeout=self.patience / 10)
        except (FutureTimeout, RuntimeError) as error:  # torch's network errors are RuntimeErrors
            reason = str(error).splitlines()[0] if str(error) else "no answer"
            raise LostContact(
                f"rank {self.rank} lost contact with the store of the ranks' messages "
                f"({reason}): the network is cut, or the process that holds it is gone; run again"
            ) from error


class _StoreThread:
    """The thread that sends requests to the store, and heartbeats of this rank."""

    def __init__(self, store: Store, beat_key: str, progress: Callable[[], int]) -> None:
        self._store, self._beat_key, self._progress = store, beat_key, progress
        self._sent, self._sent_at = -1, 0.0
        self._requests: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._serve, name="lipt-store", daemon=True)
        self._thread.start()

    def ask(self, request: Callable[[], T]) -> Future[T]:
        answer: Future[T] = Future()
        self._requests.put((request, answer))
        return answer

    def close(self) -> None:
        self._requests.put(None)
        self._thread.join(timeout=1.0)

    def _serve(self) -> None:
        while True:
            self._beat()
            try:
                request = self._requests.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                continue
            if request is None:
                return
            work, answer = request
            try:
                answer.set_result(work())
            except BaseException as error:
                answer.set_exception(error)

    def _beat(self) -> None:
        now, progress = time.monotonic(), self._progress()
        if progress == self._sent or now - self._sent_at < BEAT_SECONDS:
            return
        self._sent, self._sent_at = progress, now
        with suppress(RuntimeError):  # the next request reports the error
            self._store.set(self._beat_key, str(progress))


def rank_names(numbers: Collection[int]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, sorted(numbers)))}"
