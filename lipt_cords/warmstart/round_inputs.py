"""The inputs of every round: model, data and loss, checked and in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.data.source import BatchSource
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.modes import frozen_entries
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.soup import SOUPS
from lipt_cords.warmstart.plan import FitPlan
from lipt_cords.warmstart.run import Run
from lipt_cords.warmstart.watch.probe import Probe
from lipt_cords.warmstart.workers.batches import Pool
from lipt_cords.warmstart.workers.worker import WorkerTask


@dataclass(frozen=True)
class RoundInputs:
    """Model, data and loss of the rounds.

    Attributes:
        config: the options.
        model: on the device, with the given weights; the rounds overwrite it.
        dataset: the training set.
        labels: its labels; empty on ranks other than 0.
        plan: head and shards.
        loss: mean loss of (logits, labels).
        pool: this rank's samples in memory.
        validation: held-out data, or None.
        probe: the part of it on which workers are compared, or None.
        flops: of one sample in a training step of the given net.
        forward_flops: of one sample in a forward pass of it.
        block_shares: with ``subnetwork``, each block's share of the former.
    """

    config: WarmStartConfig
    model: nn.Module
    dataset: Dataset[Any]
    labels: Tensor
    plan: FitPlan
    loss: LossFunction
    pool: Pool | None
    validation: BatchSource | None
    probe: Probe | None
    flops: int
    forward_flops: int
    block_shares: tuple[float, ...] = ()

    @property
    def trained(self) -> list[str]:
        """Names of the trained weights; other entries of a state are frozen weights or buffers."""
        weights = self.model.named_parameters(remove_duplicate=False)
        return [name for name, weight in weights if weight.requires_grad]

    @property
    def frozen(self) -> set[str]:
        """Names of the weights and buffers that no training changes."""
        return frozen_entries(self.model)

    def task(self, worker: int, run: Run, tick: Callable[[], None]) -> WorkerTask:
        """The task of a worker in the coming round."""
        needed = run.in_last_round or SOUPS.entry(self.config.soup).facts["needs_validation"]
        return WorkerTask(
            worker=worker,
            model=run.net,
            head=self.plan.head,
            dataset=self.dataset,
            indices=self.plan.shards[worker],
            config=self.config,
            loss=self.loss,
            round=run.round,
            decay=run.decay,
            validation=self.validation if needed else None,
            probe=run.probe,
            pool=self.pool,
            scale_penalty=run.scale_penalty,
            block_shares=run.block_shares,
            tick=tick,
        )
