"""What choosing 5 % without training costs beside one training on them, as the pool grows.

    python benchmarks/choose_cost.py --data DIR --set fashion-mnist
    python benchmarks/choose_cost.py --data DIR --set cifar10-jpeg

Pools of 20,000 images and of up to 50,000 (all that CIFAR-10 has but 100), one choice and one
training each, in processor time of one thread. The training is that of choose.py; passes for sizes
between its fractions are read off a straight line. Accuracy is the subject of choose.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks import RESULTS
from benchmarks.fixed_subset import PASSES, POOL, SETS, TRAINING, load, train
from benchmarks.rows import add, begun
from lipt_cords import choose_subset
from lipt_cords.base.process_memory import keep_freed_memory

POOLS, FRACTION = (20_000, 50_000), 0.05
VALIDATION = 0.002


def passes_for(size: int) -> int:
    """Training passes of a subset of so many samples, between those of choose.py."""
    known = [(round(fraction * POOL), passes) for fraction, passes in PASSES.items()]
    for (few, less), (many, more) in pairwise(known):
        if few <= size <= many:
            return round(less + (more - less) * (size - few) / (many - few))
    raise ValueError(f"expected a subset of {known[0][0]} to {known[-1][0]} samples, not {size}")


def row(data: str, folder: Path, pool: int) -> dict[str, Any]:
    """One pool: what choosing and training cost."""
    splits = load(data, folder, pool, VALIDATION)
    began = time.process_time()
    chosen = choose_subset(splits.train, FRACTION)
    ended = time.process_time()
    accuracy = train(splits, chosen, passes_for(len(chosen)), 0)
    return {
        "pool": len(splits.train),  # type: ignore[arg-type]
        "chosen": len(chosen),
        "passes": passes_for(len(chosen)),
        "choosing_cpu_seconds": ended - began,
        "training_cpu_seconds": time.process_time() - ended,
        "accuracy": accuracy,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--pools", type=int, nargs="+", default=list(POOLS))
    args = parser.parse_args()
    path, payload = begun(args, "choose_cost", training=TRAINING, fraction=FRACTION)
    torch.set_num_threads(1)
    keep_freed_memory()
    warm = load(args.set, args.data, 1_000)  # what is imported once is no part of either cost
    train(warm, choose_subset(warm.train, FRACTION), 100, 0)
    for pool in args.pools:
        add(path, payload, row(args.set, args.data, pool))
    print(path)


if __name__ == "__main__":
    main()
