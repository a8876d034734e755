"""The rendezvous of the ranks: they check that all were started alike, and agree on a prefix.

The store may hold messages of an earlier attempt: torch's agent keeps the store when it starts
ranks again, and the number of restarts differs between machines. So every rank draws a random
identifier, and rank 0 publishes a roster with the identifiers of the present ranks.
"""

from __future__ import annotations

import hashlib
import time
import uuid

from lipt_cords.base.messages import encode
from lipt_cords.warmstart.ranks.conversation import (
    POLL_SECONDS,
    Conversation,
    LostContact,
    foreign,
    rank_names,
    read_as,
)

Roster = dict[int, tuple[str, str]]
"""Identifier and description of every rank that is known."""


def run_rendezvous(talk: Conversation, view: str) -> tuple[str, dict[int, str]]:
    """Give all ranks the descriptions of all.

    Rank 0 writes a roster of the ranks that it knows, again after every change; a rank that finds
    its own identifier in it confirms that roster; rank 0 ends the rendezvous when all have
    confirmed the same one. It ends early if the descriptions differ.

    Args:
        talk: a conversation that is only used for this.
        view: the description of this rank.

    Returns:
        A name that no other rendezvous has, and the descriptions by rank.

    Raises:
        LostContact: a rank does not answer.
        ValueError: what another rank should have written is not of this version of this package.
    """
    mine, written = (uuid.uuid4().hex, view), b""
    talk.put(f"hello/{talk.rank}", encode(mine))
    deadline, (pause, longest) = time.monotonic() + talk.patience, POLL_SECONDS
    while True:
        talk.on_wait()
        written = _roster_of_main(talk, written) if talk.rank == 0 else talk.value_of("roster")
        roster = _read(written)
        name = hashlib.sha256(written).hexdigest()[:16]
        views = {rank: said for rank, (_, said) in roster.items()}
        here = {talk.rank}
        if roster.get(talk.rank) == mine:
            if talk.rank == 0:
                here |= {r for r in roster if r and talk.value_of(f"seen/{r}") == name.encode()}
                if len(here) == talk.size or len({views[r] for r in here}) > 1:
                    talk.put("agreed", name.encode())
                    return name, views
            else:
                here = set(roster)
                talk.put(f"seen/{talk.rank}", name.encode())
                if talk.value_of("agreed") == name.encode():
                    return name, views
        if time.monotonic() > deadline:
            missing = set(range(talk.size)) - here
            raise LostContact(f"nothing was heard of {rank_names(missing or {0})}")
        time.sleep(pause)
        pause = min(pause * 1.5, longest)


def _roster_of_main(talk: Conversation, before: bytes) -> bytes:
    """Rank 0's roster of all ranks so far, written if it has changed."""
    hellos = {rank: talk.value_of(f"hello/{rank}") for rank in range(talk.size)}
    roster = {
        rank: read_as(hello, (str, str), f"the presence of rank {rank}")
        for rank, hello in hellos.items()
        if hello
    }
    now = encode((roster,))
    if now != before:
        talk.put("roster", now)
    return now


def _read(written: bytes) -> Roster:
    if not written:
        return {}
    (roster,) = read_as(written, (dict,), "the roster")
    for rank, known in roster.items():
        of_strings = isinstance(known, tuple) and [type(each) for each in known] == [str, str]
        if not isinstance(rank, int) or not of_strings:
            raise foreign("the roster", f"{known!r:.80} for rank {rank!r:.20}")
    return dict(roster)
