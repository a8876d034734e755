"""The rendezvous of the ranks: they check that all were started alike, and agree on a prefix.

The store may hold messages of an earlier attempt: torch's agent keeps the store when it starts
ranks again, and the number of restarts differs between machines. So every rank draws a random
identifier, and rank 0 publishes a roster with the identifiers of the present ranks.
"""

from __future__ import annotations

import hashlib
import pickle
import time
import uuid

from lipt_cords.warmstart.ranks.conversation import (
    POLL_SECONDS,
    Conversation,
    LostContact,
    rank_names,
)


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
    """
    mine, written = (uuid.uuid4().hex, view), b""
    talk.put(f"hello/{talk.rank}", pickle.dumps(mine))
    deadline, (pause, longest) = time.monotonic() + talk.patience, POLL_SECONDS
    while True:
        talk.on_wait()
        written = _roster_of_main(talk, written) if talk.rank == 0 else talk.value_of("roster")
        roster: dict[int, tuple[str, str]] = pickle.loads(written) if written else {}
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
    now = pickle.dumps({rank: pickle.loads(hello) for rank, hello in hellos.items() if hello})
    if now != before:
        talk.put("roster", now)
    return now
