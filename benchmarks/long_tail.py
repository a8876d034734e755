"""Subsets of a long-tailed pool, chosen without training and random, tested on balanced classes.

    python benchmarks/long_tail.py --data DIR --set fashion-mnist
    python benchmarks/long_tail.py --data DIR --set cifar10-jpeg

Class c of ten keeps 2,000 / ratio^(c / 9) of its images, ratio 10 or 100. Subsets of a tenth;
ResNet-8 from scratch with 40,000 passes. Random shares the budget in proportion to the classes, and
so does ``choose_subset``; ``balanced`` weights classes in its regression.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from benchmarks.fixed_subset import PASSES, TRAINING, arguments, load, train
from benchmarks.rows import begun
from lipt_cords import choose_subset, select
from lipt_cords.base.files import write_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.data import DataSplits, labels_of
from lipt_cords.data.images import ImageTensors

RATIOS = (10, 100)
FRACTION = 0.1


def tail(labels: Tensor, ratio: float, seed: int) -> Tensor:
    """Samples that a long tail keeps, ascending."""
    draws = torch.Generator().manual_seed(seed)
    kept = []
    for label in range(10):
        members = (labels == label).nonzero().flatten()
        count = round(len(members) / ratio ** (label / 9))
        kept.append(members[torch.randperm(len(members), generator=draws)[:count]])
    return torch.cat(kept).sort().values


def rows_of(splits: DataSplits, ratio: int, seed: int) -> list[dict[str, Any]]:
    """All methods on one tail."""
    pool = splits.train
    assert isinstance(pool, ImageTensors)
    short = replace(splits, train=pool.select(tail(labels_of(pool), ratio, seed)))
    labels, rows = labels_of(short.train), []
    budget = round(FRACTION * len(labels))
    for method in ("random", "chosen", "chosen, balanced"):
        began = time.process_time()
        subset = (
            select("random", labels, budget, seed=seed)
            if method == "random"
            else choose_subset(short.train, budget, seed=seed, balanced="balanced" in method)
        )
        ready = time.process_time()
        accuracy = train(short, subset, PASSES[FRACTION], seed)
        rows.append(
            {
                "ratio": ratio, "seed": seed, "method": method, "accuracy": accuracy,
                "pool": len(labels), "budget": budget, "choosing_cpu_seconds": ready - began,
                "classes": torch.bincount(labels[subset.indices], minlength=10).tolist(),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(seeds=3)
    args = parser.parse_args()
    path, payload = begun(args, "long_tail", training=TRAINING, fraction=FRACTION)
    torch.set_num_threads(1)
    keep_freed_memory()
    splits = load(args.set, args.data)
    rows = payload["rows"]
    done = {(one["ratio"], one["seed"]) for one in rows}
    for ratio in RATIOS:
        for seed in range(args.seeds):
            if (ratio, seed) not in done:
                rows += rows_of(splits, ratio, seed)
                write_json(path, payload)
    print(path)


if __name__ == "__main__":
    main()
