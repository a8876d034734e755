"""Time and memory of choosing without training as the pool grows: difficulty, then coverage.

    python benchmarks/closed_form_scale.py --rows 250000 500000 1000000

Rows of 512 features in clumps, 100 classes, made by the script. Each size runs in a process of its
own: leave-one-out ridge regression with its strength found, then 5 % by k-means among the easier
half. Times are of the processor, all threads together; peak memory is that of the process, the
features included. Set OMP_NUM_THREADS for the number of threads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.rows import add
from lipt_cords import leave_one_out, select
from lipt_cords.base.files import output_directory
from lipt_cords.base.process_memory import PeakMemory
from lipt_cords.base.provenance import provenance

WIDTH, CLASSES, CLUMPS, FRACTION, CUT = 512, 100, 20, 0.05, 0.5


def clumps(rows: int) -> tuple[Tensor, Tensor]:
    """Rows (N, 512) around 20 centres a class, and labels."""
    draws = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES * CLUMPS, WIDTH, generator=draws)
    labels = torch.arange(rows) % CLASSES
    values = torch.randn(rows, WIDTH, generator=draws).mul_(3.0)
    own = labels * CLUMPS + torch.randint(CLUMPS, (rows,), generator=draws)
    for part in torch.split(torch.arange(rows), 65_536):
        values[part] += centres[own[part]]
    return values, labels


def measured(rows: int) -> dict[str, Any]:
    """One size, in this process."""
    values, labels = clumps(rows)
    memory = PeakMemory(torch.device("cpu"))
    began, wall = time.process_time(), time.perf_counter()
    found = leave_one_out(values, labels)
    scored = time.process_time()
    chosen = select(
        "covering", labels, round(FRACTION * rows), features=values, scores=found.margin, cut=CUT
    )
    return {
        "rows": rows,
        "difficulty_cpu_seconds": scored - began,
        "coverage_cpu_seconds": time.process_time() - scored,
        "wall_seconds": time.perf_counter() - wall,
        "peak_bytes": memory.read()["process"],
        "chosen": len(chosen),
        "accuracy": found.accuracy,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[250_000, 500_000, 1_000_000])
    parser.add_argument("--one", type=int, help="measure one size here and print it")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one)))
        return
    payload: dict[str, Any] = {
        "kind": "closed form scale",
        "command": "python benchmarks/closed_form_scale.py --rows "
        + " ".join(str(rows) for rows in args.rows),
        "settings": {"width": WIDTH, "classes": CLASSES, "fraction": FRACTION, "cut": CUT},
        "rows": [],
        "provenance": provenance(),
    }
    path = output_directory(args.output) / "closed_form_scale.json"
    for rows in args.rows:
        command = [sys.executable, __file__, "--one", str(rows)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        add(path, payload, json.loads(answer))
    print(path)


if __name__ == "__main__":
    main()
