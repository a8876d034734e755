"""Training LiPT workers at once, as one batched net, against training them in turn.

    python benchmarks/together.py --output benchmarks/results

The option is ``together`` of a warm start. A net, its batches and its steps are the same on both
sides, and so are the results, up to rounding. Rounds alternate between the sides, so that a noisy
machine disturbs them alike; a figure is the ratio of medians. Seconds are those of the processor,
on one thread: on an idle machine they are wall time, and on a busy one they stay what they are.
They hold all that a worker does, its data included, but not the try-out on copies before the
first group. Inputs are random: no time depends on their values.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from benchmarks import EARLIER, RESULTS
from lipt_cords import WarmStartConfig
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.models import build_model, find_head
from lipt_cords.models.losses import mean_loss
from lipt_cords.warmstart.workers.batches import Pool, WorkerBatches
from lipt_cords.warmstart.workers.ensemble import obstacle, speedup
from lipt_cords.warmstart.workers.together import LEAST_SPEEDUP, train_at_once
from lipt_cords.warmstart.workers.worker import WorkerTask, run_worker

BATCHES = 4
"""In the shard of every worker."""
IN_TURN = 2
"""Workers that are trained in turn each round; their mean stands for any number of them."""


class TextNet(nn.Module):
    """A classifier of token sequences that is called with keywords, as text models are."""

    def __init__(self, vocabulary: int = 1000, width: int = 32, classes: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.embedding(tokens)).mean(dim=1))
        return logits


class Sentences(Dataset[dict[str, Tensor]]):
    """Random sequences of 16 tokens, as dicts."""

    def __init__(self, count: int) -> None:
        self.tokens = torch.randint(1000, (count, 16), generator=generator(0, "tokens"))
        self.labels = torch.randint(4, (count,), generator=generator(0, "labels"))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"tokens": self.tokens[index], "labels": self.labels[index]}


@dataclass(frozen=True)
class Case:
    """A net and what it trains on.

    Attributes:
        title: in words.
        build: makes the net.
        data: makes a data set of so many samples.
        batch_size: samples in a step.
        steps: of every worker in a round of the benchmark.
    """

    title: str
    build: Callable[[], nn.Module]
    data: Callable[[int], Dataset[Any]]
    batch_size: int
    steps: int


def images(side: int) -> Callable[[int], Dataset[Any]]:
    """A data set of random grey images in ten classes."""

    def data(count: int) -> Dataset[Any]:
        pixels = torch.rand(count, 1, side, side, generator=generator(0, "images"))
        return TensorDataset(pixels, torch.randint(10, (count,), generator=generator(0, "labels")))

    return data


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


CASES = {
    "mlp": Case("perceptron 64-128-10, batches of 16", perceptron, images(8), 16, 200),
    "cnn": Case(
        "cnn on 8x8 images, batches of 16",
        lambda: build_model("cnn", 10, in_channels=1),
        images(8), 16, 40,
    ),
    "resnet8": Case(
        "resnet8 on 28x28 images, batches of 64",
        lambda: build_model("resnet8", 10, in_channels=1, image_size=28),
        images(28), 64, 2,
    ),
    "text": Case(
        "2-layer transformer encoder of width 32 on 16 tokens, batches of 16 dicts",
        TextNet, Sentences, 16, 20,
    ),
}  # fmt: skip


def tasks_of(case: Case, model: nn.Module, pool: Pool, workers: int) -> list[WorkerTask]:
    """The first workers of a warm start."""
    shard = BATCHES * case.batch_size
    head = find_head(model, num_classes=4 if model.__class__ is TextNet else 10).name
    config = WarmStartConfig(
        **EARLIER, num_workers=workers, batch_size=case.batch_size, local_steps=case.steps,
        device="cpu",
    )  # fmt: skip
    return [
        WorkerTask(
            worker=worker,
            model=model,
            head=head,
            dataset=TensorDataset(torch.zeros(0)),  # never read: all samples are in the pool
            indices=torch.arange(worker * shard, (worker + 1) * shard),
            config=config,
            loss=mean_loss(None),
            pool=pool,
        )
        for worker in range(workers)
    ]


def measure(case: Case, sizes: list[int], rounds: int) -> dict[str, Any]:
    """Seconds that a worker takes in turn, and its share of a group's seconds, by group size."""
    with isolated_rng(0, "net"):
        model = case.build()
    count = max(sizes) * BATCHES * case.batch_size
    pool = Pool(case.data(count), torch.arange(count), torch.device("cpu"))

    def seconds(workers: int, *, at_once: bool) -> float:
        tasks = tasks_of(case, model, pool, workers)
        started = time.process_time()
        if at_once:
            list(train_at_once(tasks))
        else:
            for task in tasks:
                run_worker(task)
        return (time.process_time() - started) / workers

    taken: dict[str, list[float]] = {name: [] for name in ("in_turn", *map(str, sizes))}
    for _ in range(rounds + 1):  # the first is not counted
        taken["in_turn"].append(seconds(IN_TURN, at_once=False))
        for size in sizes:
            taken[str(size)].append(seconds(size, at_once=True))
    medians = {name: statistics.median(values[1:]) for name, values in taken.items()}
    return {
        "title": case.title,
        "steps": case.steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "processor_seconds_per_worker": {name: values[1:] for name, values in taken.items()},
        "speedup": {str(size): medians["in_turn"] / medians[str(size)] for size in sizes},
        "auto": dict(auto(case, model, pool, sizes)),
    }


def auto(case: Case, model: nn.Module, pool: Pool, sizes: list[int]) -> Iterator[tuple[str, Any]]:
    """What ``together="auto"`` measures and would choose, by number of workers."""
    first = tasks_of(case, model, pool, 1)[0]
    worker_batches = WorkerBatches(first.dataset, first.indices, torch.device("cpu"), pool)
    batch = next(worker_batches.epochs(case.batch_size, generator(0, "order")))
    for size in sizes:
        if (reason := obstacle(model, first.loss, batch, first.config)) is not None:
            raise ValueError(f"{case.title} cannot be trained at once: {reason}")
        gain = speedup(model, first.loss, batch, first.config, size)
        yield str(size), {"measured": gain, "at_once": gain >= LEAST_SPEEDUP}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    directory = output_directory(args.output)
    torch.set_num_threads(1)

    nets = {}
    for name, case in CASES.items():
        nets[name] = measure(case, args.sizes, args.rounds)
        gains = "  ".join(f"{size}: {gain:.2f}" for size, gain in nets[name]["speedup"].items())
        print(f"{name:8s} times as fast as in turn, by workers at once  {gains}", flush=True)
    payload = {
        "kind": "together",
        "command": "python benchmarks/together.py",
        "settings": vars(args) | {"output": args.output.name},
        "nets": nets,
        "provenance": provenance(),
    }
    print(write_json(directory / "together.json", payload))


if __name__ == "__main__":
    main()
