"""What the faults strike: trials in folders of their own, and how each of them ended."""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.faults.ranks import OPTIONS, Job, fit, summary_of
from benchmarks.faults.runs import Run, forked, lost
from lipt_cords.base.files import read_json
from lipt_cords.base.tensor_files import load_tensors
from lipt_cords.warmstart.resume.identity import code_hash

LIMIT = 45.0
"""Seconds after which a run counts as hung."""
ORPHAN_SECONDS = 2.0
"""Ranks that are left for so long after their parent's end are orphans."""
MOMENTS = [
    ("join", 0), ("workers", 1), ("soup", 0), ("save", 0), ("prepare", 0), ("workers", 0),
    ("common", 0), ("soup", 1), ("refresh", 0), ("workers", 2), ("soup", 2),
]  # fmt: skip
"""Phases, and the round, in which the faults fall in turn."""
STOPPED = "stopped by SIGTERM; what had finished is kept in [^:]*"
CLEAR = ("LostContact", "ValueError", "Interrupted")
"""Errors that say in words what happened and what to do; any other from a rank is unclear."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Verdict:
    """How one trial ended.

    Attributes:
        moment: when the fault struck, and what it was.
        ended: merged, clear error, unclear error, or hung.
        messages: what was said.
        broken: the promises that were not kept.
        resumed_equal: whether the same command gave the undisturbed bits afterwards.
        finished_lost: finished workers that were trained again.
        seconds_to_end: from the fault to the end of the last process.
        orphans: ranks that outlived whoever started them.
        files_left: temporary files after the last run.
        wrong_bits: merges of other weights than an undisturbed run has.
    """

    moment: str = ""
    ended: str = ""
    messages: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    resumed_equal: bool | None = None
    finished_lost: int = 0
    seconds_to_end: float = 0.0
    orphans: int = 0
    files_left: int = 0
    wrong_bits: int = 0

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note a promise that was not kept."""
        if not holds:
            self.broken.append(otherwise)

    def forget(self, workers: int) -> None:
        """Note finished workers that were trained again."""
        self.finished_lost += workers
        self.expect(workers == 0, f"{workers} finished workers were trained again")

    def look_back(self, job: Job, *runs: Run) -> None:
        """Note what runs of one command left: processes and files."""
        for run in runs:
            if run.orphan_seconds > ORPHAN_SECONDS:
                self.orphans += 1
                self.broken.append(f"ranks outlived their parent by {run.orphan_seconds:.1f} s")
        left = [path for where in job.work_dirs for path in where.rglob(".*")]
        left += job.scratch.glob("*lipt-cords*")
        self.files_left += len(left)
        self.broken += [f"left behind: {path.parent.name}/{path.name}" for path in left]


class Bench:
    """Where trials run, and what undisturbed runs give.

    Args:
        root: an empty directory.
        limit: seconds after which a run counts as hung.
        patience: how many times longer than usual ranks wait for each other, and the faults
            that keep them waiting last: on a busy machine a rank may be slow without a fault.
    """

    def __init__(self, root: Path, limit: float = LIMIT, patience: float = 1.0) -> None:
        # Ranks whose agent was killed become this process's children, which sees them end.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        code_hash()  # of the code that is imported, whatever becomes of the files
        self.root, self.limit, self.patience, self._count = root, limit, patience, 0
        self._digests: dict[str, str] = {}
        clean = self.job()
        run = self.ended(Run(clean))
        ended = [one.get("digest") for one in run.ranks().values()]
        if ended != [self.expected(clean)] * clean.ranks:
            raise RuntimeError(f"the undisturbed run failed:\n{run.report()}")
        phases = [(float(at), name) for at, rank, _, name in run.events("phase") if rank == "0"]
        self.lengths = {name: then - at for (at, name), (then, _) in pairwise(phases)}
        """Seconds that phases take."""
        self.clean = clean.work_dirs[0]
        """The files of a run that is over."""

    def job(self, options: Mapping[str, Any] | None = None, **changes: Any) -> Job:
        """A new job in folders of its own."""
        self._count += 1
        folder = self.root / f"{self._count:04d}"
        waits = {name: OPTIONS[name] for name in ("worker_timeout", "join_timeout")}
        given = {**waits, **(options or {})}
        given |= {name: self.patience * given[name] for name in waits}
        return replace(Job(folder, (folder / "work",)), options=given, **changes)

    def again(self, job: Job, **changes: Any) -> Job:
        """The same command once more, on the same work_dir."""
        return replace(job, folder=self.job().folder, **changes)

    def ended(self, run: Run) -> Run:
        """Wait for a run's end, which the limit brings about."""
        run.wait(self.limit)
        return run

    def expected(self, job: Job) -> str:
        """Digest of the merged weights of an undisturbed run in one process."""
        options = {
            k: v for k, v in job.options.items() if "timeout" not in k and k != "min_workers"
        }
        key = f"{sorted(options.items())} {job.huge}"
        if key not in self._digests:
            out, log = self.root / "serial", self.root / "log"
            pid = forked(
                lambda: out.write_text(summary_of(fit(job, "serial", None))["digest"]), log
            )
            os.waitpid(pid, 0)
            self._digests[key] = out.read_text()
        return self._digests[key]

    def strike(
        self,
        run: Run,
        verdict: Verdict,
        draw: random.Random,
        moment: tuple[str, int],
        rank: int,
        blow: Callable[[], object],
    ) -> set[tuple[str, str]]:
        """Do something when a rank is somewhere within a phase.

        Args:
            run: that goes on.
            verdict: the moment is stored there.
            draw: of the moment within the phase.
            moment: name of a phase, and how often it was entered before, since the last strike.
            rank: whose phase.
            blow: what to do.

        Returns:
            Round and worker of what was finished then.
        """
        name, number = moment

        def entered() -> bool:
            here = [e for e in run.events("phase") if e[1] == str(rank) and e[3] == name]
            return sum(float(e[0]) > run.struck for e in here) > number

        run.wait(self.limit, until=entered)
        time.sleep(draw.uniform(0, self.lengths.get(name, 0.05)))
        verdict.moment = " ".join(filter(None, [verdict.moment, name, str(number or "")]))
        finished = run.finished()
        try:
            blow()
        except (ProcessLookupError, KeyError):
            verdict.moment += " (over)"
        run.struck = time.monotonic()
        return finished

    def judge(
        self,
        run: Run,
        verdict: Verdict,
        expected: str | None,
        clear: str = "",
        without: int | None = None,
    ) -> bool:
        """Say how a run ended; whether it merged everywhere.

        Args:
            run: that has ended.
            verdict: to write into.
            expected: digest of the merged weights; None for one that is not known.
            clear: what in the agent's report is clear, where no rank could say anything.
            without: a rank that was struck after it was needed may be silent.
        """
        ranks, codes = run.ranks(), [run.codes.get(pid) for pid in run.agents]
        if run.hung:
            verdict.ended = "hung"
            verdict.broken.append(f"hung; the log ends: {run.report()[-4000:]}")
            return False
        everyone = len(ranks) == run.job.speakers
        merged = everyone and all(one.get("ended") == "merged" for one in ranks.values())
        if without is not None and not run.job.local and without not in ranks:
            everyone = len(ranks) == run.job.speakers - 1
            merged = everyone and all(one.get("ended") == "merged" for one in ranks.values())
            codes = [0] * len(codes) if merged else codes
        # An agent that was killed when all was done could not say so.
        if merged and set(codes) <= {0, -signal.SIGKILL}:
            verdict.ended = "merged"
            digests = {one["digest"] for one in ranks.values()}
            verdict.expect(len(digests) == 1, "the ranks merged different weights")
            verdict.expect(expected in (None, *digests), "merged weights differ from undisturbed")
            verdict.wrong_bits += len(digests) > 1 or expected not in (None, *digests)
            return True
        if run.job.local and set(codes) == {-signal.SIGKILL}:
            verdict.ended, said = "clear error", "the script was killed, and its ranks with it"
            verdict.messages.append(said)
            return False
        said = [f"{o['type']}: {o['text']}" for o in ranks.values() if o.get("ended") == "error"]
        unclear = [f"unclear: {one}" for one in said if not one.startswith(CLEAR)]
        found = re.search(clear, run.report()) if clear else None
        if not found and not any(one.startswith(CLEAR) for one in said):
            unclear.append(f"nothing clear in the log, which ends: {run.report()[-800:]}")
        verdict.ended = "unclear error" if unclear else "clear error"
        verdict.broken += unclear
        verdict.messages += said + ([found.group(0)] if found else [])
        return False

    def resume(
        self,
        job: Job,
        verdict: Verdict,
        expected: str | None,
        finished: set[tuple[str, str]],
        draw: random.Random,
    ) -> None:
        """Run the same command again, undisturbed, with some number of ranks.

        Args:
            job: what was run.
            verdict: to write into.
            expected: digest of the weights that it must give; None for one that is not known.
            finished: workers that it must not train.
            draw: of the number of ranks.
        """
        run = self.ended(Run(self.again(job, restarts=0, ranks=draw.choice([1, 2, 3, 4]))))
        after = Verdict()
        verdict.resumed_equal = self.judge(run, after, expected) and not after.broken
        verdict.wrong_bits += after.wrong_bits
        verdict.broken += [f"resumed: {one}" for one in after.broken]
        verdict.expect(after.ended == "merged", f"resumed: {after.ended} {after.messages}")
        verdict.forget(lost(run, finished))


def unsound(work_dir: Path) -> list[str]:
    """Files that are not whole, and those that were left half-written."""
    wrong = []
    for path in work_dir.rglob("*"):
        if path.name.startswith("."):
            wrong.append(f"left behind: {path.name}")
        elif path.is_file():
            try:
                (read_json if path.suffix == ".json" else load_tensors)(path)
            except ValueError as error:
                wrong.append(f"not whole: {error}")
    return wrong
