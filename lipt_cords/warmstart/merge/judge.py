"""How good merged weights are on held-out data, and with which BatchNorm statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.messages import travels
from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.data.source import BatchSource
from lipt_cords.data.splits import balanced_order
from lipt_cords.models.state import State, on_cpu
from lipt_cords.training.evaluation import accuracy
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.batchnorm import (
    batchnorm_buffers,
    refresh_batchnorm,
)
from lipt_cords.warmstart.watch.probe import Probe, Reading


@travels
@dataclass(frozen=True)
class FinalEvaluation:
    """The chosen BatchNorm statistics of the soup, and its accuracy.

    Attributes:
        buffers: the statistics to use, by name, on the CPU.
        before: held-out accuracy with the averaged ones; None without held-out data.
        after: with recomputed ones; None if there are none.
        refreshed: whether ``buffers`` are the recomputed ones.
    """

    buffers: State
    before: float | None
    after: float | None
    refreshed: bool

    @property
    def accuracy(self) -> float | None:
        """Held-out accuracy with the chosen statistics."""
        return self.after if self.refreshed else self.before


@dataclass
class Judge:
    """Evaluates soups in a scratch model, and counts the passes.

    Attributes:
        model: scratch space on the device; its weights are overwritten.
        dataset: the training set, of which at most ``refresh_samples`` are read.
        labels: its labels, shape (N,).
        config: the options of the refresh.
        validation: held-out data, or None.
    """

    model: nn.Module
    dataset: Dataset[Any]
    labels: Tensor
    config: WarmStartConfig
    validation: BatchSource | None
    evaluation_passes: int = 0
    refresh_passes: int = 0
    _refresh_source: BatchSource | None = field(default=None, repr=False)

    def trial(self, state: State) -> float:
        """Held-out accuracy of a trial soup.

        BatchNorm is refreshed first if ``batchnorm_refresh`` is ``always``, or if it is ``auto``
        and the workers had no common start: without it such a soup is useless.
        """
        if self.validation is None:
            raise ValueError(
                f"soup {self.config.soup!r} tries soups, and there is no held-out data: register "
                "it with needs_validation=True, and pass val_dataset"
            )
        with isolated_rng(self.config.seed, "judge"):
            self._load(state)
            return self._accuracy() or 0.0

    def read(self, state: State, probe: Probe) -> Reading | None:
        """Losses and gradients of a merge on the probe, its BatchNorm as in a trial."""
        with isolated_rng(self.config.seed, "judge"):
            self._load(state)
            return probe.read(self.model)

    def _load(self, state: State) -> None:
        self.model.load_state_dict(state)
        policy = self.config.batchnorm_refresh
        if policy == "always" or (policy == "auto" and self.config.common_steps == 0):
            self._refresh()

    def finish(self, state: State) -> FinalEvaluation:
        """Decide on the BatchNorm statistics of the merged model.

        ``auto`` keeps the recomputed ones where they are no worse on held-out data. Without
        held-out data it keeps them too: they are needed without a common start, and cost at most
        one or two points after a long one.
        """
        self.model.load_state_dict(state)
        with isolated_rng(self.config.seed, "judge"):
            before, averaged = self._accuracy(), batchnorm_buffers(self.model)
            if self.config.batchnorm_refresh == "never" or not averaged:
                return FinalEvaluation(on_cpu(averaged), before, None, False)
            if self._refresh() == 0:
                return FinalEvaluation(on_cpu(averaged), before, None, False)
            after = self._accuracy()
        better = before is None or after is None or after >= before
        if self.config.batchnorm_refresh == "auto" and not better:
            return FinalEvaluation(on_cpu(averaged), before, after, False)
        return FinalEvaluation(on_cpu(batchnorm_buffers(self.model)), before, after, True)

    def _accuracy(self) -> float | None:
        if self.validation is None:
            return None
        self.evaluation_passes += len(self.validation)
        return accuracy(self.model, self.validation)

    def _refresh(self) -> int:
        """Recompute the statistics of the scratch model; returns the number of samples read."""
        if self._refresh_source is None:
            order = balanced_order(self.labels, generator(self.config.seed, "refresh"))
            chosen = order[: self.config.refresh_samples]  # batches have the whole's class mix
            device = next(self.model.parameters()).device
            self._refresh_source = BatchSource(
                self.dataset, chosen, device=device, num_workers=self.config.loader_workers
            )
        passes = refresh_batchnorm(self.model, self._refresh_source)
        self.refresh_passes += passes
        return passes
