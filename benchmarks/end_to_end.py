"""Warm-up, selection and training on real images: every method beside its honest rivals.

    python benchmarks/end_to_end.py --data DIR --output benchmarks/results

Fashion-MNIST (needs DIR/FashionMNIST), ResNet-8, a tenth of the pool, GLISTER through CORDS's own
loader: from scratch at random, RS2 at equal subset epochs and at LiPT's whole cost, after CORDS's
full-data warm-up, after ``warm_start: lipt`` with eight workers, and after one worker of equal
critical path. Interrupted runs go on where they stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks import RESULTS
from benchmarks.lean import lean
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.cords.config import RunConfig
from lipt_cords.experiments.compare import compare
from lipt_cords.experiments.record import RunRecord

METHODS = (
    "random", "rs2", "full", "lipt", "lipt+random", "one-worker",
    "rs2@critical-path", "rs2@total",
)  # fmt: skip


def configuration(data: str | None, pool: int, epochs: int) -> RunConfig:
    """What all methods share."""
    return RunConfig.parse(
        {
            "dataset": {
                "name": "fashion-mnist",
                "datadir": data,
                "limit": pool,
                "val_fraction": 0.02,
            },
            "model": {"architecture": "resnet8"},
            "dataloader": {"batch_size": 64},
            "optimizer": {"lr": 0.05, "nesterov": True},
            "dss_args": {
                "type": "GLISTER",
                "selection_type": "PerClass",
                "greedy": "Naive",
                "fraction": 0.1,
                "select_every": 10,
                "warm_start": {"num_workers": 8},
            },
            "train_args": {"num_epochs": epochs, "device": "cpu", "eval_every": 10},
        }
    )


def announce(method: str, fraction: float, seed: int, record: RunRecord | None) -> None:
    if record is not None:
        reached = f"{record.test_accuracy:.4f}" if record.status == "ok" else record.error
        print(f"seed {seed}  {method:20s} {reached}", flush=True)


def without_local_paths(results: dict[str, Any]) -> dict[str, Any]:
    """Results that say nothing about where this machine keeps its data."""
    for config in [results["config"], *(run["config"] for run in results["runs"])]:
        config["dataset"]["datadir"] = "DIR"
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=None, help="folder that holds FashionMNIST/")
    parser.add_argument("--pool", type=int, default=4_000, help="training images to choose from")
    parser.add_argument("--epochs", type=int, default=20, help="epochs on subsets")
    parser.add_argument("--warm-epochs", type=int, default=15, help="full-data epochs replaced")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/end_to_end"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    directory = output_directory(args.output)
    torch.set_num_threads(args.threads)

    results = compare(
        configuration(args.data, args.pool, args.epochs),
        methods=METHODS,
        seeds=range(args.seeds),
        warm_epochs=args.warm_epochs,
        output=args.work,
        resume=True,
        on_run=announce,
    )
    results["command"] = "python benchmarks/end_to_end.py --data DIR"
    print(results["verdict"])
    print(write_json(directory / "end_to_end.json", lean(without_local_paths(results))))


if __name__ == "__main__":
    main()
