"""How ranks meet: they find each other, see that they were started alike, and name what follows.

The store in which they meet may hold all that an earlier attempt said in it: torch's agent keeps it
when it starts ranks again, and how often it did so differs between machines. So every rank draws a
word of its own, and what counts is a roster of rank 0 that holds the words of those who are here.
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
    """Give everyone what every rank says of itself.

    Rank 0 writes a roster of all that it has heard, anew whenever something changes; a rank that
    finds its own word in it confirms that roster; rank 0 ends the meeting when all have confirmed
    the same one. Ranks that say different things end it early, to find that out.

    Args:
        talk: a conversation that is used for nothing else.
        view: what this rank says.

    Returns:
        A name that no other meeting has, and what the ranks say.

    Raises:
        LostContact: a rank that should be there says nothing.
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
    """Rank 0's roster of all that has been said so far, written if it has changed."""
    hellos = {rank: talk.value_of(f"hello/{rank}") for rank in range(talk.size)}
    now = pickle.dumps({rank: pickle.loads(hello) for rank, hello in hellos.items() if hello})
    if now != before:
        talk.put("roster", now)
    return now
