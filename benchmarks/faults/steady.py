"""What one process keeps over hundreds of fits, selections and planners: memory, files, threads.

    python benchmarks/faults/steady.py --calls 300 --seeds 3 --output benchmarks/results

Every call has a new net and new data of 2 MiB, and gives them up. Each series has a process of its
own. Memory is the proportional share (PSS) of the process and all its children, so that what is
shared between them counts once; without mapped files, whose share depends on other programs. Linux
only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks import RESULTS
from lipt_cords import LiPTWarmStart
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.selectors import select
from lipt_cords.warmstart.memory import MemoryPlanner

SAMPLES, FEATURES, CLASSES = 1024, 512, 4
SELECTORS = ("glister", "gradmatch", "craig", "stratified", "grand", "random")
MEASURED_EVERY = 10
FIRST_PART = 3
"""One in so many of the calls come first, while caches fill, and are not judged."""
MOST_BYTES = 16 * 2**10
"""A call may keep so much on the average and be called flat: a hundredth of what it was given."""


def make_net(layers: int = 3) -> nn.Module:
    """A small perceptron."""
    hidden = [part for _ in range(layers) for part in (nn.Linear(32, 32), nn.ReLU())]
    return nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), *hidden, nn.Linear(32, CLASSES))


def make_data() -> TensorDataset:
    """Random samples, 2 MiB."""
    return TensorDataset(torch.randn(SAMPLES, FEATURES), torch.arange(SAMPLES) % CLASSES)


def fit(number: int, **options: Any) -> None:
    """A whole warm start of two workers."""
    LiPTWarmStart(
        num_workers=2, local_steps=2, common_steps=1, batch_size=16, threads=1, progress=False,
        **options,
    ).fit(make_net(), make_data())  # fmt: skip


def selection(number: int) -> None:
    """Gradients of new data, and a selection from them."""
    data = make_data()
    gradients = last_layer_gradients(make_net(), data)
    select(SELECTORS[number % len(SELECTORS)], gradients, 20, val_gradients=gradients)


def planner(number: int) -> None:
    """Four steps under a memory planner, in turn with gradients that are set to zero or dropped."""
    net, data = make_net(6), make_data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    step = MemoryPlanner(net, budget="1GiB", optimizer=optimizer)
    x, y = data.tensors
    for _ in range(1 + number % 4):
        optimizer.zero_grad(set_to_none=number % 2 == 0)
        with step:
            nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


SERIES: dict[str, Callable[[int], None]] = {
    "fits": fit,
    "fits in 2 processes": lambda number: fit(number, processes=2),
    "selections": selection,
    "planners": planner,
}


def family() -> list[int]:
    """This process and its children, of all generations."""
    found, new = [], [os.getpid()]
    while new:
        found += new
        new = [
            int(pid)
            for parent in new
            for task in Path(f"/proc/{parent}/task").glob("*/children")
            for pid in task.read_text().split()
        ]
    return found


def share(pid: int) -> int:
    """Proportional share of the memory of a process that no file holds, bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) for name, _, rest in (one.partition(":") for one in lines)}
    return 1024 * (sizes["Pss_Anon"] + sizes["Pss_Shmem"])


def held() -> dict[str, int]:
    """What the process holds now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free already is not kept by anybody
    pids = family()
    return {
        "memory_bytes": sum(map(share, pids)),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "native_threads": len(list(Path("/proc/self/task").iterdir())),
        "children": len(pids) - 1,
    }


def run(name: str, calls: int, seed: int) -> list[dict[str, int]]:
    """Make a series of calls in this process; what it holds every ten calls."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    points = []
    for number in range(calls):
        SERIES[name](number)
        if (number + 1) % MEASURED_EVERY == 0:
            points.append({"calls": number + 1, **held()})
    return points


def judged(points: list[dict[str, int]]) -> dict[str, Any]:
    """Growth after the first part of a series: bytes a call, and whatever else there is more of."""
    later = [one for one in points if one["calls"] * FIRST_PART >= points[-1]["calls"]]
    calls, memory = [one["calls"] for one in later], [one["memory_bytes"] for one in later]
    growth = statistics.linear_regression(calls, memory).slope
    counted = [name for name in points[0] if name not in ("calls", "memory_bytes")]
    more = {name: later[-1][name] - later[0][name] for name in counted}
    return {
        "memory_bytes_at_first": memory[0],
        "memory_bytes_at_end": memory[-1],
        "memory_growth_bytes_per_call": growth,
        "more": more,
        "flat": growth <= MOST_BYTES and not any(value > 0 for value in more.values()),
    }


def series(name: str, calls: int, seeds: int) -> dict[str, Any]:
    """A series with every seed, each in a process of its own."""
    found = []
    began = time.monotonic()
    for seed in range(seeds):
        command = [sys.executable, __file__, "--one", name, str(calls), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}, seed {seed}: {done.stderr[-2000:]}")
        points = json.loads(done.stdout.splitlines()[-1])
        found.append({"seed": seed, **judged(points), "points": points})
    growth = [one["memory_growth_bytes_per_call"] for one in found]
    return {
        "calls": calls,
        "flat": all(one["flat"] for one in found),
        "memory_growth_bytes_per_call": {
            "mean": statistics.fmean(growth),
            "min": min(growth),
            "max": max(growth),
        },
        "more": {name: [one["more"][name] for one in found] for name in found[0]["more"]},
        "seconds": time.monotonic() - began,
        "seeds": found,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(SERIES), default=list(SERIES))
    parser.add_argument("--one", nargs=3, metavar=("SERIES", "CALLS", "SEED"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.one:
        name, calls, seed = args.one
        print(json.dumps(run(name, int(calls), int(seed))))
        return 0
    directory = output_directory(args.output)
    found = {}
    for name in args.only:
        one = found[name] = series(name, args.calls, args.seeds)
        grown = one["memory_growth_bytes_per_call"]
        print(
            f"{name:20s} {'flat' if one['flat'] else 'GROWS'}: {grown['mean']:,.0f} bytes a call "
            f"({grown['min']:,.0f} to {grown['max']:,.0f}), more {one['more']}, "
            f"{one['seconds']:.0f} s",
            flush=True,
        )
    payload = {
        "kind": "steady",
        "command": f"python benchmarks/faults/steady.py --calls {args.calls} --seeds {args.seeds}",
        "settings": {
            "calls": args.calls,
            "seeds": list(range(args.seeds)),
            "samples": SAMPLES,
            "features": FEATURES,
            "measured_every": MEASURED_EVERY,
            "most_bytes_per_call": MOST_BYTES,
        },
        "series": found,
        "provenance": provenance(),
    }
    print(write_json(directory / "steady.json", payload))
    return int(not all(one["flat"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
