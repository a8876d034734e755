"""The merged model against the workers it is made of, and what pruning and augmentation change.

    python benchmarks/soup.py --data DIR --output benchmarks/results

Held-out accuracy of the mean and the best worker and of the soup, on the bundled digits and on
Fashion-MNIST (needs DIR/FashionMNIST), for every seed and for each combination of one-shot
magnitude pruning and RandAugment.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch

from lipt_cords import LiPTWarmStart
from lipt_cords.datasets import load_dataset
from lipt_cords.files import output_directory, write_json
from lipt_cords.models import build_model
from lipt_cords.provenance import provenance

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "net": "cnn", "limit": None,
        "options": {"num_workers": 8, "common_steps": 20, "epochs": 4, "batch_size": 16},
    },
    "fashion-mnist": {
        "net": "resnet8", "limit": 6_000,
        "options": {"num_workers": 8, "common_steps": 100, "epochs": 4, "batch_size": 32},
    },
}  # fmt: skip


def measure(data: str, datadir: str | None, seed: int, variant: dict[str, Any]) -> dict[str, Any]:
    """One warm start, as the row of a table."""
    setting = SETTINGS[data]
    splits = load_dataset(data, datadir, limit=setting["limit"])
    channels, size = splits.input_shape[0], splits.input_shape[-1]
    model = build_model(setting["net"], 10, in_channels=channels, image_size=size, seed=seed)
    options = setting["options"] | variant
    report = LiPTWarmStart(seed=seed, progress=False, device="cpu", **options).fit(
        model, splits.train, splits.val
    ).report  # fmt: skip
    accuracies = [worker.accuracy for worker in report.workers]
    return {
        "data": data,
        "net": setting["net"],
        "train_samples": len(splits.train),
        "held_out_samples": len(splits.val),
        "seed": seed,
        "options": options,
        "mean_worker_accuracy": report.mean_worker_accuracy,
        "best_worker_accuracy": max(accuracies),
        "merged_accuracy": report.merged_accuracy,
        "accuracy_before_refresh": report.accuracy_before_refresh,
        "accuracy_after_refresh": report.accuracy_after_refresh,
        "critical_path_passes": report.critical_path_passes,
        "passes": report.passes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=None, help="folder that holds FashionMNIST/")
    parser.add_argument("--sets", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    directory = output_directory(args.output)
    torch.set_num_threads(args.threads)

    rows = []
    for data, seed, sparsity, augmentation in itertools.product(
        args.sets, range(args.seeds), ("magnitude", "none"), ("none", "randaugment")
    ):
        row = measure(data, args.data, seed, {"sparsity": sparsity, "augmentation": augmentation})
        rows.append(row)
        print(
            f"{data:14s} seed {seed}  {sparsity:9s} {augmentation:11s}  "
            f"mean worker {row['mean_worker_accuracy']:.3f}  "
            f"best {row['best_worker_accuracy']:.3f}  soup {row['merged_accuracy']:.3f}",
            flush=True,
        )
    payload = {
        "kind": "soup",
        "command": "python benchmarks/soup.py --data DIR",
        "rows": rows,
        "soup_above_mean_worker_in_every_row": all(
            row["merged_accuracy"] > row["mean_worker_accuracy"] for row in rows
        ),
        "provenance": provenance(),
    }
    print(write_json(directory / "soup.json", payload))


if __name__ == "__main__":
    main()
