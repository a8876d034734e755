"""Throughput of a LiPT worker against a bare training loop: same net, batch and data, one run.

    python benchmarks/throughput.py --output benchmarks/results

All sides train from tensors that already lie in memory. The bare loop is measured in torch's
default layout and in channels_last, which is what a worker uses by itself; the worker is compared
with the faster of the two. Rounds alternate between the sides, so that a noisy machine disturbs all
alike; the figure is the ratio of medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import TensorDataset

from benchmarks import EARLIER, RESULTS
from lipt_cords import LiPTWarmStart
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import generator
from lipt_cords.models import build_model


def plain_sgd(model: nn.Module) -> list[Optimizer]:
    """SGD with Nesterov momentum, as in a worker."""
    options = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    return [torch.optim.SGD(model.parameters(), **options)]


def bare_seconds(
    images: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
    batch: int,
    layout: torch.memory_format = torch.contiguous_format,
    optimizers_of: Callable[[nn.Module], list[Optimizer]] = plain_sgd,
) -> float:
    """Seconds that the shortest loop a person would write needs for ``steps`` steps."""
    model = build_model("resnet8", 10, in_channels=1, image_size=28).to(memory_format=layout)
    images = images.contiguous(memory_format=layout)
    optimizers = optimizers_of(model)
    order = torch.randperm(len(images), generator=generator(0, "order"))
    start = time.perf_counter()
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    return time.perf_counter() - start


def worker_seconds(dataset: TensorDataset, steps: int, batch: int, **options: object) -> float:
    """Seconds that one LiPT worker reports for the same steps."""
    warm_start = LiPTWarmStart(
        num_workers=1, common_steps=0, local_steps=steps, batch_size=batch,
        batchnorm_refresh="never", device="cpu", progress=False, **{**EARLIER, **options},
    )  # fmt: skip
    model = build_model("resnet8", 10, in_channels=1, image_size=28)
    return warm_start.fit(model, dataset).report.seconds["workers"]


def in_turn(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every side in every round but the first."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            seconds[name].append(side())
    return {name: values[1:] for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    directory = output_directory(args.output)
    torch.set_num_threads(args.threads)

    images = torch.rand(args.steps * args.batch_size, 1, 28, 28, generator=generator(0, "images"))
    labels = torch.randint(0, 10, (len(images),), generator=generator(0, "labels"))
    dataset = TensorDataset(images, labels)
    masked = {"sparsity": "magnitude", "density": 0.8, "prune_after": 0.0}
    bare = partial(bare_seconds, images, labels, args.steps, args.batch_size)
    worker = partial(worker_seconds, dataset, args.steps, args.batch_size)
    sides = {
        "bare": bare,
        "bare_channels_last": partial(bare, torch.channels_last),
        "worker_dense": partial(worker, sparsity="none"),
        "worker_masked": partial(worker, **masked),
        "worker_augmented_and_masked": partial(worker, augmentation="randaugment", **masked),
    }
    seconds = in_turn(sides, args.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = min(medians["bare"], medians["bare_channels_last"])
    ratios = {name: fastest / medians[name] for name in medians if name.startswith("worker")}
    layout = medians["bare"] / medians["bare_channels_last"]
    payload = {
        "kind": "throughput",
        "command": "python benchmarks/throughput.py",
        "settings": vars(args) | {"output": str(args.output)},
        "net": "resnet8 (width 16), 28x28, one channel",
        "seconds": seconds,
        "throughput_relative_to_bare": ratios,
        "channels_last_relative_to_default_layout": layout,
        "provenance": provenance(),
    }
    path = write_json(directory / "throughput.json", payload)
    for name, ratio in ratios.items():
        print(f"{name:28s} {ratio:.3f} of the faster bare loop")
    print(f"{'channels_last':28s} {layout:.3f} of torch's default layout, bare")
    print(path)


if __name__ == "__main__":
    main()
