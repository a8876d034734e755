"""Small messages between the ranks, through the store of torch.distributed.

A collective call waits in C++, where signals are not handled and the wait for a dead process may
never end. So ranks exchange messages first: every message is a key of the store, rank 0 gathers
them and decides which ranks take part, and only then do these exchange weights. A rank that makes
no progress for a while counts as lost. The store itself may be lost with the network; a thread of
its own makes all requests, so that this process can always stop waiting.

Waiting counts as progress, so two ranks that wait for different things would wait for ever: every
message has the name of its step, every heartbeat says for which step its rank waits, and ranks that
do not agree end with an error. A rank that fails alone says so, and the others end with its reason.
Messages hold plain values (:mod:`lipt_cords.base.messages`): whoever can write into the store can
disturb a run, but execute nothing.
"""

from __future__ import annotations

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

from lipt_cords.base.messages import decode, encode

T = TypeVar("T")

BEAT_SECONDS = 0.5
POLL_SECONDS = 0.002, 0.1
"""Shortest and longest pause between two looks at the store."""
PART_BYTES = 4 * 2**20
"""Largest value that is handed to the store at once; TCPStore refuses more than 8 MiB."""
LEAVE_SECONDS = 5.0
"""How long rank 0, which may hold the store, waits until the others have read its last words."""


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
        failed: Callable[[int, bytes], Exception] = lambda rank, reason: RuntimeError(rank),
    ) -> None:
        self.rank, self.size, self.patience = rank, size, patience
        self.live = list(range(size))
        """The ranks that take part."""
        self.bytes_sent = 0
        """Payload bytes that this rank has sent, counted once per reader."""
        self._store: Any = store  # its type stubs do not allow bytes
        self._number = 0
        self._read_by_all: list[str] = []
        self._progress, self.on_wait = 0, on_wait
        self._waits_for, self._failed, self._told = "", failed, False
        self._store_thread = _StoreThread(store, f"beat/{rank}", self._beat)

    def close(self) -> None:
        """End the thread; one that hangs in the network is not waited for."""
        self._store_thread.close()

    def progress(self) -> None:
        """Heartbeat: note progress of this rank; the others can read it within a second."""
        self._progress += 1

    def gather(self, payload: bytes, step: str, *, tolerate: bool = False) -> dict[int, bytes]:
        """Give all live ranks the payloads of all.

        Args:
            payload: of this rank.
            step: what is exchanged; equal on all ranks.
            tolerate: continue without lost ranks, and remove them from :attr:`live`.

        Raises:
            LostContact: a rank is lost, or the store.
            Excluded: the others continue without this rank.
            ValueError: another rank is at another step, or its message is not of this package.
            Exception: another rank has failed; its error.
        """
        number = self._next()
        if self.rank != 0:
            self._tell(f"{number}/{self.rank}", step, payload)
            return self._judged(self._from_main(number, step))
        others = {rank: f"{number}/{rank}" for rank in self.live[1:]}
        answers = self._await(others, f"{number} {step}")
        heard = {0: payload}
        for rank in sorted(answers):
            heard[rank] = _payload(_said(answers[rank], step, rank), rank)
        lost = sorted(set(self.live) - set(heard))
        verdict: dict[int, bytes] | str = heard
        if lost and not tolerate:
            verdict = (
                f"{rank_names(lost)} made no progress for {self.patience:g} s (worker_timeout): "
                "look at the logs there and run again; with min_workers the others would continue"
            )
        # A lost rank may come back late, and must still find the message for which it waited.
        for key in [] if lost else self._read_by_all:
            self._ask(partial(self._store.delete_key, key))
        self._tell(f"{number}/main", step, verdict, readers=len(self.live) - 1)
        read = [f"{number}/main", *(others[rank] for rank in heard if rank)]
        self._read_by_all = [] if lost else read
        return self._judged(verdict)

    def publish(self, payload: bytes | None, step: str) -> bytes:
        """Give all ranks the payload of rank 0.

        Args:
            payload: of rank 0; None elsewhere.
            step: what is exchanged; equal on all ranks.

        Raises:
            LostContact: rank 0 or the store is lost.
            ValueError: rank 0 is at another step, or its message is not of this package.
            Exception: another rank has failed; its error.
        """
        number = self._next()
        if payload is None:
            return _payload(self._from_main(number, step), 0)
        self._tell(f"{number}/main", step, payload, readers=len(self.live) - 1)
        return payload

    def final_result(self, payload: bytes | None) -> bytes:
        """The result, stored by rank 0 for ranks that were excluded but still run."""
        step = "the result for ranks that were left out"
        if payload is None:
            return _payload(self._said_by_main("result", step, f"result {step}"), 0)
        self._tell("result", step, payload)
        return payload

    def left_out(self) -> bool:
        """Whether the others have said, in the step that is next here, that this rank is lost."""
        with suppress(LostContact):
            said = self.value_of(f"{self._number}/main")
            if said:
                verdict = read_as(said, (str, object), "what rank 0 said")[1]
                return isinstance(verdict, dict) and self.rank not in verdict
        return False

    def fail(self, reason: bytes) -> None:
        """Tell the others that this rank ends by an error, and why, as far as that is possible.

        Not where that error is another rank's: all hear of the first.
        """
        if self._told:
            return
        with suppress(LostContact):  # then they do not hear it, and count this rank as lost
            self.put("failed", encode((self.rank, reason)))

    def leave(self) -> None:
        """Say goodbye; rank 0 stays until the others have read its last words, or have no time."""
        with suppress(LostContact):
            if self.rank != 0:
                self.put(f"left/{self.rank}", b"")
                return
            deadline, waiting = time.monotonic() + min(LEAVE_SECONDS, self.patience), self.live[1:]
            while waiting and time.monotonic() < deadline:
                waiting = [rank for rank in waiting if not self._has(f"left/{rank}")]
                time.sleep(POLL_SECONDS[0] if waiting else 0)

    def _next(self) -> int:
        self._number += 1
        return self._number - 1

    def _tell(self, key: str, step: str, said: Any, readers: int = 1) -> None:
        self.put(key, encode((step, said)), readers)

    def _judged(self, verdict: Any) -> dict[int, bytes]:
        if isinstance(verdict, str):
            raise LostContact(verdict)
        if not isinstance(verdict, dict) or not all(rank in self.live for rank in verdict):
            raise foreign("rank 0", f"a {type(verdict).__name__} where payloads by rank belong")
        if self.rank not in verdict:
            raise Excluded(
                f"rank {self.rank} made no progress for {self.patience:g} s (worker_timeout) and "
                "the others went on without its workers"
            )
        self.live = list(verdict)
        return {rank: _payload(said, rank) for rank, said in verdict.items()}

    def _from_main(self, number: int, step: str) -> Any:
        return self._said_by_main(f"{number}/main", step, f"{number} {step}")

    def _said_by_main(self, key: str, step: str, waits_for: str) -> Any:
        found = self._await({0: key}, waits_for)
        if not found:
            raise LostContact(
                f"rank 0 made no progress for {self.patience:g} s (worker_timeout): look at its "
                "log and run again"
            )
        return _said(found[0], step, 0)

    def _await(self, keys: dict[int, str], waits_for: str) -> dict[int, bytes]:
        """The values of keys by owner, without those whose owner counts as lost."""
        found: dict[int, bytes] = {}
        waiting = dict(keys)
        looked = time.monotonic()
        seen = dict.fromkeys(waiting, ("", looked))
        pause, longest = POLL_SECONDS
        self._waits_for = waits_for
        while waiting:
            self.progress()
            self.on_wait()
            self._take(waiting, found)
            now = time.monotonic()
            if waiting and now - looked > BEAT_SECONDS:
                looked = now
                for rank in list(waiting):
                    beat, changed = self._beat_of(rank), now
                    if beat == seen[rank][0]:
                        changed = seen[rank][1]
                    seen[rank] = (beat, changed)
                    if now - changed > self.patience:
                        del waiting[rank]
                failure = self._failure()
                # What was said before it counts: a rank that fails may have said why to all.
                self._take(waiting, found)
                if waiting and failure is not None:
                    raise failure
                for rank in waiting:
                    self._require_same_step(waits_for, rank, seen[rank][0])
            if waiting:
                time.sleep(pause)
                pause = min(pause * 1.5, longest)
        self._waits_for = ""
        return found

    def _take(self, waiting: dict[int, str], found: dict[int, bytes]) -> None:
        for rank in [rank for rank, key in waiting.items() if self._has(key)]:
            found[rank] = self._get(waiting.pop(rank))

    def _failure(self) -> Exception | None:
        """The error of another live rank that has failed."""
        if not self._has("failed"):
            return None
        rank, reason = read_as(self._get("failed"), (int, bytes), "the reason of a failure")
        self._told = rank in self.live and rank != self.rank
        return self._failed(rank, reason) if self._told else None

    def _require_same_step(self, mine: str, rank: int, beat: str) -> None:
        """Refuse that a rank waits at the same number for something else: both would for ever."""
        theirs = beat.partition(" ")[2]
        number, _, step = mine.partition(" ")
        other, _, there = theirs.partition(" ")
        if number == other and step != there:
            raise _disagree(rank, there, step)

    def _beat(self) -> str:
        return f"{self._progress} {self._waits_for}"

    def _beat_of(self, rank: int) -> str:
        key = f"beat/{rank}"
        if not self._has(key):
            return ""
        return bytes(self._ask(partial(self._store.get, key))).decode(errors="replace")

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
        parts, count = [first[4:]], int.from_bytes(first[:4], "big")
        for number in range(1, count):
            if not self._has(f"{key}+{number}"):
                raise foreign(f"key {key!r}", f"{count} parts are announced, and are not there")
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


def foreign(where: str, what: str) -> ValueError:
    """The error for bytes in the store that no rank of this run wrote."""
    return ValueError(
        f"the store of the ranks' messages holds something that no rank of this run and version of "
        f"lipt-cords wrote ({where}: {what}): use one version on all ranks, and a network that "
        "others cannot reach (docs/distributed.md)"
    )


def read_as(message: bytes, kinds: tuple[type, ...], where: str) -> Any:
    """The values of a message, checked to be of some types.

    Raises:
        ValueError: another message, or none at all.
    """
    try:
        said = decode(message)
    except ValueError as error:
        raise foreign(where, str(error)) from error
    if not isinstance(said, tuple) or len(said) != len(kinds):
        raise foreign(where, f"a {type(said).__name__} of another form")
    if not all(isinstance(each, kind) for each, kind in zip(said, kinds, strict=True)):
        raise foreign(where, f"{', '.join(type(each).__name__ for each in said)} in its place")
    return said


def _said(message: bytes, step: str, rank: int) -> Any:
    """What a rank said at a step."""
    there, said = read_as(message, (str, object), f"a message of rank {rank}")
    if there != step:
        raise _disagree(rank, there, step)
    return said


def _payload(said: Any, rank: int) -> bytes:
    if not isinstance(said, bytes):
        raise foreign(f"a message of rank {rank}", f"{type(said).__name__} in place of bytes")
    return said


def _disagree(rank: int, there: str, here: str) -> ValueError:
    return ValueError(
        f"the ranks do different things: rank {rank} exchanges {there!r}, and this one {here!r}. "
        "What you registered (a soup, a codec, an outer step) must do the same on every rank: draw "
        "by lipt_cords' generators or a fixed seed, and read the same files"
    )


class _StoreThread:
    """The thread that sends requests to the store, and heartbeats of this rank."""

    def __init__(self, store: Store, beat_key: str, beat: Callable[[], str]) -> None:
        self._store, self._beat_key, self._current = store, beat_key, beat
        self._sent, self._sent_at = "", 0.0
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
        now, beat = time.monotonic(), self._current()
        if beat == self._sent or now - self._sent_at < BEAT_SECONDS:
            return
        self._sent, self._sent_at = beat, now
        with suppress(RuntimeError):  # the next request reports the error
            self._store.set(self._beat_key, beat)


def rank_names(numbers: Collection[int]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, sorted(numbers)))}"
