"""The memory planner: its bits and bytes, what it costs beside rivals, and how far it reaches.

    python benchmarks/memory/run.py --part exact

exact: guided steps against plain ones, every policy, tight and easy budgets, fast and slow link.
overhead: at half of the activation memory, beside checkpointing every block and saving on the host;
give it a core for the step and one for the copies, or --device cuda. reach: the largest batch in
16 GiB, extrapolated from small ones. Every part writes its JSON after every net.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks import RESULTS
from benchmarks.memory.exact import rows as exact_rows
from benchmarks.memory.nets import EXACT, OVERHEAD
from benchmarks.memory.overhead import row as overhead_row
from benchmarks.memory.reach import CAPUCHIN
from benchmarks.memory.reach import row as reach_row
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.base.provenance import provenance

Row = dict[str, Any]


def exact(args: argparse.Namespace) -> Iterator[Row]:
    """A row a plan."""
    for case in EXACT:
        yield from exact_rows(case)


def overhead(args: argparse.Namespace) -> Iterator[Row]:
    """A row a net."""
    for case in OVERHEAD:
        yield overhead_row(case, args.device, args.rounds)


def reach(args: argparse.Namespace) -> Iterator[Row]:
    """A row a net."""
    for net in CAPUCHIN:
        yield reach_row(net)


PARTS = {"exact": exact, "overhead": overhead, "reach": reach}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each way (overhead)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (overhead)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    on = "" if args.device == "cpu" else f" --device {args.device}"
    payload: Row = {
        "kind": "memory", "part": args.part,
        "command": f"python benchmarks/memory/run.py --part {args.part}{on}",
        "seed": 0, "rounds": args.rounds, "rows": [], "provenance": provenance(),
    }  # fmt: skip
    name = f"memory-{args.part}" + ("-cuda" if on else "")
    path = output_directory(args.output) / f"{name}.json"
    for row in PARTS[args.part](args):
        payload["rows"].append(row)
        print({k: v for k, v in row.items() if not isinstance(v, list | dict)}, flush=True)
        write_json(path, payload)
    print(path)


if __name__ == "__main__":
    main()
