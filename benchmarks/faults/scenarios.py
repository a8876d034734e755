"""The faults, one function each: start a run, strike, see how it ended, and run it again."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.faults.bench import CLEAR, MOMENTS, STOPPED, Bench, Verdict, unsound
from benchmarks.faults.pairs import suspended, two_at_once
from benchmarks.faults.ranks import ADDRESSES, OPTIONS
from benchmarks.faults.rigs import small_disk, two_hosts
from benchmarks.faults.runs import Run, lost
from benchmarks.faults.strikes import BLOWS, FILES, RANKS, leave, struck
from lipt_cords.base.files import read_json

WORKERS = OPTIONS["num_workers"]


def kill_rank(
    bench: Bench, draw: random.Random, trial: int, restarts: int = 0, local: bool = False
) -> Verdict:
    """Kill one rank, or where they may be started again, sometimes another one then."""
    verdict = Verdict()
    job = bench.job(restarts=restarts, local=local, ranks=draw.choice(RANKS))
    run, strikes = Run(job), []
    for number in range(1 + (restarts > 0 and draw.random() < 0.5)):
        rank = draw.randrange(job.ranks)
        moment = draw.choice(MOMENTS) if number else MOMENTS[trial % len(MOMENTS)]
        finished = bench.strike(
            run, verdict, draw, moment, rank, lambda one=rank: run.kill_rank(one)
        )
        strikes.append((finished, run.struck))
    verdict.seconds_to_end = run.wait(bench.limit)
    clear = r"Signal 9 \(SIGKILL\) received by PID \d+"
    bench.judge(run, verdict, bench.expected(job), clear)
    if restarts:
        verdict.expect(verdict.ended == "merged", f"did not merge by itself: {verdict.messages}")
        verdict.forget(sum(lost(run, finished, since) for finished, since in strikes))
    else:
        bench.resume(job, verdict, bench.expected(job), finished, draw)
    verdict.look_back(job, run)
    return verdict


def signal_agent(
    bench: Bench, draw: random.Random, trial: int, number: int, local: bool = False
) -> Verdict:
    """Kill the agent or the script, whose ranks must end too; or ask it to, as a scheduler does."""
    verdict, job = Verdict(), bench.job(local=local, ranks=draw.choice(RANKS))
    run, moment = Run(job), MOMENTS[trial % len(MOMENTS)]
    finished = bench.strike(
        run, verdict, draw, moment, draw.randrange(job.ranks),
        lambda: os.kill(run.agents[0], number),
    )  # fmt: skip
    verdict.seconds_to_end = run.wait(bench.limit)
    asked = rf"{STOPPED}|SignalException: .*|warm start written to \S+"
    clear = asked if number == signal.SIGTERM else ""
    if not bench.judge(run, verdict, bench.expected(job), clear):
        verdict.expect(run.codes.get(run.agents[0]) != 0, "the exit code says that all is well")
    bench.resume(job, verdict, bench.expected(job), finished, draw)
    verdict.look_back(job, *([run] if local else []))  # an agent's ranks end when they notice
    return verdict


def full_disk(bench: Bench, draw: random.Random, trial: int, local: bool = False) -> Verdict:
    """A work_dir on a disk whose size is around what the files need."""
    verdict, job = Verdict(), bench.job(local=local, ranks=draw.choice(RANKS))
    where = job.work_dirs[0]
    need = sum(-(-p.stat().st_size // 4096) for p in bench.clean.rglob("*") if p.is_file())
    pages = draw.randrange(2, need + 8)
    with small_disk(where, 4096 * pages):
        verdict.moment = f"{4 * pages} KiB, where a run leaves {4 * need} KiB"
        run = bench.ended(Run(job))
        if bench.judge(run, verdict, bench.expected(job)):
            notes = run.ranks()[0]["notes"]
            verdict.messages += [one for one in notes if "could not be written" in one]
        else:
            named = all(str(where) in one for one in verdict.messages)
            verdict.expect(named, f"an error names no path: {verdict.messages}")
        verdict.broken += unsound(where)
        finished = run.finished()
        subprocess.run(["mount", "-o", "remount,size=64m", str(where)], check=True)
        bench.resume(job, verdict, bench.expected(job), finished, draw)
        verdict.look_back(job, run)
    return verdict


def damaged_file(bench: Bench, draw: random.Random, trial: int, local: bool = False) -> Verdict:
    """A file of finished work that is truncated, changed in one bit, or another run's."""
    verdict, job = Verdict(), bench.job(local=local, ranks=draw.choice(RANKS))
    run, kind = Run(job), ("truncated", "changed", "foreign")[trial % 3]
    run.wait(bench.limit, until=lambda: bool(run.finished()))
    time.sleep(draw.uniform(0, 0.4))
    run.kill()
    newest = max(p.parent for p in job.work_dirs[0].glob("progress/round_*/*.json"))
    # After a merge the workers before it are not read any more.
    merge, workers = newest / "merge.json", sorted(newest.glob("worker_*.json"))
    record = merge if merge.exists() else draw.choice(workers)
    tensors = record.with_suffix(".safetensors")
    victim = draw.choice([record, tensors])
    if kind == "foreign":
        other = foreign(bench) / record.name
        for path in draw.choice([(record, tensors), (record,), (tensors,)]):
            shutil.copy(other.with_suffix(path.suffix), path)
    else:
        payload = bytearray(victim.read_bytes())
        if kind == "truncated":
            del payload[draw.randrange(len(payload) - 2) :]
        else:
            payload[draw.randrange(len(payload))] ^= 1 << draw.randrange(8)
        victim.write_bytes(payload)
    verdict.moment = f"{kind} {victim.parent.name}/{victim.name}"
    bench.judge(bench.ended(Run(bench.again(job))), verdict, bench.expected(job))
    verdict.expect(verdict.ended == "clear error", f"not refused, but {verdict.ended}")
    named = [m for m in verdict.messages if m.startswith("ValueError") and record.stem in m]
    verdict.expect(bool(named), f"the file is not named: {verdict.messages}")
    for path in (record, tensors):
        path.unlink()
    finished = run.finished() if record != merge else set()
    bench.resume(job, verdict, bench.expected(job), finished, draw)
    verdict.look_back(job)
    return verdict


def diverging_worker(bench: Bench, draw: random.Random, trial: int) -> Verdict:
    """A shard of finite inputs that are far too large, and in every other trial a killed rank."""
    options = {"batchnorm_refresh": "never", "common_steps": 0}  # these would read the shard
    huge = draw.randrange(WORKERS)
    verdict, job = Verdict(), bench.job(options=options, huge=huge, restarts=2)
    run, rank = Run(job), draw.randrange(job.ranks)
    if trial % 2:
        moment = MOMENTS[trial // 2 % len(MOMENTS)]
        bench.strike(run, verdict, draw, moment, rank, lambda: os.kill(run.pids()[rank], 9))
    verdict.seconds_to_end = run.wait(bench.limit)
    bench.judge(run, verdict, bench.expected(job))
    verdict.expect(verdict.ended == "merged", "did not merge without the worker")
    for one in run.ranks().values():
        left_out = one.get("left_out")
        verdict.expect(left_out == {str(huge): "weights are not finite"}, f"left out: {left_out}")
        verdict.messages = [f"worker {number}: {why}" for number, why in (left_out or {}).items()]
    return verdict


def late_rank(bench: Bench, draw: random.Random, trial: int) -> Verdict:
    """A rank that stands still for a while, when the others may go on without it."""
    options = {"min_workers": 2, "worker_timeout": 1.5}
    verdict, job = Verdict(), bench.job(options=options)
    run, rank = Run(job), (2, 1, 2, 0)[trial % 4]
    pause = bench.patience * (0.5 if trial % 3 == 2 else 3.0)
    verdict.moment = f"rank {rank} for {pause:g} s in"
    finished = bench.strike(
        run, verdict, draw, MOMENTS[1:][trial % 10], rank,
        lambda: os.kill(run.pids()[rank], signal.SIGSTOP),
    )  # fmt: skip
    time.sleep(pause)
    with suppress(ProcessLookupError):
        os.kill(run.pids()[rank], signal.SIGCONT)
    verdict.seconds_to_end = run.wait(bench.limit)
    expected = bench.expected(job)
    if bench.judge(run, verdict, None, STOPPED):
        expected = without_some(verdict, run, expected, range(rank, WORKERS, job.ranks))
    # What rank 0 holds cannot be merged without it.
    may_end = rank == 0 and pause > bench.patience
    verdict.expect(verdict.ended == "merged" or may_end, f"did not merge: {verdict.messages}")
    goes_on = None if lacking(run) else expected
    bench.resume(job, verdict, goes_on, finished, draw)
    verdict.look_back(job, run)
    return verdict


def cut_network(bench: Bench, draw: random.Random, trial: int, tolerant: bool) -> Verdict:
    """Two hosts, and the cable between them pulled at some moment, for good or for a while."""
    options = {"worker_timeout": 2.0, "join_timeout": 8.0}
    options |= {"min_workers": 2} if tolerant else {}
    verdict, job = Verdict(), bench.job(options=options, ranks=2)
    pause = (0.7, None, 5.0, None)[trial % 4]
    pause = pause and bench.patience * pause
    dirs = (job.work_dirs[0], draw.choice([job.work_dirs[0], job.folder / "work_1"]))
    verdict.moment = f"{f'for {pause:g} s' if pause else 'for good'}, disk " + (
        "shared, in" if dirs[0] == dirs[1] else "of each, in"
    )
    with two_hosts() as (hosts, cable):
        job = replace(job, work_dirs=dirs, namespaces=hosts, endpoint=f"{ADDRESSES[0]}:29400")
        run, moment = Run(job), MOMENTS[trial % len(MOMENTS)]
        finished = bench.strike(
            run, verdict, draw, moment, draw.randrange(4), lambda: cable("down")
        )
        if pause:
            time.sleep(pause)
            cable("up")
        verdict.seconds_to_end = (pause or 0) + run.wait(bench.limit)
    here = [run.ranks().get(rank, {}) for rank in (0, 1)]
    expected = bench.expected(job)
    everywhere = bench.judge(run, verdict, None, r"\w*Rendezvous\w*Error: .*|Signal 9 .*")
    for rank in (2, 3):
        said = told_without_the_store(run, rank)
        verdict.expect(said is not None, f"rank {rank}, without the store, left without a word")
        verdict.messages.append(f"rank {rank}, without the store: {said}")
    if all(one.get("ended") == "merged" for one in here):
        verdict.expect(here[0]["digest"] == here[1]["digest"], "two ranks of one side differ")
        theirs = [w for w in range(WORKERS) if w % 4 > 1]
        left_out = here[0]["left_out"]
        expected = without_some(verdict, run, expected, theirs)
        verdict.expect(tolerant or not left_out, "merged without workers, unasked")
        if not everywhere and verdict.ended == "clear error":
            verdict.ended = "merged"  # by the side with the store; the other one told why not
    elif tolerant and moment[0] != "join":  # before they have met nobody can go on
        verdict.broken.append(f"the side with the store did not merge: {here}")
    on_one = replace(job, namespaces=(None,), work_dirs=dirs[:1], endpoint="localhost:0")
    bench.resume(on_one, verdict, None if lacking(run) else expected, finished, draw)
    return verdict


def told_without_the_store(run: Run, rank: int) -> str | None:
    """What the second host's side says of one of its ranks; None for nothing that is clear.

    The ranks or their agent notice first that the store is gone, and the agent then ends the ranks:
    with SIGTERM, of which they write what they keep, or, if they are too slow or have only begun,
    without a word of theirs. Then the agent's own error counts.
    """
    one = run.ranks().get(rank, {})
    if one.get("ended") == "merged":
        return "merged"
    if one.get("ended") == "error":
        clear = str(one["type"]).startswith(CLEAR)
        return f"{one['type']}: {one['text']}" if clear else None
    log = (run.job.folder / "log_1").read_text(errors="replace")
    found = re.search(r"\w*Rendezvous\w*Error: .*|Signal (9|15) .*|SignalException: .*", log)
    return None if found is None else f"its agent ended it: {found.group(0)}"


LOCAL = "processes: "
PAIRS = {"two commands at once": two_at_once, "suspended and woken": suspended}
SCENARIOS: dict[str, Callable[[Bench, random.Random, int], Verdict]] = {
    "rank killed": kill_rank,
    "rank killed, restarts": partial(kill_rank, restarts=3),
    "agent killed": partial(signal_agent, number=signal.SIGKILL),
    "agent asked to stop": partial(signal_agent, number=signal.SIGTERM),
    "full disk": full_disk,
    "damaged file": damaged_file,
    "diverging worker": diverging_worker,
    "late rank": late_rank,
    "network cut": partial(cut_network, tolerant=False),
    "network cut, min_workers": partial(cut_network, tolerant=True),
    **{f"rank {name}": partial(struck, blow=blow, local=False) for name, blow in BLOWS.items()},
    **{name: partial(struck, blow=blow, local=False, on_disk=True) for name, blow in FILES.items()},
    LOCAL + "rank killed": partial(kill_rank, local=True),
    LOCAL + "rank killed, restarts": partial(kill_rank, restarts=3, local=True),
    LOCAL + "script killed": partial(signal_agent, number=signal.SIGKILL, local=True),
    LOCAL + "script asked to stop": partial(signal_agent, number=signal.SIGTERM, local=True),
    LOCAL + "full disk": partial(full_disk, local=True),
    LOCAL + "damaged file": partial(damaged_file, local=True),
    **{
        f"{LOCAL}rank {name}": partial(struck, blow=blow, local=True)
        for name, blow in BLOWS.items()
    },
    LOCAL + "rank leaves, restarts": partial(struck, blow=leave, local=True, restarts=2),
    **{
        LOCAL + name: partial(struck, blow=blow, local=True, on_disk=True)
        for name, blow in FILES.items()
    },
    **PAIRS,
}


def without_some(verdict: Verdict, run: Run, undisturbed: str, some: range | list[int]) -> str:
    """See that a merge names the workers that it is without, of those that may be missing.

    Returns:
        Digest of what was merged.
    """
    main = run.ranks()[0]
    left_out = main["left_out"]
    verdict.expect({int(one) for one in left_out} <= set(some), f"without others: {left_out}")
    equal = main["digest"] == undisturbed
    verdict.expect(equal == (not left_out), f"undisturbed bits: {equal}, without {left_out}")
    verdict.messages += [f"merged without worker {one}: {why}" for one, why in left_out.items()]
    return str(main["digest"])


def foreign(bench: Bench) -> Path:
    """The last round's files of a run with another seed."""
    if not hasattr(bench, "foreign"):
        other = bench.ended(Run(bench.job(options={"seed": 1})))
        bench.foreign = max(other.job.work_dirs[0].glob("progress/round_*"))  # type: ignore
    return bench.foreign  # type: ignore[attr-defined, no-any-return]


def lacking(run: Run) -> bool:
    """Whether a run that ended too early has stored a merge without some workers, as it may."""
    if all(one.get("ended") == "merged" for one in run.ranks().values()):
        return False
    records = map(read_json, run.job.work_dirs[0].glob("progress/**/*.json"))
    told = [one for record in records for one in record.get("details", {}).get("summaries", ())]
    return not all(one["kept"] for one in told)
