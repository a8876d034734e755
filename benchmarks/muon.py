"""What Muon costs: a worker against a bare loop, and a step against one of SGD.

    python benchmarks/muon.py --output benchmarks/results

The bare loop trains the same net on the same batches from memory, in channels_last, with the plain
Muon that a person would write: one matrix after another. A worker is charged with all of ``fit``.
The steps alone are timed on the shapes of ResNet-18 with gradients that are there already. Sides
alternate and are timed in processor seconds of their one thread, so that other processes disturb
them less; the figures are medians of the ratios in a round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks import RESULTS
from benchmarks.throughput import bare_seconds, in_turn, worker_seconds
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import generator
from lipt_cords.models import build_model
from lipt_cords.models.matrices import hidden_matrices
from lipt_cords.training.optimizers import OPTIMIZERS, OptimizerOptions

PRESET = {"optimizer": "muon", "schedule": "wsd", "sparsity": "none", "precision": "fp32"}
"""What the preset takes for a worker, in the precision of the bare loop."""


class PlainMuon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, one matrix after another; three Newton-Schulz steps."""

    def __init__(self, matrices: list[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for one in group["params"]:
                state = self.state[one]
                if not state:
                    state["buffer"] = torch.zeros_like(one)
                state["buffer"].lerp_(one.grad, 1 - group["momentum"])
                update = one.grad.lerp(state["buffer"], group["momentum"])
                flat = newton_schulz(update.reshape(len(update), -1))
                scale = max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5
                one.add_(flat.view_as(one), alpha=-group["lr"] * scale)


def newton_schulz(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, roughly (Jordan et al., Muon, 2024)."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(3):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


def plain_muon(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Plain Muon for hidden matrices, and SGD for the rest."""
    matrices = hidden_matrices(model)
    held = {id(one) for one in matrices}
    rest = [one for one in model.parameters() if id(one) not in held]
    sgd = torch.optim.SGD(rest, lr=0.05, momentum=0.9, nesterov=True)
    return [PlainMuon(matrices, lr=0.03, momentum=0.6), sgd]


def in_processor_seconds(side: Callable[[], object]) -> Callable[[], float]:
    """The same side, timed by what its thread computes."""

    def timed() -> float:
        start = time.process_time()
        side()
        return time.process_time() - start

    return timed


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """Median over the rounds of the seconds of one side over those of the other."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def step_of(name: str) -> Callable[[], None]:
    """One step of an optimizer on the shapes of ResNet-18."""
    model = build_model("resnet18", 10, in_channels=3, image_size=32)
    for one in model.parameters():
        one.grad = torch.randn(one.shape, generator=generator(0, "gradient"))
    if name == "plain":
        optimizers = plain_muon(model)
    else:
        options = OptimizerOptions(
            lr=0.03, momentum=0.6, nesterov=True, fused=True, matrices=tuple(hidden_matrices(model))
        )
        optimizers = [OPTIMIZERS[name](list(model.parameters()), options)]

    def step() -> None:
        for one in optimizers:
            one.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    directory = output_directory(args.output)
    torch.set_num_threads(1)
    workers = {}
    for batch in args.batch_sizes:
        images = torch.rand(args.steps * batch, 1, 28, 28, generator=generator(0, "images"))
        labels = torch.randint(0, 10, (len(images),), generator=generator(0, "labels"))
        dataset = TensorDataset(images, labels)
        bare = partial(
            bare_seconds, images, labels, args.steps, batch, torch.channels_last, plain_muon
        )
        worker = partial(worker_seconds, dataset, args.steps, batch, **PRESET)
        sides = {"bare": in_processor_seconds(bare), "worker": in_processor_seconds(worker)}
        seconds = in_turn(sides, args.rounds)
        workers[str(batch)] = {"seconds": seconds, "ratio": ratio(seconds, "bare", "worker")}
        print(f"batches of {batch}: a worker has {workers[str(batch)]['ratio']:.3f} of a bare loop")
    steps = {name: in_processor_seconds(step_of(name)) for name in ("sgd", "muon", "plain")}
    seconds = in_turn(steps, args.rounds)
    over_sgd, plain = ratio(seconds, "muon", "sgd"), ratio(seconds, "plain", "muon")
    payload = {
        "kind": "muon",
        "command": "python benchmarks/muon.py",
        "settings": {"steps": args.steps, "rounds": args.rounds},
        "worker_against_bare_loop": workers,
        "resnet18_step": {
            "seconds": seconds,
            "muon_over_sgd": over_sgd,
            "plain_muon_over_muon": plain,
        },
        "provenance": provenance(),
    }
    print(
        f"ResNet-18: a Muon step takes {statistics.median(seconds['muon']):.3f} s, {over_sgd:.1f} "
        f"times one of SGD; plain Muon takes {plain:.2f} times ours"
    )
    print(write_json(directory / "muon.json", payload))


if __name__ == "__main__":
    main()
