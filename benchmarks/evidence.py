"""Questions to the warm start, each a comparison in which every cost is counted.

    python benchmarks/evidence.py --question warm-up --set fashion-mnist --data DIR

warm-up: the preset ``lipt`` in place of CORDS's full-data warm-up, before RS2 and before GLISTER,
GradMatch and CRAIG re-selected as in CORDS. one-process: the same with the preset in one process,
where it is one worker, and RS2 with no warm-up, by which the two questions can be compared. tax:
RS2 on a tenth after the preset and after two, three, five and ten epochs on all data, where Muon
trains everything, with CORDS's cosine. faster: the same with a higher rate in the workers, and
RS2's rate is held and then falls. end-to-end: the preset, and RS2 after it, against training on
all data until the same accuracy. budget: everybody spends the same passes in all, with the preset
in one process; two of them also with a cosine. In these two everybody trains with Muon in batches
of 16, and the rate is held and then falls, as the preset's. ResNet-8, a pool of 20,000 images, 16
workers where a warm start does not say how many. Interrupted runs go on where they stopped.
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

from benchmarks import RESULTS
from benchmarks.lean import lean
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.cords.config import RunConfig
from lipt_cords.experiments.compare import compare
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.run import load_splits

SETS = ("fashion-mnist", "cifar10-jpeg")
POOL = 20_000
BF16: dict[str, Any] = {"precision": "bf16"}
"""The preset, and nothing else of the warm start."""
HALF: dict[str, Any] = {**BF16, "common_steps": 100, "local_steps": 312, "rounds": 20}
FASTER: dict[str, Any] = {**BF16, "lr": 0.05}
"""The preset with a higher rate."""
ALONE: dict[str, Any] = {**BF16, "num_workers": 1}
SGD: dict[str, Any] = {"lr": 0.05, "nesterov": True}
MUON: dict[str, Any] = {"type": "muon"}
COSINE: dict[str, Any] = {"type": "cosine_annealing"}
BUDGET: dict[str, Any] = {"equal": "total", "budget": 100_000}
SELECTORS = ("glister", "gradmatch", "craig")


@dataclass(frozen=True)
class Part:
    """One comparison of a question."""

    methods: tuple[str, ...]
    fractions: tuple[float, ...] = (0.1,)
    terms: dict[str, Any] = field(default_factory=dict)
    warm_start: dict[str, Any] = field(default_factory=lambda: BF16)
    optimizer: dict[str, Any] = field(default_factory=lambda: SGD)
    """Of everything but the warm start, which has its own."""
    batch_size: int = 64
    """Of everything but the warm start."""
    scheduler: dict[str, Any] = field(default_factory=dict)
    """Of everything but the warm start."""


QUESTIONS: dict[str, list[Part]] = {
    "warm-up": [
        Part(
            (
                "random", "rs2", "one-worker-annealed+rs2", "lipt+random", "lipt+rs2",
                "full=10+rs2",
                *(f"lipt+{kind}" for kind in SELECTORS), *(f"full=8+{kind}" for kind in SELECTORS),
            ),
            terms={"subset_passes": 40_000},
        )
    ],
    "one-process": [
        Part(
            ("rs2", "lipt+rs2", *(f"lipt+{kind}" for kind in SELECTORS)),
            terms={"subset_passes": 40_000},
            warm_start=ALONE,
        )
    ],
    "tax": [
        Part(methods, terms={"subset_passes": 40_000}, warm_start=warm, optimizer=MUON,
             scheduler=COSINE)
        for methods, warm in (
            (("rs2", "one-worker-annealed+rs2", "lipt+rs2", "full=10+rs2"), BF16),
            (("lipt+rs2",), HALF),
            (("full=2+rs2", "full=3+rs2", "full=5+rs2"), BF16),
        )
    ],
    "faster": [
        Part(
            ("rs2", "lipt+rs2", "full=10+rs2", "one-worker-annealed+rs2", "full=5+rs2"),
            terms={"subset_passes": 40_000}, warm_start=FASTER, optimizer=MUON,
        )
    ],
    "end-to-end": [
        # 20 epochs: 10,000 and 40,000 passes on subsets.
        Part(("lipt+rs2", "rs2"), fractions=(0.025, 0.1), optimizer=MUON, batch_size=16),
        *(
            Part(("full-data",), terms={"subset_passes": epochs * POOL // 10}, optimizer=MUON,
                 batch_size=16)
            for epochs in (2, 3, 6)
        ),
    ],
    "budget": [
        Part(
            ("random", "rs2", "lipt+rs2", "full-data"), terms=BUDGET, warm_start=ALONE,
            optimizer=MUON, batch_size=16,
        ),
        Part(  # the preset on all data for the whole budget: its soup, before any training
            ("lipt+rs2",), terms={"subset_passes": 2_000}, warm_start={**ALONE, "epochs": 5.0},
            optimizer=MUON, batch_size=16,
        ),
        Part(
            ("rs2", "full-data"), terms=BUDGET, optimizer=MUON, batch_size=16,
            scheduler={"type": "cosine"},
        ),
    ],
}  # fmt: skip


def configuration(name: str, data: Path, part: Part) -> RunConfig:
    """What all methods of a part share."""
    place = f"imagefolder:{data / 'cifar10-images'}" if name == "cifar10-jpeg" else name
    return RunConfig.parse(
        {
            "dataset": {"name": place, "datadir": str(data), "limit": POOL},
            "model": {"architecture": "resnet8"},
            "dataloader": {"batch_size": part.batch_size},
            "optimizer": part.optimizer,
            "scheduler": part.scheduler,
            "dss_args": {
                "type": "GLISTER", "selector": "fast", "fraction": 0.1, "select_every": 5,
                "warm_start": part.warm_start,
            },
            "train_args": {"num_epochs": 20, "eval_every": 10_000, "precision": "bf16"},
        }
    )  # fmt: skip


def announce(method: str, fraction: float, seed: int, record: RunRecord | None) -> None:
    if record is not None:
        accuracy = record.test_accuracy
        reached = record.error if accuracy is None else f"{accuracy:.4f}"
        print(
            f"seed {seed}  {fraction:4.0%}  {method:32s} {reached}  "
            f"{record.costs.critical_passes:,} {record.costs.passes:,}",
            flush=True,
        )


def without_local_paths(results: dict[str, Any]) -> dict[str, Any]:
    """Results that say nothing about where this machine keeps its data."""
    for config in [results["config"], *(run["config"] for run in results["runs"])]:
        config["dataset"]["datadir"] = "DIR"
        config["dataset"]["name"] = config["dataset"]["name"].rpartition("/")[2]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--question", choices=QUESTIONS, required=True)
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.jobs)
    keep_freed_memory()
    splits, parts = None, []
    for number, part in enumerate(QUESTIONS[args.question]):
        config = configuration(args.set, args.data, part)
        splits = load_splits(config) if splits is None else splits
        results = compare(
            config, methods=part.methods, seeds=range(args.seeds), fractions=part.fractions,
            jobs=args.jobs, output=args.work / f"{args.question}-{args.set}-{number}", resume=True,
            splits=splits, on_run=announce, **part.terms,
        )  # fmt: skip
        parts.append(lean(without_local_paths(results)))
    payload = {
        "kind": "evidence",
        "question": args.question,
        "data": args.set,
        "command": f"python benchmarks/evidence.py --question {args.question} --set {args.set} "
        f"--data DIR --seeds {args.seeds}",
        "parts": parts,
        "provenance": {k: parts[0][k] for k in ("python", "versions", "machine", "revision")},
    }
    path = output_directory(args.output) / f"evidence-{args.question}-{args.set}.json"
    print(write_json(path, payload))


if __name__ == "__main__":
    main()
