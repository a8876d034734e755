"""Wrong labels found without training: AUROC of the score, precision and recall of the rule.

    python benchmarks/label_issues.py --data DIR --set fashion-mnist
    python benchmarks/label_issues.py --data DIR --set cifar10-jpeg

A pool of 20,000 images, of which a share has another label: any other class (symmetric), or the
next class (pair). The leave-one-out margin orders the samples; confident learning decides. Features
do not read labels, so they are computed once.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks import RESULTS
from benchmarks.fixed_subset import POOL, SETS, load
from lipt_cords import features, find_label_issues, leave_one_out
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.base.provenance import provenance
from lipt_cords.data import labels_of

SHARES = (0.2, 0.4)
KINDS = ("symmetric", "pair")


def with_wrong_labels(labels: Tensor, share: float, kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """Labels of which a share is wrong, and which ones."""
    draws = torch.Generator().manual_seed(seed)
    classes = int(labels.max()) + 1
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.randperm(len(labels), generator=draws)[: round(share * len(labels))]] = True
    shift = torch.randint(1, classes, labels.shape, generator=draws)
    if kind == "pair":
        shift = torch.ones_like(labels)
    return torch.where(wrong, (labels + shift) % classes, labels), wrong


def row(values: Tensor, labels: Tensor, share: float, kind: str, seed: int) -> dict[str, Any]:
    """What is found of one draw of wrong labels."""
    given, wrong = with_wrong_labels(labels, share, kind, seed)
    began = time.process_time()
    found = find_label_issues(TensorDataset(values, given), features=values)
    seconds = time.process_time() - began
    suspects = torch.zeros(len(labels), dtype=torch.bool)
    suspects[found.indices] = True
    linear = leave_one_out(values, given).margin
    hits = float((suspects & wrong).sum())
    return {
        "share": share,
        "kind": kind,
        "seed": seed,
        "auroc": float(roc_auc_score(wrong, found.scores)),
        "auroc_linear": float(roc_auc_score(wrong, linear)),
        "precision": hits / len(found),
        "recall": hits / float(wrong.sum()),
        "likely_is_right": float((found.likely == labels)[suspects & wrong].double().mean()),
        "cpu_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    splits = load(args.set, args.data)
    labels = labels_of(splits.train)
    began = time.process_time()
    values = features(splits.train).values
    seconds = time.process_time() - began
    rows = []
    for seed in range(args.seeds):
        for share in SHARES:
            for kind in KINDS:
                rows.append(row(values, labels, share, kind, seed))
                print(rows[-1], flush=True)
    payload = {
        "kind": "label issues",
        "command": f"python benchmarks/label_issues.py --data DIR --set {args.set}",
        "data": args.set,
        "pool": POOL,
        "feature_cpu_seconds": seconds,
        "rows": rows,
        "provenance": provenance(),
    }
    print(write_json(output_directory(args.output) / f"label_issues-{args.set}.json", payload))


if __name__ == "__main__":
    main()
