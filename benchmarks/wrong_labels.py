"""Training where labels are wrong: a tenth chosen without training, and RS2 on the cleaned pool.

    python benchmarks/wrong_labels.py --data DIR --set fashion-mnist
    python benchmarks/wrong_labels.py --data DIR --set cifar10-jpeg

A pool of 20,000 images, of which a share has another label (symmetric: any other class; pair: the
next one). Fixed subsets of 2,000 and RS2 that draws 2,000 anew in each of 20 epochs: 40,000 passes
in both; ResNet-8 from scratch, tested on right labels. Fixed: random, random with right labels,
``choose_subset`` as it is, and without the suspects of ``find_label_issues``. RS2: on the pool, on
the pool without suspects, on the pool with right labels. What has right labels is trained with the
first draw alone, since no draw changes it. Choosing and finding are timed in processor seconds
beside the training. Rows are written as they are finished; ``--resume`` keeps those that are there.
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

from benchmarks.fixed_subset import PASSES, POOL, TRAINING, arguments, load, train
from benchmarks.label_issues import with_wrong_labels
from benchmarks.rows import begun
from lipt_cords import choose_subset, find_label_issues, select
from lipt_cords.base.files import write_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.cords.config import RunConfig
from lipt_cords.data import DataSplits, labels_of
from lipt_cords.data.images import ImageTensors
from lipt_cords.experiments.assemble import of_size
from lipt_cords.experiments.run import run

FRACTION = 0.1
BUDGET = round(FRACTION * POOL)
DRAWS = (
    ("symmetric", 0.4), ("symmetric", 0.0), ("symmetric", 0.2), ("symmetric", 0.1), ("pair", 0.4),
)  # fmt: skip

Row = dict[str, Any]


def relabelled(splits: DataSplits, labels: Tensor) -> DataSplits:
    """The same images with other labels in the pool; validation and test sets as they were."""
    pool = splits.train
    assert isinstance(pool, ImageTensors)
    return replace(splits, train=ImageTensors(pool.images, labels, pool.mean, pool.std))


def rs2(splits: DataSplits, seed: int) -> float:
    """Test accuracy of RS2: 20 epochs of 2,000 samples, drawn anew for each."""
    config = RunConfig.parse(
        {
            "dataset": {"name": splits.name, "limit": POOL},
            "model": {"architecture": "resnet8"},
            "dataloader": {"batch_size": TRAINING["batch_size"]},
            "optimizer": {"lr": TRAINING["lr"], "nesterov": True},
            "dss_args": {"type": "RS2"},
            "train_args": {
                "num_epochs": round(PASSES[FRACTION] / BUDGET), "eval_every": 10_000,
                "precision": TRAINING["precision"], "device": TRAINING["device"],
            },
        }
    )  # fmt: skip
    record = run(of_size(config, BUDGET, len(labels_of(splits.train))), seed=seed, splits=splits)
    assert record is not None
    if record.costs.passes != PASSES[FRACTION]:
        raise ValueError(f"expected {PASSES[FRACTION]} passes, made {record.costs.passes}")
    return float(record.test_accuracy or 0.0)


def rows_of(splits: DataSplits, kind: str, share: float, seed: int) -> list[Row]:
    """All methods on one draw of wrong labels."""
    right = labels_of(splits.train)
    given, wrong = with_wrong_labels(right, share, kind, seed)
    noisy = relabelled(splits, given)
    passes, rows = PASSES[FRACTION], []

    def add(method: str, accuracy: float, indices: Tensor | None, began: float, ready: float):
        rows.append(
            {
                "kind": kind, "share": share, "seed": seed, "method": method, "accuracy": accuracy,
                "wrong_left": None if indices is None else float(wrong[indices].double().mean()),
                "preparing_cpu_seconds": ready - began,
                "training_cpu_seconds": time.process_time() - ready,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)

    random = select("random", given, BUDGET, seed=seed)
    now = time.process_time()
    add("random", train(noisy, random, passes, seed), random.indices, now, now)
    now = time.process_time()
    if (kind, share) == DRAWS[0]:
        add("random, right labels", train(splits, random, passes, seed), None, now, now)
    for method, without in (("chosen", False), ("chosen without suspects", True)):
        began = time.process_time()
        chosen = choose_subset(noisy.train, FRACTION, seed=seed, leave_out_suspects=without)
        ready = time.process_time()
        add(method, train(noisy, chosen, passes, seed), chosen.indices, began, ready)
    now = time.process_time()
    add("RS2", rs2(noisy, seed), torch.arange(POOL), now, now)
    began = time.process_time()
    clean = torch.ones(POOL, dtype=torch.bool)
    clean[find_label_issues(noisy.train, seed=seed).indices] = False
    kept = clean.nonzero().flatten()
    ready = time.process_time()
    pool = noisy.train
    assert isinstance(pool, ImageTensors)
    add("RS2 on the cleaned pool", rs2(replace(noisy, train=pool.select(kept)), seed), kept, began,
        ready)  # fmt: skip
    now = time.process_time()
    if (kind, share) == DRAWS[0]:
        add("RS2, right labels", rs2(splits, seed), None, now, now)
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(seeds=3)
    args = parser.parse_args()
    path, payload = begun(args, "wrong_labels", training=TRAINING, pool=POOL, subset=BUDGET)
    torch.set_num_threads(1)
    keep_freed_memory()
    splits = load(args.set, args.data)
    rows = payload["rows"]
    done = {(one["kind"], one["share"], one["seed"]) for one in rows}
    for kind, share in DRAWS:
        for seed in range(args.seeds):
            if (kind, share, seed) not in done:
                rows += rows_of(splits, kind, share, seed)
                write_json(path, payload)
    print(path)


if __name__ == "__main__":
    main()
