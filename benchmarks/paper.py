"""The LiPT paper's tables at a scale that this machine can run, its figure beside ours.

    python benchmarks/paper.py --table soup --data DIR
    python benchmarks/paper.py --table soup --data DIR --scale gpu

Tables: low-fraction (GLISTER after a full-data warm-up against LiPT), soup (all workers against
the greedy choice), pruning (SNIP, random, magnitude), ablation (merging, pruning, augmentation),
speedup (what a full-data warm-up of equal accuracy costs). Random and RS2 stand in each. The paper
trains a ResNet-18 on all of CIFAR-10 for 300 epochs; ``--scale cpu`` is a ResNet-8 on 4,000 of its
images, stored as JPEG, so figures compare within a column and not across. ``--scale gpu`` is the
paper's net and data, on one GPU. Interrupted tables go on where they stopped.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks import EARLIER, RESULTS
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.base.provenance import provenance
from lipt_cords.cords.config import RunConfig
from lipt_cords.experiments.compare import compare
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.run import load_splits

Figures = dict[float, float]
RIVALS = ("random", "rs2")
AUGMENTED = {"augmentation": "randaugment", "magnitude": 9}
PRUNED = {"sparsity": "magnitude", "density": 0.8}
PLAIN = {"augmentation": "none", "sparsity": "none"}


@dataclass(frozen=True)
class Row:
    """A row of a table: methods under some options of the warm start, and the paper's figures."""

    label: str
    methods: tuple[str, ...] = ("lipt",)
    options: dict[str, Any] = field(default_factory=dict)
    paper: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """What all tables share at a scale, and how it differs from the paper, in words."""

    config: dict[str, Any]
    warm_start: dict[str, Any]
    full_epochs: int
    differs: str


SCALES = {
    "cpu": Scale(
        config={
            "dataset": {"limit": 4000, "val_fraction": 0.1},
            "model": {"architecture": "resnet8"},
            "dataloader": {"batch_size": 64},
            "optimizer": {"lr": 0.05, "nesterov": True},
            "train_args": {"num_epochs": 15, "eval_every": 15, "precision": "bf16"},
        },
        warm_start={
            **EARLIER, "num_workers": 8, "common_steps": 200, "epochs": 4, "batch_size": 64,
            "precision": "bf16",
        },
        full_epochs=15,
        differs=(
            "ResNet-8 on 4,000 images of CIFAR-10 stored as JPEG, 15 epochs on subsets; the paper: "
            "ResNet-18 on 50,000 images, 300 epochs"
        ),
    ),
    "gpu": Scale(
        config={
            "dataset": {"val_fraction": 0.1},
            "model": {"architecture": "resnet18"},
            "dataloader": {"batch_size": 128},
            "optimizer": {"lr": 0.05, "nesterov": True},
            "train_args": {"num_epochs": 200, "eval_every": 200, "precision": "auto"},
        },
        warm_start=EARLIER
        | {"num_workers": 10, "common_steps": 400, "epochs": 5, "batch_size": 128},
        full_epochs=20,
        differs="ResNet-18 on CIFAR-10, 200 epochs on subsets; the paper: 300",
    ),
}  # fmt: skip

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
LIPT: Figures = {0.01: 47.50, 0.05: 59.30, 0.1: 67.74, 0.2: 75.65}
"""What the paper reports of LiPT at small fractions."""
TABLES: dict[str, tuple[tuple[float, ...], list[Row]]] = {
    "low-fraction": (
        (0.01, 0.05, 0.1, 0.2),
        [
            Row("GLISTER", ("full",), PLAIN, {0.01: 27.04, 0.05: 51.64, 0.1: 62.75, 0.2: 64.58}),
            Row("LiPT", ("lipt",), PLAIN, LIPT),
            Row("the preset", ("lipt-rounds",), PLAIN, LIPT),
        ],
    ),
    "soup": (
        SHARES,
        [
            Row(
                "all", options=PLAIN | {"soup": "uniform"},
                paper=dict(zip(SHARES, (68.05, 78.53, 85.76, 87.74, 89.92), strict=True)),
            ),
            Row(
                "greedy", options=PLAIN | {"soup": "greedy"},
                paper=dict(zip(SHARES, (69.50, 79.39, 88.70, 89.25, 91.18), strict=True)),
            ),
        ],
    ),
    "pruning": (
        SHARES,
        [
            Row(
                name, options={"augmentation": "none", "sparsity": kind, "density": 0.8},
                paper=dict(zip(SHARES, figures, strict=True)),
            )
            for name, kind, figures in (
                ("SNIP", "snip", (63.76, 69.48, 78.25, 83.02, 86.76)),
                ("random", "random", (62.51, 72.81, 78.62, 83.13, 87.13)),
                ("magnitude", "magnitude", (66.01, 77.62, 84.21, 86.59, 88.65)),
            )
        ],
    ),
    "ablation": (
        (0.1, 0.7),
        [
            Row("full data", ("full-data",), PLAIN, {0.1: 95.4, 0.7: 95.4}),
            Row("merging", options=PLAIN, paper={0.1: 60.7, 0.7: 90.5}),
            Row("merging, pruning", options=PLAIN | PRUNED, paper={0.1: 62.2, 0.7: 90.7}),
            Row("merging, augmentation", options=PLAIN | AUGMENTED, paper={0.1: 66.3, 0.7: 92.6}),
            Row("all three", options=PRUNED | AUGMENTED, paper={0.1: 68.5, 0.7: 93.6}),
        ],
    ),
    "speedup": (
        (0.1,),
        [
            Row("GLISTER", ("full",), PLAIN),
            Row("LiPT", ("lipt", "lipt+random"), PLAIN),
            Row("LiPT in rounds", ("lipt-rounds", "lipt-rounds+random"), PLAIN),
            Row("full data", ("full-data",), PLAIN),
        ],
    ),
}  # fmt: skip
PAPER_SPEEDUP = {"warm-up": 15.4, "end to end": 2.8}


def configuration(scale: Scale, options: dict[str, Any], data: Path) -> RunConfig:
    """GLISTER by our exact selector, re-selected twice in a run."""
    epochs = scale.config["train_args"]["num_epochs"]
    dss = {
        "type": "GLISTER", "selection_type": "PerClass", "selector": "fast", "fraction": 0.1,
        "select_every": epochs // 2, "warm_start": scale.warm_start | options,
    }  # fmt: skip
    dataset = scale.config["dataset"] | {"name": f"imagefolder:{data / 'cifar10-images'}"}
    return RunConfig.parse(scale.config | {"dataset": dataset, "dss_args": dss})


def run_table(
    name: str, scale: Scale, data: Path, seeds: int, jobs: int, work: Path, quick: bool
) -> list[dict[str, Any]]:
    """All rows of a table; what is in ``work`` already is not made again."""
    fractions, rows = TABLES[name]
    splits, made = None, []
    for number, row in enumerate([Row("rivals", RIVALS, PLAIN), *rows]):
        config = configuration(scale, row.options, data)
        if quick:
            config = config.updated(
                dataset={"limit": 600}, train_args={"num_epochs": 2, "eval_every": 2}
            )
        splits = load_splits(config) if splits is None else splits
        results = compare(
            config, methods=row.methods, seeds=range(seeds), fractions=fractions,
            warm_epochs=scale.full_epochs, jobs=jobs, output=work / f"{name}-{number}", resume=True,
            splits=splits, on_run=announce,
        )  # fmt: skip
        made += [
            {
                **line, "row": row.label, "options": row.options,
                "paper": row.paper.get(line["fraction"]),
                "accuracies": [
                    run["test_accuracy"] for run in results["runs"]
                    if (run["method"], run["fraction"]) == (line["method"], line["fraction"])
                ],
            }
            for line in results["summary"]
        ]  # fmt: skip
    return made


def announce(method: str, fraction: float, seed: int, record: RunRecord | None) -> None:
    if record is not None:
        accuracy = record.test_accuracy
        reached = record.error if accuracy is None else f"{accuracy:.4f}"
        print(f"seed {seed}  {fraction:4.0%}  {method:20s} {reached}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--table", choices=TABLES, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a try-out on 600 images; no result")
    parser.add_argument("--work", type=Path, default=Path("runs/paper"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    keep_freed_memory()
    if args.jobs == 1 and args.scale == "cpu":
        torch.set_num_threads(1)
    scale = SCALES[args.scale]
    rows = run_table(
        args.table, scale, args.data, args.seeds, args.jobs, args.work / args.scale, args.quick
    )
    for row in rows:
        if row["accuracy"] is not None:
            paper = "" if row["paper"] is None else f"   paper {row['paper']:.1f}"
            ours = f"{100 * row['accuracy']:5.1f}"
            print(f"{row['row']:24s} {row['fraction']:4.0%}  {row['method']:20s} {ours}{paper}")
    payload = {
        "kind": "paper",
        "table": args.table,
        "command": f"python benchmarks/paper.py --table {args.table} --data DIR "
        f"--scale {args.scale}",
        "differs": scale.differs,
        "settings": {"scale": args.scale, "seeds": args.seeds, **scale.config},
        "warm_start": scale.warm_start,
        "paper": PAPER_SPEEDUP if args.table == "speedup" else {},
        "rows": rows,
        "provenance": provenance(),
    }
    if not args.quick:
        name = f"paper-{args.table}" + ("" if args.scale == "cpu" else f"-{args.scale}")
        print(write_json(output_directory(args.output) / f"{name}.json", payload))


if __name__ == "__main__":
    main()
