"""When a worker prunes, by what, and the average of its weights that may go into the soup."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipt_cords.config import WarmStartConfig
from lipt_cords.data import Inputs
from lipt_cords.models import call_model, find_head
from lipt_cords.randomness import generator, preserved_rng
from lipt_cords.warmstart.objective import LossFunction
from lipt_cords.warmstart.sparsity import (
    Masks,
    magnitude_scores,
    prunable_weights,
    random_scores,
    snip_scores,
)


class Pruning:
    """Prunes once, before a given step, and keeps the masks on from there.

    Args:
        model: the worker's copy, whose weights are changed.
        head: name of its linear head, which stays dense.
        config: ``sparsity``, ``density``, ``densities``, ``prune_after``.
        loss: mean loss of (logits, labels), which SNIP differentiates.
        steps: of the round; ``prune_after`` is a share of them.
        names: what the draw of a random mask derives from, beside the seed.
    """

    def __init__(
        self,
        model: nn.Module,
        head: str,
        *,
        config: WarmStartConfig,
        loss: LossFunction,
        steps: int,
        names: tuple[str | int, ...],
    ) -> None:
        self._model, self._head, self._config = model, head, config
        self._loss, self._names = loss, names
        self.masks: Masks | None = None
        wanted = config.sparsity != "none" and config.density < 1
        self._at = int(config.prune_after * steps) if wanted else -1

    @property
    def density(self) -> float:
        """Share of the prunable weights that is left."""
        return self.masks.density if self.masks is not None else 1.0

    def before(self, step: int, inputs: Inputs, labels: Tensor) -> int:
        """Prune if it is time; returns the samples that this took (SNIP's one batch)."""
        if step != self._at:
            return 0
        head = find_head(self._model, head=self._head).module
        weights = prunable_weights(self._model, head)
        if not weights:
            return 0
        taken, kind = 0, self._config.sparsity
        if kind == "random":
            scores = random_scores(weights, generator(self._config.seed, *self._names, "prune"))
        elif kind == "snip":
            scores = snip_scores(weights, self._gradients(weights, inputs, labels))
            taken = len(labels)
        else:
            scores = magnitude_scores(weights)
        self.masks = Masks(weights, scores, self._config.density, self._config.densities)
        self.masks.apply()
        return taken

    def keep(self) -> None:
        """Clear what the optimizer moved."""
        if self.masks is not None:
            self.masks.apply()

    def _gradients(
        self, weights: list[nn.Parameter], inputs: Inputs, labels: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients on one batch; buffers, statistics among them, and random state stay."""
        saved = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        try:
            with preserved_rng():
                value = self._loss(call_model(self._model, inputs).float(), labels)
                return torch.autograd.grad(value, weights, allow_unused=True)
        finally:
            with torch.no_grad():
                for buffer, before in saved:
                    buffer.copy_(before)


class WeightAverage:
    """An exponential moving average of a worker's parameters over its steps.

    The decay is ramped up, min(decay, (1 + n) / (10 + n)) after n steps, so that a short run does
    not remember its start. It is held in float32 at least: in half precision a step's share of
    it would be rounded away.

    Args:
        model: whose parameters are followed.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = [
            parameter.detach() for parameter in model.parameters() if parameter.is_floating_point()
        ]
        self._average = [
            parameter.to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
            for parameter in self._parameters
        ]
        self._decay, self._steps = decay, 0

    def step(self) -> None:
        """Take in the parameters as they are now."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        now = [
            parameter.to(average.dtype)
            for parameter, average in zip(self._parameters, self._average, strict=True)
        ]
        torch._foreach_lerp_(self._average, now, 1 - decay)

    def write(self, masks: Masks | None) -> None:
        """Put the average in the place of the parameters, pruned elements cleared."""
        torch._foreach_copy_(self._parameters, self._average)
        if masks is not None:
            masks.apply()
