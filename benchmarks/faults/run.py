"""Faults at random moments into real process groups, and whether the warm start keeps its promise.

    python benchmarks/faults/run.py --trials 20 --output benchmarks/results

The promise: every run ends, merged or with an error that says what happened; what a fault stopped
goes on under the same command to the same bits, whatever the number of ranks then; no worker that
was finished is trained again; no process outlives its parent, and no temporary file the next run.
Pairs of commands get twice as many trials. What needs root (a disk of its own, network namespaces)
is skipped by name where it is not permitted. Linux only.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks import RESULTS
from benchmarks.faults.bench import LIMIT, Bench, Verdict
from benchmarks.faults.ranks import OPTIONS
from benchmarks.faults.rigs import Skipped
from benchmarks.faults.scenarios import PAIRS, SCENARIOS
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance


def summary(verdicts: list[Verdict], seconds: list[float]) -> dict[str, Any]:
    """The figures of one scenario."""
    endings = Counter(one.ended for one in verdicts)
    resumed = [one.resumed_equal for one in verdicts if one.resumed_equal is not None]
    return {
        "trials": len(verdicts),
        "ended_merged": endings["merged"],
        "ended_with_clear_error": endings["clear error"],
        "ended_with_unclear_error": endings["unclear error"],
        "hung": endings["hung"],
        "resumed": len(resumed),
        "resumed_equal": sum(resumed),
        "finished_workers_lost": sum(one.finished_lost for one in verdicts),
        "orphans": sum(one.orphans for one in verdicts),
        "files_left": sum(one.files_left for one in verdicts),
        "wrong_bits": sum(one.wrong_bits for one in verdicts),
        "broken_promises": [f"{one.moment}: {text}" for one in verdicts for text in one.broken],
        "seconds": sum(seconds),
        "longest_seconds": max(seconds),
        "median_seconds_to_end": statistics.median(one.seconds_to_end for one in verdicts),
        "moments": [one.moment for one in verdicts],
        "messages": list(dict.fromkeys(text for one in verdicts for text in one.messages))[:8],
    }


def without_paths(value: Any, root: Path) -> Any:
    """The same figures without this machine's directories."""
    if isinstance(value, dict):
        return {key: without_paths(one, root) for key, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one, root) for one in value]
    if isinstance(value, str):
        return re.sub(rf"{re.escape(str(root))}/\d+/", "", value).replace(sys.prefix, "")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--quick", action="store_true", help="without the networks")
    parser.add_argument("--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds to the end of a run")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on all waits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and clean up
    directory = output_directory(args.output)
    scenarios: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lipt-cords-faults-") as folder:
        bench = Bench(Path(folder), args.limit, args.patience)
        for name in [one for one in args.only if not (args.quick and "network" in one)]:
            verdicts, seconds = [], []
            try:
                trials = args.trials * (2 if name in PAIRS else 1)
                for trial in range(args.first, args.first + trials):
                    began = time.monotonic()
                    draw = random.Random(f"{args.seed}/{name}/{trial}")
                    verdicts.append(SCENARIOS[name](bench, draw, trial))
                    seconds.append(time.monotonic() - began)
            except Skipped as reason:
                scenarios[name] = {"skipped": str(reason)}
                print(f"{name:28s} skipped: {reason}", flush=True)
                continue
            one = scenarios[name] = without_paths(summary(verdicts, seconds), bench.root)
            print(
                f"{name:28s} {one['trials']:3d} trials: {one['ended_merged']:3d} merged, "
                f"{one['ended_with_clear_error']:3d} clear errors, {one['hung']} hung, resumed "
                f"equal {one['resumed_equal']} of {one['resumed']}, {one['finished_workers_lost']} "
                f"finished workers lost, {one['orphans']} orphans, {one['files_left']} files left, "
                f"{one['wrong_bits']} wrong bits, {one['seconds']:.0f} s",
                *(f"\n    BROKEN {text}" for text in one["broken_promises"]),
                flush=True,
            )
    broken = sum(len(one.get("broken_promises", [])) for one in scenarios.values())
    payload = {
        "kind": "faults",
        "command": f"python benchmarks/faults/run.py --trials {args.trials} --seed {args.seed}"
        + (f" --patience {args.patience:g}" if args.patience != 1 else ""),
        "settings": {"trials": args.trials, "seed": args.seed, "first": args.first}
        | {"patience": args.patience}
        | OPTIONS,
        "scenarios": scenarios,
        "broken_promises": broken,
        "provenance": provenance(),
    }
    path = write_json(directory / "faults.json", payload)
    print(f"{broken} broken promises\n{path}")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
