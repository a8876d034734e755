"""The preset `lipt` against everything that competes with it: gradient signal, passes, bytes.

    python benchmarks/preset.py --data DIR --set fashion-mnist --output benchmarks/results
    python benchmarks/preset.py --data DIR --set cifar10-jpeg  --output benchmarks/results

ResNet-8 on a pool of 20,000 images; the signal and the references are those of frontier.py. Rows:
the preset with 16 workers, with half of its critical path, with small messages, with one merge, and
in one process; one worker of equal critical path with the same optimizer; data-parallel training
with the same optimizer and critical path; full-data warm-ups by SGD, at a constant rate, as CORDS
runs them, and annealed. Bytes of a merge are measured between four local processes with one worker
each, and scaled to 16 ranks.

Rows are written as they are finished, the most needed first; with ``--resume`` those that are
there with today's settings are kept.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.frontier import POOL, WORKERS, arguments, task_and_references
from benchmarks.gradient_signal import Task, quality, signal_of, train_plainly
from benchmarks.rows import origins
from lipt_cords import LiPTWarmStart
from lipt_cords.base.files import output_directory, read_json, write_json

CRITICAL = 13_200
"""Passes on the critical path of the preset with 16 workers on 20,000 samples."""
WHOLE: dict[str, Any] = {"kind": "lipt", "local_steps": 625, "common_steps": 200, "rounds": 40}
"""What the preset takes for 16 workers and 20,000 samples; said, as one pool is a little larger."""
HALF: dict[str, Any] = {"kind": "lipt", "local_steps": 312, "common_steps": 100, "rounds": 20}
ALONE: dict[str, Any] = {"kind": "lipt", "num_workers": 1, "common_steps": 0, "rounds": 1}
SGD: dict[str, Any] = {"kind": "full", "optimizer": "sgd", "batch": 64}
ROWS: dict[str, dict[str, Any]] = {
    "default": WHOLE,
    "half": HALF,
    "data-parallel, Muon": {
        "kind": "ddp", "optimizer": "muon", "batch": 16 * WORKERS, "schedule": "wsd", "lr": 0.06,
        "momentum": 0.6,
    },
    "one process": {**ALONE, "local_steps": 3750},
    "10 full epochs, SGD, annealed": {**SGD, "epochs": 10, "schedule": "cosine", "lr": 0.1},
    "int4": {**WHOLE, "codec": "int4"},
    "10 full epochs, SGD, constant": {**SGD, "epochs": 10, "schedule": "constant", "lr": 0.05},
    "one worker, equal critical path": {**ALONE, "local_steps": CRITICAL // 16},
    "int8": {**WHOLE, "codec": "int8"},
    "3 full epochs, SGD, annealed": {**SGD, "epochs": 3, "schedule": "cosine", "lr": 0.1},
    "one merge": {**WHOLE, "rounds": 1, "outer": "average"},
    "one merge, pruned": {**WHOLE, "rounds": 1, "outer": "average", "density": 0.8},
    "half, int4": {**HALF, "codec": "int4"},
    "lipt-once": {"kind": "lipt", "type": "lipt-once", "num_workers": WORKERS},
}  # fmt: skip
REPEATED = 9
"""So many rows, the first ones, have every seed; the others have one."""


def run(name: str, seed: int, task: Task, references: list[Any]) -> dict[str, Any]:
    """Train one row, and measure it at its end."""
    row = dict(ROWS[name])
    kind, model = row.pop("kind"), task.model(seed)
    began = time.perf_counter()
    if kind == "lipt":
        options = {"num_workers": WORKERS, **row}
        result = LiPTWarmStart(
            precision="bf16", device="cpu", launch="serial", progress=False, seed=seed, **options
        ).fit(model, task.train, task.probe)
        model = result.apply_to(model)
        critical, total = result.report.critical_path_passes, result.report.passes
        rounds = result.config.rounds if result.config.num_workers > 1 else 0
    else:
        divisor = WORKERS if kind == "ddp" else 1
        total = CRITICAL * WORKERS if kind == "ddp" else row["epochs"] * POOL
        train_plainly(
            model, task, batch=row["batch"], lr=row["lr"], schedule=row["schedule"], passes=total,
            seed=seed, optimizer=row["optimizer"], momentum=row.get("momentum", 0.9),
        )  # fmt: skip
        critical, rounds = total // divisor, total // row["batch"] if kind == "ddp" else 0
    seconds = time.perf_counter() - began
    signal = signal_of(model, task)
    return {
        "name": name,
        "seed": seed,
        **ROWS[name],
        "critical_path_passes": critical,
        "passes": total,
        "exchanges": rounds,
        "seconds": seconds,
        "accuracy": signal.accuracy,
        **quality(signal, references),
    }


def bytes_of_a_merge(task: Task) -> dict[str, int]:
    """Bytes that 16 ranks send in a merge, by each codec."""
    found = {}
    for codec in ("exact", "int8", "int4"):
        report = (
            LiPTWarmStart(
                num_workers=4, processes=4, local_steps=2, common_steps=1, rounds=2, threads=1,
                codec=codec, device="cpu", progress=False,
            )
            .fit(task.model(0), task.train, task.probe)
            .report
        )  # fmt: skip
        found[codec] = report.rounds[0].weight_bytes * (WORKERS - 1) // 3
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS))
    args = parser.parse_args()
    path = output_directory(args.output) / f"preset-{args.set}.json"
    torch.set_num_threads(1)
    began = time.monotonic()
    task, references = task_and_references(args)
    earlier = read_json(path) if args.resume and path.exists() else {}
    payload: dict[str, Any] = {
        "kind": "preset",
        "command": f"python benchmarks/preset.py --data DIR --set {args.set}",
        "set": args.set,
        "net": "resnet8 (width 16)",
        "workers": WORKERS,
        "pool": POOL,
        "bytes_of_a_merge_of_16_ranks": earlier.get("bytes_of_a_merge_of_16_ranks")
        or bytes_of_a_merge(task),
        "rows": [
            row for row in earlier.get("rows", []) if ROWS[row["name"]].items() <= row.items()
        ],
        **origins(earlier),
    }
    done = {(row["name"], row["seed"]) for row in payload["rows"]}
    wanted = [
        (name, seed)
        for seed in range(args.seeds)
        for place, name in enumerate(ROWS)
        if name in args.only and (seed == 0 or place < REPEATED)
    ]
    for name, seed in wanted:
        if (name, seed) in done or time.monotonic() - began > 60 * args.minutes:
            continue
        payload["rows"].append(run(name, seed, task, references))
        write_json(path, payload)
        row = payload["rows"][-1]
        print(
            f"{name}, seed {seed}: {row['critical_path_passes']:,} passes,",
            {k: round(v, 3) for k, v in row.items() if isinstance(v, float)},
            flush=True,
        )
    print(path)


if __name__ == "__main__":
    main()
