"""Difficulty matched to the budget: how much of the hard tail a fixed subset should leave out.

    python benchmarks/difficulty_cut.py --data DIR --output benchmarks/results

A class-balanced subset of 200 images of a pool of 10,000, chosen once by held-out difficulty (the
mean loss under workers of a LiPT warm start that have never seen the image), then trained from
scratch on ResNet-8. The same schedule for every cut, for a plain random subset, and for the cut
that the rule of ``cut="auto"`` takes. Fashion-MNIST and CIFAR-10 as JPEG files (DIR/FashionMNIST,
DIR/cifar10-images), whose best cuts differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from lipt_cords import LiPTWarmStart, select, train_on_subset, worker_difficulty
from lipt_cords.data import DataSplits, labels_of
from lipt_cords.datasets import load_dataset
from lipt_cords.files import output_directory, write_json
from lipt_cords.models import build_model
from lipt_cords.provenance import provenance
from lipt_cords.selectors import Selection

COMMON_STEPS = {"fashion-mnist": 200, "cifar10-jpeg": 400}
CUTS = (0.0, 0.2, 0.5)
BATCH = 64


def load(data: str, datadir: Path, pool: int) -> DataSplits:
    folder = f"imagefolder:{datadir / 'cifar10-images'}"
    return load_dataset(folder if data == "cifar10-jpeg" else data, datadir, limit=pool)


def net(splits: DataSplits, seed: int) -> torch.nn.Module:
    channels, size = splits.input_shape[0], splits.input_shape[-1]
    return build_model("resnet8", 10, in_channels=channels, image_size=size, seed=seed)


def subsets(
    splits: DataSplits, data: str, budget: int, seed: int
) -> tuple[dict[str, Selection], Any]:
    """One subset a method, and what choosing them cost."""
    warm = LiPTWarmStart(
        num_workers=8, common_steps=COMMON_STEPS[data], epochs=2, batch_size=BATCH, seed=seed,
        keep_workers=True, device="cpu", progress=False,
    ).fit(net(splits, seed), splits.train, splits.val)  # fmt: skip
    scored = worker_difficulty(warm, splits.train, seed=seed)
    gradients = warm.gradients(splits.train)
    held_out = warm.gradients(splits.val)

    def cut_at(cut: float | str) -> Selection:
        return select(
            "stratified", gradients, budget, val_gradients=held_out, cut=cut, scores=scored.scores,
            seed=seed,
        )  # fmt: skip

    chosen = {"random": select("random", labels_of(splits.train), budget, seed=seed)}
    chosen |= {f"cut {cut:.0%}": cut_at(cut) for cut in CUTS}
    automatic = cut_at("auto")
    if f"cut {automatic.info['cut']:.0%}" not in chosen:
        chosen[f"cut {automatic.info['cut']:.0%}"] = automatic
    costs = {
        "critical_path_passes": warm.report.critical_path_passes,
        "passes": warm.report.passes,
        "scoring_forward_passes": scored.passes,
        "soup_accuracy": warm.report.merged_accuracy,
        "held_out_worker_accuracy": scored.accuracy,
        "automatic_cut": automatic.info["cut"],
    }
    return chosen, costs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(COMMON_STEPS), choices=list(COMMON_STEPS))
    parser.add_argument("--pool", type=int, default=10_000)
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--passes", type=int, default=16_000, help="training passes a subset")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    directory = output_directory(args.output)
    torch.set_num_threads(1)

    rows, warm_starts = [], []
    for data in args.sets:
        splits = load(data, args.data, args.pool)
        for seed in range(args.seeds):
            chosen, costs = subsets(splits, data, args.budget, seed)
            warm_starts.append({"data": data, "seed": seed, **costs})
            automatic = f"cut {costs['automatic_cut']:.0%}"
            for method, selection in chosen.items():
                epochs = args.passes // args.budget
                trained = train_on_subset(
                    net(splits, 1000 + seed), splits.train, selection, val_dataset=splits.test,
                    epochs=epochs, eval_every=epochs, batch_size=BATCH, device="cpu", seed=seed,
                )  # fmt: skip
                rows.append(
                    {
                        "data": data, "seed": seed, "method": method,
                        "automatic": method == automatic, "accuracy": trained.val_accuracy,
                    }
                )  # fmt: skip
                print(f"{data:14s} seed {seed}  {method:9s} {rows[-1]['accuracy']:.4f}", flush=True)
    settings = vars(args) | {"data": "DIR", "output": "benchmarks/results"}
    payload = {
        "kind": "difficulty_cut",
        "command": "python benchmarks/difficulty_cut.py --data DIR",
        "settings": settings,
        "warm_starts": warm_starts,
        "rows": rows,
        "provenance": provenance(),
    }
    print(write_json(directory / "difficulty_cut.json", payload))


if __name__ == "__main__":
    main()
