"""DeltaGrad: the training is replayed from memory when samples go or come (Wu et al., ICML 2020).

Plain SGD keeps, for every step, its weights and its gradient. When the data changes, most steps
are not computed again: their gradient is the old one, corrected by a quasi-Newton Hessian times how
far the weights have moved, and by the gradients of the changed samples. It is approximate, and
:meth:`DeltaGrad.distance` measures how far it is from training anew. It serves linear heads, on
frozen embeddings or on inputs, and small nets without BatchNorm.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset

from lipt_cords.batches import different_indices, item_indices
from lipt_cords.data import BatchSource, labels_of
from lipt_cords.gradients import LastLayerGradients
from lipt_cords.randomness import generator
from lipt_cords.warmstart.deltagrad_checks import (
    check_cache,
    check_net,
    check_options,
)
from lipt_cords.warmstart.lbfgs import CompactHessian

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replay:
    """What a change took.

    Attributes:
        explicit: steps whose gradients were computed.
        steps: all steps that were replayed.
        sample_gradients: gradients of samples that were computed.
        retraining_gradients: as many as training anew would compute.
        curvature: the largest that was seen: the gradient's change over the distance. Times ``lr``
            it must stay below 2.
    """

    explicit: int
    steps: int
    sample_gradients: int
    retraining_gradients: int
    curvature: float


@dataclass(frozen=True)
class Distance:
    """How far the replayed weights are from those of training anew.

    Attributes:
        to_retraining: Euclidean, of all weights.
        of_change: of training anew on the changed data from training on the first data: what the
            change does to the weights.
    """

    to_retraining: float
    of_change: float


class DeltaGrad:
    """A training that can be changed afterwards, by samples that go and samples that come.

    Args:
        model: a net without BatchNorm and dropout, whose weights are the start; it is copied.
        dataset: all samples, those that may be added later among them.
        start_with: indices to train on first; None: all.
        epochs: over them.
        batch_size: samples in a step; large ones make the approximation good.
        lr: constant learning rate of plain SGD; times the largest curvature it must stay below 2,
            or training anew and replaying drift apart.
        l2: times the weights, explicit in the gradient.
        period: T0, steps between two whose gradients are computed; 1 computes all.
        burn_in: j0, first steps whose gradients are all computed; it pays with many more steps.
        memory: m, pairs of the quasi-Newton Hessian.
        tolerance: relative error of its prediction at a computed step from which the steps up to
            the next one are computed too.
        max_cache: bytes that the steps may take; None: half of the machine's memory.
        seed: of the batches.
        optimizer: ``sgd``; others are refused.
        momentum: 0; anything else is refused.

    Raises:
        ValueError: a net, an optimizer or options that the method does not cover, or a cache that
            does not fit.
    """

    def __init__(
        self, model: nn.Module, dataset: Dataset[Any], *, start_with: Any = None,
        epochs: int = 10, batch_size: int = 16_384, lr: float = 0.1, l2: float = 1e-3,
        period: int = 5, burn_in: int = 20, memory: int = 2, tolerance: float = 1.0,
        max_cache: int | None = None, seed: int = 0, optimizer: str = "sgd", momentum: float = 0.0,
    ) -> None:  # fmt: skip
        check_net(model)
        check_options(optimizer, momentum, {
            "epochs": epochs, "batch_size": batch_size, "period": period, "memory": memory,
        }, {"lr": lr, "l2": l2, "burn_in": burn_in, "tolerance": tolerance})  # fmt: skip
        self.model = copy.deepcopy(model).double().train()
        self.labels = labels_of(dataset)
        samples = len(self.labels)
        first = torch.arange(samples) if start_with is None else item_indices(start_with, samples)
        if len(first) == 0:
            raise ValueError("expected at least one sample to train on, received none")
        self.present = torch.zeros(samples, dtype=torch.bool)
        self.present[first] = True
        self.lr, self.l2, self.period = lr, l2, period
        self.burn_in, self.memory, self.tolerance = burn_in, memory, tolerance
        self.epochs, self.seed = epochs, seed
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self._shapes = {name: parameter.shape for name, parameter in trained.items()}
        self._start = torch.cat([p.detach().reshape(-1) for p in trained.values()])
        order = [
            first[torch.randperm(len(first), generator=generator(seed, "deltagrad", epoch))]
            for epoch in range(epochs)
        ]
        self.batches = [part for epoch in order for part in torch.split(epoch, batch_size)]
        self._epoch_steps = len(self.batches) // epochs
        check_cache(len(self.batches), len(self._start), max_cache)
        self.inputs = _read(dataset)
        self.weights, self._gradients, self._final = self._train(self.batches, keep=True)
        self._first_final = self._final.clone()
        self.last: Replay | None = None
        """What the last change took."""

    @classmethod
    def on_head(
        cls, gradients: LastLayerGradients, *, head: nn.Linear | None = None, **options: Any
    ) -> DeltaGrad:
        """A linear head trained on frozen embeddings.

        Args:
            gradients: of any model, for its embeddings and labels.
            head: where to start; None: zeros.
            **options: of the class.
        """
        data = torch.utils.data.TensorDataset(gradients.embeddings.cpu(), gradients.labels.cpu())
        if head is None:
            head = nn.Linear(gradients.embedding_dim, gradients.num_classes)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        return cls(head, data, **options)

    def remove(self, indices: Any) -> DeltaGrad:
        """Replay the training without some samples.

        Raises:
            ValueError: samples that are outside of the data, named twice, or not trained on.
        """
        gone = self._checked(indices, present=True)
        if int(self.present.sum()) == len(gone):
            raise ValueError("all samples would be gone: leave at least one")
        leaves = torch.zeros_like(self.present)
        leaves[gone] = True
        changed = [batch[leaves[batch]] for batch in self.batches]
        self._replay(changed, -1)
        self.batches = [batch[~leaves[batch]] for batch in self.batches]
        self.present[gone] = False
        return self

    def add(self, indices: Any) -> DeltaGrad:
        """Replay the training with some samples more, each in one batch of every epoch.

        Raises:
            ValueError: samples that are outside of the data, named twice, or trained on already.
        """
        new = self._checked(indices, present=False)
        draws = generator(self.seed, "deltagrad added", *new[:4].tolist(), len(new))
        places = torch.randint(self._epoch_steps, (self.epochs, len(new)), generator=draws)
        changed = [
            new[places[step // self._epoch_steps] == step % self._epoch_steps]
            for step in range(len(self.batches))
        ]
        if any(
            len(some) and not len(batch) for batch, some in zip(self.batches, changed, strict=True)
        ):
            raise ValueError("a batch that lost all its samples cannot be filled again: fit anew")
        self._replay(changed, 1)
        pairs = zip(self.batches, changed, strict=True)
        self.batches = [torch.cat(pair) for pair in pairs]
        self.present[new] = True
        return self

    def apply_to(self, model: nn.Module) -> nn.Module:
        """Load the weights into a model of the architecture, in place."""
        own = dict(model.named_parameters())
        trained = self._unflat(self._final)
        if not all(name in own and own[name].shape == v.shape for name, v in trained.items()):
            raise ValueError(
                f"the weights do not fit {type(model).__name__}: pass a model like the one that "
                "was trained, which is the head alone for on_head"
            )
        with torch.no_grad():
            for name, value in trained.items():
                own[name].copy_(value)
        return model

    def retrained(self) -> Tensor:
        """All weights, flat, of training anew on the present samples with the same batches."""
        return self._train(self.batches, keep=False)[2]

    def distance(self) -> Distance:
        """Train anew, and measure; as dear as a training."""
        anew = self.retrained()
        return Distance(
            float((self._final - anew).norm()), float((self._first_final - anew).norm())
        )

    def _checked(self, indices: Any, *, present: bool) -> Tensor:
        wanted = different_indices(indices, len(self.present))
        wrong = self.present[wanted] != present
        if bool(wrong.any()):
            what = "is not trained on, or is gone already" if present else "is trained on already"
            raise ValueError(f"sample {int(wanted[wrong][0])} {what}")
        return wanted

    def _train(self, batches: list[Tensor], *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and data gradients of every step, if kept, and the weights in the end."""
        weights = self._start.clone()
        kept = torch.empty(len(batches) if keep else 0, len(weights), dtype=torch.float64)
        gradients = torch.empty_like(kept)
        for step, batch in enumerate(batches):
            gradient = self._mean_gradient(weights, batch) if len(batch) else None
            if keep and gradient is not None:
                kept[step], gradients[step] = weights, gradient
            if gradient is not None:  # a batch that lost all its samples is passed over
                weights = weights - self.lr * (gradient + self.l2 * weights)
        return kept, gradients, weights

    def _replay(self, changed: list[Tensor], sign: int) -> None:
        """Walk through the steps again, and keep what they are now.

        Args:
            changed: of every step, the samples that leave its batch or join it.
            sign: -1 if they leave, 1 if they join.
        """
        hessian, now = CompactHessian(self.memory), self._start.clone()
        explicit = computed = 0
        trusted, curvature = True, 0.0
        for step, (batch, some) in enumerate(zip(self.batches, changed, strict=True)):
            before, count = len(batch), len(batch) + sign * len(some)
            if count == 0:
                self.weights[step] = now
                continue
            moved = now - self.weights[step]
            due = step < self.burn_in or (step - self.burn_in) % self.period == 0
            if due or not trusted or len(hessian) < self.memory:
                rest = batch[~torch.isin(batch, some)] if sign < 0 else batch
                theirs = self._mean_gradient(now, some) if len(some) else None
                mine = self._mean_gradient(now, rest)
                whole, data = _parts(mine, theirs, len(rest), len(some), sign)
                computed += len(rest) + len(some)
                explicit += 1
                change = whole - self._gradients[step] + self.l2 * moved
                trusted = self._agrees(hessian, moved, change)
                if float(moved.norm()) > 0:
                    curvature = max(curvature, float(change.norm() / moved.norm()))
                hessian.add(moved, change)
            else:
                whole = hessian.product(moved) + self._gradients[step] - self.l2 * moved
                data = whole
                if len(some):
                    theirs = self._mean_gradient(now, some)
                    data = (before * whole + sign * len(some) * theirs) / count
                    computed += len(some)
            self.weights[step], self._gradients[step] = now, data
            now = now - self.lr * (data + self.l2 * now)
        self._final = now
        total = sum(map(len, self.batches)) + sign * sum(map(len, changed))
        self.last = Replay(explicit, len(self.batches), computed, total, curvature)
        if self.lr * curvature > 2:
            logger.warning(
                "lr x curvature = %.1f, above 2: steps overshoot, and the replay drifts away from "
                "training anew; lower lr (received %g), or standardise the inputs",
                self.lr * curvature, self.lr,
            )  # fmt: skip

    def _agrees(self, hessian: CompactHessian, moved: Tensor, change: Tensor) -> bool:
        """Whether the Hessian predicts how the gradient has changed."""
        size = float(change.norm())
        if len(hessian) < self.memory or size == 0.0:
            return True
        return float((hessian.product(moved) - change).norm()) <= self.tolerance * size

    def _mean_gradient(self, weights: Tensor, batch: Tensor) -> Tensor:
        with torch.enable_grad():
            flat = weights.detach().requires_grad_()
            logits = functional_call(self.model, self._unflat(flat), (self.inputs[batch],))
            value = F.cross_entropy(logits, self.labels[batch])
            return torch.autograd.grad(value, flat)[0]

    def _unflat(self, flat: Tensor) -> dict[str, Tensor]:
        parts = torch.split(flat, [shape.numel() for shape in self._shapes.values()])
        pairs = zip(self._shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in pairs}


def _parts(
    mine: Tensor, theirs: Tensor | None, rest: int, some: int, sign: int
) -> tuple[Tensor, Tensor]:
    """Mean gradients of the batch as it was, and as it is now.

    Args:
        mine: mean gradient of the samples that it has before and after.
        theirs: of those that leave or join, or None.
        rest: how many the former are.
        some: how many the latter are.
        sign: -1 if they leave, 1 if they join.
    """
    if theirs is None:
        return mine, mine
    both = (rest * mine + some * theirs) / (rest + some)
    return (both, mine) if sign < 0 else (mine, both)


def _read(dataset: Dataset[Any]) -> Tensor:
    """All inputs, float64."""
    batches = [x for x, _ in BatchSource(dataset, cache_bytes=0).batches(batch_size=4096)]
    if not all(isinstance(x, Tensor) for x in batches):
        raise ValueError("DeltaGrad reads samples (x, y) with one tensor x, received dicts")
    return torch.cat([x for x in batches if isinstance(x, Tensor)]).double()
