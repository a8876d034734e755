"""A training from scratch whose batches the caller chooses, for rivals that the package lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.fixed_subset import TRAINING
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.source import BatchSource
from lipt_cords.training.evaluation import accuracy
from lipt_cords.training.optimizers import OptimizerConfig, build_optimizer
from lipt_cords.training.schedules import Schedule, rate_factor
from lipt_cords.training.step import Step

BATCH: int = TRAINING["batch_size"]
OPTIMIZERS: dict[str, tuple[OptimizerConfig, Schedule]] = {
    "sgd": (OptimizerConfig(type="sgd", lr=TRAINING["lr"], nesterov=True), "cosine"),
    "muon": (OptimizerConfig.model_validate({"type": "muon"}), "linear"),
}
"""Each with the schedule of its rate, which falls to zero over the training."""
SCORED = 1_000

Seen = Callable[[Tensor, Tensor], None]


class Training:
    """One net, trained step by step.

    Args:
        net: trained in place.
        data: what batches are read from.
        steps: of the schedule.
        optimizer: one of OPTIMIZERS.
    """

    def __init__(
        self, net: nn.Module, data: ImageTensors, steps: int, optimizer: str = "sgd"
    ) -> None:
        config, self._schedule = OPTIMIZERS[optimizer]
        self.net, self._data, self._steps, self._taken = net, data, steps, 0
        self._optimizer = build_optimizer(net, config, precision=torch.bfloat16)
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._step = Step(net, self._optimizer, precision="bf16", memory_format="auto")

    def step(self, batch: Tensor, seen: Seen | None = None) -> None:
        """One step on some samples; ``seen`` gets them and their logits before it."""
        share = rate_factor(self._schedule, self._taken, self._steps)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = share * peak
        inputs, labels = self._data.gather(batch)

        def loss(logits: Tensor) -> Tensor:
            if seen is not None:
                seen(batch, logits.detach())
            return nn.functional.cross_entropy(logits, labels)

        self.net.train()
        self._step(inputs, loss)
        self._taken += 1

    def losses(self, batch: Tensor) -> Tensor:
        """The loss of each of some samples, (B,), in eval mode."""
        labels = self._data.labels[batch]
        return nn.functional.cross_entropy(
            logits_of(self.net, self._data, batch), labels, reduction="none"
        )


def shuffled(members: Tensor, size: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Batches without end: each permutation of the members is used up before the next one."""
    rest = members[:0]
    while True:
        while len(rest) < size:
            rest = torch.cat([rest, members[torch.randperm(len(members), generator=draws)]])
        yield rest[:size]
        rest = rest[size:]


@torch.no_grad()
def logits_of(net: nn.Module, data: ImageTensors, samples: Tensor) -> Tensor:
    """(B, C) float32 logits in eval mode, forward in bfloat16 as in the training."""
    net.eval()
    found = []
    for part in torch.split(samples, SCORED):
        inputs = data.gather(part)[0].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(net(inputs).float())
    return torch.cat(found)


def tested(net: nn.Module, test: ImageTensors) -> float:
    """Accuracy on a test set."""
    return accuracy(net, BatchSource(test))
