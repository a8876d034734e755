"""A fixed subset chosen without training against a random one: accuracy, and what choosing costs.

    python benchmarks/choose.py --data DIR --set fashion-mnist
    python benchmarks/choose.py --data DIR --set cifar10-jpeg

ResNet-8 from scratch on subsets of a pool of 20,000 images, as in fixed_subset.py: the same
passes, rates and seeds. ``choose_subset`` has one setting for both sets and all fractions. Its cost
is processor time of one thread, beside that of one training on the subset. Random subsets were
trained by fixed_subset.py already: its rows are taken, after the smallest one was trained again
here and had the same accuracy to the last bit. Rows are written as they are finished; with
``--resume`` those that are there are kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks import RESULTS
from benchmarks.fixed_subset import PASSES, POOL, TRAINING, arguments, load, train
from benchmarks.rows import add, begun
from lipt_cords import choose_subset, select
from lipt_cords.base.files import read_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.data import DataSplits, labels_of
from lipt_cords.selectors import Selection

METHODS: dict[str, Callable[[DataSplits, float, int], Selection]] = {
    "random": lambda splits, fraction, seed: select(
        "random", labels_of(splits.train), round(fraction * POOL), seed=seed
    ),
    "chosen": lambda splits, fraction, seed: choose_subset(splits.train, fraction, seed=seed),
}


def row(splits: DataSplits, method: str, fraction: float, seed: int) -> dict[str, Any]:
    """One subset, its training and both costs."""
    began = time.process_time()
    subset = METHODS[method](splits, fraction, seed)
    chosen = time.process_time()
    accuracy = train(splits, subset, PASSES[fraction], seed)
    return {
        "method": method,
        "fraction": fraction,
        "seed": seed,
        "accuracy": accuracy,
        "choosing_cpu_seconds": chosen - began,
        "training_cpu_seconds": time.process_time() - chosen,
        **{name: subset.info[name] for name in ("cut", "pilot") if name in subset.info},
    }


def earlier_rows(data: str) -> list[dict[str, Any]]:
    """The random rows of fixed_subset.py."""
    found = read_json(RESULTS / f"fixed_subset-{data}.json")["rows"]
    kept = ("method", "fraction", "seed", "accuracy")
    return [{name: one[name] for name in kept} for one in found if one["method"] == "random"]


def require_same_bits(again: dict[str, Any], earlier: list[dict[str, Any]]) -> None:
    """Refuse earlier rows that this machine does not reproduce."""
    key = ("method", "fraction", "seed")
    before = next(one for one in earlier if all(one[name] == again[name] for name in key))
    if before["accuracy"] != again["accuracy"]:
        raise ValueError(
            f"the random row had {before['accuracy']} and has {again['accuracy']} here: train all "
            "of them again with --random"
        )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--random", action="store_true", help="train the random subsets too")
    args = parser.parse_args()
    path, payload = begun(args, "choose", training=TRAINING, pool=POOL)
    torch.set_num_threads(1)
    keep_freed_memory()
    splits = load(args.set, args.data)
    rows = payload["rows"]
    if not args.random and not any(one["method"] == "random" for one in rows):
        earlier = earlier_rows(args.set)
        require_same_bits(row(splits, "random", min(PASSES), 0), earlier)
        rows += earlier
    done = {(one["method"], one["fraction"], one["seed"]) for one in rows}
    for seed in range(args.seeds):
        for fraction in args.fractions:
            for method in METHODS:
                if (method, fraction, seed) in done:
                    continue
                add(path, payload, row(splits, method, fraction, seed))
    print(path)


if __name__ == "__main__":
    main()
