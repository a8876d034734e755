"""A fixed subset, chosen once: does LiPT's difficulty beat a random one of equal size and training?

    python benchmarks/fixed_subset.py --data DIR --set cifar10-jpeg --output benchmarks/results

ResNet-8, a pool of 20,000 images, one automatic setting for both data sets: difficulty is the loss
under a LiPT soup, and how much of the hard tail is left out is decided by trial trainings on 5,000
validation images, no cut (the random subset itself) being a candidate: the smallest cut within one
standard error of the best. The chosen subset and the random one are then trained from scratch anew
and compared on the test set. Beside them the same cut by the scores of a full-data warm-up of ten
times LiPT's critical path. Everything is on the bill. An interrupted run goes on (--resume).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from lipt_cords import LiPTWarmStart, WarmStartResult, select, train_on_subset
from lipt_cords.allocation import keep_freed_memory
from lipt_cords.data import DataSplits, labels_of
from lipt_cords.datasets import load_dataset
from lipt_cords.files import output_directory, read_json, write_json
from lipt_cords.models import build_model
from lipt_cords.pilot import SubsetPilot
from lipt_cords.provenance import provenance
from lipt_cords.selectors import Selection

SETS = ("fashion-mnist", "cifar10-jpeg")
PASSES = {0.01: 28_800, 0.05: 38_400, 0.1: 40_000, 0.2: 48_000, 0.3: 60_000}
"""Training passes of a subset of each fraction of the pool."""
POOL, JUDGES = 20_000, 5_000
CUTS = (0.0, 0.2, 0.5)
LIPT: dict[str, Any] = {
    "num_workers": 8, "common_steps": 200, "epochs": 4, "batch_size": 64, "lr": 0.05,
    "sparsity": "none", "augmentation": "none",
}  # fmt: skip
FULL_OVER_CRITICAL = 10
TRAINING: dict[str, Any] = {"batch_size": 64, "lr": 0.1, "precision": "bf16", "device": "cpu"}
PLACE: dict[str, Any] = {"device": "cpu", "launch": "serial", "precision": "bf16"}


def load(data: str, datadir: Path) -> DataSplits:
    """The pool, validation images that judge, and the test set."""
    folder = f"imagefolder:{datadir / 'cifar10-images'}"
    return load_dataset(folder if data == "cifar10-jpeg" else data, datadir, limit=POOL)


def net(splits: DataSplits, seed: int) -> nn.Module:
    channels, size = splits.input_shape[0], splits.input_shape[-1]
    return build_model("resnet8", 10, in_channels=channels, image_size=size, seed=seed)


def warm_ups(splits: DataSplits, seed: int) -> dict[str, WarmStartResult]:
    """LiPT, and one worker on all data at a constant rate for ten times its critical path."""
    start = net(splits, seed)
    lipt = LiPTWarmStart(**LIPT, **PLACE, seed=seed, progress=False).fit(start, splits.train)
    passes = FULL_OVER_CRITICAL * lipt.report.critical_path_passes
    alone = {**LIPT, "num_workers": 1, "common_steps": 0, "local_steps": passes // 64}
    alone.pop("epochs")
    full = LiPTWarmStart(**alone, **PLACE, seed=seed, progress=False).fit(start, splits.train)
    return {"lipt": lipt, "full": full}


def difficulty(warm: WarmStartResult, splits: DataSplits) -> torch.Tensor:
    """Loss of every sample of the pool under a warm model."""
    found = warm.gradients(splits.train)
    return nn.functional.cross_entropy(found.logits, found.labels, reduction="none")


def train(splits: DataSplits, subset: Selection, passes: int, seed: int) -> float:
    """Test accuracy after training from scratch on a subset."""
    epochs = max(1, round(passes / len(subset.indices)))
    trained = train_on_subset(
        net(splits, 1000 + seed), splits.train, subset, val_dataset=splits.test, epochs=epochs,
        eval_every=epochs, seed=seed, **TRAINING,
    )  # fmt: skip
    return float(trained.val_accuracy or 0.0)


def one_seed(splits: DataSplits, seed: int, fractions: list[float]) -> list[dict[str, Any]]:
    """All methods at some fractions, with one seed."""
    warm, labels = warm_ups(splits, seed), labels_of(splits.train)
    scores = {name: difficulty(result, splits) for name, result in warm.items()}
    gradients = warm["lipt"].gradients(splits.train)
    judges = Subset(splits.val, range(JUDGES))
    rows: list[dict[str, Any]] = []
    for fraction in fractions:
        began, budget, passes = time.perf_counter(), round(fraction * POOL), PASSES[fraction]
        epochs = max(1, round(passes / budget))
        pilot = SubsetPilot(
            net(splits, 2000 + seed), splits.train, judges, epochs=epochs, seed=seed, **TRAINING
        )
        chosen = select(
            "stratified", gradients, budget, scores=scores["lipt"], pilot=pilot, pilot_cuts=CUTS,
            seed=seed,
        )  # fmt: skip
        cut = chosen.info["cut"]
        random = select("random", labels, budget, seed=seed)
        reached = {"random": train(splits, random, passes, seed)}
        reached["lipt"] = train(splits, chosen, passes, seed) if cut else reached["random"]
        reached["full"] = reached["random"]
        if cut:
            by_full = select(
                "stratified", gradients, budget, scores=scores["full"], cut=cut, seed=seed
            )
            reached["full"] = train(splits, by_full, passes, seed)
        for method, accuracy in reached.items():
            row = {
                "seed": seed, "fraction": fraction, "method": method, "accuracy": accuracy,
                "training_passes": budget * max(1, round(passes / budget)),
            }  # fmt: skip
            if method != "random":
                report = warm[method].report
                row |= {
                    "cut": cut, "pilot": chosen.info["pilot"], "pilot_passes": pilot.passes,
                    "warmup_passes": report.passes, "scoring_forward_passes": POOL,
                    "warmup_critical_passes": report.critical_path_passes,
                    "warmup_accuracy": report.merged_accuracy,
                }  # fmt: skip
            rows.append(row)
        print(
            f"seed {seed} {fraction:4.0%}", {k: round(v, 4) for k, v in reached.items()},
            f"cut {cut}", chosen.info["pilot"], f"{time.perf_counter() - began:.0f} s", flush=True,
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fractions", type=float, nargs="+", default=list(PASSES))
    parser.add_argument("--resume", action="store_true", help="keep the seeds that are there")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    path = output_directory(args.output) / f"fixed_subset-{args.set}.json"
    torch.set_num_threads(1)
    keep_freed_memory()
    splits = load(args.set, args.data)
    rows: list[dict[str, Any]] = []
    if args.resume and path.exists():
        rows = read_json(path)["rows"]
    settings = {
        "pool": POOL, "judges": JUDGES, "cuts": CUTS, "lipt": LIPT,
        "full_over_critical": FULL_OVER_CRITICAL, "training": TRAINING, "net": "resnet8",
        "passes": {str(fraction): PASSES[fraction] for fraction in args.fractions},
    }  # fmt: skip
    for seed in range(args.seeds):
        if any(row["seed"] == seed for row in rows):
            continue
        rows += one_seed(splits, seed, args.fractions)
        payload = {
            "kind": "fixed_subset",
            "command": f"python benchmarks/fixed_subset.py --data DIR --set {args.set}",
            "data": args.set,
            "settings": settings,
            "rows": rows,
            "provenance": provenance(),
        }
        write_json(path, payload)
    print(path)


if __name__ == "__main__":
    main()
