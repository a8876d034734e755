"""Which workers are merged, and with which BatchNorm statistics: judged on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.data.source import BatchSource
from lipt_cords.data.splits import balanced_order
from lipt_cords.models.heads import call_model
from lipt_cords.models.state import State, on_cpu
from lipt_cords.training.evaluation import accuracy
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.average import StateSum
from lipt_cords.warmstart.watch.probe import Probe, Reading

REFRESH_BATCH = 256


def batchnorm_layers(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that keep running statistics."""
    layers = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return [layer for layer in layers if layer.running_mean is not None]


def refresh_batchnorm(model: nn.Module, source: BatchSource) -> int:
    """Recompute the running statistics of every BatchNorm layer, in place.

    Like ``torch.optim.swa_utils.update_bn``, statistics start afresh and are a plain mean over
    batches. Unlike there, all other layers stay in eval mode, so dropout draws nothing and the
    statistics are those of the activations that evaluation meets. All batches have one size, so
    that their order matters to rounding alone; for that up to one sample in 256 is passed over.

    Args:
        model: on the device of the source.
        source: un-augmented training samples.

    Returns:
        Samples read; 0, and nothing is changed, for a model without BatchNorm and for a single
        sample, of which a channel may have one value and no variance.
    """
    layers = batchnorm_layers(model)
    if not layers or len(source) == 1:
        return 0
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    batches = max(1, len(source) // REFRESH_BATCH)
    size = len(source) // batches
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative mean
            layer.train()
        with torch.no_grad():
            order = torch.arange(batches * size)
            for inputs, _ in source.batches(order, batch_size=size):
                call_model(model, inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode
    return batches * size


def batchnorm_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the running statistics, under their names in the state dict."""
    layers = {id(layer) for layer in batchnorm_layers(model)}
    return {
        f"{name}.{key}" if name else key: value.detach().clone()
        for name, module in model.named_modules()
        if id(module) in layers
        for key, value in module._buffers.items()
        if value is not None
    }


class GreedySoup:
    """Adds a worker only if the held-out accuracy of the soup does not fall.

    Offer workers from the best to the worst; the first one is always taken.

    Args:
        reference: a state dict of the architecture.
        evaluate: held-out accuracy of a state dict.

    Source: Wortsman et al., Model soups, ICML 2022.
    """

    def __init__(self, reference: State, evaluate: Callable[[State], float]) -> None:
        self.kept: list[int] = []
        self.accuracy = float("-inf")
        self._sum = StateSum(reference)
        self._evaluate = evaluate

    def offer(self, worker: int, state: Mapping[str, Tensor]) -> bool:
        """Try one more worker; returns whether it was taken."""
        trial = self._sum.copy()
        trial.add(state)
        reached = self._evaluate(trial.mean(len(self.kept) + 1))
        if reached < self.accuracy:
            return False
        self._sum, self.accuracy = trial, reached
        self.kept.append(worker)
        return True


@dataclass(frozen=True)
class Finish:
    """What became of the soup's BatchNorm statistics, and how good it is.

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
        """Held-out accuracy of what is used."""
        return self.after if self.refreshed else self.before


@dataclass
class Judge:
    """Loads soups into a scratch model to evaluate them, and counts the passes that this takes.

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

        BatchNorm is refreshed first where a soup is worth nothing without it: when asked to
        always, or when the workers had no common start.
        """
        with isolated_rng(self.config.seed, "judge"):
            self._load(state)
            return self._accuracy() or 0.0

    def read(self, state: State, probe: Probe) -> Reading | None:
        """What a merge of a round says about the probe, its BatchNorm as in a trial."""
        with isolated_rng(self.config.seed, "judge"):
            self._load(state)
            return probe.read(self.model)

    def _load(self, state: State) -> None:
        self.model.load_state_dict(state)
        policy = self.config.batchnorm_refresh
        if policy == "always" or (policy == "auto" and self.config.common_steps == 0):
            self._refresh()

    def finish(self, state: State) -> Finish:
        """Decide on the BatchNorm statistics of the merged model.

        ``auto`` keeps the recomputed ones where they are no worse on held-out data. Without any
        it keeps them too: they are essential without a common start, and cost a point or two at
        most after a long one.
        """
        self.model.load_state_dict(state)
        with isolated_rng(self.config.seed, "judge"):
            before, averaged = self._accuracy(), batchnorm_buffers(self.model)
            if self.config.batchnorm_refresh == "never" or not batchnorm_layers(self.model):
                return Finish(on_cpu(averaged), before, None, False)
            if self._refresh() == 0:
                return Finish(on_cpu(averaged), before, None, False)
            after = self._accuracy()
        better = before is None or after is None or after >= before
        if self.config.batchnorm_refresh == "auto" and not better:
            return Finish(on_cpu(averaged), before, after, False)
        return Finish(on_cpu(batchnorm_buffers(self.model)), before, after, True)

    def _accuracy(self) -> float | None:
        if self.validation is None:
            return None
        self.evaluation_passes += len(self.validation)
        return accuracy(self.model, self.validation)

    def _refresh(self) -> int:
        """Recompute the statistics of the scratch model; returns the samples that it took."""
        if self._refresh_source is None:
            order = balanced_order(self.labels, generator(self.config.seed, "refresh"))
            chosen = order[: self.config.refresh_samples]  # every batch as mixed as the whole
            device = next(self.model.parameters()).device
            self._refresh_source = BatchSource(
                self.dataset, chosen, device=device, num_workers=self.config.loader_workers
            )
        passes = refresh_batchnorm(self.model, self._refresh_source)
        self.refresh_passes += passes
        return passes
