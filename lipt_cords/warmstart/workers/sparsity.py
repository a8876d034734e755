"""Masks of the workers: one-shot pruning makes replicas of one start differ more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from lipt_cords.base.options import StrictModel, one_of
from lipt_cords.base.randomness import preserved_rng
from lipt_cords.base.registry import Registry
from lipt_cords.data.batches import Inputs
from lipt_cords.models.heads import call_model
from lipt_cords.models.losses import LossFunction

Densities = Literal["global", "erk"]


class PruningMoment:
    """What a sparsity can use when a worker prunes.

    Args:
        model: the worker's copy.
        weights: the prunable ones.
        batch: inputs and labels of the step before which it prunes.
        loss: mean loss of (logits, labels).
        generator: for draws; made from the seed, the worker and the round.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Sequence[nn.Parameter],
        batch: tuple[Inputs, Tensor],
        loss: LossFunction,
        generator: torch.Generator,
    ) -> None:
        self._model, self._weights, self._batch, self._loss = model, weights, batch, loss
        self.generator = generator
        self.passes = 0
        """The number of samples whose gradients were computed."""

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Gradients of the loss on one batch; buffers, statistics and random state are not changed.

        Returns:
            One per weight, in its shape; None for a weight that the loss does not depend on.
        """
        inputs, labels = self._batch
        saved = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        try:
            with preserved_rng():
                value = self._loss(call_model(self._model, inputs).float(), labels)
                self.passes += len(labels)
                return torch.autograd.grad(value, list(self._weights), allow_unused=True)
        finally:
            with torch.no_grad():
                for buffer, before in saved:
                    buffer.copy_(before)


SparsityFunction = Callable[[Sequence[nn.Parameter], PruningMoment], Sequence[Tensor]]
SPARSITIES: Registry[SparsityFunction] = Registry("sparsity", takes=("weights", "moment"))


def register_sparsity(name: str) -> Callable[[SparsityFunction], SparsityFunction]:
    """Register a sparsity under a name.

    The function takes a worker's prunable weights and the :class:`PruningMoment`, and returns the
    score of every element: one finite tensor per weight, in its shape. The largest are kept; among
    equal ones the earlier positions.

    Args:
        name: must be free.

    Raises:
        ValueError: the name is taken, or the function cannot be called so.
    """
    return SPARSITIES.register(name)


class SparsityOptions(StrictModel):
    """How workers are pruned."""

    sparsity: str = "none"
    """One-shot pruning of every worker's weights: by ``magnitude``, at ``random``, by ``snip``, or
    by a registered sparsity of your own; ``none`` prunes nothing. Left out: ``magnitude`` if a
    density is given."""
    densities: Densities = "global"
    """How the density is spread over layers: by one threshold for all, or by ERK, which leaves
    small layers denser."""
    density: float = Field(0.8, gt=0, le=1)
    """Share of the prunable weights that a worker keeps; 1 prunes nothing."""
    prune_after: float = Field(0.25, ge=0, lt=1)
    """Share of a worker's steps in a round before it prunes, so that the mask depends on its
    shard."""

    @field_validator("sparsity")
    @classmethod
    def _known_sparsity(cls, value: str) -> str:
        return SPARSITIES.entry(value).name

    @field_validator("densities", mode="before")
    @classmethod
    def _known_densities(cls, value: Any) -> Any:
        return one_of("densities", value, Densities)


@register_sparsity("none")
def _nothing(weights: Sequence[nn.Parameter], moment: PruningMoment) -> Sequence[Tensor]:
    """Prunes nothing."""
    return [torch.ones_like(weight) for weight in weights]


PRUNABLE = (nn.Linear, nn.modules.conv._ConvNd)


def prunable_weights(model: nn.Module, head: nn.Linear | None = None) -> list[nn.Parameter]:
    """Trainable weights of convolutions and linear layers, the head's left out.

    The head stays dense because its gradients are what the selectors read. A weight that two layers
    share is listed once, but not if one of them is the head.
    """
    seen = set() if head is None else {id(head.weight)}
    weights = []
    for module in model.modules():
        weight = module._parameters.get("weight") if isinstance(module, PRUNABLE) else None
        if weight is not None and weight.requires_grad and id(weight) not in seen:
            seen.add(id(weight))
            weights.append(weight)
    return weights


@register_sparsity("magnitude")
def _magnitude(weights: Sequence[nn.Parameter], moment: PruningMoment) -> Sequence[Tensor]:
    """Keep the largest weights."""
    return magnitude_scores(weights)


@register_sparsity("random")
def _random(weights: Sequence[nn.Parameter], moment: PruningMoment) -> Sequence[Tensor]:
    """Keep weights at random."""
    return random_scores(weights, moment.generator)


@register_sparsity("snip")
def _snip(weights: Sequence[nn.Parameter], moment: PruningMoment) -> Sequence[Tensor]:
    """Keep the weights whose removal would change the loss most, on one batch."""
    return snip_scores(weights, moment.gradients())


def magnitude_scores(weights: Iterable[Tensor]) -> list[Tensor]:
    """Scores: the size of each weight (Han et al., NeurIPS 2015)."""
    return [weight.detach().abs().float() for weight in weights]


def random_scores(weights: Iterable[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Scores: draws from [0, 1), made on the CPU."""
    weights = list(weights)
    sizes = [weight.numel() for weight in weights]
    drawn = torch.split(torch.rand(sum(sizes), generator=generator), sizes)
    return [
        part.to(weight.device).view_as(weight) for part, weight in zip(drawn, weights, strict=True)
    ]


def snip_scores(weights: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> list[Tensor]:
    """Scores: the change of the loss, to first order, if the weight were removed.

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
        density: share of all elements that is kept, in (0, 1].

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
    """Mark exactly the ``kept`` largest scores; among equal ones, the earlier positions.

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
    """Binary masks over some weights, made once and applied after every step.

    Multiplying the weights is enough to keep them at zero: momentum may still accumulate for a
    pruned weight, but the weight is set to zero again before the next forward pass.

    Args:
        weights: the parameters to prune, over which the density holds in total.
        scores: score of every element, one tensor per weight.
        density: share of their elements that is kept, in (0, 1].
        densities: ``global`` keeps the largest scores of all layers together, ``erk`` those of each
            layer.
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
        # Over contiguous copies, so that ties are broken alike in every memory format.
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
