"""Masks of the workers: one-shot pruning makes replicas of one start differ more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lipt_cords.base.randomness import generator, preserved_rng
from lipt_cords.data.batches import Inputs
from lipt_cords.models.heads import call_model, find_head
from lipt_cords.models.losses import LossFunction
from lipt_cords.warmstart.config import Densities, WarmStartConfig


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


PRUNABLE = (nn.Linear, nn.modules.conv._ConvNd)


def prunable_weights(model: nn.Module, head: nn.Linear | None = None) -> list[nn.Parameter]:
    """Trainable weights of convolutions and linear layers, the head's left out.

    The head stays dense because its gradients are what the selectors read. A weight that two
    layers share is listed once, and not at all if the head is one of them.
    """
    seen = set() if head is None else {id(head.weight)}
    weights = []
    for module in model.modules():
        weight = module._parameters.get("weight") if isinstance(module, PRUNABLE) else None
        if weight is not None and weight.requires_grad and id(weight) not in seen:
            seen.add(id(weight))
            weights.append(weight)
    return weights


def magnitude_scores(weights: Iterable[Tensor]) -> list[Tensor]:
    """A weight's worth is its size (Han et al., NeurIPS 2015)."""
    return [weight.detach().abs().float() for weight in weights]


def random_scores(weights: Iterable[Tensor], generator: torch.Generator) -> list[Tensor]:
    """A weight's worth is a draw from [0, 1), made on the CPU."""
    weights = list(weights)
    sizes = [weight.numel() for weight in weights]
    drawn = torch.split(torch.rand(sum(sizes), generator=generator), sizes)
    return [
        part.to(weight.device).view_as(weight) for part, weight in zip(drawn, weights, strict=True)
    ]


def snip_scores(weights: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> list[Tensor]:
    """A weight's worth is what the loss would change, to first order, if it were removed.

    Args:
        weights: the parameters.
        gradients: of the loss, one a parameter; None counts as zero.

    Source: Lee, Ajanthan, Torr, SNIP, ICLR 2019: |weight x gradient|.
    """
    return [
        torch.zeros_like(weight, dtype=torch.float32)
        if gradient is None
        else (weight.detach().float() * gradient.float()).abs()  # float16 would underflow
        for weight, gradient in zip(weights, gradients, strict=True)
    ]


def erk_densities(shapes: Sequence[torch.Size], density: float) -> list[float]:
    """Density of every layer under Erdos-Renyi-Kernel: small and square layers stay denser.

    A layer's density is proportional to the sum of its dimensions over their product; where that
    exceeds 1 the layer stays dense and the others share what is left.

    Args:
        shapes: of the weights, (out, in, *kernel).
        density: share of all elements that stays, in (0, 1].

    Returns:
        One density in (0, 1] for each layer; weighted by size they average to ``density``.

    Source: Evci et al., Rigging the Lottery, ICML 2020.

    >>> [round(d, 3) for d in erk_densities([torch.Size([4, 4]), torch.Size([64, 64])], 0.25)]
    [1.0, 0.247]
    """
    sizes = [shape.numel() for shape in shapes]
    raw = [sum(shape) / max(size, 1) for shape, size in zip(shapes, sizes, strict=True)]
    dense: set[int] = set()
    while True:
        sparse = [layer for layer in range(len(sizes)) if layer not in dense]
        if not sparse:
            return [1.0] * len(sizes)
        budget = density * sum(sizes) - sum(sizes[layer] for layer in dense)
        scale = budget / sum(raw[layer] * sizes[layer] for layer in sparse)
        full = {layer for layer in sparse if scale * raw[layer] >= 1}
        if not full:
            return [1.0 if layer in dense else scale * raw[layer] for layer in range(len(sizes))]
        dense |= full


def keep_largest(scores: Tensor, kept: int) -> Tensor:
    """Mark exactly the ``kept`` largest scores; among equals, the earlier positions win.

    Args:
        scores: finite scores, shape (n,).
        kept: how many to keep, 0 to n.

    Returns:
        Boolean mask, shape (n,). Nothing is copied to the host.

    >>> keep_largest(torch.tensor([1.0, 3.0, 1.0, 1.0]), 2)
    tensor([ True,  True, False, False])
    """
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(len(scores) - kept + 1).values
    above, ties = scores > threshold, scores == threshold
    return above | (ties & (ties.cumsum(0) <= kept - above.sum()))


class Masks:
    """Binary masks over some weights, made once and put on again after every step.

    Multiplying the weights is enough to keep them at zero: momentum may still accumulate for a
    pruned weight, but what it moves is cleared before the next forward pass reads it.

    Args:
        weights: the parameters to prune, over which the density holds in all.
        scores: worth of every element, one tensor a weight.
        density: share of their elements that stays, in (0, 1].
        densities: ``global`` keeps the most worth of all layers together, ``erk`` of each layer.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        scores: Sequence[Tensor],
        density: float,
        densities: Densities = "global",
    ) -> None:
        self.weights = [weight.detach() for weight in weights]
        sizes = [weight.numel() for weight in self.weights]
        self.total, self.kept = sum(sizes), round(density * sum(sizes))
        self.masks: list[Tensor] = []
        if self.total == 0:
            return
        # Over contiguous copies, so that ties fall the same way in every memory format.
        flat = [score.contiguous().reshape(-1) for score in scores]
        if densities == "erk":
            shares = erk_densities([weight.shape for weight in self.weights], density)
            counts = [round(share * size) for share, size in zip(shares, sizes, strict=True)]
            parts = [keep_largest(one, count) for one, count in zip(flat, counts, strict=True)]
            self.kept = sum(counts)
        else:
            parts = list(torch.split(keep_largest(torch.cat(flat), self.kept), sizes))
        self.masks = [
            torch.empty_like(weight).copy_(part.view(weight.shape))
            for part, weight in zip(parts, self.weights, strict=True)
        ]

    @property
    def density(self) -> float:
        """Share of the masked weights' elements that is kept; 1 where there is nothing to mask."""
        return self.kept / self.total if self.total else 1.0

    def apply(self) -> None:
        """Set the pruned elements to zero, in place."""
        if self.masks:
            torch._foreach_mul_(self.weights, self.masks)
