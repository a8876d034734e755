"""One rank of several is struck at a random moment: by a signal, or in what it has on the disk.

The same faults fall on ranks of an agent and on local processes of a script, two to four of them.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.faults.bench import MOMENTS, STOPPED, Bench, Verdict
from benchmarks.faults.ranks import HANG, LEAVE, OPTIONS
from benchmarks.faults.runs import Run, lost
from lipt_cords.base.files import checksum, read_json

RANKS = (2, 3, 4)
QUIET = {"worker_timeout": 3.0}
"""Options of runs in which somebody waits until a rank counts as lost."""
SLACK_SECONDS = 8.0
"""Beyond the time-out: to notice it, to end what is left, and for a busy machine."""
LOST_BY_AGENT = r"Signal 9 \(SIGKILL\) received by PID \d+|exitcode: +[1-9-]\d*"

Blow = Callable[[Run, int, random.Random], None]


def kill(run: Run, rank: int, draw: random.Random) -> None:
    """The rank is killed."""
    run.kill_rank(rank)


def stop(run: Run, rank: int, draw: random.Random) -> None:
    """The rank is stopped for good."""
    os.kill(run.pids()[rank], signal.SIGSTOP)


def suspend(run: Run, rank: int, draw: random.Random) -> None:
    """The rank is stopped and goes on after a while, before or after the others lose it."""
    pid = run.pids()[rank]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(draw.uniform(0.1, 1.5 * QUIET["worker_timeout"]))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def leave(run: Run, rank: int, draw: random.Random) -> None:
    """The rank ends with exit code 0 in the middle of its work."""
    os.kill(run.pids()[rank], LEAVE)


def hang(run: Run, rank: int, draw: random.Random) -> None:
    """The rank waits for ever."""
    os.kill(run.pids()[rank], HANG)


def newest_files(run: Run) -> list[Path]:
    """Files of finished workers that are not merged yet."""
    rounds = sorted(run.job.work_dirs[0].glob("progress/round_*"))
    return [] if not rounds else sorted(rounds[-1].glob("worker_*"))


def vanish(run: Run, rank: int, draw: random.Random) -> None:
    """A file of a finished worker disappears while the run goes on."""
    found = newest_files(run)
    if not found:
        raise ProcessLookupError
    draw.choice(found).unlink(missing_ok=True)


def damage(run: Run, rank: int, draw: random.Random) -> None:
    """A bit of a file of a finished worker changes while the run goes on."""
    found = newest_files(run)
    if not found:
        raise ProcessLookupError
    path = draw.choice(found)
    with suppress(FileNotFoundError):
        payload = bytearray(path.read_bytes())
        payload[draw.randrange(len(payload))] ^= 1 << draw.randrange(8)
        path.write_bytes(payload)


def struck(
    bench: Bench,
    draw: random.Random,
    trial: int,
    blow: Blow,
    *,
    local: bool,
    restarts: int = 0,
    on_disk: bool = False,
) -> Verdict:
    """Strike one rank, see how the run ends, and run it again.

    Args:
        bench: where.
        draw: of the moment, the rank and the number of ranks.
        trial: number of the trial.
        blow: what happens to the rank.
        local: whether the ranks are local processes.
        restarts: how often all ranks may be started again.
        on_disk: the blow is to a file; a changed one is removed before the run is resumed.
    """
    verdict = Verdict()
    job = bench.job(options=QUIET, restarts=restarts, local=local, ranks=draw.choice(RANKS))
    run, rank = Run(job), draw.randrange(job.ranks)
    moment = draw.choice(MOMENTS[1:]) if on_disk else MOMENTS[trial % len(MOMENTS)]
    finished = bench.strike(run, verdict, draw, moment, rank, lambda: blow(run, rank, draw))
    verdict.moment += f", rank {rank} of {job.ranks}"
    since = run.struck
    if not local and blow in (stop, hang, leave):
        # torch's agent waits half a minute for such a rank, or for ever where the others are done.
        verdict.seconds_to_end = run.wait(bench.limit, until=lambda: run.others_ended(rank))
        with suppress(ProcessLookupError, KeyError):
            run.kill_rank(rank)
        if blow is leave:  # of a function it waits for the value; of a script the exit code is all
            ended = time.monotonic()
            run.wait(bench.limit, until=lambda: time.monotonic() > ended + bench.patience)
            run.stop_agents()
        run.wait(bench.limit)
    else:
        verdict.seconds_to_end = run.wait(bench.limit)
    expected = bench.expected(job)
    clear = "" if local else f"{STOPPED}|{LOST_BY_AGENT}"
    merged = bench.judge(run, verdict, expected, clear, without=rank)
    if restarts:
        verdict.expect(merged, f"did not merge by itself: {verdict.messages}")
        verdict.forget(lost(run, finished, since))
    joining = MOMENTS[trial % len(MOMENTS)][0] == "join" and not on_disk
    allowed = OPTIONS["join_timeout"] if joining else QUIET["worker_timeout"]
    waited = bench.patience * (allowed + SLACK_SECONDS)
    late = not merged and verdict.seconds_to_end > waited
    verdict.expect(not late, f"ended {verdict.seconds_to_end:.0f} s after the fault")
    if on_disk and not merged:
        for path in newest_files(run):
            if path.with_suffix(".json") not in whole(run):
                path.unlink(missing_ok=True)
        finished = run.finished()
    if not merged or run.killed:  # who was killed leaves its lock to the next run
        bench.resume(job, verdict, expected, finished, draw)
    verdict.look_back(job, run)
    return verdict


def whole(run: Run) -> list[Path]:
    """Records of finished workers whose two files are whole and belong together."""
    found = []
    for path in newest_files(run):
        with suppress(ValueError, KeyError):
            if path.suffix == ".json" and path.with_suffix(".safetensors").exists():
                record = read_json(path, must_be_sealed=True)
                if record["sha256"] == checksum(path.with_suffix(".safetensors")):
                    found.append(path)
    return found


BLOWS: dict[str, Blow] = {
    "stopped": stop, "suspended": suspend, "leaves": leave, "hangs": hang,
}  # fmt: skip
FILES: dict[str, Blow] = {"worker's file vanishes": vanish, "worker's file damaged": damage}
