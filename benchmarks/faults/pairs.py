"""Two equal commands on one folder: at once, and while the first is suspended."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress

from benchmarks.faults.bench import MOMENTS, ORPHAN_SECONDS, Bench, Verdict
from benchmarks.faults.ranks import OPTIONS, Job
from benchmarks.faults.runs import Run

TOLD_SECONDS = 1.0
"""In which the second command must be told."""
IN_USE = "is in use by another run"
LONGEST_SLEEP = 1.5 * OPTIONS["worker_timeout"]


def two_at_once(bench: Bench, draw: random.Random, trial: int) -> Verdict:
    """The same command twice, the second after a random delay."""
    verdict, job = Verdict(), bench.job(local=True, ranks=2)
    first = Run(job)
    delay = draw.choice([0.0, draw.uniform(0, 0.1), draw.uniform(0, 3)])
    time.sleep(delay)
    verdict.moment = f"after {delay:.2f} s"
    second = Run(bench.again(job))
    second.wait(bench.limit)
    first.wait(bench.limit)
    told = [one for one in (first, second) if judged(bench, job, one, verdict)]
    verdict.expect(len(told) < 2, "both were refused")
    bench.resume(job, verdict, bench.expected(job), first.finished(), draw)
    verdict.look_back(job, first, second)
    return verdict


def suspended(bench: Bench, draw: random.Random, trial: int) -> Verdict:
    """All processes of a command stand still for a while, and the same command is tried then."""
    verdict, job = Verdict(), bench.job(local=trial % 2 == 0, ranks=2)
    first, moment = Run(job), MOMENTS[1:][trial % (len(MOMENTS) - 1)]
    bench.strike(first, verdict, draw, moment, 0, lambda: to_all(first, signal.SIGSTOP))
    began = time.monotonic()
    asleep = draw.choice([draw.uniform(0, 1), draw.uniform(1, LONGEST_SLEEP)])
    verdict.moment += f", for {asleep:.1f} s"
    if "(over)" not in verdict.moment:
        second = Run(bench.again(job, local=True))
        second.wait(bench.limit)
        verdict.expect(judged(bench, job, second, verdict), "the second was not refused")
        verdict.expect(second.orphan_seconds < ORPHAN_SECONDS, "the second left orphans")
    time.sleep(max(0.0, asleep - (time.monotonic() - began)))
    to_all(first, signal.SIGCONT)
    verdict.seconds_to_end = first.wait(bench.limit)
    finished = first.finished()
    merged = bench.judge(first, verdict, bench.expected(job))
    verdict.expect(merged, f"did not merge after it was woken: {verdict.messages}")
    bench.resume(job, verdict, bench.expected(job), finished, draw)
    verdict.look_back(job, first)
    return verdict


def judged(bench: Bench, job: Job, run: Run, verdict: Verdict) -> bool:
    """Judge one of two commands; whether it was refused, which must be told within a second."""
    said = run.ranks().get(0, {})
    if said.get("ended") == "error" and IN_USE in said["text"]:
        verdict.messages.append(f"{said['type']}: ... {IN_USE} ...")
        verdict.expect(said["seconds"] < TOLD_SECONDS, f"told after {said['seconds']:.1f} s")
        return True
    bench.judge(run, verdict, bench.expected(job))
    return False


def to_all(run: Run, number: int) -> None:
    """Send a signal to all processes of a run, the parents first."""
    for pid in (*run.agents, *run.pids().values()):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
