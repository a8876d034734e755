"""The processes of a warm start: their work, their results, and exchanges of weights.

A group of one rank exchanges nothing, so the code that uses it reads the same with and without
processes. Errors are exchanged too: what one rank raises, every rank raises, so no rank waits for
ever.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lipt_cords.models.state import State
from lipt_cords.warmstart.ranks.conversation import Conversation, LostContact
from lipt_cords.warmstart.ranks.exchange import Exchange
from lipt_cords.warmstart.ranks.outcome import Outcome, outcome_of, pack

T = TypeVar("T")


class Ranks:
    """This process among those that share a warm start.

    Args:
        rank: the number of this process.
        size: how many there are.
        device: where this rank trains.
        channel: device of tensors to be exchanged: a GPU for NCCL, the CPU for Gloo.
        conversation: small messages between the ranks; None for a single rank.
        tolerant: whether the others continue when a rank is lost.
        on_progress: called at every progress of this rank; may raise, to stop.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        device: torch.device,
        channel: torch.device | None = None,
        conversation: Conversation | None = None,
        tolerant: bool = False,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._channel = channel or torch.device("cpu")
        self._talk, self._tolerant = conversation, tolerant
        self._on_progress = on_progress
        self._group: dist.ProcessGroup | None = None
        self._group_of: list[int] = list(range(size))
        self.weight_bytes = 0
        """Bytes of weights that all ranks exchanged."""
        self.message_bytes = 0
        """Bytes of small messages that all ranks exchanged, counted on this rank."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which makes the report and shows progress."""
        return self.rank == 0

    @property
    def live(self) -> list[int]:
        """The ranks that still take part, ascending; rank 0 always does."""
        return [0] if self._talk is None else list(self._talk.live)

    @property
    def bytes_communicated(self) -> int:
        """Bytes that the ranks exchanged, of weights and of messages."""
        return self.weight_bytes + self.message_bytes

    def progress(self) -> None:
        """Heartbeat: note progress of this rank."""
        self._on_progress()
        if self._talk is not None:
            self._talk.progress()

    def everywhere(self, work: Callable[[], T], step: str) -> list[T]:
        """Run work on every live rank and return all outcomes on every rank, in rank order.

        Args:
            work: returns what a message can carry (:func:`lipt_cords.base.messages.encode`).
            step: what it is, in words; ranks that are at different steps end with an error.

        Raises:
            Exception: the first rank's error, on every rank.
            LostContact: a rank or the network is lost, and the others may not continue.
        """
        if self._talk is None:
            return [work()]
        mine = _attempt(work)
        gathered = self._talk.gather(pack(mine), step, tolerate=self._tolerant)
        self.message_bytes += sum(map(len, gathered.values())) * len(gathered)
        outcomes = {rank: outcome_of(rank, part) for rank, part in gathered.items()}
        outcomes[self.rank] = mine  # its error keeps its traceback
        return [_value(outcome) for outcome in outcomes.values()]

    def on_main(self, work: Callable[[], T], step: str) -> T:
        """Run work on rank 0 and return its outcome on every rank, or raise its error there.

        Args:
            work: as in :meth:`everywhere`.
            step: as there.
        """
        if self._talk is None:
            return work()
        mine: Outcome = _attempt(work) if self.is_main else (None, None)
        word = self._talk.publish(pack(mine) if self.is_main else None, step)
        self.message_bytes += len(word) * (len(self.live) - 1)
        outcome: T = _value(mine if self.is_main else outcome_of(0, word))
        return outcome

    def broadcast(self, state: State, source: int = 0) -> State:
        """Send one rank's state dict to all, bit for bit, as one flat buffer.

        Args:
            state: the values on the source; on the others, anything of the same names and shapes.
            source: the rank that has it.
        """
        if self._talk is None:
            return state

        def send(group: dist.ProcessGroup | None) -> Tensor:
            buffer = _to_bytes(state).to(self._channel)
            dist.broadcast(buffer, src=source, group=group)
            return buffer

        size = sum(tensor.nbytes for tensor in state.values())
        buffer = self._collective(self._talk, send, f"{size} bytes of weights from rank {source}")
        self.weight_bytes += buffer.numel() * (len(self.live) - 1)
        return _from_bytes(buffer, state)

    def to_main(
        self, read: Callable[[], State], owner: int, like: State, step: str
    ) -> State | None:
        """Move one rank's state dict to rank 0, bit for bit; the others receive None.

        Args:
            read: returns the values; called only on the owner.
            owner: the rank that has them.
            like: names, shapes and dtypes, on every rank.
            step: as in :meth:`everywhere`.

        Raises:
            Exception: what reading raised on the owner, on every rank.
        """
        state: list[State] = []
        size = sum(tensor.nbytes for tensor in like.values())
        self.everywhere(lambda: state.append(read()) if self.rank == owner else None, step)
        if owner == 0:
            return state[0] if self.is_main else None
        if owner not in self.live:
            raise LostContact(
                f"rank {owner} was lost with weights that a trial soup needs: run again"
            )
        self.weight_bytes += size
        try:
            if self.rank == owner:
                dist.send(_to_bytes(state[0]).to(self._channel), dst=0, group=self._group)
            elif self.is_main:
                buffer = torch.empty(size, dtype=torch.uint8, device=self._channel)
                dist.recv(buffer, src=owner, group=self._group)
                return _from_bytes(buffer, like)
        except RuntimeError as error:
            raise self._broken_off(error) from error
        return None

    def exchange(self, work: Callable[[Exchange], T], step: str) -> T:
        """Exchange integers among the live ranks; repeated without ranks that are lost in it.

        Args:
            work: calls the collectives of :class:`Exchange`, the same ones on every rank. It may be
                called again, with fewer ranks, so it changes nothing but what it returns.
            step: as in :meth:`everywhere`.

        Raises:
            LostContact: a rank or the network is lost, and the others may not continue.
        """
        if self._talk is None:
            return work(Exchange(self.rank, [self.rank], self._channel))
        made: list[Exchange] = []

        def call(group: dist.ProcessGroup | None) -> T:
            made.append(Exchange(self.rank, self.live, self._channel, group))
            return work(made[-1])

        value = self._collective(self._talk, call, step)
        self.weight_bytes += made[-1].sent_bytes
        return value

    def publish_result(self, result: bytes) -> None:
        """On rank 0: store the result for ranks that were excluded but still run."""
        if self._talk is not None:
            self._talk.final_result(result)

    def left_out(self) -> bool:
        """Whether the others, who tolerate lost ranks, have gone on without this one."""
        return self._tolerant and self._talk is not None and self._talk.left_out()

    def fail(self, error: Exception) -> None:
        """Tell the other ranks that this one ends by an error of its own, so that they end too."""
        if self._talk is not None:
            self._talk.fail(pack((None, error)))

    def leave(self) -> None:
        """Say goodbye to the other ranks, at the end of the work."""
        if self._talk is not None:
            self._talk.leave()

    def wait_for_result(self) -> bytes:
        """On an excluded rank: wait for the result of rank 0."""
        if self._talk is None:
            raise LostContact("a single rank has no result of another rank to wait for")
        return self._talk.final_result(None)

    def _collective(
        self, talk: Conversation, call: Callable[[dist.ProcessGroup | None], T], step: str
    ) -> T:
        """Exchange among the live ranks, which check before it that all are present.

        Where lost ranks are tolerated they check again afterwards, and repeat the exchange without
        ranks that were lost during it.
        """
        for _ in range(self.size):
            talk.gather(b"", step, tolerate=self._tolerant)
            failure: RuntimeError | None = None
            try:
                value = call(self._live_group())
            except RuntimeError as error:
                failure = error
            if not self._tolerant:
                break
            # A group in which an exchange failed is not used again.
            words = talk.gather(b"failed" if failure else b"", f"after {step}", tolerate=True)
            if not any(words.values()):
                break
            self._group_of = []
        if failure is None:
            return value
        raise self._broken_off(failure) from failure

    def _broken_off(self, error: RuntimeError) -> LostContact:
        return LostContact(
            f"rank {self.rank}: an exchange of weights among ranks {self.live} broke off "
            f"({str(error).splitlines()[0]}): a rank died or the network is cut; run again (with "
            "work_dir the finished workers are kept)"
        )

    def _live_group(self) -> dist.ProcessGroup | None:
        """The process group of the live ranks: the given one as long as no rank is lost."""
        if self.live != self._group_of:
            self._group_of = self.live
            patience = self._talk.patience if self._talk is not None else 0
            group: Any = dist.new_group(
                self.live, timeout=timedelta(seconds=patience), use_local_synchronization=True
            )
            self._group = group
        return self._group


def _attempt(work: Callable[[], Any]) -> Outcome:
    try:
        return work(), None
    except LostContact:
        raise
    except Exception as error:
        return None, error


def _value(outcome: Outcome) -> Any:
    value, error = outcome
    if error is not None:
        raise error
    return value


def _by_itemsize(state: State) -> list[str]:
    """Names with wide dtypes first, so that every entry is aligned in a byte buffer.

    Equal on all ranks, whatever the order of their state dicts.
    """
    return sorted(state, key=lambda name: (-state[name].element_size(), name))


def _to_bytes(state: State) -> Tensor:
    parts = [state[name].contiguous().reshape(-1) for name in _by_itemsize(state)]
    return torch.cat([part.view(torch.uint8) for part in parts])


def _from_bytes(buffer: Tensor, like: State) -> State:
    state, offset = {}, 0
    for name in _by_itemsize(like):
        model = like[name]
        part = buffer[offset : offset + model.nbytes].view(model.dtype)
        state[name] = part.view(model.shape).to(model.device, copy=True)
        offset += model.nbytes
    return {name: state[name] for name in like}
