"""Every option of the warm start, one at a time, against the same base.

    python benchmarks/ablation.py --data DIR --output benchmarks/results

Small CNN, 8 workers, on the bundled digits and on 2,000 images of Fashion-MNIST (needs
DIR/FashionMNIST). Held-out accuracy of the mean worker and of the merged model for every seed, with
the passes that the option costs beside training. All variants have the base's critical path, but
for the ones that change it by name (no common start, SNIP's one batch a worker and round).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks import EARLIER, RESULTS
from lipt_cords import LiPTWarmStart
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.data.datasets import load_dataset
from lipt_cords.models import build_model

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"limit": None, "options": {"common_steps": 20, "epochs": 4, "batch_size": 16}},
    "fashion-mnist": {
        "limit": 2_000,
        "options": {"common_steps": 60, "epochs": 4, "batch_size": 32},
    },
}
DILOCO = {"outer": "nesterov", "outer_lr": 0.7, "outer_momentum": 0.9}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "no pruning": {"sparsity": "none"},
    "random pruning": {"sparsity": "random"},
    "SNIP": {"sparsity": "snip"},
    "ERK densities": {"densities": "erk"},
    "density 0.5": {"density": 0.5},
    "density 0.5, ERK": {"density": 0.5, "densities": "erk"},
    "density 0.5, SNIP": {"density": 0.5, "sparsity": "snip"},
    "pruned at theta*": {"prune_after": 0.0},
    "RandAugment": {"augmentation": "randaugment"},
    "greedy soup": {"soup": "greedy"},
    "uneven shards, uniform": {"uneven": True},
    "uneven shards, weighted": {"uneven": True, "soup": "weighted"},
    "EMA 0.9": {"ema": 0.9},
    "cosine rate": {"schedule": "cosine"},
    "no common start": {"common_steps": 0},
    "no BatchNorm refresh": {"batchnorm_refresh": "never"},
    "4 rounds, average": {"rounds": 4},
    "4 rounds, Nesterov": {"rounds": 4, **DILOCO},
    "8 rounds, Nesterov": {"rounds": 8, **DILOCO},
}
WORKERS = 8


def uneven(samples: int, seed: int) -> list[torch.Tensor]:
    """Shards of which the largest is eight times the smallest."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    parts = torch.arange(1, WORKERS + 1)
    ends = (parts.cumsum(0) * samples // int(parts.sum())).tolist()
    return [order[a:b] for a, b in itertools.pairwise([0, *ends])]


def measure(data: str, datadir: str | None, seed: int, variant: dict[str, Any]) -> dict[str, Any]:
    """One warm start, as the row of a table."""
    setting = SETTINGS[data]
    splits = load_dataset(data, datadir, limit=setting["limit"])
    channels, size = splits.input_shape[0], splits.input_shape[-1]
    model = build_model("cnn", 10, in_channels=channels, image_size=size, seed=seed)
    changed = {name: value for name, value in variant.items() if name != "uneven"}
    options = {**EARLIER, "num_workers": WORKERS, **setting["options"], **changed}
    shards = uneven(len(splits.train), seed) if "uneven" in variant else None
    report = LiPTWarmStart(seed=seed, progress=False, device="cpu", **options).fit(
        model, splits.train, splits.val, shards=shards
    ).report  # fmt: skip
    return {
        "data": data,
        "seed": seed,
        "options": options,
        "mean_worker_accuracy": report.mean_worker_accuracy,
        "best_worker_accuracy": max(one.accuracy for one in report.workers),
        "merged_accuracy": report.merged_accuracy,
        "merged_workers": sum(one.kept for one in report.workers),
        "critical_path_passes": report.critical_path_passes,
        "passes": report.passes,
        "evaluation_passes": report.evaluation_passes,
        "refresh_passes": report.refresh_passes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=None, help="folder that holds FashionMNIST/")
    parser.add_argument("--sets", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    directory = output_directory(args.output)
    torch.set_num_threads(1)

    rows = []
    for data, name in itertools.product(args.sets, args.variants):
        mine = [
            {"variant": name, **measure(data, args.data, seed, VARIANTS[name])}
            for seed in range(args.seeds)
        ]
        rows += mine
        merged, worker = (
            statistics.fmean(row[column] for row in mine)
            for column in ("merged_accuracy", "mean_worker_accuracy")
        )
        print(f"{data:14s} {name:24s} mean worker {worker:.3f}  merged {merged:.3f}", flush=True)
    payload = {
        "kind": "ablation",
        "command": "python benchmarks/ablation.py --data DIR",
        "net": "cnn",
        "workers": WORKERS,
        "rows": rows,
        "merged_above_mean_worker_in_every_base_row": all(
            row["merged_accuracy"] > row["mean_worker_accuracy"]
            for row in rows
            if row["variant"] == "base"
        ),
        "provenance": provenance(),
    }
    print(write_json(directory / "ablation.json", payload))


if __name__ == "__main__":
    main()
