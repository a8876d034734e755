"""Cheaper workers: progressive subnetworks and Early-Bird tickets against what would expose them.

    python benchmarks/cheaper/run.py --part warm-start --data DIR

warm-start: LiPT on a ResNet-20 with paths, a ticket, both; the signal against long full-data
trainings; beside it paths of constant length and plain training cut to as many FLOPs. layers: a
12-block transformer, stages 6-8-10-12. ticket: Early-Bird training at 30 and 50 % against the
given net, a random ticket of the same shape, and the given net at as many FLOPs. exact: what must
be equal, and the time of a step. Fashion-MNIST; every part writes its JSON after every run.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import EARLIER, RESULTS
from benchmarks.cheaper.exact import exactness
from benchmarks.cheaper.nets import PatchEncoder
from benchmarks.gradient_signal import load_task, quality, signal_of, train_plainly
from lipt_cords import LiPTWarmStart, train_on_subset
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import generator
from lipt_cords.models import build_model
from lipt_cords.models.nets import CifarResNet
from lipt_cords.selectors import Selection
from lipt_cords.training.cheaper.tickets import TicketSearch

Row = dict[str, Any]
LIPT: dict[str, Any] = {
    **EARLIER,
    "num_workers": 8, "common_steps": 100, "epochs": 5, "batch_size": 64, "sparsity": "none",
    "precision": "bf16", "threads": 1, "launch": "serial",
}  # fmt: skip
SHORT = (2, 3, 5, 7)
"""Path lengths of ResNet-20's seven blocks that can be left out: 30 % of a worker's FLOPs saved."""
CONSTANT = 4
"""A constant length of about as many FLOPs."""
PAPER = (6, 8, 10, 12)


def warm_start(data: str, seed: int) -> Iterator[Row]:
    """Signal, FLOPs and seconds of warm starts."""
    task = load_task("fashion-mnist", data, 4_000)

    def net(number: int) -> nn.Module:
        return build_model("resnet20", 10, in_channels=1, image_size=28, seed=number)

    ticket = {"ratio": 0.3, "l1": 1e-3, "every": 10}
    methods: dict[str, Row] = {
        "plain": {},
        "paths": {"subnetwork": {"lengths": SHORT}},
        "paths, constant": {"subnetwork": {"lengths": (CONSTANT,), "control": "constant"}},
        "ticket": {"early_bird": ticket},
        "ticket, paths": {"early_bird": ticket, "subnetwork": {"lengths": SHORT}},
    }
    references = [
        signal_of(
            train_plainly(
                net(100 + 10 * seed + number), task, batch=64, lr=0.05, passes=40_000,
                schedule="cosine", seed=100 + 10 * seed + number,
            ),
            task,
        )
        for number in range(2)
    ]  # fmt: skip

    def row(name: str, options: Row) -> Row:
        started = time.perf_counter()
        result = LiPTWarmStart(**{**LIPT, "seed": seed, **options}).fit(
            net(seed), task.train, task.probe
        )
        report = result.report
        return {
            "method": name,
            "seed": seed,
            **quality(signal_of(result.model(), task), references),
            "flops": report.flops,
            "critical_path_flops": report.critical_path_flops,
            "passes": report.passes,
            "training_seconds": report.seconds["common"] + report.seconds["workers"],
            "seconds": time.perf_counter() - started,
            "stages": report.stages,
            "ticket": report.ticket and {k: v for k, v in report.ticket.items() if k != "layers"},
        }

    made: dict[str, Row] = {}
    for name, options in methods.items():
        made[name] = row(name, options)
        yield made[name]
    steps = local_steps(task)  # controls are cut to what the others really spent
    for name, like in (("plain, cut", "paths"), ("plain, cut more", "ticket, paths")):
        saved = 1 - made[like]["flops"] / made["plain"]["flops"]
        common = LIPT["common_steps"] * 64 * made["plain"]["flops"] / made["plain"]["passes"]
        of_workers = saved * made["plain"]["flops"] / (made["plain"]["flops"] - common)
        yield row(name, {"local_steps": max(1, round(steps * (1 - of_workers)))})


def local_steps(task: Any) -> int:
    """Local steps of a worker of the plain warm start."""
    shard = len(task.train) // LIPT["num_workers"]
    return int(LIPT["epochs"] * -(-shard // LIPT["batch_size"]))


def layers(data: str, seed: int) -> Iterator[Row]:
    """A 12-block transformer encoder on 16 patches of every image."""
    task = load_task("fashion-mnist", data, 2_000)
    subset = Selection(torch.arange(len(task.train)), torch.ones(len(task.train)))
    test = torch.utils.data.TensorDataset(*task.held_out)
    methods: dict[str, Row] = {
        "plain": {"epochs": 8},
        "paths": {"epochs": 8, "subnetwork": {"lengths": PAPER}},
        "paths, constant": {
            "epochs": 8, "subnetwork": {"lengths": (9,), "control": "constant"},
        },
        "stochastic depth": {
            "epochs": 8, "subnetwork": {"control": "stochastic-depth", "survival": 0.5},
        },
        "plain, cut": {"epochs": 6},
    }  # fmt: skip
    for name, options in methods.items():
        model = PatchEncoder(seed=seed)
        result = train_on_subset(
            model, task.train, subset, val_dataset=test, batch_size=64, lr=0.001,
            optimizer="adamw", weight_decay=0.01, eval_every=100, seed=seed, device="cpu",
            **options,
        )  # fmt: skip
        yield {
            "method": name, "seed": seed, "accuracy": result.val_accuracy,
            "loss": held_out_loss(model, task.held_out),
            "work": result.work * options["epochs"] / methods["plain"]["epochs"],
            "seconds": result.costs.training_seconds,
        }  # fmt: skip


def held_out_loss(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Mean cross-entropy."""
    with torch.no_grad():
        logits = torch.cat([model.eval()(part) for part in data[0].split(500)])
    return float(F.cross_entropy(logits, data[1]))


class RandomTicket(TicketSearch):
    """As many channels of every layer as the ticket has, but any."""

    def choose(self) -> tuple[dict[str, torch.Tensor], list[str]]:
        kept, rescued = super().choose()
        draws, groups = generator(len(self.masks), "random ticket"), self.groups
        mask = torch.zeros_like(groups.group_of, dtype=torch.bool)
        starts = dict(zip(groups.names, groups.starts, strict=True))
        sizes = dict(zip(groups.names, groups.sizes, strict=True))
        seen: set[int] = set()
        for name, channels in kept.items():
            mine = groups.group_of[starts[name] : starts[name] + sizes[name]]
            if int(mine[0]) in seen:
                continue  # a stream that another layer has drawn already
            seen.update(mine.tolist())
            chosen = mine[torch.randperm(len(mine), generator=draws)[: len(channels)]]
            mask |= torch.isin(groups.group_of, chosen)
        parts = torch.split(mask, groups.sizes)
        drawn = {n: p.nonzero().flatten() for n, p in zip(groups.names, parts, strict=True)}
        if {n: len(c) for n, c in drawn.items()} != {n: len(c) for n, c in kept.items()}:
            raise ValueError("the random ticket is not of the ticket's shape")
        return drawn, rescued


def ticket(data: str, seed: int) -> Iterator[Row]:
    """Early-Bird training against the given net and a random ticket."""
    task = load_task("fashion-mnist", data, 3_000)
    subset = Selection(torch.arange(len(task.train)), torch.ones(len(task.train)))
    test = torch.utils.data.TensorDataset(*task.held_out)
    epochs = 16
    steps = epochs * -(-len(task.train) // 64)

    def train(options: Row, search: type[TicketSearch] = TicketSearch, epochs: int = epochs) -> Any:
        torch.manual_seed(seed)
        model = CifarResNet(1, 10, 1, width=32)
        with mock.patch("lipt_cords.training.cheaper.steps.TicketSearch", search):
            return train_on_subset(
                model, task.train, subset, val_dataset=test, batch_size=64, lr=0.05,
                epochs=epochs, eval_every=100, seed=seed, device="cpu", precision="bf16", **options,
            )  # fmt: skip

    made: dict[str, Any] = {}

    def row(name: str, result: Any, length: int = epochs) -> Row:
        made[name] = result
        return {
            "method": name, "seed": seed, "accuracy": result.val_accuracy,
            "work": result.work * length / epochs, "seconds": result.costs.training_seconds,
            "drawn_after": result.ticket and result.ticket["steps"] / steps,
            "ticket": result.ticket,
        }  # fmt: skip

    yield row("dense", train({}))
    for ratio in (0.3, 0.5):
        options = {"early_bird": {"ratio": ratio, "every": 20, "latest": 0.2}}
        names = [f"{kind}, {ratio:.0%}" for kind in ("ticket", "random ticket", "dense, cut")]
        yield row(names[0], train(options))
        yield row(names[1], train(options, RandomTicket))
        short = max(1, round(epochs * made[names[0]].work))
        yield row(names[2], train({}, epochs=short), length=short)


PARTS: dict[str, Callable[[str, int], Iterator[Row]]] = {
    "warm-start": warm_start, "layers": layers, "ticket": ticket,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", choices=(*PARTS, "exact"), required=True)
    parser.add_argument("--data", default=None, help="directory of Fashion-MNIST")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    payload: Row = {
        "kind": "cheaper",
        "part": args.part,
        "command": f"python benchmarks/cheaper/run.py --part {args.part} --data DIR",
        "warm_start": copy.deepcopy(LIPT),
        "rows": [],
        "provenance": provenance(),
    }
    path = output_directory(args.output) / f"cheaper-{args.part}.json"
    if args.part == "exact":
        print(write_json(path, payload | {"rows": exactness()}))
        return
    for seed in range(args.seeds):
        for row in PARTS[args.part](args.data, seed):
            payload["rows"].append(row)
            shown = {k: v for k, v in row.items() if isinstance(v, float)}
            print(seed, row["method"], {k: round(v, 4) for k, v in shown.items()}, flush=True)
            write_json(path, payload)


if __name__ == "__main__":
    main()
