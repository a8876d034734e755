"""What the processes of a warm start show of themselves, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lipt_cords.base.children import how_it_ended, is_stopped
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.ranks.conversation import LostContact

SETTLE_SECONDS = 2.0
"""After a rank's error: others may end by it too, or one may be seen to have caused it."""


@dataclass
class RankView:
    """What is known of one rank's process.

    Attributes:
        rank: its number.
        pid: of its process.
        begun: whether it has begun its work.
        quiet: seconds without progress; before it has begun, since it was started.
        answer: the file of the result; only of rank 0, and when it has merged.
        error: what it raised.
        exit_code: of its process, when that has ended.
        spoke: whether it said how its work ended.
    """

    rank: int
    pid: int
    begun: bool = False
    quiet: float = 0.0
    answer: str | None = None
    error: Exception | None = None
    exit_code: int | None = None
    spoke: bool = False

    @property
    def died(self) -> bool:
        """Whether its process ended without a word."""
        return self.exit_code is not None and not self.spoke

    @property
    def over(self) -> bool:
        """Whether nothing more will come from it."""
        return self.exit_code is not None or self.spoke

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid})"


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended.

    Attributes:
        answer: the file of the result, if rank 0 has merged.
        error: what to raise, if it has not.
        crash: whether a process was killed, so that another attempt may do better.
    """

    answer: str | None = None
    error: Exception | None = None
    crash: bool = False


def judge(
    views: Sequence[RankView], config: WarmStartConfig, settled: float, last: bool
) -> Verdict | None:
    """What follows from what is known; None: go on.

    A process that died explains what the others say, an error of the work explains a contact that
    was lost, and rank 0's result is the result, whatever the others do.

    Args:
        views: one a rank.
        config: ``worker_timeout``, ``join_timeout`` and ``min_workers``.
        settled: seconds since a rank raised an error.
        last: whether no other attempt may follow.
    """
    main = views[0]
    if main.spoke and main.error is None:
        return Verdict(answer=main.answer)
    died = [one for one in views if one.died]
    errors = [one for one in views if one.error is not None]
    own = [one for one in errors if not isinstance(one.error, LostContact)]
    # Others may go on without a rank that has lost them.
    lost = [one for one in errors if one not in own and (config.min_workers is None or one is main)]
    over = all(one.over for one in views) or settled >= SETTLE_SECONDS
    if died and not (own and last):
        return _of_death(died[0])
    if own and (over or died):
        return Verdict(error=own[0].error)
    needed = views if config.min_workers is None else [main]
    limit = {one.rank: _limit(one, config, lost) for one in needed}
    silent = [one for one in needed if not one.over and one.quiet > limit[one.rank]]
    if silent:
        quietest = max(silent, key=lambda one: one.quiet)
        return Verdict(error=LostContact(f"{_of_silence(quietest, config)}, and was ended"))
    if lost and over:
        return Verdict(error=lost[0].error)
    return None


def _limit(one: RankView, config: WarmStartConfig, lost: Sequence[RankView]) -> float:
    """Seconds without progress: as the other ranks wait, or more where they said nothing yet."""
    patience = config.worker_timeout if one.begun else config.join_timeout
    return 0.5 * patience if lost else 2.0 + 1.1 * patience


def _of_death(one: RankView) -> Verdict:
    code = one.exit_code if one.exit_code is not None else 0
    what = f"{one} {how_it_ended(code)}"
    if not one.begun and code >= 0:
        return Verdict(
            error=LostContact(
                f"{what} before it began: look at the output above (a script that starts processes "
                "needs `if __name__ == '__main__':`)"
            )
        )
    early = "" if code < 0 else " before its work was done (did something call sys.exit?)"
    return Verdict(error=LostContact(what + early), crash=True)


def _of_silence(one: RankView, config: WarmStartConfig) -> str:
    what = "stands still (SIGSTOP, SIGTSTP or a debugger)" if is_stopped(one.pid) else "hangs"
    if not one.begun:
        return f"{one} {what}: it did not begin within {config.join_timeout:g} s (join_timeout)"
    return f"{one} {what}: no progress for {config.worker_timeout:g} s (worker_timeout)"
