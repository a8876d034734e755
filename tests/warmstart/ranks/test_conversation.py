"""Ranks in threads over one store: foreign bytes, disagreement, and a rank that fails alone."""

from __future__ import annotations

import pickle
import threading
from datetime import timedelta

import pytest
import torch
from torch.distributed import HashStore

from lipt_cords.warmstart.ranks import conversation
from lipt_cords.warmstart.ranks.conversation import Conversation, Excluded, LostContact
from lipt_cords.warmstart.ranks.outcome import failed_elsewhere, pack, unpack
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.ranks.rendezvous import run_rendezvous

PATIENCE = 60.0
"""Seconds; whoever ends by it has waited for nothing, and the test fails."""
EXECUTED: list[str] = []


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Ranks look at each other often, so that no test waits for a heartbeat."""
    monkeypatch.setattr(conversation, "BEAT_SECONDS", 0.02)


class Attack:
    def __reduce__(self):
        return (EXECUTED.append, ("a pickle",))


def hostile():
    """A pickle in the two forms in which a value of the store begins."""
    code = pickle.dumps(Attack())
    return [code, (1).to_bytes(4, "big") + code]


def talk(store, rank, size=2, patience=PATIENCE):
    return Conversation(store, rank, size, patience, failed=failed_elsewhere)


def new_store():
    store = HashStore()
    store.set_timeout(timedelta(seconds=PATIENCE))
    return store


def together(work, size=2, store=None):
    """Run ranks in threads as ``open_ranks`` does; the error or the value of each."""
    store = store or new_store()
    ended: dict[int, object] = {}

    def run(rank):
        mine = talk(store, rank, size)
        ranks = Ranks(rank, size, torch.device("cpu"), conversation=mine)
        try:
            ended[rank] = work(ranks)
        except Exception as error:
            ended[rank] = error
            ranks.fail(error)
        ranks.leave()
        mine.close()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert len(ended) == size
    return [ended[rank] for rank in range(size)]


@pytest.mark.parametrize("key", ["0/1", "0/main", "1/main", "failed"])
@pytest.mark.parametrize("form", [0, 1])
def test_a_pickle_in_the_store_is_an_error_and_executes_nothing(key, form):
    looked = threading.Event()

    class Poisoned(HashStore):
        """A store into which a stranger has written, over what the ranks write."""

        def set(self, name, value):
            super().set(name, hostile()[form] if name == key else value)

        def get(self, name):
            if name == key:
                looked.set()
            return super().get(name)

    def work(ranks):
        if key == "failed" and ranks.rank == 0:
            assert looked.wait(PATIENCE)
        ranks.everywhere(lambda: ranks.rank, "first")
        return ranks.on_main(lambda: "word", "second")

    store = Poisoned()
    if key == "failed":
        store.set("failed", b"")
    errors = [error for error in together(work, store=store) if isinstance(error, Exception)]
    assert errors and not any(isinstance(error, LostContact) for error in errors)
    assert any("no rank of this run and version of lipt-cords wrote" in str(e) for e in errors)
    assert EXECUTED == []


@pytest.mark.parametrize("key", ["hello/1", "roster", "seen/1", "agreed", "hello/0"])
def test_a_pickle_at_the_rendezvous_executes_nothing(key):
    class Poisoned(HashStore):
        def set(self, name, value):
            super().set(name, hostile()[1] if name == key else value)

    store, ended = Poisoned(), []

    def join(rank):
        mine = talk(store, rank, patience=0.3)
        try:
            ended.append(run_rendezvous(mine, "alike"))
        except (ValueError, LostContact) as error:
            ended.append(error)
        mine.close()

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(ended) == 2 and any(isinstance(one, Exception) for one in ended)
    assert EXECUTED == []


def test_a_rank_that_fails_alone_ends_the_others_with_its_reason():
    def work(ranks):
        ranks.everywhere(lambda: None, "first")
        if ranks.rank == 1:
            raise ZeroDivisionError("my codec divides by nothing")
        return ranks.everywhere(lambda: None, "the sum of 5 torch.int32")

    first, second, third = together(work, size=3)
    assert isinstance(second, ZeroDivisionError)
    for other in (first, third):
        assert str(other) == "rank 1 failed: my codec divides by nothing"


def test_rank_0_that_fails_alone_ends_the_others_with_its_reason():
    def work(ranks):
        if ranks.rank == 0:
            raise ValueError("my outer step is torn")
        return ranks.on_main(lambda: None, "first")

    errors = together(work)
    assert [str(one) for one in errors] == [
        "my outer step is torn", "rank 0 failed: my outer step is torn",
    ]  # fmt: skip


@pytest.mark.parametrize("gatherer", [0, 1])
@pytest.mark.parametrize("before", [0, 1])
def test_ranks_that_do_different_things_are_told_which(gatherer, before):
    """Neither would ever hear what it waits for, and both wait, which counts as progress."""

    def work(ranks):
        for _ in range(before):
            ranks.everywhere(lambda: None, "the workers")
        if ranks.rank == gatherer:
            return ranks.everywhere(lambda: None, "the sum of 5")
        return ranks.on_main(lambda: None, "the trial of workers [0, 1]")

    errors = together(work)
    told = [str(one) for one in errors if "do different things" in str(one)]
    assert len(told) >= 1
    assert "'the sum of 5'" in told[0] and "'the trial of workers [0, 1]'" in told[0]
    assert all(isinstance(error, ValueError) for error in errors if error is not None)


def test_an_outcome_that_cannot_be_sent_says_why_on_every_rank():
    errors = together(lambda ranks: ranks.on_main(lambda: {"made": object()}, "odd"))
    assert "cannot carry object (found at it[1]['made'])" in str(errors[1])


@pytest.mark.parametrize(
    "values",
    [("error", "exec", ["1"]), ("error", "UnicodeDecodeError", []), ("error", "Exit", [1]), 5],
)
def test_only_errors_of_python_are_rebuilt(values):
    from lipt_cords.base.messages import encode

    with pytest.raises(ValueError, match=r"no |expected the outcome"):
        unpack(encode(values))
    assert isinstance(unpack(pack((None, LostContact("gone"))))[1], LostContact)


def test_a_rank_that_fails_alone_knows_whether_the_others_have_left_it_out():
    store = new_store()
    early, late = talk(store, 0, patience=0.05), talk(store, 1)
    ranks = Ranks(1, 2, torch.device("cpu"), conversation=late, tolerant=True)
    try:
        assert not ranks.left_out()  # nobody has said anything yet
        assert early.gather(b"mine", "the merge", tolerate=True) == {0: b"mine"}
        assert ranks.left_out()
        with pytest.raises(Excluded):
            late.gather(b"mine", "the merge", tolerate=True)
    finally:
        early.close()
        late.close()
