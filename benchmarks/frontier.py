"""From one merge to data-parallel training: gradient signal against passes against bytes.

    python benchmarks/frontier.py --data DIR --set fashion-mnist --output benchmarks/results
    python benchmarks/frontier.py --data DIR --set cifar10-jpeg  --output benchmarks/results

ResNet-8 on a pool of 20,000 images, 16 workers. Every model is compared with two long full-data
warm-ups (16 epochs, annealed): rank correlation of per-sample losses, cosine of class-mean
last-layer gradients, held-out loss. Its cost is sample-passes on the critical path (common start
and one worker) and bytes with a rank for each worker. The mark is the full-data warm-up of 10
epochs at a constant rate, as CORDS runs it; the annealed one stands beside it.

Rows are written as they are finished; with ``--resume`` those that are there are kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks import RESULTS
from benchmarks.gradient_signal import (
    Signal,
    Task,
    load_task,
    quality,
    refreshed,
    signal_of,
    train_plainly,
)
from lipt_cords import LiPTWarmStart
from lipt_cords.base.files import output_directory, read_json, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.base.tensor_files import load_tensors, save_tensors

SETS = {"fashion-mnist": "fashion-mnist", "cifar10-jpeg": "imagefolder:{data}/cifar10-images"}
WORKERS, POOL, EPOCHS = 16, 20_000, 10
COMMON = 200
"""Steps of the common start, of 16 samples each: 3,200 passes."""
SHORT, LONG = 400, 625
"""Steps of a worker over all rounds: 6,400 or 10,000 passes, five or eight epochs of its shard."""
WORKER_OPTIONS = {
    "batch_size": 16, "optimizer": "sgd", "lr": 0.1, "schedule": "wsd", "sparsity": "none",
}  # fmt: skip
NESTEROV = {"outer": "nesterov", "outer_lr": 1.0, "outer_momentum": 0.8}


def plan(seeds: int) -> list[dict[str, Any]]:
    """All rows, the most needed first."""
    full = {"kind": "full", "schedule": "constant", "batch": 64, "lr": 0.05}
    short = {"kind": "lipt", "local_steps": SHORT, "seed": 0}
    long = {"kind": "lipt", "local_steps": LONG, "rounds": 40, **NESTEROV}
    other = {"lr": 0.05, "batch": 16, "seed": 0}
    rows: list[dict[str, Any]] = [{**full, "seed": 0}, {**long, "seed": 0}]
    rows += [{**short, "rounds": rounds, **NESTEROV} for rounds in (32, 8)]
    rows += [{**short, "rounds": 1, "outer": "average"}, {**long, "seed": 1}]
    rows += [{"kind": "one worker", "schedule": kind, **other} for kind in ("constant", "cosine")]
    rows += [{"kind": "ddp", "schedule": "cosine", "batch": 16 * WORKERS, "lr": 0.2, "seed": 0}]
    rows += [{**short, "rounds": 16, **NESTEROV}, {**long, "seed": 2}, {**full, "seed": 1}]
    rows += [{**short, "rounds": rounds, **NESTEROV} for rounds in (4, 2)]
    rows += [{**full, "schedule": "cosine", "seed": 0}]
    rows += [{**short, "rounds": 32, **NESTEROV, "seed": seed} for seed in range(1, seeds)]
    rows += [{**short, "rounds": 32, "outer": "average"}, {**full, "batch": 16, "seed": 0}]
    return rows


def run(row: dict[str, Any], task: Task, references: list[Any]) -> dict[str, Any]:
    """Train one row, and measure it: at its end, and on the way."""
    model, points = task.model(row["seed"]), []
    state_bytes = sum(v.nbytes for v in model.state_dict().values() if v.is_floating_point())
    started = time.perf_counter()

    def measure(critical: int, trained: nn.Module, **more: Any) -> None:
        signal = quality(signal_of(trained, task), references)
        points.append({"critical_path_passes": critical, **signal, **more})

    if row["kind"] == "lipt":
        total, sent = lipt(row, task, measure, state_bytes)
    else:
        divisor = WORKERS if row["kind"] == "ddp" else 1
        passes = EPOCHS * POOL if row["kind"] == "full" else (COMMON + SHORT) * 16 * divisor
        epochs = range(POOL, passes, POOL) if row["kind"] == "full" else ()
        train_plainly(
            model, task, batch=row["batch"], lr=row["lr"], schedule=row["schedule"],
            seed=row["seed"], passes=passes, at=[*epochs],
            tell=lambda done, trained: measure(done // divisor, trained),
        )  # fmt: skip
        total = passes
        sent = 2 * (WORKERS - 1) * state_bytes * (passes // row["batch"]) * (divisor > 1)
    return {
        **row,
        "total_passes": total,
        "bytes_with_a_rank_a_worker": sent,
        "seconds": time.perf_counter() - started,
        "points": points,
        "end": points[-1],
    }


def lipt(
    row: dict[str, Any], task: Task, measure: Callable[..., None], state_bytes: int
) -> tuple[int, int]:
    """A warm start in this process; its merges are measured where workers were compared."""
    options = {name: value for name, value in row.items() if name not in ("kind", "seed")}
    model, scratch = task.model(row["seed"]), task.model(row["seed"])

    def on_round(report: Any, state: dict[str, torch.Tensor]) -> None:
        if report.stability is None:
            return
        scratch.load_state_dict(state)
        measure(report.critical_path_passes, refreshed(scratch, task), stability=report.stability)

    result = LiPTWarmStart(
        num_workers=WORKERS, common_steps=COMMON, precision="bf16",
        device="cpu", launch="serial", progress=False, probe_samples=500, seed=row["seed"],
        probe_every=max(1, row["rounds"] // 4), **WORKER_OPTIONS, **options,
    ).fit(model, task.train, task.probe, on_round=on_round)  # fmt: skip
    measure(result.report.critical_path_passes, result.apply_to(model))
    sent = (1 + 2 * row["rounds"]) * (WORKERS - 1) * state_bytes
    return result.report.passes, sent


def reference(task: Task, seed: int, cache: Path) -> Signal:
    """The signal of a long warm-up: 16 epochs on the whole pool, annealed; kept for another run."""
    path = output_directory(cache) / f"reference_{seed}.safetensors"
    if path.exists():
        return Signal(**load_tensors(path), accuracy=0.0)
    model = train_plainly(
        task.model(seed), task, batch=64, lr=0.1, schedule="cosine", passes=16 * POOL, seed=seed
    )
    signal = signal_of(model, task)
    tensors = {name: value for name, value in vars(signal).items() if name != "accuracy"}
    save_tensors(path, tensors)
    return signal


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("kind", "local_steps", "rounds", "outer", "schedule", "batch", "seed")
    return tuple(row.get(name) for name in names)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What a comparison of warm-ups is asked for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", default=None, help="folder of the data sets")
    parser.add_argument("--set", default="fashion-mnist", choices=list(SETS))
    parser.add_argument("--seeds", type=int, default=3, help="of the recommended setting")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no row after that long")
    parser.add_argument("--resume", action="store_true", help="keep rows that are there")
    parser.add_argument("--cache", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser


def task_and_references(args: argparse.Namespace) -> tuple[Task, list[Signal]]:
    """The data, and the signals of two long warm-ups on it."""
    task = load_task(SETS[args.set].format(data=args.data), args.data, POOL)
    return task, [reference(task, seed, args.cache / args.set) for seed in (100, 101)]


def main() -> None:
    args = arguments(__doc__).parse_args()
    path = output_directory(args.output) / f"frontier-{args.set}.json"
    torch.set_num_threads(1)
    started = time.monotonic()
    task, references = task_and_references(args)
    payload: dict[str, Any] = {
        "kind": "frontier",
        "command": f"python benchmarks/frontier.py --data DIR --set {args.set}",
        "set": args.set,
        "net": "resnet8 (width 16)",
        "workers": WORKERS,
        "pool": POOL,
        "worker_options": WORKER_OPTIONS | {"common_steps": COMMON},
        "between_the_references": quality(references[0], references[1:]),
        "rows": read_json(path)["rows"] if args.resume and path.exists() else [],
        "provenance": provenance(),
    }
    done = {identity(row) for row in payload["rows"]}
    for row in plan(args.seeds):
        if identity(row) in done or time.monotonic() - started > 60 * args.minutes:
            continue
        payload["rows"].append(run(row, task, references))
        write_json(path, payload)
        end = payload["rows"][-1]["end"]
        print(
            {k: v for k, v in row.items() if k not in ("outer_lr", "outer_momentum")},
            f"{end['critical_path_passes']:,} passes",
            {k: round(v, 3) for k, v in end.items() if isinstance(v, float)},
            flush=True,
        )
    print(path)


if __name__ == "__main__":
    main()
