"""A fixed subset, chosen once: does LiPT's difficulty beat a random one of equal size and training?

    python benchmarks/fixed_subset.py --data DIR --set cifar10-jpeg --output benchmarks/results

ResNet-8, a pool of 20,000 images, one automatic setting for both data sets: difficulty is the loss
under a LiPT soup, and how much of the hard tail is left out is decided by trial trainings on 5,000
validation images, no cut (the random subset itself) being a candidate: the smallest cut within one
standard error of the best. The chosen subset and the random one are then trained from scratch anew
and compared on the test set. Beside them the same cut by the scores of one worker that trains alone
for LiPT's critical path, and of one that trains for ten times as long (a full-data warm-up).
All passes are counted. An interrupted run resumes (--resume).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn
from torch.utils.data import Subset

from benchmarks import EARLIER, RESULTS
from benchmarks.rows import begun
from lipt_cords import LiPTWarmStart, WarmStartResult, select, train_on_subset
from lipt_cords.base.files import write_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.data import DataSplits, labels_of
from lipt_cords.data.datasets import load_dataset
from lipt_cords.experiments.pilot import SubsetPilot
from lipt_cords.models import build_model
from lipt_cords.selectors import Selection

SETS = ("fashion-mnist", "cifar10-jpeg")
PASSES = {0.01: 28_800, 0.05: 38_400, 0.1: 40_000, 0.2: 48_000, 0.3: 60_000}
"""Training passes of a subset of each fraction of the pool."""
POOL, JUDGES = 20_000, 5_000
CUTS = (0.0, 0.2, 0.5)
LIPT: dict[str, Any] = {
    **EARLIER, "num_workers": 8, "common_steps": 200, "epochs": 4, "batch_size": 64, "lr": 0.05,
    "sparsity": "none", "augmentation": "none",
}  # fmt: skip
ALONE = {"one-worker": 1, "full": 10}
"""Warm-ups by one worker on all data, and their passes over LiPT's critical path."""
AGAIN = "lipt-again"
"""LiPT once more with the cut that it chose: on the machine that ran a rival, if not its own."""
TRAINING: dict[str, Any] = {"batch_size": 64, "lr": 0.1, "precision": "bf16", "device": "cpu"}
PLACE: dict[str, Any] = {"device": "cpu", "launch": "serial", "precision": "bf16"}

Row = dict[str, Any]


def load(data: str, datadir: Path, pool: int = POOL, val_fraction: float = 0.1) -> DataSplits:
    """The pool, validation images that judge, and the test set."""
    folder = f"imagefolder:{datadir / 'cifar10-images'}"
    name = folder if data == "cifar10-jpeg" else data
    return load_dataset(name, datadir, limit=pool, val_fraction=val_fraction)


def net(splits: DataSplits, seed: int) -> nn.Module:
    channels, size = splits.input_shape[0], splits.input_shape[-1]
    return build_model("resnet8", 10, in_channels=channels, image_size=size, seed=seed)


def lipt(splits: DataSplits, seed: int) -> WarmStartResult:
    """The warm start whose difficulty is asked for."""
    return LiPTWarmStart(**LIPT, **PLACE, seed=seed, progress=False).fit(
        net(splits, seed), splits.train
    )


def alone(splits: DataSplits, name: str, critical: int, seed: int) -> WarmStartResult:
    """One worker on all data at a constant rate, for a multiple of LiPT's critical path."""
    settings = {key: value for key, value in LIPT.items() if key != "epochs"}
    settings |= {"num_workers": 1, "common_steps": 0, "local_steps": ALONE[name] * critical // 64}
    warm = LiPTWarmStart(**settings, **PLACE, seed=seed, progress=False)
    return warm.fit(net(splits, seed), splits.train)


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


def by_lipt(splits: DataSplits, seed: int, fractions: list[float]) -> list[Row]:
    """The random subset and the one by LiPT's difficulty at some fractions, with one seed."""
    warm, labels = lipt(splits, seed), labels_of(splits.train)
    gradients, scores = warm.gradients(splits.train), difficulty(warm, splits)
    judges = Subset(splits.val, range(JUDGES))
    rows: list[Row] = []
    for fraction in fractions:
        began, budget, passes = time.perf_counter(), round(fraction * POOL), PASSES[fraction]
        epochs = max(1, round(passes / budget))
        pilot = SubsetPilot(
            net(splits, 2000 + seed), splits.train, judges, epochs=epochs, seed=seed, **TRAINING
        )
        chosen = select(
            "stratified", gradients, budget, scores=scores, pilot=pilot, pilot_cuts=CUTS, seed=seed
        )
        plain = train(splits, select("random", labels, budget, seed=seed), passes, seed)
        mine = train(splits, chosen, passes, seed) if chosen.info["cut"] else plain
        row = {
            "seed": seed, "fraction": fraction, "method": "random", "accuracy": plain,
            "training_passes": budget * epochs,
        }  # fmt: skip
        trials = {
            "cut": chosen.info["cut"], "pilot": chosen.info["pilot"], "pilot_passes": pilot.passes
        }  # fmt: skip
        rows += [row, row | {"method": "lipt", "accuracy": mine} | trials | _costs(warm)]
        print(
            f"seed {seed} {fraction:4.0%} random {plain:.4f} lipt {mine:.4f}",
            trials, f"{time.perf_counter() - began:.0f} s", flush=True,
        )  # fmt: skip
    return rows


def by_other_scores(splits: DataSplits, name: str, rows: list[Row]) -> list[Row]:
    """What the same cut of the hard tail reaches by the scores of one worker, or of LiPT anew.

    Args:
        rows: those of ``by_lipt`` for one seed.
    """
    seed, labels = rows[0]["seed"], labels_of(splits.train)
    mine = {row["fraction"]: row for row in rows if row["method"] == "lipt"}
    critical = next(iter(mine.values()))["warmup_critical_passes"]
    warm = lipt(splits, seed) if name == AGAIN else alone(splits, name, critical, seed)
    scores, found = difficulty(warm, splits), []
    for fraction, row in mine.items():
        reached = row["accuracy"]  # with no cut: the random subset itself, whoever ranks
        if row["cut"]:
            theirs = select(
                "stratified", labels, round(fraction * POOL), scores=scores, cut=row["cut"],
                seed=seed,
            )  # fmt: skip
            reached = train(splits, theirs, PASSES[fraction], seed)
        found.append(row | {"method": name, "accuracy": reached} | _costs(warm))
        print(f"seed {seed} {fraction:4.0%} {name} {reached:.4f}", flush=True)
    return found


def _costs(warm: WarmStartResult) -> Row:
    report = warm.report
    return {
        "warmup_passes": report.passes, "warmup_critical_passes": report.critical_path_passes,
        "warmup_accuracy": report.merged_accuracy, "scoring_forward_passes": POOL,
    }  # fmt: skip


def arguments(description: str | None, sets: Sequence[str] = SETS) -> argparse.ArgumentParser:
    """What a benchmark of fixed subsets is asked for."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=sets, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fractions", type=float, nargs="+", default=list(PASSES))
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--again", action="store_true", help=f"rows of {AGAIN} too")
    args = parser.parse_args()
    path, payload = begun(
        args, "fixed_subset", training=TRAINING, pool=POOL, judges=JUDGES, cuts=CUTS, lipt=LIPT,
        alone=ALONE,
        passes={str(fraction): PASSES[fraction] for fraction in args.fractions},
    )  # fmt: skip
    torch.set_num_threads(1)
    keep_freed_memory()
    splits = load(args.set, args.data)
    rows: list[Row] = payload["rows"]
    for seed in range(args.seeds):
        for name in ("lipt", *ALONE, *((AGAIN,) if args.again else ())):
            here = [row for row in rows if row["seed"] == seed]
            if any(row["method"] == name for row in here):
                continue
            rows += (
                by_lipt(splits, seed, args.fractions)
                if name == "lipt"
                else by_other_scores(splits, name, here)
            )
            write_json(path, payload)
    print(path)


if __name__ == "__main__":
    main()
