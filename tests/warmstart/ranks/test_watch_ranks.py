"""What follows from what local processes show: a result, an error that explains, or patience."""

from __future__ import annotations

from typing import Any

import pytest

from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.ranks import watch_ranks
from lipt_cords.warmstart.ranks.conversation import LostContact
from lipt_cords.warmstart.ranks.watch_ranks import SETTLE_SECONDS, RankView, Verdict, judge

CONFIG = WarmStartConfig(worker_timeout=10, join_timeout=100)
TOLERANT = WarmStartConfig(worker_timeout=10, join_timeout=100, min_workers=1)
TORN, LOST = ValueError("worker_00001 was changed"), LostContact("rank 1 made no progress")


def views(*given: dict[str, Any]) -> list[RankView]:
    return [RankView(rank, 100 + rank, **{"begun": True, **one}) for rank, one in enumerate(given)]


def said(error: Exception | None = None, **more: Any) -> dict[str, Any]:
    return {"spoke": True, "error": error, **more}


def verdict(*given: dict[str, Any], config: WarmStartConfig = CONFIG, **how: Any) -> Verdict | None:
    return judge(views(*given), config, **{"settled": 0.0, "last": True, **how})


def text(found: Verdict | None) -> str:
    assert found is not None and found.answer is None
    return f"{type(found.error).__name__}: {found.error}"


@pytest.mark.parametrize("config", [CONFIG, TOLERANT])
@pytest.mark.parametrize("other", [{}, {"quiet": 99.0}, {"exit_code": -9}, said(LOST)])
def test_the_result_of_rank_0_is_the_result_whatever_others_do(
    config: WarmStartConfig, other: dict[str, Any]
) -> None:
    assert verdict(said(answer="file"), other, config=config) == Verdict(answer="file")


def test_while_all_work_or_wait_nothing_follows() -> None:
    assert verdict({}, {"quiet": 10.0}) is None
    assert verdict({"begun": False, "quiet": 60.0}, {}) is None
    assert verdict({}, said()) is None  # the others are done before rank 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "rank 1 (pid 101) was killed by SIGKILL (often by too little memory)"),
        (0, "rank 1 (pid 101) ended with exit code 0 before its work was done"),
    ],
)
def test_a_death_is_worth_another_attempt_and_explains_what_others_say(
    code: int, words: str
) -> None:
    for other in ({}, said(LOST), {"quiet": 99.0}):
        found = verdict(other, {"exit_code": code}, last=False)
        assert found is not None and found.crash
        assert words in text(found)


def test_a_script_that_cannot_be_imported_is_not_started_again() -> None:
    found = verdict({"begun": False, "exit_code": 1}, {}, last=False)
    assert found is not None and not found.crash
    assert "rank 0 (pid 100) ended with exit code 1 before it began" in text(found)
    assert "if __name__ == '__main__':" in text(found)


def test_an_error_of_the_work_is_not_hidden_by_contacts_that_it_cost() -> None:
    assert verdict(said(LOST), said(TORN)) == Verdict(error=TORN)
    assert verdict({}, said(TORN)) is None  # others may be about to end by it too
    assert verdict({}, said(TORN), settled=SETTLE_SECONDS) == Verdict(error=TORN)
    assert verdict({"exit_code": -6}, said(TORN)) == Verdict(error=TORN)


def test_who_hangs_or_stands_still_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for told in ({"quiet": 14.0}, {"quiet": 9.0}):
        others = () if told["quiet"] > 13 else (said(LOST),)
        found = verdict(*(others or ({},)), told, {})
        assert text(found).startswith("LostContact: rank 1 (pid 101) hangs: no progress for 10 s")
    monkeypatch.setattr(watch_ranks, "is_stopped", lambda pid: pid == 101)
    assert "rank 1 (pid 101) stands still (SIGSTOP" in text(verdict({}, {"quiet": 14.0}))
    late = verdict({}, {"begun": False, "quiet": 113.0})
    assert "it did not begin within 100 s (join_timeout)" in text(late)


def test_a_lost_contact_that_nothing_explains_is_raised_itself() -> None:
    assert verdict(said(LOST), {}) is None
    assert verdict(said(LOST), {}, settled=SETTLE_SECONDS) == Verdict(error=LOST)


def test_with_min_workers_the_others_go_on_without_a_rank_that_is_lost() -> None:
    assert verdict({}, {"quiet": 99.0}, config=TOLERANT) is None
    assert verdict({}, said(LOST), config=TOLERANT, settled=99.0) is None
    assert "rank 0 (pid 100) hangs" in text(verdict({"quiet": 99.0}, {}, config=TOLERANT))
